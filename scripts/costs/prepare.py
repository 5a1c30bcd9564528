"""Measures the cost of `prepare`: images a second, and the planning of MIMIC-CXR at full size.

    python scripts/costs/prepare.py --out docs/results/prepare.md
    python scripts/costs/prepare.py --measure plan --out docs/results/prepare_plan.md

Images are JPEGs of a radiograph's size, reduced to 256-pixel JPEGs in shards by one and by two
workers. Planning reads tables and reports, but no images.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from openclip_eclip.prepare.datasets.chexpert import LABELS
from openclip_eclip.prepare.datasets.mimic_files import report_path
from openclip_eclip.prepare.options import Options
from openclip_eclip.prepare.plan import Item, Plan
from openclip_eclip.prepare.writer import write_plan

SIZE = (3056, 2544)  # height, width
# MIMIC-CXR 2.0.0: numbers of rows, studies and patients; approximate shares of its views
ROWS, STUDIES, PATIENTS = 377_110, 227_835, 65_379
VIEWS = {"AP": 0.39, "PA": 0.26, "LATERAL": 0.22, "LL": 0.09, "": 0.04}
REPORT = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough, number {number}.  // Rule out pneumonia.

 TECHNIQUE:  Chest PA and lateral.

 COMPARISON:  Film of ___.

 FINDINGS:

{findings}
 IMPRESSION:

 No acute cardiopulmonary process in study {number}.
"""
SENTENCE = " The lungs are clear of focal consolidation, pleural effusion or pneumothorax.\n"
PLAN_FLAGS = ("--evaluation", "mimic-5x200", "--allow-gaze-in-evaluation", "--dry-run")


def write_images(folder: Path, count: int) -> list[Item]:
    """Writes smooth images with noise, as large on disk as radiographs of this size (1 to 2 MB)."""
    rng, items = np.random.default_rng(0), []
    for i in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (12, 10), dtype=np.uint8)).resize(
            SIZE[::-1], Image.Resampling.BICUBIC
        )
        pixels = np.asarray(smooth, np.int16) + rng.integers(-4, 5, SIZE, dtype=np.int16)
        path = folder / f"{i}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        items.append(Item(str(i), path, "no finding"))
    return items


def seconds(items: list[Item], folder: Path, workers: int) -> tuple[float, float]:
    """Wall-clock seconds and CPU seconds of the workers of one run."""
    options = Options(folder, 256, 95, "webdataset", workers, None, (0, 1), 10, False)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    write_plan(Plan("films", {"train": items}), options, {})
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_mimic(root: Path, rows: int) -> int:
    """Writes tables and reports of a MIMIC-CXR of `rows` images, in the form of the release.

    The ids are invented. Returns the number of reports.
    """
    rng = np.random.default_rng(0)
    studies, patients = round(rows * STUDIES / ROWS), round(rows * PATIENTS / ROWS)
    study = np.arange(rows) * studies // rows
    owner = np.arange(studies) * patients // studies
    images = pd.DataFrame(
        {
            "dicom_id": [
                "-".join(row)
                for row in np.vectorize("{:08x}".format)(rng.integers(0, 2**32, (rows, 5)))
            ],
            "subject_id": 10_000_000 + 137 * owner[study],
            "study_id": 50_000_000 + 43 * study,
            "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
            "ViewPosition": rng.choice([*VIEWS], rows, p=[*VIEWS.values()]),
            "Rows": SIZE[0],
            "Columns": SIZE[1],
            "StudyDate": 21800506,
            "StudyTime": 213014.531,
            "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
            "ViewCodeSequence_CodeMeaning": "postero-anterior",
            "PatientOrientationCodeSequence_CodeMeaning": "Erect",
        }
    )
    images.to_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    # splits are drawn by patient
    split = rng.choice(["train", "validate", "test"], patients, p=[0.98, 0.008, 0.012])[
        owner[study]
    ]
    images[["dicom_id", "study_id", "subject_id"]].assign(split=split).to_csv(
        root / "mimic-cxr-2.0.0-split.csv.gz", index=False
    )
    ids = images[["subject_id", "study_id"]].drop_duplicates()
    values = rng.choice(
        ["", "1.0", "0.0", "-1.0"], (studies, len(LABELS)), p=[0.85, 0.08, 0.05, 0.02]
    )
    ids.assign(**dict(zip(sorted(LABELS), values.T))).to_csv(
        root / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False
    )
    for (subject, number), lines in zip(ids.astype(str).to_numpy(), rng.integers(1, 12, studies)):
        path = report_path(root, subject, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            REPORT.format(number=number, findings=SENTENCE * int(lines)), encoding="utf-8"
        )
    return studies


