"""Task grounding: how well the attention of a model finds the region of each phrase.

The image is squashed to the model's size, so that every region is in view and all models are scored
on the same phrases. Maps are enlarged bilinearly to the grid of the region.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ...annotations.formats import add_format_arguments
from ...attention.attend import refuse_coca
from ...config import UserError
from ...subcommands import seed
from ..inputs.encoder import Encoder
from ..inputs.features import refuse_processes
from ..options import (
    add_heatmap_arguments,
    add_model_arguments,
    add_output_argument,
    read_encode_options,
    read_encoder,
)
from ..output.result import Result
from .annotators import ANOTHER, annotator_scores
from .attention import FLOORS, METHODS, PhraseAttention, default_methods
from .examples import draw_examples
from .measure import GRID, METRICS, Scores, measure
from .phrases import GroundingSet, read_grounding_set
from .tables import best_thresholds, by_side, by_size, method_tables, method_values, without_region

# name of what is measured and how; another number where a change moves scores
PROTOCOL = "grounding 1"
# for `compare`: metrics that every phrase with a region has
COMPARED = ("pointing game", "pointing game, 15 px", "mIoU", "Dice", "NSS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        metavar="TABLE",
        help=(
            "data set with sentence windows (column windows, or members of shards): phrases with a"
            " map each, all zero for a phrase without a region; if it has none, its reports and"
            " heatmaps are the phrases and regions"
        ),
    )
    add_heatmap_arguments(parser)
    parser.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        metavar="SRC",
        help=(
            "annotation files, or folders of them, instead of --data: a table of phrases, or any"
            " format with drawings that `prepare annotations` reads; needs --images"
        ),
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER|TABLE",
        help="images of --annotations: a folder (with its folders), or a table of image files",
    )
    parser.add_argument(
        "--phrases",
        metavar="TEMPLATE|FILE",
        help=(
            "phrases for the classes of --annotations: a template such as 'a {c}', or a JSON file"
            " {class: phrase} (default: the names of the classes)"
        ),
    )
    add_format_arguments(parser, gaze=False)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help=(
            f"attention methods, from {', '.join(METHODS)} (default: pool if the tower has"
            f" one, and similarity); `compare` reads the first. {', '.join(FLOORS)} and two priors"
            " of the data are always measured"
        ),
    )
    parser.add_argument(
        "--threshold-data",
        metavar="TABLE",
        help=(
            "validation set in the form of --data, without --heatmaps; IoU and Dice are also given"
            " at each method's best threshold on it"
        ),
    )
    parser.add_argument(
        "--patient-column",
        metavar="COLUMN",
        help="column of the patients; with it, intervals draw patients instead of images",
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="measures at most N images, drawn by the seed (default: all)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="random seed of --limit, priors, examples and bootstrap (default: %(default)s)",
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    """Measure all methods and priors. UserError: flags or data that do not fit."""
    refuse_processes("grounding")
    if args.limit is not None and args.limit < 2:
        raise UserError(f"--limit {args.limit}: expected at least 2 images.")
    if (args.data is None) == (args.annotations is None):
        raise UserError("grounding: expected either --data or --annotations.")
    if (args.images is None) != (args.annotations is None):
        raise UserError("grounding: --annotations and --images belong together; expected both.")
    options = read_encode_options(args)
    data = read_grounding_set(args, args.data, args.heatmaps, options.skip_bad)
    validation = None
    if args.threshold_data is not None:
        validation = read_grounding_set(args, args.threshold_data, None, options.skip_bad)
        refuse_shared_images(data, validation)
    encoder = read_encoder(args)
    refuse_coca(encoder.model)
    methods = args.methods or default_methods(encoder)
    sets = [data] if validation is None else [data, validation]
    texts = (phrase.text for one in sets for phrase in one.phrases)
    attention = PhraseAttention(encoder, texts, options.batch_size)
    scores, *of_validation = (
        measure(attention, one, methods, options.batch_size, args.seed) for one in sets
    )
    best = best_thresholds(of_validation[0]) if of_validation else {}
    result = _result(args, encoder, data, scores, best)
    result.examples = draw_examples(attention, data, methods, args.seed)
    return result


def refuse_shared_images(data: GroundingSet, validation: GroundingSet) -> None:
    """UserError: an image (or patient) is in both sets, so the threshold would be chosen on it."""
    both = set(data.groups.tolist()) & set(validation.groups.tolist())
    if both:
        row = next(i for i, group in enumerate(data.groups.tolist()) if group in both)
        raise UserError(
            f"--threshold-data {validation.data.path}: {len(both)} {data.group_kind}s are also in"
            f" --data, such as that of {data.phrases[row].id!r}; expected a validation set of"
            f" other {data.group_kind}s."
        )


def _result(
    args: argparse.Namespace,
    encoder: Encoder,
    data: GroundingSet,
    scores: dict[str, Scores],
    best: dict[str, int],
) -> Result:
    groups = data.groups[data.grounded]
    human = annotator_scores(data)
    with_human = {**scores, ANOTHER: human} if human else scores
    values: dict[str, Any] = {
        "images": len({phrase.row for phrase in data.phrases}),
        "phrases": len(data.phrases),
        "phrases_with_region": len(data.grounded),
        f"{data.group_kind}s": len(np.unique(data.groups)),
        "methods": method_values(with_human, groups, args.seed, best),
        "best_thresholds": {name: GRID[i] for name, i in best.items()},
    }
    values["sizes"], sizes = by_size(with_human, data, args.seed)
    values["sides"], sides = by_side(scores, data)
    values["without_region"], empty = without_region(scores, data, args.seed)
    extra = [table for table in (sides, empty) if table is not None]
    settings = {
        **encoder.facts,
        "data": str(data.data.path) if args.data is None else args.data,
        "annotations": [str(source) for source in args.annotations or ()],
        "test_set_hash": data.data.content_hash(),
        "protocol": PROTOCOL,
        "methods": [name for name in scores],
        "threshold_data": args.threshold_data,
        "patient_column": args.patient_column,
        "limit": args.limit,
        "seed": args.seed,
    }
    first = next(iter(scores))
    notes = [
        f"{len(data.phrases)} phrases of {values['images']} images, {len(data.grounded)} with a"
        f" region; {len(data.data.excluded)} images were left out.",
        "The image is squashed to the model's size; maps are enlarged bilinearly to the grid of"
        " the region. A pixel is in the region from half of its map's maximum on.",
        f"predictions.npz, which `compare` reads, holds the scores of {first!r}.",
        *(f"Annotations left out, {reason}: {n}." for reason, n in data.left_out.items()),
        *_undefined(scores),
    ]
    return Result(
        "grounding",
        settings,
        values,
        [*method_tables(values["methods"], data.group_kind, best), sizes, *extra],
        predictions=_predictions(data, scores[first]),
        notes=notes,
        terms=["pointing game", "CNR", "mIoU", "Dice", "AUPRO", "AUC-Judd", "NSS", "CC", "KL"],
    )


def _undefined(scores: dict[str, Scores]) -> list[str]:
    """A note for each metric that some phrases do not have."""
    missing = np.array([np.isnan(scored.values).sum(0) for scored in scores.values()]).max(0)
    return [
        f"{name}: not defined for up to {count} phrases of a method, which are left out."
        for name, count in zip(METRICS, missing.tolist(), strict=True)
        if count
    ]


def _predictions(data: GroundingSet, scored: Scores) -> dict[str, np.ndarray]:
    """The arrays for `compare`, of kind "means", an entry for each phrase with a region."""
    return {
        "kind": np.array("means"),
        "id": np.array([data.phrases[i].id for i in data.grounded]),
        "score": scored.values[:, [METRICS.index(name) for name in COMPARED]],
        "classes": np.array(COMPARED),
        data.group_kind: data.groups[data.grounded],
    }
