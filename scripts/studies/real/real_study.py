"""Study: what do annotations bring on a few hundred real images, with a frozen tower?

    python scripts/studies/real/real_study.py SHARED --work WORK --out docs/results

SHARED holds the folders of ../grounding/README.md. In each of five folds, three parts are trained
on, one chooses the learning rate and the epoch, one is tested. Records in WORK are not made again;
several processes with different --sets or --folds may share it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(1, str(Path(__file__).parents[1] / "grounding"))
from page import PHRASES
from real_choices import severity, two_way
from real_page import write_page
from start import TOWERS, write_start
from study import FOLDS, make_ready, study_parser
from study import METHODS as TRAINED

from openclip_eclip.evaluate.__main__ import main as evaluate
from openclip_eclip.files import write_whole
from openclip_eclip.machine import this_machine
from openclip_eclip.train import main as train

STEPS, BATCH = 120, 64
# the CNN's pool is 1 280 wide and takes 1.3 s a step: two rates
RATES = {TOWERS[0]: (3e-4, 1e-3, 3e-3), TOWERS[1]: (1e-3, 3e-3)}
SHORT = 40  # steps of methods whose towers compute in each step
FROZEN = ("--freeze-image", "all", "--freeze-text", "all")
SIDE = 224  # pixels of the shorter side of images, at least those of a tower
TESTED = 60  # images of a fold for grounding, at most
USED = ("covid_cxr", "coco_small", "winograd_gaze", "stamps")


@dataclass(frozen=True)
class Method:
    """`flags` of its training; `maps`: whose maps it sees; `share` of the training images that are
    annotated, at most; `rate_of`: the method whose learning rate it takes, else it is one of
    `rates`, or of those of the tower; `towers`: flags on what is trained; `steps`: its length; `kept`: whether what the towers
    compute is kept."""

    flags: Sequence[str]
    maps: str = "own"
    share: float = 1.0
    rate_of: str = ""
    rates: Sequence[float] = ()
    towers: Sequence[str] = FROZEN
    steps: int = STEPS
    kept: bool = True

    @property
    def is_siglip(self) -> bool:
        return "--siglip" in self.flags


PLUS = TRAINED["eclip-plus"]
CLIP, OTHERS = "CLIP", "eclip-plus, other images' maps"
# towers that compute cost 50 times as much a step: fewer steps, and two rates instead of three
FEW = {"steps": SHORT, "rates": (3e-4, 1e-3)}
LORA = FEW | {"towers": ["--lora-image", "8", "--lora-text", "8"], "kept": False}
WHOLE = FEW | {"towers": (), "rates": (3e-5, 1e-4), "kept": False}
MIXED = FEW | {"kept": False}  # frozen towers, but images or layers of each step are others
METHODS = {
    CLIP: Method(["--method", "clip"]),
    "eclip-plus": Method(PLUS),
    OTHERS: Method(PLUS, maps="shuffled"),
    "eclip-plus, 15 % annotated": Method(PLUS, share=0.15, rate_of="eclip-plus"),
    "eclip-plus, 5 % annotated": Method(PLUS, share=0.05, rate_of="eclip-plus"),
    "CLIP, SigLIP's loss": Method(["--method", "clip", "--siglip"]),
    "eclip-plus, SigLIP's loss": Method([*PLUS, "--siglip"]),
    "CLIP, LoRA": Method(["--method", "clip"], **LORA),
    "eclip-plus, LoRA": Method(PLUS, **LORA),
    "CLIP, all weights": Method(["--method", "clip"], **WHOLE),
    "eclip-plus, all weights": Method(PLUS, **WHOLE),
    "CLIP, 40 steps": Method(["--method", "clip"], **FEW),
    "eCLIP, 40 steps": Method(["--method", "eclip"], **MIXED),
    "naive, 40 steps": Method(["--method", "naive"], **MIXED),
    "m3-mix, 40 steps": Method(["--method", "m3-mix"], **MIXED),
}
FAST = [CLIP, "eclip-plus", OTHERS, *(name for name in METHODS if name.endswith("% annotated"))]


# ---- tables


def write_tables(data: Path, fold: int) -> dict[str, Path]:
    """Tables of a fold, by name: own, shuffled, validation, test (each image once), regions."""
    folder = data / "real"
    folder.mkdir(exist_ok=True)
    names = ("own", "shuffled", "validation", "test")
    paths = {name: folder / f"{name}_{fold}.csv" for name in names}
    if not paths["test"].is_file():
        validation, test = str((fold + 1) % FOLDS), str(fold)
        for name, source in (("own", "train"), ("shuffled", "shuffled")):
            rows = all_rows(data, source)
            kept = rows[~rows["fold"].isin([validation, test])]
            kept.to_csv(paths[name], index=False)
        once = rows.drop_duplicates("filepath")[["filepath", "title", "group", "fold"]]
        once[once["fold"] == validation].to_csv(paths["validation"], index=False)
        once[once["fold"] == test].to_csv(paths["test"], index=False)
        # files of a table are found from its own folder
        for path in paths.values():
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            for column in {"filepath", "heatmap", "windows"} & set(table.columns):
                table[column] = [cell and f"../{cell}" for cell in table[column]]
            write_whole(path, table.to_csv(index=False).encode())
    return paths | {"regions": data / f"test_{fold}.csv"}


def all_rows(data: Path, source: str) -> pd.DataFrame:
    """The rows of all folds: those of fold 0 are missing in the tables of fold 0."""
    first, second = (
        pd.read_csv(data / f"{source}_{fold}.csv", dtype=str, keep_default_na=False)
        for fold in (0, 1)
    )
    return pd.concat([first, second[second["fold"] == "0"]]).sort_values("filepath", kind="stable")


def with_share(table: Path, share: float, seed: int) -> Path | None:
    """The table with annotations of `share` of its images; None if it has no more than that."""
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    images = rows["filepath"].unique()
    annotated = rows.loc[rows["heatmap"] != "", "filepath"].unique()
    count = round(share * len(images))
    if count >= len(annotated):
        return None
    kept = np.random.default_rng(seed).permutation(annotated)[:count]
    rows.loc[~rows["filepath"].isin(kept), ["heatmap", "windows"]] = ""
    path = table.with_name(f"{table.stem}_{share:g}.csv")
    write_whole(path, rows.to_csv(index=False).encode())
    return path


# ---- runs


@dataclass(frozen=True)
class Place:
    """Where a fold of a set and a tower has its files."""

    work: Path
    name: str
    tower: str
    fold: int

    def start(self, siglip: bool) -> Path:
        """The initial model, which is written where it is missing."""
        folder = self.work / f"start_{self.tower}_{self.fold}{'_siglip' * siglip}"
        if not folder.is_dir():
            write_start(folder, None, self.fold, tower=self.tower, siglip=siglip)
        return folder

    def record(self, method: str) -> Path:
        key = f"{self.name}-{self.tower}-{self.fold}-{list(METHODS).index(method)}"
        return self.work / "records" / f"{key}.json"


def train_run(place: Place, name: str, rate: float, table: Path, validation: Path) -> Path:
    """Train STEPS steps; the folder of the run, which keeps its best epoch."""
    method = METHODS[name]
    rows = len(pd.read_csv(table))
    epochs = max(1, round(method.steps / (rows // BATCH)))
    kept = ("--cache-tokens", place.work / "tokens", "--cache-crops", 2)
    run = place.work / "runs" / f"{place.record(name).stem}-{rate:g}"
    shutil.rmtree(run, ignore_errors=True)
    aligns = "align" in method.flags
    windows = ["--align-windows"] if place.name in PHRASES and aligns else []
    flags = (
        *("--model", f"local-dir:{place.start(method.is_siglip)}", "--seed", place.fold),
        *("--train-data", table, *method.towers, *(kept if method.kept else ())),
        *("--batch-size", BATCH, "--epochs", epochs, "--warmup", method.steps // 10, "--lr", rate),
        *("--wd", 0.01, "--workers", 0, "--precision", "fp32", "--device", "cpu"),
        *("--val-data", validation, "--val-frequency", max(1, epochs // 12)),
        *("--keep-best", "mean-rank", "--save-frequency", 0),
        *("--logs", run.parent, "--name", run.name, "--log-every-n-steps", 50),
        *method.flags,
        *windows,
    )
    train([str(flag) for flag in flags])
    return run


def kept_value(run: Path) -> dict[str, float]:
    """What the run says of its best epoch."""
    return json.loads((run / "checkpoints" / "epoch_best.json").read_text())


def searched(place: Place, name: str, table: Path, validation: Path) -> tuple[Path, dict]:
    """The run with the best rate on the validation images, and what the search found."""
    method = METHODS[name]
    rates = method.rates or RATES[place.tower]
    if method.rate_of:
        rates = (json.loads(place.record(method.rate_of).read_text())["rate"],)
    best, found = None, {}
    for rate in rates:
        begun = time.perf_counter()
        run = train_run(place, name, rate, table, validation)
        kept = kept_value(run)
        found[f"{rate:g}"] = kept | {"seconds": round(time.perf_counter() - begun, 1)}
        if best is None or kept["value"] < best[1]:
            if best is not None:
                shutil.rmtree(best[0])
            best = run, kept["value"], rate
        else:
            shutil.rmtree(run)
    assert best is not None, "there is at least one rate"
    return best[0], {"rate": best[2], "search": found}


def measured(place: Place, model: Path, tables: dict[str, Path], source: Path) -> dict:
    """Retrieval among the images of the fold, grounding of its regions, and the set's own task."""
    values = {}
    shared = ("--model", model, "--device", "cpu", "--patient-column", "group")
    for task, flags in (
        ("retrieval", ("--data", tables["test"])),
        ("grounding", ("--data", tables["regions"], "--limit", TESTED, "--seed", place.fold)),
    ):
        out = place.work / f"measured-{place.record(CLIP).stem}"
        shutil.rmtree(out, ignore_errors=True)
        words = [task, *shared, *flags, "--out", out]
        if task == "grounding":
            words += ["--methods", "similarity", "pool"]
        if evaluate([str(word) for word in words]):
            raise SystemExit(f"evaluate {task} failed for {model}")
        values[task] = json.loads((out / "result.json").read_text())["values"]
        shutil.rmtree(out)
    data, own = place.work / place.name, {}
    rows = all_rows(data, "train")
    rows = rows[rows["fold"] == str(place.fold)]
    if place.name == "winograd_gaze":
        own = {"choice": two_way(model, data, rows)}
    elif place.name == "covid_cxr":
        own = {"severity": severity(model, data, rows, source)}
    return own | {
        "retrieval": values["retrieval"],
        "grounding": {
            name: values["grounding"][name] for name in ("phrases_with_region", "images", "methods")
        },
    }