def measure_plan(rows: int) -> str:
    """One row of the table: --dry-run in its own process, on new tables and reports."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reports = write_mimic(root, rows)
        start = time.perf_counter()
        with open(root / "summary.txt", "w", encoding="utf-8") as summary:
            command = [
                sys.executable,
                "-m",
                "openclip_eclip.prepare",
                "mimic-cxr",
                folder,
                str(root / "out"),
                *PLAN_FLAGS,
            ]
            process = subprocess.Popen(command, stdout=summary, stderr=summary)
            _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        output = (root / "summary.txt").read_text(encoding="utf-8")
        if status or f"images in the table: {rows}\n" not in output:
            raise SystemExit(f"--dry-run of {rows} rows failed: {output[-2000:]}")
        samples = sum(
            int(line.split()[2]) for line in output.splitlines() if line.startswith("  split ")
        )
    return (
        f"| {rows} | {reports} | {samples} | {wall:.1f} | {used.ru_utime + used.ru_stime:.1f} |"
        f" {used.ru_maxrss / 1024:.0f} |"
    )


def report_plan(counts: list[int]) -> str:
    """The page on planning."""
    lines = "\n".join(map(measure_plan, counts))
    return (
        "# What planning MIMIC-CXR costs\n\n`python scripts/costs/prepare.py --measure plan`:"
        f" `prepare mimic-cxr {' '.join(PLAN_FLAGS)}` on synthetic tables in the form of the"
        f" release ({ROWS} images is its full size) and one report of 0.5 to 1.2 kB a study, files"
        f" in the page cache; {processor()}. One process, the start of Python with torch and"
        " open_clip included. The same planning comes first in every run that writes, and in every"
        " `--part` of it.\n\n| rows of the metadata | reports read | samples planned | wall s |"
        " CPU s | peak MiB |\n|---|---|---|---|---|---|\n" + lines + "\n"
    )


def processor() -> str:
    """The name of the CPU."""
    return next(
        (
            line.split(": ")[1]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )


def report_images(count: int, rounds: int) -> str:
    """The page on images."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "raw").mkdir()
        items = write_images(root / "raw", count)
        megabytes = statistics.mean(item.image.stat().st_size for item in items) / 2**20
        times = {workers: [] for workers in (1, 2)}
        for i in range(rounds):
            for workers, runs in times.items():
                runs.append(seconds(items, root / f"out-{workers}-{i}", workers))
        for workers, runs in times.items():
            rates = sorted(count / wall for wall, _ in runs)
            cpu = statistics.median(1000 * used / count for _, used in runs)
            rows.append(
                f"| {workers} | {statistics.median(rates):.1f} ({rates[0]:.1f}-{rates[-1]:.1f}) |"
                f" {cpu:.0f} |"
            )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return (
        f"# What preparing costs\n\n`python scripts/costs/prepare.py`: {count} JPEGs of {SIZE[1]} x"
        f" {SIZE[0]} pixels ({megabytes:.1f} MB each) to 256-pixel JPEGs in shards of 10;"
        f" {processor()}, median of {rounds} rounds with the range.\n\n| workers | images a second"
        " | CPU ms an image |\n|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nLargest worker: {peak:.0f} MiB.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument(
        "--measure",
        choices=("images", "plan"),
        default="images",
        help="what to measure (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=int, default=80, help="number of images (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[50_000, ROWS],
        help="rows of the metadata table, for plan (default: %(default)s)",
    )
    args = parser.parse_args()
    text = (
        report_plan(args.rows)
        if args.measure == "plan"
        else report_images(args.images, args.rounds)
    )
    args.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
