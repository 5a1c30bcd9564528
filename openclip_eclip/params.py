"""The flags of `openclip_eclip.train` beside open_clip's own, and what a run trains."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .config import (
    AUTHORS_PROCESSOR,
    OWN_PAIRS,
    PLACEBOS,
    PROCESSORS,
    EClipConfig,
    UserError,
)
from .data.images.options import add_read_arguments
from .objectives import OBJECTIVES, Objective, naive
from .recipes import RECIPES
from .run_flags import add_fine_tuning, add_frozen, add_saving, add_speed, add_stopping
from .same_text import SameText, add_same_text
from .towers.image_head import ATTENTION_POOL

AUTHORS = "authors"  # a value of --eclip-processor

EXPERTS = ("eclip", "naive")  # methods that append mixed pairs of annotated samples
HEATMAPS = (*EXPERTS, "align")  # methods that use heatmaps
METHODS = ("clip", *EXPERTS, *OBJECTIVES)


def eclip_parser() -> argparse.ArgumentParser:
    """Flags that open_clip does not have, by purpose, as docs/reference/flags.md shows."""
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS,
        description=(
            "openclip-eclip train --model NAME --train-data TABLE_OR_SHARDS [FLAG ...]\n\n"
            "Trains an open_clip model. First the flags of openclip_eclip, then open_clip's own."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    _add_method(parser.add_argument_group("what is trained"))
    data = parser.add_argument_group("data")
    _add_data(data)
    add_read_arguments(data)
    add_same_text(parser.add_argument_group("texts that repeat in a batch"))
    _add_placebo(parser.add_argument_group("placebo, to test whether the heatmaps matter"))
    add_speed(parser.add_argument_group("speed"))
    add_saving(parser.add_argument_group("runs and checkpoints"))
    add_stopping(parser.add_argument_group("the best epoch, and the end of training"))
    OBJECTIVES["align"].add_flags(parser.add_argument_group("--method align, --recipe eclip-plus"))
    _add_expert_views(parser.add_argument_group("--method eclip, --method naive"))
    add_frozen(parser.add_argument_group("trained towers that stay as they are"))
    add_fine_tuning(parser.add_argument_group("trained towers that change a little"))
    for name, kind in OBJECTIVES.items():
        if name != "align":
            kind.add_flags(parser.add_argument_group(f"--method {name}"))
    return parser


def _add_method(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recipe",
        choices=sorted(RECIPES),
        help=(
            "named settings, --method included, for every flag that is not given: 'clip' is the "
            "baseline (plain CLIP, heatmaps ignored); 'eclip' is the paper's; 'eclip-p' and "
            "'m3-mix' fine-tune a trained CLIP; 'eclip-plus' is ours, CLIP with alignment of weight"
            " 0.2; 'small-data' is eclip-plus for 100 to 2 000 images and a trained model, whose "
            "towers it freezes (default: open_clip's own settings, with --method eclip)"
        ),
    )
    group.add_argument(
        "--method",
        metavar="NAME[+NAME]",
        help=(
            f"training method: {', '.join(METHODS)}; join several with +, as in eclip+dacl. "
            "All but 'clip' add to the contrastive loss of CLIP; only eclip, naive and align "
            "use heatmaps (default: the recipe's, else eclip)"
        ),
    )
    group.add_argument(
        "--image-head",
        choices=("keep", ATTENTION_POOL),
        default="keep",
        help=(
            "what pools the positions of the image tower: its own pool (keep), or a learned pool of"
            " open_clip or timm, which begins as the average (attention-pool); the trained model "
            "stays a plain one, which open_clip loads without this package (default: keep)"
        ),
    )


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--csv-heatmap-key",
        metavar="COLUMN",
        help=(
            "column of heatmap files in --train-data, or in --expert-data alone; a blank cell means"
            " not annotated, and a named column that is absent is an error (default: heatmap, if "
            "there is one)"
        ),
    )
    group.add_argument(
        "--expert-data",
        metavar="PATH",
        help=(
            "second, annotated source (.csv, .tsv, or .tar with braces or ::); its samples enter "
            "only as mixed pairs"
        ),
    )
    group.add_argument(
        "--expert-batch-size",
        type=int,
        metavar="N",
        help=(
            "number of candidates from --expert-data in each batch of a rank (default: half the "
            "batch size)"
        ),
    )
    group.add_argument(
        "--fast-jpeg",
        action="store_true",
        help=(
            "decodes JPEGs of --train-data and --expert-data at 1/2, 1/4 or 1/8 of their size where"
            " the crop needs no more pixels; pixels change a little (default: whole images are "
            "decoded, as in open_clip)"
        ),
    )
    group.add_argument(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help=(
            "what happens at bad input: stop, or skip the sample and name it in the log (default: "
            "stop)"
        ),
    )


def _add_expert_views(group: argparse._ArgumentGroup) -> None:
    """How annotated images become mixed pairs, and when (§3.2)."""
    group.add_argument(
        "--eclip-processor",
        choices=(*PROCESSORS, AUTHORS),
        help=(
            "heatmap processor; 'authors' is mha exactly as in the code of eCLIP's authors: it is "
            "not the identity at the start, so priming has something to train (default: mha, the "
            "paper's, which starts as the identity)"
        ),
    )
    group.add_argument(
        "--eclip-alpha",
        type=float,
        metavar="A",
        help="parameter of mixup: lambda ~ Beta(A, A) (default: 0.3)",
    )
    group.add_argument(
        "--eclip-no-mixup",
        action="store_true",
        help="turns mixup off: lambda = 0, so the processed image I^E replaces the mixed image",
    )
    group.add_argument(
        "--eclip-priming-weight",
        type=float,
        metavar="W",
        help=(
            "weight w_p of the priming loss, 0 for none; priming trains the processor to be the "
            "identity under a heatmap of ones. The default processor starts as the identity: there "
            "the priming loss is exactly 0 and only the factor (1 - w_p) is left (default: 0.1)"
        ),
    )
    group.add_argument(
        "--eclip-curriculum",
        type=float,
        nargs=6,
        metavar=("COLD", "WARM", "COOL", "LOW", "HIGH", "END"),
        help=(
            "curriculum of p_curr: three phases as shares of all steps, then three probabilities "
            "(default: 0.1 0.3 0.4 0.05 0.5 0.1)"
        ),
    )
    group.add_argument(
        "--eclip-own-pairs",
        choices=OWN_PAIRS,
        help=(
            "what the second copy of a sample's text is: a negative (diagonal), a second positive "
            "(multi), or left out (mask) (default: diagonal, as in Algorithm 1)"
        ),
    )
    group.add_argument(
        "--eclip-crop-threshold",
        type=float,
        metavar="SHARE",
        help=(
            "smallest share of the heatmap's mass that a crop must keep; with less the sample "
            "counts as not annotated (default: 0.1)"
        ),
    )
    group.add_argument(
        "--naive-form",
        choices=naive.FORMS,
        help=(
            "what --method naive adds: the processed image, the image times the heatmap, or "
            "(--expert-data only) the plain image (default: processor)"
        ),
    )


def _add_placebo(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--eclip-placebo",
        choices=PLACEBOS,
        help=(
            "placebo that replaces every heatmap, all else equal: noise (random), another image's "
            "map (shuffled), one of the same class, a Gaussian at the centre, ones, or the map's "
            "own spatial frequencies at other positions (phase-scrambled)"
        ),
    )
    group.add_argument(
        "--csv-label-key",
        metavar="COLUMN",
        help=(
            "column of classes, in shards a field of key.json, for --eclip-placebo "
            "same-class-shuffled"
        ),
    )


@dataclass(frozen=True)
class Method:
    """What a run trains."""

    names: tuple[str, ...]  # the parts of --method
    experts: str | None  # 'eclip', 'naive' or None: which mixed pairs are appended
    objectives: tuple[Objective, ...]  # each adds terms to the loss
    mixes: bool  # annotated samples of --train-data may become mixed pairs
    same_text: SameText

    @property
    def heatmaps(self) -> bool:
        """Whether heatmaps of --train-data are used."""
        return self.mixes or any(objective.needs_heatmaps for objective in self.objectives)

    @property
    def windows(self) -> bool:
        """Whether the heatmaps of single sentences are used."""
        return any(objective.needs_windows for objective in self.objectives)

    @property
    def is_plain(self) -> bool:
        """Whether this is CLIP alone, with open_clip's own loss."""
        return self.experts is None and not self.objectives and not self.same_text.active


