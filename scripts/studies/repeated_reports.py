"""How many pairs of a batch repeat a report: Open-I's real texts, no image and no model.

    python scripts/studies/repeated_reports.py --write docs/results/repeated_reports.md

The reports are read from the installed package torchxrayvision, as in reports_open_i.py. Batches
are drawn without replacement, as an epoch does.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from reports_open_i import package_folder

from openclip_eclip.data.repeated_texts import expected_repeats
from openclip_eclip.prepare.datasets.open_i_reports import Report, read_reports
from openclip_eclip.prepare.plan import Plan

SEED, BATCHES = 27, 1000
SIZES = (32, 64, 256, 1024)
TEXTS: dict[str, Callable[[Report], str]] = {
    "impression": lambda report: report.impression,
    "findings": lambda report: report.findings,
    "findings and impression": lambda report: f"{report.findings} {report.impression}".strip(),
}


def squeeze(text: str) -> str:
    """The text in lower case, with single spaces."""
    return " ".join(text.casefold().split())


def words_only(text: str) -> str:
    """The same without punctuation, and without the numbers of a list ("1. No ...")."""
    return squeeze(re.sub(r"[^\w\s]|\b\d+\.(?=\s)", " ", text))


EQUAL: dict[str, Callable[[str], str]] = {
    "exactly": lambda text: text,
    "but for case and spaces": squeeze,
    "but for punctuation too": words_only,
}


class Drawn(NamedTuple):
    """Over random batches: the mean, the standard deviation, and 2.5 and 97.5 percentiles."""

    mean: float
    deviation: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Drawn:
        low, high = np.percentile(values, [2.5, 97.5])
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)), low, high)


class Batches(NamedTuple):
    """What random batches hold."""

    pairs: Drawn  # unordered pairs with one text
    share: Drawn  # of images with at least one false negative
    floor: Drawn  # nats, mean of log(number of images with the text)


def draw_batches(texts: Sequence[str], size: int, batches: int, seed: int = SEED) -> Batches:
    rng = np.random.default_rng([seed, size])
    _, number = np.unique(np.array(texts), return_inverse=True)
    pairs, share, floor = [], [], []
    for _ in range(batches):
        counts = np.bincount(number[rng.choice(len(number), size, replace=False)])
        counts = counts[counts > 0]
        pairs.append(float((counts * (counts - 1) / 2).sum()))
        share.append(float(counts[counts > 1].sum() / size))
        floor.append(float((counts * np.log(counts)).sum() / size))
    return Batches(*map(Drawn.of, (pairs, share, floor)))


def read_texts(kind: str, images: bool) -> list[str]:
    """The texts of all reports that have this section; `images`: once for each of its images."""
    reports = read_reports(Plan("open-i"), package_folder("torchxrayvision") / "data")
    chosen = [(TEXTS[kind](report), len(report.images or ())) for report in reports]
    return [text for text, count in chosen if text for _ in range(count if images else 1)]


def setting_row(kind: str, equal: str, images: bool, batches: int) -> str:
    texts = [EQUAL[equal](text) for text in read_texts(kind, images)]
    counts = Counter(texts)
    repeated = sum(count for count in counts.values() if count > 1)
    expected, drawn = expected_repeats(texts, 256), draw_batches(texts, 256, batches)
    return (
        f"| {kind} | {equal} | {len(texts)} | {100 * repeated / len(texts):.1f} % | "
        f"{expected.pairs:.1f} | {drawn.pairs.mean:.1f} ± {drawn.pairs.deviation:.1f} "
        f"[{drawn.pairs.low:.0f}, {drawn.pairs.high:.0f}] | {100 * expected.share:.1f} % | "
        f"{100 * drawn.share.mean:.1f} ± {100 * drawn.share.deviation:.1f} "
        f"[{100 * drawn.share.low:.1f}, {100 * drawn.share.high:.1f}] | {drawn.floor.mean:.3f} |"
    )


def size_row(size: int, batches: int) -> str:
    texts = read_texts("impression", False)
    expected, drawn = expected_repeats(texts, size), draw_batches(texts, size, batches)
    return (
        f"| {size} | {expected.pairs:.1f} | {100 * expected.share:.1f} % | "
        f"{100 * drawn.share.deviation:.1f} | {drawn.floor.mean:.3f} | {np.log(size):.2f} |"
    )


def page(batches: int) -> str:
    head = (
        "| text | equal | rows | have a text that another row has | pairs, expected | pairs, drawn |"
        " images with a false negative, expected | drawn, % | floor, nats |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    one = [setting_row(kind, equal, False, batches) for kind in TEXTS for equal in EQUAL]
    all_images = [setting_row(kind, "exactly", True, batches) for kind in TEXTS]
    sizes = [size_row(size, batches) for size in SIZES]
    texts = read_texts("impression", False)
    common = [
        f"| {text} | {count} | {100 * count / len(texts):.1f} % |"
        for text, count in Counter(texts).most_common(8)
    ]
    newline = "\n"
    return f"""# How often reports repeat

Contrastive training takes every other text of a batch for wrong. Many radiology reports say the same, so some of these texts are right.
How many are there? Counted on the real reports of Open-I (Indiana University); {len(texts)} have an impression.

`python scripts/studies/repeated_reports.py`: {batches} random batches of 256, drawn without replacement, random seed {SEED}.

- **pairs**: unordered pairs of rows of the batch with one text.
- **false negative**: another row of the batch has the image's own text.
- **expected**: the exact expectation. **drawn**: mean ± standard deviation over the batches [2.5, 97.5 percentiles].
- **floor**: CLIP's loss cannot go below it. It is the mean of log(number of rows with the text), since equal texts cannot be told apart.

## One row a report

{head}{newline.join(one)}

## One row an image

Most reports have a frontal and a lateral image with one text.

{head}{newline.join(all_images)}

## Other batch sizes

Impressions, equal exactly, one row a report.

| batch | pairs, expected | images with a false negative, expected | its standard deviation, points | floor, nats | log(batch), the loss of guessing |
|---|---|---|---|---|---|
{newline.join(sizes)}

## The most frequent impressions

| impression | reports | share |
|---|---|---|
{newline.join(common)}

"XXXX" in Open-I's texts stands for words that were removed so that nobody can be recognised.

## What it means

- Impressions repeat much, whole reports far less.
- Case and spaces change nothing; "1." before a sentence does.
- Only equal letters are counted. Reports that mean the same in other words ("No active disease.", "No acute disease.") come on top;
  `--same-text-by` and `--same-text-similarity` can join them.
- This page counts. It does not say that [`--same-text`](../train/small-data.md#texts-that-repeat) improves a model; that was not measured.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=BATCHES, help="default: %(default)s")
    parser.add_argument("--write", type=Path, metavar="FILE", help="page to write (default: print)")
    args = parser.parse_args()
    text = page(args.batches)
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
