"""Which options of alignment help? Measured on validation folds, phrase by phrase.

    python scripts/studies/grounding/options.py SHARED --work WORK --out docs/results

WORK may be that of study.py. For each fold K, models are trained on three folds and measured on the
next one; fold K itself, on which study.py tests, is not read. Each image also gets a phrase that it
does not show, from another group, with a map of zeros.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from page import NSS, POINTING, difference_cell, interval
from PIL import Image
from sets import Phrase, windows_files
from study import FOLDS, TESTED, grounding, make_ready, study_parser, train_on

from openclip_eclip.data.sentence_windows import decode_windows, file_windows
from openclip_eclip.files import write_whole
from openclip_eclip.machine import this_machine
from openclip_eclip.prepare.datasets.coco import find_named

SETS = ("coco_small", "winograd_gaze")
USED = (0, 1, 2)  # folds
BASE = [
    "--method",
    "align",
    "--align-windows",
    "--align-weight",
    "0.2",
    "--align-min-share",
    "0.05",
]
OPTIONS = {
    "eclip-plus": [],
    "temperature 0.05": ["--align-temperature", "0.05"],
    "temperature 0.2": ["--align-temperature", "0.2"],
    "phrases without a region, uniform": ["--align-empty", "uniform"],
    "contrast 0.2": ["--align-contrast", "0.2"],
    "contrast 1": ["--align-contrast", "1"],
}
SEED = 7  # of the phrases that an image does not show


def own_phrases(data: Path, row: dict[str, str]) -> list[Phrase]:
    """The phrases of a row with their maps; a whole text is one where it has no parts."""
    if row.get("windows"):
        path = data / row["windows"]
        found = decode_windows(*file_windows(path), path.name)
        return [Phrase(s, m / 255) for s, m in zip(found.sentences, found.heatmaps)]
    if row.get("heatmap"):
        return [Phrase(row["title"], np.asarray(Image.open(data / row["heatmap"]), float) / 255)]
    return []


def with_absent_phrases(
    data: Path, source: Path, out: Path, shown: dict[str, set[str]], drop: str | None
) -> None:
    """Write the table `out` from `source`, without the rows of fold `drop`.

    `shown`: categories that a group shows, where they are known.
    """
    with source.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["fold"] != drop]
    known = [own_phrases(data, row) for row in rows]
    texts = [(row["group"], one.text) for row, own in zip(rows, known) for one in own]
    rng = np.random.default_rng(SEED)
    folder = data / "options"
    folder.mkdir(exist_ok=True)
    for i, (row, own) in enumerate(zip(rows, known)):
        if not own:
            continue
        absent = _absent(row["group"], texts, shown, rng)
        files = windows_files([*own, Phrase(absent, np.zeros_like(own[0].map))])
        name = f"{out.stem}_{i:05d}.windows"
        for suffix, content in zip((".json", ".npz"), files):
            (folder / f"{name}{suffix}").write_bytes(content)
        row["windows"] = f"options/{name}.json"
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _absent(
    group: str,
    texts: Sequence[tuple[str, str]],
    shown: dict[str, set[str]],
    rng: np.random.Generator,
) -> str:
    """A phrase of another group that names nothing which is known to be in this one."""
    while True:
        other, text = texts[rng.integers(len(texts))]
        named = {one.category for one in find_named(text)}
        if other != group and not named & shown.get(group, set()):
            return text


def measure(work: Path, data: Path, option: str, fold: int, shown: dict[str, set[str]]) -> dict:
    """Train on three folds, and measure on the one after `fold`."""
    validation = (fold + 1) % FOLDS
    tables = [data / f"options_{name}_{fold}.csv" for name in ("train", "validation")]
    if not tables[1].is_file():
        with_absent_phrases(data, data / f"train_{fold}.csv", tables[0], shown, str(validation))
        with_absent_phrases(data, data / f"test_{validation}.csv", tables[1], shown, None)
    name = f"options-{data.name}-{list(OPTIONS).index(option)}-{fold}"
    run = train_on(work, tables[0], name, fold, [*BASE, *OPTIONS[option]])
    values = grounding(work, run, tables[1], fold, ("similarity",), TESTED[1])
    shutil.rmtree(run)
    return {
        "set": data.name,
        "option": option,
        "fold": fold,
        "machine": this_machine("cpu"),
        "values": values["methods"]["similarity"],
        "without_region": values["without_region"],
    }


def page(records: Sequence[dict], sets: Sequence[str]) -> list[str]:
    lines = [
        "# Options of alignment, on validation folds",
        "",
        "`python scripts/studies/grounding/options.py SHARED --work WORK --out docs/results`."
        " Maps are the similarity with the phrase. Differences to eclip-plus of the same fold, with"
        " 95 % intervals (Student's t). AUROC: phrases with a region against phrases that the image"
        " does not show, by the maximum of their maps.",
        "",
        "| set | option | folds | NSS | − eclip-plus | pointing, 15 px | AUROC |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sets:
        base = {r["fold"]: r for r in records if r["set"] == name and r["option"] == "eclip-plus"}
        for option in OPTIONS:
            found = [
                r
                for r in records
                if r["set"] == name and r["option"] == option and r["fold"] in base
            ]
            if not found:
                continue
            nss, pointing = (
                np.array([r["values"][score]["value"] for r in found]) for score in (NSS, POINTING)
            )
            auroc = np.mean([r["without_region"]["similarity"]["AUROC"]["value"] for r in found])
            change = ""
            if option != "eclip-plus":
                before = [base[r["fold"]]["values"][NSS]["value"] for r in found]
                change = difference_cell(interval(nss - before))
            cells = f"{nss.mean():.2f} | {change} | {pointing.mean():.2f} | {auroc:.2f}"
            lines.append(f"| {name} | {option} | {len(found)} | {cells} |")
    machine = records[0]["machine"]
    return [*lines, "", f"Machine: {machine['device']}, torch {machine['torch']}."]


def main(argv: Sequence[str] | None = None) -> None:
    args = study_parser(__doc__).parse_args(argv)
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    make_ready(work, args.shared, SETS, USED)
    photographs = pd.read_csv(args.shared / "coco_small" / "images.csv", dtype=str).fillna("")
    labels = zip(photographs["patient"], photographs["label"])
    shown = {group: set(label.split("|")) for group, label in labels}
    folder = work / "options"
    folder.mkdir(exist_ok=True)
    for fold in USED:
        for name in SETS:
            for i, option in enumerate(OPTIONS):
                path = folder / f"{name}-{i}-{fold}.json"
                if not path.is_file():
                    record = measure(work, work / name, option, fold, shown)
                    write_whole(path, json.dumps(record, indent=1).encode())
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    (args.out / "align_options.md").write_text("\n".join(page(records, SETS)) + "\n")


if __name__ == "__main__":
    main()
