"""The flags of `openclip_eclip.train` beside open_clip's own, and the paper's settings as
recipes.
"""

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

AUTHORS = "authors"  # of --eclip-processor


EXPERTS = ("eclip", "naive")  # methods that append mixed pairs of annotated samples
HEATMAPS = (*EXPERTS, "align")  # methods that use heatmaps
METHODS = ("clip", *EXPERTS, *OBJECTIVES)


def eclip_parser() -> argparse.ArgumentParser:
    """Flags that open_clip does not have; the README's table is generated from here."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    group = parser.add_argument_group("eCLIP")
    _add_run(group)
    _add_expert_views(group)
    add_read_arguments(group)
    _add_saving(parser.add_argument_group("saving"))
    for name, kind in OBJECTIVES.items():
        kind.add_flags(parser.add_argument_group(name))
    return parser


def _add_run(group: argparse._ArgumentGroup) -> None:
    """What is trained, and on what."""
    group.add_argument(
        "--recipe",
        choices=sorted(RECIPES),
        help=(
            "the paper's settings, --method included, wherever no flag is given; 'clip' is the"
            " baseline: plain CLIP, heatmaps ignored; 'eclip-p' and 'm3-mix' fine-tune a trained"
            " CLIP; 'eclip-plus' is ours, CLIP with alignment of weight 0.2 (default: open_clip's"
            " own settings, with eCLIP)"
        ),
    )
    group.add_argument(
        "--method",
        metavar="NAME[+NAME]",
        help=(
            f"what is trained: {', '.join(METHODS)}, or several as in eclip+dacl; all but 'clip'"
            " add to the contrastive loss of CLIP, and only eclip, naive and align use heatmaps"
            " (default: the recipe's, else eclip)"
        ),
    )
    group.add_argument(
        "--runs-dir",
        metavar="DIR",
        help=(
            "folder of all runs; the same as --logs, which torchrun takes for a flag of its own"
            " unless -- stands before the module (default: --logs)"
        ),
    )
    group.add_argument(
        "--csv-heatmap-key",
        metavar="COLUMN",
        help=(
            "column of heatmap files in --train-data, or in --expert-data alone; a blank cell means"
            " not annotated, and a named column that is absent is an error (default: heatmap, where"
            " there is one)"
        ),
    )
    group.add_argument(
        "--expert-data",
        metavar="PATH",
        help=(
            "a second, annotated source (.csv, .tsv, or .tar with braces or ::) whose samples enter"
            " only as mixed pairs"
        ),
    )
    group.add_argument(
        "--expert-batch-size",
        type=int,
        metavar="N",
        help="candidates of --expert-data a batch and rank (default: half the batch size)",
    )
    group.add_argument(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help="stop at bad input, or count it, name it in the log and go on (default: stop)",
    )


def _add_expert_views(group: argparse._ArgumentGroup) -> None:
    """How annotated images become mixed pairs, and when (§3.2)."""
    group.add_argument(
        "--eclip-processor",
        choices=(*PROCESSORS, AUTHORS),
        help=(
            "heatmap processor; authors: mha exactly as in the code of eCLIP's authors, which is"
            " not the identity at the start and has something to learn from priming (default: mha,"
            " the paper's, from the identity)"
        ),
    )
    group.add_argument(
        "--eclip-alpha", type=float, metavar="A", help="lambda ~ Beta(A, A) (default: 0.3)"
    )
    group.add_argument(
        "--eclip-no-mixup",
        action="store_true",
        help="lambda = 0: I^E itself in the place of the mixed image",
    )
    group.add_argument(
        "--eclip-priming-weight",
        type=float,
        metavar="W",
        help=(
            "w_p, 0 turns priming off; it teaches the processor to be the identity under a heatmap"
            " of ones, which the default processor is from the start, so that the term is exactly 0"
            " there and only (1 - w_p) is left of it (default: 0.1)"
        ),
    )
    group.add_argument(
        "--eclip-curriculum",
        type=float,
        nargs=6,
        metavar=("COLD", "WARM", "COOL", "LOW", "HIGH", "END"),
        help="shares of all steps, then probabilities (default: 0.1 0.3 0.4 0.05 0.5 0.1)",
    )
    group.add_argument(
        "--eclip-own-pairs",
        choices=OWN_PAIRS,
        help=(
            "the second copy of a sample's text is a negative (diagonal), a second positive"
            " (multi), or left out (mask) (default: diagonal, as Algorithm 1)"
        ),
    )
    group.add_argument(
        "--eclip-placebo",
        choices=PLACEBOS,
        help=(
            "a placebo in the place of every heatmap, all else equal: noise (random), another"
            " image's map (shuffled), one of the same class, a Gaussian at the centre, ones, or the"
            " map's own spatial frequencies elsewhere (phase-scrambled)"
        ),
    )
    group.add_argument(
        "--csv-label-key",
        metavar="COLUMN",
        help=(
            "column of classes, in shards a field of key.json, for --eclip-placebo"
            " same-class-shuffled"
        ),
    )
    group.add_argument(
        "--eclip-crop-threshold",
        type=float,
        metavar="SHARE",
        help="a crop that keeps less of the heatmap's mass counts as not annotated (default: 0.1)",
    )
    group.add_argument(
        "--naive-form",
        choices=naive.FORMS,
        help=(
            "what --method naive adds: the processed image, the image times the heatmap, or"
            " (--expert-data only) the plain image (default: processor)"
        ),
    )


def _add_saving(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--save-every-steps",
        type=int,
        metavar="N",
        help=(
            "saves a checkpoint after every N optimiser steps, from which --resume "
            "latest continues in the middle of the epoch (default: only at the end "
            "of epochs, and at SIGTERM, SIGINT and SIGUSR1)"
        ),
    )
    group.add_argument(
        "--save-every-minutes",
        type=float,
        metavar="M",
        help=(
            "saves such a checkpoint at the first step that ends M minutes after "
            "the last one (default: never)"
        ),
    )
    group.add_argument(
        "--keep-last",
        type=int,
        default=2,
        metavar="K",
        help=(
            "keeps the K newest checkpoints within epochs; those of whole epochs "
            "are all kept (default: 2)"
        ),
    )


@dataclass(frozen=True)
class Method:
    """What a run trains: `experts` ('eclip', 'naive' or None) decides about mixed pairs,
    `objectives` add terms.
    """

    names: tuple[str, ...]  # the parts of --method
    experts: str | None
    objectives: tuple[Objective, ...]
    mixes: bool  # annotated samples of --train-data may become mixed pairs

    @property
    def heatmaps(self) -> bool:
        """Those of --train-data are used."""
        return self.mixes or any(objective.needs_heatmaps for objective in self.objectives)

    @property
    def windows(self) -> bool:
        """Those of single sentences are used."""
        return any(objective.needs_windows for objective in self.objectives)

    @property
    def is_plain(self) -> bool:
        return self.experts is None and not self.objectives


def method_names(args: argparse.Namespace) -> tuple[str, ...]:
    """The parts of --method, the recipe's where it is not given. UserError for what can not stand
    together.

    A training run asks once, right after parsing, and hands them on.
    """
    method = args.method or (RECIPES[args.recipe].method if args.recipe else "eclip")
    names = tuple(method.split("+"))
    for name in names:
        if name not in METHODS:
            raise UserError(
                f"--method {method}: {name!r} is none of {', '.join(METHODS)}; join several by '+'."
            )
    if len(set(names)) < len(names):
        raise UserError(f"--method {method}: a part stands there twice.")
    if "clip" in names and len(names) > 1:
        raise UserError(f"--method {method}: every method contains CLIP's loss; leave 'clip' out.")
    if set(EXPERTS) <= set(names):
        raise UserError(
            f"--method {method}: eclip and naive are two ways to append the same pairs; keep one of"
            " them."
        )
    return names


def build_method(args: argparse.Namespace, names: tuple[str, ...] | None = None) -> Method:
    """After `fill_batch_size`. UserError for bad settings of an objective.

    `names`: what `method_names` has found; None: not asked yet.
    """
    names = names or method_names(args)
    experts = next((name for name in names if name in EXPERTS), None)
    objectives = tuple(OBJECTIVES[name].from_args(args) for name in names if name in OBJECTIVES)
    mixes = experts is not None and args.naive_form != "plain"
    return Method(names, experts, objectives, mixes)


def eclip_config(
    args: argparse.Namespace, base: Mapping[str, Any], names: tuple[str, ...] | None = None
) -> EClipConfig:
    """The model JSON's `eclip_cfg` (`base`) with the flags the user gave on top, as the method
    needs them. `names` as in `build_method`.
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


