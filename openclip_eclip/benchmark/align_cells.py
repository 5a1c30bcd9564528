"""Settings and methods of the alignment benchmark.

A setting is a number of images, a share of annotated images and a quality of gaze. --cells
takes names of settings, and --rows names of methods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..recipes import RECIPES
from .rows import Flags, Method

MODEL = f"local-dir:{Path(__file__).resolve().parent / 'phantom_model_fine'}"
RECIPE = RECIPES["eclip-plus"]
assert RECIPE.align_weight is not None and RECIPE.align_min_share is not None  # it sets both
WEIGHT: float = RECIPE.align_weight
MIN_SHARE: float = RECIPE.align_min_share
WEIGHT_ONLY: Flags = ["--method", RECIPE.method, "--align-weight", WEIGHT]
PLUS: Flags = [*WEIGHT_ONLY, "--align-min-share", MIN_SHARE]
OVERSAMPLED: Flags = [*PLUS, "--align-oversample", 0.1]
HEAVY: Flags = [*OVERSAMPLED, "--align-weight", 1]
ALIGN = "align, weight 1"  # alignment with the flags' own weight
# the recipe without its minimum share, in settings with a smaller share
ABLATION = f"align, weight {WEIGHT}"
OVERSAMPLING = "eclip-plus, oversampled"  # in the same settings
# students, trained on pseudo-heatmaps of a teacher; the second where few images are annotated
STUDENT, STUDENT_OVERSAMPLED = "eclip-plus, self-trained", f"{OVERSAMPLING}, self-trained"
# in settings with one to three annotated images
HARD = f"{OVERSAMPLING}, weight 1, twice the steps"
# methods that are compared with the best other method
RECIPE_METHODS = ("eclip-plus", OVERSAMPLING, HARD, STUDENT, STUDENT_OVERSAMPLED)
# baselines of STUDENT: a teacher without gaze; no pseudo-heatmaps
STUDENT_BASELINES = ("CLIP, self-trained", "eclip-plus, twice the steps")
# prefixes of methods that are not "other methods"
OURS = ("align", "eclip-plus", STUDENT_BASELINES[0])
# --eclip-placebo: name of the placebo
PLACEBO_KINDS = {
    "random": "random maps",
    "shuffled": "maps of other images",
    "same-class-shuffled": "maps of other images of the class",
    "centre": "map of the centre",
    "ones": "maps of ones",
}
# maximum numbers of steps; validation chooses among eighths of them
STEPS, TUNE_STEPS = {300: 400, 600: 600, 2000: 900}, 150
TEST_IMAGES, VALIDATION_IMAGES, GAZE_IMAGES = 600, 300, 300
DEVELOPMENT = 90  # seeds from here on have chosen hyperparameters and are never reported

ALIGN_METHODS = [
    Method("CLIP", ["--method", "clip"]),
    Method("CLIP, twice the steps", ["--method", "clip"], length=2),
    Method("m3-mix", ["--method", "m3-mix"], start="CLIP"),
    Method(
        "annotated images twice",
        ["--method", "naive", "--naive-form", "plain", "--expert-data", "{data}/annotated.csv"],
        annotated=True,
    ),
    Method("naive", ["--method", "naive"], annotated=True),
    Method("mask view", ["--method", "naive", "--naive-form", "multiply"], annotated=True),
    Method("eCLIP", ["--method", "eclip"], annotated=True),
    Method("eCLIP^P", ["--method", "eclip"], start="CLIP", annotated=True),
    Method(ALIGN, ["--method", "align"], annotated=True),
    Method("eclip-plus", PLUS, annotated=True),
    Method(ABLATION, WEIGHT_ONLY, annotated=True),
    Method(OVERSAMPLING, OVERSAMPLED, annotated=True),
    Method(HARD, HEAVY, annotated=True, length=2),
    Method(STUDENT, PLUS, annotated=True, teacher="eclip-plus"),
    Method(STUDENT_OVERSAMPLED, PLUS, annotated=True, teacher=OVERSAMPLING),
    Method(
        STUDENT_BASELINES[0],
        [*PLUS, "--csv-heatmap-key", "attention"],
        teacher="CLIP",
        teaching=["--csv-heatmap-key", "attention"],
    ),
    Method(STUDENT_BASELINES[1], PLUS, annotated=True, length=2),
    *(
        Method(
            f"{OVERSAMPLING}, {PLACEBO_KINDS[kind]}",
            [*OVERSAMPLED, "--eclip-placebo", kind],
            annotated=True,
        )
        for kind in ("random", "shuffled")
    ),
    Method(
        f"{HARD}, {PLACEBO_KINDS['shuffled']}",
        [*HEAVY, "--eclip-placebo", "shuffled"],
        annotated=True,
        length=2,
    ),
    *(
        Method(
            f"eclip-plus, {name}",
            [
                *PLUS,
                *("--eclip-placebo", kind),
                *["--csv-label-key", "label"] * kind.startswith("same"),
            ],
            annotated=True,
        )
        for kind, name in PLACEBO_KINDS.items()
    ),
]
NAMES = [method.name for method in ALIGN_METHODS]
MAIN_METHODS = tuple(NAMES[:10])
PLACEBOS, PLACEBOS_OVERSAMPLED, PLACEBOS_HARD = (
    tuple(name for kind in PLACEBO_KINDS.values() if (name := f"{method}, {kind}") in NAMES)
    for method in ("eclip-plus", OVERSAMPLING, HARD)
)


@dataclass(frozen=True)
class Setting:
    """A setting: `count` training images, of which a share `annotated` has gaze.

    `methods`: names of its methods; `images`, `gaze`: flags of the phantom generator for images and
    gaze.
    """

    name: str
    count: int
    annotated: float
    methods: tuple[str, ...]
    images: tuple = ()
    gaze: tuple = ()

    @property
    def home(self) -> str:
        """Settings with the same `home` have the same images, so they share unannotated runs."""
        return "-".join(map(str, (self.count, *self.images))).replace("--", "")


def in_anatomy(setting: Setting, anatomy: str) -> Setting:
    """The setting with images of `anatomy`. Its images and runs have folders of their own."""
    if anatomy == "chest":
        return setting
    return replace(setting, images=(*setting.images, "--anatomy", anatomy))


CLEAN = "600 images, 15 %"  # reference of the settings with worse gaze or other images
EXTRA = {  # methods of single settings
    CLEAN: (*STUDENT_BASELINES, *PLACEBOS),
    "600 images, 1 %": PLACEBOS_OVERSAMPLED,
    "300 images, 1 %": (HARD, *PLACEBOS_HARD),
    "300 images, 0.25 %": (HARD,),
    "600 images, 0.25 %": (HARD,),
}
WORSE: dict[str, dict[str, tuple]] = {
    "half of the gaze at random positions": {"gaze": ("--gaze-noise", 0.5)},
    "gaze shifted by 8 %": {"gaze": ("--gaze-shift", 0.08)},
    "gaze independent of the class": {"images": ("--gaze-leak", 0)},
    "devices as a shortcut": {"images": ("--shortcut", 0.8)},
}


def methods_of(setting: str, share: float) -> tuple[str, ...]:
    """Methods of a setting: MAIN_METHODS, and those that only some settings have."""
    return (
        *MAIN_METHODS,
        *((STUDENT,) if share >= MIN_SHARE else (ABLATION, OVERSAMPLING, STUDENT_OVERSAMPLED)),
        *EXTRA.get(setting, ()),
    )


ALIGN_SETTINGS = [
    Setting(name := f"{count} images, {100 * share:g} %", count, share, methods_of(name, share))
    for count in STEPS
    for share in (0.15, 0.05, 0.01, 0.0025)
]
ALIGN_SETTINGS += [
    Setting(name := f"{CLEAN}, {worse}", 600, 0.15, methods_of(name, 0.15), **knobs)
    for worse, knobs in WORSE.items()
]
PICTURED = ("300 images, 15 %", CLEAN, "2000 images, 5 %")
