"""--same-text: what an image and another sample's text count as where the texts are the same.

In radiology many reports are equal ("No acute cardiopulmonary abnormality."). See decision 0051.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import UserError

USES = ("negative", "positive", "ignore")
# methods with further losses in which every other text of the batch is a negative
OTHER_NEGATIVES = ("m3-mix", "gloria")


@dataclass(frozen=True)
class SameText:
    """Which texts are the same, and what their pairs count as."""

    use: str = "negative"
    similarity: float | None = None  # cosine from which they are; None: their keys are equal

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> SameText:
        return cls(args.same_text or "negative", args.same_text_similarity)

    @property
    def active(self) -> bool:
        """Whether such pairs are anything but stock's negatives."""
        return self.use != "negative"

    def matches(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(R, N) bool: the texts are the same.

        `rows` (R,) and `columns` (N,) int64 keys or, for similarity, unit features (R, D), (N, D).
        """
        if self.similarity is None:
            return rows[:, None] == columns[None]
        with torch.autocast(rows.device.type, enabled=False):
            return rows @ columns.T >= self.similarity


def add_same_text(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--same-text",
        choices=USES,
        help=(
            "sets what an image and another sample's text count as where the two texts are the"
            " same: a negative as in CLIP, one more positive, or nothing (left out of the loss)"
            " (default: negative)"
        ),
    )
    group.add_argument(
        "--same-text-by",
        metavar="COLUMN",
        help=(
            "names the column, in shards the field of key.json, whose equal values make texts the"
            " same; a blank cell leaves it to the tokens (default: equal tokens make texts the"
            " same)"
        ),
    )
    group.add_argument(
        "--same-text-similarity",
        type=float,
        metavar="T",
        help=(
            "sets the cosine similarity of frozen text features from which texts are the same;"
            " needs --freeze-text all (default: equal tokens make texts the same)"
        ),
    )


def check_same_text(args: argparse.Namespace, names: Sequence[str]) -> None:
    """UserError for flags that have no effect or no meaning; `names`: the parts of --method."""
    by, similarity = args.same_text_by, args.same_text_similarity
    flag = f"--same-text-by {by}" if by else f"--same-text-similarity {similarity}"
    if not SameText.from_args(args).active:
        if by or similarity is not None:
            raise UserError(
                f"{flag} without --same-text positive or ignore has no effect: give both, or drop"
                " it."
            )
        return
    if by and similarity is not None:
        raise UserError(
            f"--same-text-by {by} with --same-text-similarity {similarity:g}: two ways to say which"
            " texts are the same; drop one of them."
        )
    if by and args.dataset_type == "synthetic":
        raise UserError(
            f"{flag} with --dataset-type synthetic: those data have no columns; drop it."
        )
    if similarity is not None and args.freeze_text != "all":
        raise UserError(
            f"{flag} without --freeze-text all: features of a trained text tower change, and with"
            " them which texts are the same; add it in place of --lock-text, or name a column with"
            " --same-text-by."
        )
    if similarity is not None and args.torchcompile:
        raise UserError(
            f"{flag} with --torchcompile: the features are read within the text tower, which a"
            " compiled one does not allow; drop one of them."
        )
    others = [name for name in names if name in OTHER_NEGATIVES]
    if others:
        raise UserError(
            f"--same-text {args.same_text} with --method {others[0]}: its own losses take every"
            " other text of the batch for a negative; drop one of them."
        )