def method_names(args: argparse.Namespace) -> tuple[str, ...]:
    """The parts of --method, or the recipe's method where it is not given.

    UserError for an unknown part, and for parts that exclude each other. A training run calls this
    once, right after parsing.
    """
    method = args.method or (RECIPES[args.recipe].method if args.recipe else "eclip")
    names = tuple(method.split("+"))
    for name in names:
        if name not in METHODS:
            raise UserError(
                f"--method {method}: {name!r} is none of {', '.join(METHODS)}; join several with"
                " '+'."
            )
    if len(set(names)) < len(names):
        raise UserError(f"--method {method}: a part is given twice.")
    if "clip" in names and len(names) > 1:
        raise UserError(f"--method {method}: every method contains CLIP's loss; leave 'clip' out.")
    if set(EXPERTS) <= set(names):
        raise UserError(
            f"--method {method}: eclip and naive are two ways to append the same pairs; keep one of"
            " them."
        )
    return names


def build_method(args: argparse.Namespace, names: tuple[str, ...] | None = None) -> Method:
    """The method of a run. UserError for bad settings of an objective.

    Call it after `fill_batch_size`. `names`: the result of `method_names`; None: it is called here.
    """
    names = names or method_names(args)
    experts = next((name for name in names if name in EXPERTS), None)
    objectives = tuple(OBJECTIVES[name].from_args(args) for name in names if name in OBJECTIVES)
    mixes = experts is not None and args.naive_form != "plain"
    return Method(names, experts, objectives, mixes, SameText.from_args(args))


