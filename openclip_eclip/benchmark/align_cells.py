"""Settings and methods of the alignment benchmark.

A setting is a number of images, a share of annotated images and a quality of gaze. The code calls
it a cell, and a method a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..recipes import RECIPES
from .rows import Flags, Row

MODEL = f"local-dir:{Path(__file__).resolve().parent / 'phantom_model_fine'}"
RECIPE = RECIPES["eclip-plus"]
assert RECIPE.align_weight is not None and RECIPE.align_least is not None  # it sets both
WEIGHT: float = RECIPE.align_weight
LEAST: float = RECIPE.align_least
LIGHT: Flags = ["--method", RECIPE.method, "--align-weight", WEIGHT]
PLUS: Flags = [*LIGHT, "--align-least", LEAST]
AGAIN: Flags = [*PLUS, "--align-replay", 0.1]
HARDER: Flags = [*AGAIN, "--align-weight", 1]
# the recipe without its minimum share, in settings with a smaller share
ABLATION = f"align, weight {WEIGHT}"
REPLAY = "eclip-plus with replay"  # in the same settings
# students, trained on pseudo-heatmaps of a teacher; the second where few images are annotated
TAUGHT, TAUGHT_AGAIN = (
    "eclip-plus self-trained",
    f"{REPLAY} self-trained",
)
HARD = f"{REPLAY}, weight 1, twice the steps"  # in settings with one to three annotated images
# methods that are compared with the best other method
RECIPE_ROWS = (
    "eclip-plus",
    REPLAY,
    HARD,
    TAUGHT,
    TAUGHT_AGAIN,
)
# baselines of TAUGHT: a teacher without gaze; no pseudo-heatmaps
UNTAUGHT = (
    "CLIP self-trained",
    "eclip-plus, twice the steps",
)
OURS = ("align", "eclip-plus", UNTAUGHT[0])  # prefixes of methods that are not "other methods"
CONTROLS = ("random", "shuffled", "same-class-shuffled", "centre", "ones")
# maximum numbers of steps; validation chooses among eighths of them
STEPS, TUNE_STEPS = (
    {300: 400, 600: 600, 2000: 900},
    150,
)
TEST_FILMS, VALIDATION_FILMS, LOOKED_AT = 600, 300, 300
DEVELOPMENT = 90  # seeds from here on have chosen hyperparameters and are never reported

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
        Row(f"{REPLAY}, {control}", [*AGAIN, "--eclip-heatmap-control", control], annotated=True)
        for control in CONTROLS[:2]
    ),
    Row(
        f"{HARD}, {CONTROLS[1]}",
        [*HARDER, "--eclip-heatmap-control", CONTROLS[1]],
        annotated=True,
        length=2,
    ),
    *(
        Row(
            f"eclip-plus, {control}",
            [
                *PLUS,
                *("--eclip-heatmap-control", control),
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
    """A setting: `count` training images, of which a share `annotated` has gaze.

    `rows`: names of its methods; `films`, `gaze`: flags of the phantom generator for images and
    gaze.
    """

    name: str
    count: int
    annotated: float
    rows: tuple[str, ...]
    films: tuple = ()
    gaze: tuple = ()

    @property
    def home(self) -> str:
        """Settings with the same `home` have the same images, so they share unannotated runs."""
        return "-".join(map(str, (self.count, *self.films))).replace("--", "")


CLEAN = "600 films, 15 %"  # reference of the settings with worse gaze or other images
EXTRA = {  # methods of single settings
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
    """Methods of a setting: METHODS, and those that only some settings have."""
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
