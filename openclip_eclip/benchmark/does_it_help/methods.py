"""The methods that the benchmark can train, as flags of openclip_eclip.train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...config import UserError
from ...recipes import RECIPES
from ..rows import Flags

RECIPE = RECIPES["eclip-plus"]
PLUS: Flags = [
    *("--method", RECIPE.method, "--align-weight", RECIPE.align_weight or 0),
    *("--align-min-share", RECIPE.align_min_share or 0),
]
SHUFFLED: Flags = ["--eclip-placebo", "shuffled"]


@dataclass(frozen=True, eq=False)  # hashed by identity
class Choice:
    """A method of the benchmark.

    `flags`: of its training, where {train} is the training data; `length`: its steps, as a multiple
    of CLIP's; `control_of`: the methods whose gain it can explain; `kind`: methods of one kind cost
    the same; `is_cached`: it can take --cache-tokens, since its images are views of the data.
    """

    name: str
    what: str
    flags: Flags
    kind: str
    length: int = 1
    control_of: Sequence[str] = ()

    @property
    def is_cached(self) -> bool:
        return self.kind in ("clip", "plus")


TESTED = ("eclip-plus", "eclip")  # the first of them that is trained gives the answer
CHOICES = {
    choice.name: choice
    for choice in (
        Choice("CLIP", "trained on images and texts alone", ["--method", "clip"], "clip"),
        Choice(
            "CLIP-longer",
            "CLIP with twice the steps, nothing else",
            ["--method", "clip"],
            "clip",
            2,
            control_of=TESTED,
        ),
        Choice(
            "CLIP-oversampled",
            "CLIP that sees the annotated images more often, without their maps",
            ["--method", "naive", "--naive-form", "plain", "--expert-data", "{train}"],
            "oversampled",
            control_of=TESTED,
        ),
        Choice(
            "eclip",
            "the maps as mixed images, the method of the paper",
            ["--method", "eclip"],
            "eclip",
        ),
        Choice("eclip-plus", "attention is trained towards the maps", PLUS, "plus"),
        Choice(
            "placebo",
            "eclip-plus with the maps shuffled among the images",
            [*PLUS, *SHUFFLED],
            "plus",
            control_of=["eclip-plus"],
        ),
        Choice(
            "eclip-placebo",
            "eclip with the maps shuffled among the images",
            ["--method", "eclip", *SHUFFLED],
            "eclip",
            control_of=["eclip"],
        ),
    )
}
DEFAULT = [name for name in CHOICES if name != "eclip-placebo"]


def choose(names: Sequence[str]) -> list[Choice]:
    """The methods of these names, in the order of CHOICES.

    UserError: an unknown name, no CLIP, or no method that uses the maps.
    """
    unknown = [name for name in names if name not in CHOICES]
    if unknown:
        raise UserError(
            f"--methods {' '.join(unknown)}: not a method of the benchmark; expected some of"
            f" {', '.join(CHOICES)}."
        )
    if "CLIP" not in names or not set(TESTED) & set(names):
        raise UserError(
            f"--methods {' '.join(names)}: expected CLIP and at least one of"
            f" {' and '.join(TESTED)}, because the report compares them."
        )
    return [choice for name, choice in CHOICES.items() if name in names]
