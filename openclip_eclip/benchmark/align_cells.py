"""The cells of the alignment benchmark: how many films, how many annotated, how good the gaze; and
the rows that each cell is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..recipes import RECIPES
from .rows import Flags, Row

MODEL = f"local-dir:{Path(__file__).resolve().parent / 'phantom_model_fine'}"
RECIPE = RECIPES["eclip-plus"]
assert RECIPE.align_weight is not None and RECIPE.align_min_share is not None  # it sets both
WEIGHT: float = RECIPE.align_weight
LEAST: float = RECIPE.align_min_share
LIGHT: Flags = ["--method", RECIPE.method, "--align-weight", WEIGHT]
PLUS: Flags = [*LIGHT, "--align-min-share", LEAST]
AGAIN: Flags = [*PLUS, "--align-oversample", 0.1]
HARDER: Flags = [*AGAIN, "--align-weight", 1]
ABLATION = f"align, weight {WEIGHT}"  # the recipe without its least share, in cells that have less
REPLAY = "eclip-plus with replay"  # in the same cells
# with the heatmaps of a model of that row; the second where few are annotated
TAUGHT, TAUGHT_AGAIN = (
    "eclip-plus self-trained",
    f"{REPLAY} self-trained",
)
HARD = f"{REPLAY}, weight 1, twice the steps"  # in the cells with one to three annotated films
# are compared with the best other row
RECIPE_ROWS = (
    "eclip-plus",
    REPLAY,
    HARD,
    TAUGHT,
    TAUGHT_AGAIN,
)
# controls of TAUGHT: no gaze at all; no heatmaps of a model
UNTAUGHT = (
    "CLIP self-trained",
    "eclip-plus, twice the steps",
)
OURS = ("align", "eclip-plus", UNTAUGHT[0])  # beginnings of rows that are not "other methods"
CONTROLS = ("random", "shuffled", "same-class-shuffled", "centre", "ones")
# the most; validation chooses among eighths of them
STEPS, TUNE_STEPS = (
    {300: 400, 600: 600, 2000: 900},
    150,
)
TEST_FILMS, VALIDATION_FILMS, LOOKED_AT = 600, 300, 300
DEVELOPMENT = 90  # seeds from here on have chosen settings and are never reported

ROWS = [
    Row("CLIP", ["--method", "clip"]),
    Row("CLIP, twice the steps", ["--method", "clip"], length=2),
    Row("m3-mix", ["--method", "m3-mix"], start="CLIP"),
    Row(
        "oversample",
        ["--method", "naive", "--naive-form", "plain", "--expert-data", "{data}/annotated.csv"],
        annotated=True,
    ),
    Row("naive", ["--method", "naive"], annotated=True),
    Row("mask", ["--method", "naive", "--naive-form", "multiply"], annotated=True),
    Row("eCLIP", ["--method", "eclip"], annotated=True),
    Row("eCLIP^P", ["--method", "eclip"], start="CLIP", annotated=True),
    Row("align", ["--method", "align"], annotated=True),
    Row("eclip-plus", PLUS, annotated=True),
    Row(ABLATION, LIGHT, annotated=True),
    Row(REPLAY, AGAIN, annotated=True),
    Row(HARD, HARDER, annotated=True, length=2),
    Row(TAUGHT, PLUS, annotated=True, teacher="eclip-plus"),
    Row(TAUGHT_AGAIN, PLUS, annotated=True, teacher=REPLAY),
    Row(
        UNTAUGHT[0],
        [*PLUS, "--csv-heatmap-key", "look"],
        teacher="CLIP",
        teaching=["--csv-heatmap-key", "look"],
    ),
    Row(UNTAUGHT[1], PLUS, annotated=True, length=2),
    *(
        Row(f"{REPLAY}, {control}", [*AGAIN, "--eclip-placebo", control], annotated=True)
        for control in CONTROLS[:2]
    ),
    Row(
        f"{HARD}, {CONTROLS[1]}",
        [*HARDER, "--eclip-placebo", CONTROLS[1]],
        annotated=True,
        length=2,
    ),
    *(
        Row(
            f"eclip-plus, {control}",
            [
                *PLUS,
                "--eclip-placebo",
                control,
                *["--csv-label-key", "label"] * control.startswith("same"),
            ],
            annotated=True,
        )
        for control in CONTROLS
    ),
]
NAMES = [row.name for row in ROWS]
METHODS = tuple(NAMES[:10])
PLACEBOS, PLACEBOS_AGAIN, PLACEBOS_HARD = (
    tuple(name for control in CONTROLS if (name := f"{row}, {control}") in NAMES)
    for row in ("eclip-plus", REPLAY, HARD)
)


@dataclass(frozen=True)
class Cell:
    """`count` training films made with the flags `films`, a share `annotated` of them with gaze
    made with the flags `gaze`.
    """

    name: str
    count: int
    annotated: float
    rows: tuple[str, ...]
    films: tuple = ()
    gaze: tuple = ()

    @property
    def home(self) -> str:
        """Cells of one home have the same films, so the runs without annotations are the same."""
        return "-".join(map(str, (self.count, *self.films))).replace("--", "")


CLEAN = "600 films, 15 %"  # what the cells of worse gaze and of other films are compared with
EXTRA = {  # rows that single cells are for
    CLEAN: (*UNTAUGHT, *PLACEBOS),
    "600 films, 1 %": PLACEBOS_AGAIN,
    "300 films, 1 %": (HARD, *PLACEBOS_HARD),
    "300 films, 0.25 %": (HARD,),
    "600 films, 0.25 %": (HARD,),
}
WORSE: dict[str, dict[str, tuple]] = {
    "half of the gaze astray": {"gaze": ("--gaze-noise", 0.5)},
    "gaze off by 8 %": {"gaze": ("--gaze-shift", 0.08)},
    "gaze without class": {"films": ("--gaze-leak", 0)},
    "devices as shortcut": {"films": ("--shortcut", 0.8)},
}


def rows_of(cell: str, share: float) -> tuple[str, ...]:
    """METHODS, and what only some cells are for."""
    return (
        *METHODS,
        *((TAUGHT,) if share >= LEAST else (ABLATION, REPLAY, TAUGHT_AGAIN)),
        *EXTRA.get(cell, ()),
    )


CELLS = [
    Cell(name := f"{count} films, {100 * share:g} %", count, share, rows_of(name, share))
    for count in STEPS
    for share in (0.15, 0.05, 0.01, 0.0025)
]
CELLS += [
    Cell(name := f"{CLEAN}, {worse}", 600, 0.15, rows_of(name, 0.15), **knobs)
    for worse, knobs in WORSE.items()
]
PICTURED = ("300 films, 15 %", CLEAN, "2000 films, 5 %")