def make(place: Place, name: str, shared: Path) -> None:
    """Train and measure one method; nothing where the set has too few annotations for it."""
    data, method = place.work / place.name, METHODS[name]
    tables = write_tables(data, place.fold)
    table: Path | None = tables[method.maps]
    if method.share < 1:
        table = with_share(tables[method.maps], method.share, place.fold)
    if table is None:
        return
    run, facts = searched(place, name, table, tables["validation"])
    record = {
        "set": place.name,
        "tower": place.tower,
        "fold": place.fold,
        "method": name,
        "machine": this_machine("cpu"),
        **facts,
        **measured(place, run / "checkpoints" / "epoch_best.pt", tables, shared),
    }
    shutil.rmtree(run)
    write_whole(place.record(name), json.dumps(record, indent=1).encode())


def main(argv: Sequence[str] | None = None) -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--sets", nargs="+", choices=USED, default=USED)
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=list(TOWERS))
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=FAST)
    args = parser.parse_args(argv)
    work = args.work.resolve()
    (work / "records").mkdir(parents=True, exist_ok=True)
    make_ready(work, args.shared, args.sets, (), annotated=1.0, side=SIDE)
    for tower in args.towers:
        for fold in args.folds:
            for name in args.sets:
                place = Place(work, name, tower, fold)
                for method in args.methods:
                    if not place.record(method).is_file():
                        make(place, method, args.shared)
    found = [json.loads(path.read_text()) for path in sorted((work / "records").glob("*.json"))]
    write_page(found, args.out, list(METHODS), FOLDS)


if __name__ == "__main__":
    main()
