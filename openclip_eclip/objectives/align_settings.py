"""Settings of alignment and their flags; decisions 0030, 0032, 0035 and 0036 explain them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import build_settings, check_fields, current_names

# What to do with a phrase without a region: to leave it out, or to have it attend nowhere.
EMPTY = ("ignore", "uniform")


@dataclass(frozen=True)
class AlignConfig:
    """Settings of alignment; decision 0030 explains the defaults."""

    weight: float = 1.0
    temperature: float = 0.1  # of the cosine of text and position; an attention pool has its own
    power: float = 3.0  # of the heatmap on the grid: sharpens it towards its maximum
    # Where less of the data is annotated, the mean is over at least this share of the batch: few
    # samples do not get the whole weight.
    min_share: float = 0.0
    # Where less than half of this share is annotated, annotated images are added to each batch
    # once more, for this loss alone, up to this share of the batch.
    oversample: float = 0.0
    windows: bool = False  # align single sentences where a sample carries windows
    empty: str = "ignore"  # phrases of the windows that have no region, one of EMPTY
    contrast: float = 0.0  # weight of the contrast of regions with the phrases of the windows

    def __post_init__(self) -> None:
        check_fields(
            self,
            "align",
            [
                (0 <= self.weight < float("inf"), "weight", "0 or more"),
                (0 < self.temperature < float("inf"), "temperature", "a positive number"),
                (self.power > 0, "power", "a positive number"),
                (0 <= self.min_share <= 1, "min_share", "a share from 0 to 1"),
                (0 <= self.oversample <= 1, "oversample", "a share from 0 to 1"),
                (self.empty in EMPTY, "empty", f"one of {EMPTY}"),
                (0 <= self.contrast < float("inf"), "contrast", "0 or more"),
                (
                    self.windows or (self.empty, self.contrast) == (EMPTY[0], 0),
                    "windows",
                    "--align-windows with --align-empty or --align-contrast, which are for phrases"
                    " with maps of their own",
                ),
            ],
        )

    @property
    def active(self) -> bool:
        """Whether it adds anything to the loss."""
        return self.weight > 0 or self.contrast > 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlignConfig:
        """Build from a dict of settings, those of release 0.1 included.

        UserError for an unknown key or a bad value.
        """
        flags = current_names({f"align_{key}": value for key, value in values.items()}, "align")
        settings = {name.removeprefix("align_"): value for name, value in flags.items()}
        return build_settings(cls, settings, "align")


def add_align_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags of `AlignConfig`; each is None unless given."""
    group.add_argument(
        "--align-weight",
        type=float,
        metavar="W",
        help=(
            "weight of the alignment loss: the cross-entropy between the heatmap and the "
            "attention of the image tower (default: 1)"
        ),
    )
    group.add_argument(
        "--align-min-share",
        type=float,
        metavar="SHARE",
        help=(
            "minimum annotated share: where less of the data is annotated, the alignment loss"
            " of a batch is a mean over at least this share of its images, so that a few do "
            "not get the whole weight (default: 0; 0.05 with --recipe eclip-plus)"
        ),
    )
    group.add_argument(
        "--align-oversample",
        type=float,
        metavar="SHARE",
        help=(
            "share of each batch to fill with annotated images: where less than half of this "
            "share of the data is annotated, annotated images are added to each batch once "
            "more, for the alignment loss alone (default: 0)"
        ),
    )
    group.add_argument(
        "--align-windows",
        action="store_true",
        default=None,
        help=(
            "aligns single sentences: in samples with sentence windows (column windows, "
            "members windows.json and windows.npz) each sentence is compared with its own map"
        ),
    )
    group.add_argument(
        "--align-temperature",
        type=float,
        metavar="T",
        help=(
            "temperature of the softmax over positions of the cosine with the text; the "
            "attention of a learned pool has its own (default: 0.1)"
        ),
    )
    group.add_argument(
        "--align-empty",
        choices=EMPTY,
        help=(
            "what to do with phrases of sentence windows whose map is zero everywhere, since "
            "the image does not show what they name: leaves them out (ignore), or trains "
            "their similarity to be the same at all positions (uniform) (default: ignore)"
        ),
    )
    group.add_argument(
        "--align-contrast",
        type=float,
        metavar="W",
        help=(
            "weight of a contrastive loss between the regions of sentence windows and their "
            "phrases, over all of a batch; phrases with equal text are no negatives of each "
            "other (default: 0)"
        ),
    )
