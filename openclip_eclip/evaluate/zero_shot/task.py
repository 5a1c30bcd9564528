"""Task zero-shot: classification with classes described by prompts, by published protocols."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...config import UserError
from ...data.images.options import read_options
from ...json_text import counted
from ...metrics.classification import CLASS_VECTORS, class_scores, standardise
from ...subcommands import seed
from ..inputs.encoder import Encoder
from ..inputs.eval_set import EvalSet, read_eval_set
from ..inputs.features import EncodeOptions, encode_images, encode_texts, first_rank_only
from ..options import add_model_arguments, add_output_argument, read_encode_options, read_encoder
from ..output.result import Result
from .prompt_sets import NAMES, PromptSet, load_prompts, own_prompts, read_classes, read_templates
from .protocols import FAMILIES, OWN, PROTOCOLS, SETS, SINGLE_LABEL, Rule, choose_rule, set_of
from .tables import multi_label_result, single_label_result

# file names of CLIP_benchmark
CLASSNAMES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_output_argument(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "protocols:\n" + "\n".join(
        f"  {name}: {protocol.description}" for name, protocol in PROTOCOLS.items()
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help=(
            "data set: a table with filepath and label (or a 0/1 column for each class), or .tar"
            " shards with cls or json members"
        ),
    )
    parser.add_argument(
        "--set",
        choices=FAMILIES,
        help=(
            "evaluation set, which gives classes and prompts (default: that of the recipe,"
            f" classes.json or {CLASSNAMES} beside the data)"
        ),
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="file of your own classes: one on each line, or a JSON list",
    )
    parser.add_argument(
        "--templates",
        type=Path,
        metavar="FILE",
        help=(
            "file of your own prompts, as in CLIP_benchmark: templates with {c}, one on each line"
            " or as a JSON list, or JSON {class: prompts}"
        ),
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="published protocol of prompts and scoring; flags that contradict it are an error",
    )
    parser.add_argument("--prompts", choices=NAMES, help="prompt set of the package")
    parser.add_argument(
        "--class-vector",
        choices=CLASS_VECTORS,
        help=(
            "how the score of a class is computed from its prompts (default without --protocol:"
            " unit_mean)"
        ),
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="number of prompts drawn for each class (default: all)",
    )
    parser.add_argument("--seed", type=seed, help="random seed of the drawn prompts (default: 0)")
    parser.add_argument(
        "--z-score",
        action="store_true",
        help="standardises the scores of each class over the test images (transductive)",
    )


def run(args: argparse.Namespace) -> Result:
    options = read_encode_options(args)
    data = read_eval_set(args.data, options.skip_bad, read_options(args))
    set_name, classes = choose_classes(data, args.set, args.classes)
    rule = choose_rule(
        args.protocol,
        set_name,
        prompts=args.prompts,
        class_vector=args.class_vector,
        sample=args.sample,
        seed=args.seed,
        z_score=args.z_score,
    )
    if args.prompts and args.templates:
        raise UserError(
            f"--prompts {args.prompts} and --templates {args.templates}: both give the prompts;"
            " leave one out."
        )
    prompts = choose_prompts(rule, data, classes, args.templates)
    if "label" not in data.table and set_name in SINGLE_LABEL:
        data = data.with_one_hot_label(classes)
    is_single = "label" in data.table
    if is_single:
        data.class_labels(classes)  # a wrong label is an error before minutes of encoding
    else:
        data.multi_labels(classes)
    encoder = read_encoder(args)
    scores, data, cut = score_images(encoder, data, prompts, rule, options)
    first_rank_only()
    settings = {
        **encoder.facts,
        "data": str(args.data),
        "data_hash": data.content_hash(),
        "samples": len(data),
        "set": set_name,
        "classes": classes,
        **dataclasses.asdict(rule),
        "prompts": prompts.name,
        "prompts_source": prompts.source,
        "prompts_hash": prompts.content_hash(),
        "multi_label": not is_single,
    }
    result = (
        single_label_result(data, classes, scores, rule)
        if is_single
        else multi_label_result(data, classes, scores, rule)
    )
    result.settings = settings
    result.values["prompts"] = {
        name: {"positive": prompts.positive[name], "negative": prompts.negative.get(name, [])}
        for name in classes
    }
    result.notes = notes(rule, prompts, data, cut) + result.notes
    return result


def score_images(
    encoder: Encoder, data: EvalSet, prompts: PromptSet, rule: Rule, options: EncodeOptions
) -> tuple[np.ndarray, EvalSet, int]:
    """(scores (N, K) float64, set without unreadable images, number of cut prompts).

    A prompt counts as cut if it fills the context length; it may also just fit.
    """
    features, data = encode_images(encoder, data, options)
    lists = [*prompts.positive.values(), *prompts.negative.values()]
    texts = encode_texts(encoder, [text for group in lists for text in group], options)
    parts = np.split(texts.unit, np.cumsum([len(group) for group in lists])[:-1])
    count = len(prompts.positive)
    scores = class_scores(features.unit, parts[:count], parts[count:], rule.class_vector)
    return standardise(scores) if rule.z_score else scores, data, texts.cut


def choose_classes(data: EvalSet, wanted: str | None, file: Path | None) -> tuple[str, list[str]]:
    """(name of the set, classes): of --classes, else of a file beside the data, else of --set.

    UserError: none of them gives classes, or they disagree.
    """
    if file is not None:
        if wanted is not None:
            raise UserError(
                f"--set {wanted} and --classes {file}: both name the classes; leave one out."
            )
        return OWN, read_classes(file)
    beside = _beside(data, CLASSNAMES)
    if data.recipe.get("classes") or beside is not None:
        recipe_name = data.recipe.get(
            "set", "phantom" if "prompts" in data.recipe else "own classes"
        )
        if wanted is not None and not recipe_name.startswith(wanted):
            raise UserError(
                f"--set {wanted}, but the recipe beside {data.path} is of {recipe_name}; leave"
                " --set out, or name other data."
            )
        if data.recipe.get("classes"):
            return set_of(recipe_name), list(data.recipe["classes"])
        assert beside is not None  # one of the two files is beside the data
        return set_of(recipe_name), read_classes(beside)
    lists = [name for name in SETS if wanted is not None and name.startswith(wanted)]
    if not lists:
        raise UserError(
            f"{data.path}: no {data.path.stem}.recipe.json, classes.json or {CLASSNAMES} beside it"
            " names the classes; give --set, or --classes with --templates."
        )
    labels = set(data.column("label")) if "label" in data.table else set()
    fitting = [name for name in lists if labels <= {*SETS[name], *map(str, range(len(SETS[name])))}]
    set_name = (fitting or lists)[0]
    return set_name, list(SETS[set_name])


def choose_prompts(
    rule: Rule, data: EvalSet, classes: Sequence[str], templates: Path | None
) -> PromptSet:
    """The prompts of the rule, else of the user, with the drawing that the rule asks for.

    UserError: no prompts, or no prompts of absence for pair_softmax.
    """
    if templates is not None:
        if rule.protocol is not None and rule.prompts is not None:
            raise UserError(
                f"--templates {templates} contradicts --protocol {rule.protocol}, which has prompts"
                " for this set; leave one out."
            )
        prompts = read_templates(templates, classes, data.path.stem)
    elif rule.prompts is not None:
        prompts = load_prompts(rule.prompts, classes)
    elif rule.class_vector == "pair_softmax":
        prompts = load_prompts("pairs:chexzero", classes)
    elif "prompts" in data.recipe:
        prompts = own_prompts(data.recipe["prompts"], classes, data.path.parent / "classes.json")
    elif (beside := _beside(data, TEMPLATES)) is not None:
        prompts = read_templates(beside, classes, data.path.stem)
    else:
        raise UserError(
            f"{data.path}: no prompts for the classes {list(classes)}; give --templates, or"
            " --prompts pairs:chexzero."
        )
    if rule.class_vector == "pair_softmax" and set(prompts.negative) != set(classes):
        raise UserError(
            f"{prompts.name}: no prompts for the absence of a class, which pair_softmax needs;"
            ' expected {"positive": ["{c}"], "negative": ["no {c}"]}, or --prompts'
            " pairs:chexzero."
        )
    if rule.class_vector != "pair_softmax":
        prompts = dataclasses.replace(prompts, negative={})
    return prompts if rule.sample is None else prompts.sample(rule.sample, rule.seed)


def notes(rule: Rule, prompts: PromptSet, data: EvalSet, cut: int) -> list[str]:
    """Notes on the rule, the prompts and the samples that were left out."""
    lines = []
    if rule.protocol is not None:
        lines.append(f"Protocol {rule.protocol}. {PROTOCOLS[rule.protocol].description}")
        if rule.prompts is None:
            lines.append(
                f"The protocol has no prompts for these classes; those of {prompts.name} are used."
            )
    if rule.z_score:
        lines.append(
            "Scores are standardised over the test images (transductive), so the score of an image"
            " depends on the others. Intervals keep the standardisation of the whole set."
        )
    counts = ", ".join(
        f"{name} {len(texts)}"
        + (f" ({len(set(texts))} distinct)" if len(set(texts)) < len(texts) else "")
        for name, texts in prompts.positive.items()
    )
    drawn = (
        f", drawn with seed {rule.seed}; another seed gives another score"
        if rule.sample is not None
        else ""
    )
    lines.append(
        f"Prompts {prompts.name}, class vector {rule.class_vector}; prompts per class:"
        f" {counts}{drawn}."
    )
    lines.append(f"Prompts are from: {prompts.source}")
    if cut:
        lines.append(
            f"{cut} prompts fill the context length of the text tower: they were cut, or just fit."
        )
    for reason in dict.fromkeys(data.excluded.values()):
        names = [name for name, other in data.excluded.items() if other == reason]
        lines.append(
            f"{counted(len(names), 'sample')} left out: {reason}"
            f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})."
        )
    return lines


def _beside(data: EvalSet, name: str) -> Path | None:
    """A file in the folder of the data, or in the folder above, where CLIP_benchmark has it."""
    return next(
        (
            folder / name
            for folder in (data.path.parent, data.path.parent.parent)
            if (folder / name).is_file()
        ),
        None,
    )
