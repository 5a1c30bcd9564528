"""The cells of the alignment benchmark: how many films, how many annotated, how good the gaze; and the rows that each cell is for."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openclip_eclip.params import RECIPES
from table_rows import Row

MODEL = f"local-dir:{Path(__file__).resolve().parent / 'phantom_model_fine'}"
PLUS = ["--method", RECIPES["eclip-plus"].method, "--align-weight", RECIPES["eclip-plus"].align_weight]
OURS = ("align", "eclip-plus")  # beginnings of rows that are not "other methods"
CONTROLS = ("random", "shuffled", "same-class-shuffled", "ones")
STEPS, TUNE_STEPS = {300: 400, 600: 600, 2000: 900}, 150  # the most; validation chooses among eighths of them
TEST_FILMS, VALIDATION_FILMS, LOOKED_AT = 600, 300, 300
DEVELOPMENT = 90  # seeds from here on have chosen settings and are never reported

ROWS = [
    Row("CLIP", ["--method", "clip"]),
    Row("CLIP, twice the steps", ["--method", "clip"], length=2),
    Row("m3-mix", ["--method", "m3-mix"], start="CLIP"),
    Row("oversample", ["--method", "naive", "--naive-form", "plain", "--expert-data", "{data}/annotated.csv"], annotated=True),
    Row("naive", ["--method", "naive"], annotated=True),
    Row("mask", ["--method", "naive", "--naive-form", "multiply"], annotated=True),
    Row("eCLIP", ["--method", "eclip"], annotated=True),
    Row("eCLIP^P", ["--method", "eclip"], start="CLIP", annotated=True),
    Row("align", ["--method", "align"], annotated=True),
    Row("eclip-plus", PLUS, annotated=True),
    *(Row(f"eclip-plus, {control}", [*PLUS, "--eclip-heatmap-control", control, *["--csv-label-key", "label"] * control.startswith("same")], annotated=True)
      for control in CONTROLS)]
NAMES = [row.name for row in ROWS]
METHODS, SHORT = NAMES[:10], ["CLIP", "mask", "align", "eclip-plus"]


@dataclass(frozen=True)
class Cell:
    """`count` training films made with the flags `films`, a share `annotated` of them with gaze made with the flags `gaze`."""

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


CELLS = [
    Cell("300 films, 15 %", 300, 0.15, tuple(METHODS)),
    Cell("600 films, 15 %", 600, 0.15, tuple(NAMES)),
    Cell("2000 films, 5 %", 2000, 0.05, tuple(METHODS)),
    Cell("300 films, 5 %", 300, 0.05, tuple(SHORT)),
    Cell("600 films, 5 %", 600, 0.05, tuple(SHORT)),
    Cell("600 films, 1 %", 600, 0.01, tuple(SHORT)),
    Cell("600 films, 0.25 %", 600, 0.0025, tuple(SHORT)),
    Cell("600 films, 15 %, half of the gaze astray", 600, 0.15, tuple(SHORT), gaze=("--gaze-noise", 0.5)),
    Cell("600 films, 15 %, gaze off by 8 %", 600, 0.15, tuple(SHORT), gaze=("--gaze-shift", 0.08)),
    Cell("600 films, 15 %, gaze without class", 600, 0.15, tuple(SHORT), films=("--gaze-leak", 0)),
    Cell("600 films, 15 %, devices as shortcut", 600, 0.15, tuple(SHORT), films=("--shortcut", 0.8))]