def eclip_config(
    args: argparse.Namespace, base: Mapping[str, Any], names: tuple[str, ...] | None = None
) -> EClipConfig:
    """The model JSON's `eclip_cfg` (`base`), overridden by the user's flags and by the method.

    `names` as in `build_method`.
    """
    merged = EClipConfig.from_dict(base).to_dict()
    if args.eclip_processor == AUTHORS:
        merged["processor"] = dataclasses.asdict(AUTHORS_PROCESSOR)
    elif args.eclip_processor is not None:
        merged["processor"]["kind"] = args.eclip_processor
    if args.eclip_curriculum is not None:
        merged["curriculum"] = dict(
            zip(("cold", "warm", "cool", "low", "high", "end"), args.eclip_curriculum)
        )
    for flag, key in (
        ("eclip_alpha", "alpha"),
        ("eclip_priming_weight", "priming_weight"),
        ("eclip_own_pairs", "own_pairs"),
        ("eclip_crop_threshold", "crop_threshold"),
    ):
        if getattr(args, flag) is not None:
            merged[key] = getattr(args, flag)
    if args.eclip_no_mixup:
        merged["lam"] = 0.0
    names = names or method_names(args)
    config = dataclasses.replace(EClipConfig.from_dict(merged), regions="gloria" in names)
    if "naive" in names:
        return naive.naive_config(config, args.naive_form or naive.FORMS[0])
    if "eclip" not in names:
        return dataclasses.replace(config, processor=None)
    masks = config.processor is not None and config.processor.kind == "mask"
    if masks and config.priming_weight > 0:
        raise UserError(
            f"--eclip-processor mask with priming weight {config.priming_weight:g}: the mask has no"
            " parameters and is the identity under ones, so there is nothing to prime; add"
            " --eclip-priming-weight 0."
        )
    return config


def with_runs_dir(runs_dir: str | None, rest: Sequence[str]) -> list[str]:
    """open_clip's arguments with --runs-dir as --logs. UserError if both are given and differ."""
    if runs_dir is None:
        return list(rest)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--logs")
    logs = parser.parse_known_args(list(rest))[0].logs
    if logs not in (None, runs_dir):
        raise UserError(
            f"--runs-dir {runs_dir} with --logs {logs}: two names of one setting; drop one of them."
        )
    return [*rest, f"--logs={runs_dir}"]


def parse_host(
    parse: Callable[[list[str]], argparse.Namespace], argv: list[str]
) -> argparse.Namespace:
    """Parse with open_clip's own parser. UserError where its --aug-cfg would end in a traceback."""
    try:
        return parse(argv)
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"--aug-cfg: expected KEY=VALUE pairs, e.g. --aug-cfg 'scale=(0.5,1.0)' ({error})."
        ) from error