def fill_alignment(args: argparse.Namespace, names: tuple[str, ...]) -> None:
    """The recipe's settings of alignment, unless the user gave others or trains something else."""
    if args.recipe is None or "align" not in names:
        return
    for name in ("align_weight", "align_min_share"):
        if getattr(args, name) is None:
            setattr(args, name, getattr(RECIPES[args.recipe], name))


def with_runs_dir(runs_dir: str | None, rest: Sequence[str]) -> list[str]:
    """open_clip's arguments with --runs-dir as --logs. UserError if both are given and differ."""
    if runs_dir is None:
        return list(rest)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--logs")
    logs = own.parse_known_args(list(rest))[0].logs
    if logs not in (None, runs_dir):
        raise UserError(
            f"--runs-dir {runs_dir} with --logs {logs}: two names of one setting; drop one of them."
        )
    return [*rest, f"--logs={runs_dir}"]


def parse_host(
    parse: Callable[[list[str]], argparse.Namespace], argv: list[str]
) -> argparse.Namespace:
    """open_clip's own parser. UserError where its --aug-cfg would end in a traceback."""
    try:
        return parse(argv)
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"--aug-cfg: expected KEY=VALUE pairs, e.g. --aug-cfg 'scale=(0.5,1.0)' ({error})."
        ) from error
