"""Measures the cost of evaluation: ranking, memory, encoding, cache and search.

    python scripts/costs/evaluate.py --out docs/results/evaluate.md

Ranking is compared with open_clip's metrics, encoding with the bare encoder. Everything runs on one
thread. Ranking is measured in CPU seconds of the process (robust on a shared machine), the rest in
wall-clock seconds. The script takes about ten minutes.
"""

from __future__ import annotations

import os

# before numpy and torch are imported
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from peak_memory import peak_mib

WIDTH = 512
MODEL = "ViT-B-32"
WORDS = (
    "no the lungs are clear opacity effusion small right left base heart size normal is mild"
    " enlarged of and".split()
)


def unit(count: int, seed: int) -> np.ndarray:
    """(count, WIDTH) float32 random vectors of length 1."""
    values = np.random.default_rng(seed).standard_normal((count, WIDTH), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def cpu(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of a call, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def wall(work: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: list[float], scale: float = 1, digits: int = 2) -> str:
    """The median and the range of the values."""
    low, middle, high = (
        scale * value for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def ranking(rounds: int) -> list[str]:
    """Ranks of 4 000 x 4 000 in both directions: ours, our intervals, and open_clip's.

    Exits with an error if our R@k differs from open_clip's.
    """
    import torch
    from open_clip_train.train import get_clip_metrics

    from openclip_eclip.evaluate.retrieval.ranks import score, summarise
    from openclip_eclip.metrics.ranking import rank_answers

    images, texts, rows = unit(4000, 0), unit(4000, 1), range(4000)
    torch.set_num_threads(1)

    def ours() -> dict[str, float]:
        summaries = {
            "image_to_text": summarise(rank_answers(images, texts, rows, rows), "expected"),
            "text_to_image": summarise(rank_answers(texts, images, rows, rows), "expected"),
        }
        return {
            f"{name}_{metric}": value
            for name, values in summaries.items()
            for metric, value in values.items()
        }

    def theirs() -> dict[str, float]:
        return get_clip_metrics(
            torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(100.0)
        )

    times: dict[str, list[float]] = {"ours": [], "open_clip": [], "intervals": []}
    ranks = rank_answers(images, texts, rows, rows)
    for _ in range(rounds):
        (seconds, metrics), (their_seconds, expected) = cpu(ours), cpu(theirs)
        if any(abs(metrics[name] - expected[name]) > 1e-9 for name in expected if "R@" in name):
            sys.exit("our R@k and open_clip's differ")
        for name, value in (
            ("ours", seconds),
            ("open_clip", their_seconds),
            ("intervals", 2 * cpu(lambda: score(ranks))[0]),
        ):
            times[name].append(value)
    ratio = statistics.median(times["open_clip"]) / statistics.median(times["ours"])
    return [
        "## Ranks of 4 000 images and 4 000 reports, 512 numbers each, both directions\n",
        "| | CPU seconds |\n|---|---|",
        f"| `rank_answers` and R@1/5/10, median and mean rank, MRR | {spread(times['ours'])} |",
        (
            "| open_clip's `get_clip_metrics` (no ties, no groups, no MRR) |"
            f" {spread(times['open_clip'])} |"
        ),
        (
            "| 1 000 bootstrap draws for the intervals, added to ours |"
            f" {spread(times['intervals'])} |"
        ),
        f"\nThe R@k of both are equal to 1e-9. open_clip's takes {ratio:.1f} times as long.\n",
    ]


def large() -> dict[str, float]:
    """Ranks of 100 000 x 100 000 in this process: CPU seconds, peak memory in MiB, and R@10."""
    from openclip_eclip.metrics.ranking import rank_answers

    count = 100_000
    images, texts = unit(count, 0), unit(count, 1)
    seconds, ranks = cpu(lambda: rank_answers(images, texts, range(count), range(count)))
    return {
        "seconds": seconds,
        "peak": peak_mib(),
        "recall": float(ranks.hits(10, "expected").mean()),
    }


def large_lines() -> list[str]:
    """The section on 100 000 images, measured in a new process."""
    done = subprocess.run(
        [sys.executable, __file__, "--large"], check=True, capture_output=True, text=True
    )
    result = json.loads(done.stdout)
    return [
        "## Ranks of 100 000 images among 100 000 reports\n",
        (
            "One direction (the other is the same call with the arguments exchanged):"
            f" {result['seconds']:.0f} CPU seconds, one run, peak of the process"
            f" {result['peak']:.0f} MiB, {2 * 100_000 * WIDTH * 4 / 2**20:.0f} of them the"
            " features. The whole matrix"
            f" would take {100_000**2 * 4 / 2**30:.0f} GiB and its argsort, as open_clip sorts,"
            f" {100_000**2 * 8 / 2**30:.0f} GiB more.\n"
        ),
    ]


def write_images(folder: Path, count: int) -> Path:
    """Writes a table of smooth grey JPEGs of 224 pixels, each with a report of 40 words."""
    from PIL import Image

    rng, lines = np.random.default_rng(0), ["filepath,title"]
    for i in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8)).resize(
            (224, 224), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(smooth, np.int16) + rng.integers(-8, 9, (224, 224), dtype=np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)
        lines.append(f"{i}.jpg,report {i} {' '.join(rng.choice(WORDS, 40))}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    return folder / "images.csv"


def encoding(table: Path, images: int, rounds: int) -> list[str]:
    """Images a second of `encode_images` (from files), and of the encoder alone (from tensors)."""
    import torch

    from openclip_eclip.data.sample import read_image
    from openclip_eclip.evaluate.inputs.encoder import load_encoder
    from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
    from openclip_eclip.evaluate.inputs.features import EncodeOptions, encode_images

    torch.set_num_threads(1)
    encoder, data = load_encoder(MODEL, "random", device="cpu"), read_eval_set(table)
    data = data.keep(np.arange(len(data)) < images, "not timed")
    batches = torch.stack(
        [encoder.transform(read_image(data.read(i), data.name(i), "RGB")) for i in range(images)]
    ).split(32)

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                encoder.model.encode_image(batch)

    times: dict[str, list[float]] = {"bare": [], "ours": []}
    bare()
    for _ in range(rounds):
        times["bare"].append(wall(bare))
        times["ours"].append(wall(lambda: encode_images(encoder, data, EncodeOptions(32, 1))))
    rates = {name: [images / seconds for seconds in values] for name, values in times.items()}
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["bare"])
    return [
        (
            f"## Encoding {images} images (JPEG, 224 pixels), {MODEL} with random weights, batches"
            " of 32\n"
        ),
        "| | images a second |\n|---|---|",
        f"| the bare encoder, tensors ready in memory | {spread(rates['bare'], digits=1)} |",
        (
            "| `encode_images`: from files, one worker, content hash included |"
            f" {spread(rates['ours'], digits=1)} |"
        ),
        f"\nRatio {ratio:.3f}.\n",
    ]


def caching(table: Path, images: int, folder: Path, rounds: int) -> list[str]:
    """Seconds of a whole `retrieval`, without and with its features in the cache."""
    import logging

    from openclip_eclip.evaluate.retrieval import task as retrieval

    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser()
    retrieval.add_arguments(parser)

    def run(data: Path) -> None:
        retrieval.run(
            parser.parse_args(
                [
                    *("--model", MODEL),
                    *("--pretrained", "random"),
                    *("--data", str(data)),
                    *("--workers", "1"),
                    *("--device", "cpu"),
                    *("--cache", str(folder / "cache")),
                    *("--out", str(folder / "out")),
                ]
            )
        )

    few = table.with_name("few.csv")
    few.write_text("\n".join(table.read_text().splitlines()[:20]) + "\n")
    run(few)  # warm-up: imports are part of neither measurement
    first = wall(lambda: run(table))
    again = [wall(lambda: run(table)) for _ in range(rounds)]
    command = [sys.executable, "-m", "openclip_eclip.evaluate", "retrieval", "--help"]
    start = wall(lambda: subprocess.run(command, check=True, capture_output=True))
    return [
        f"## A second `retrieval` of the same checkpoint, {images} images and reports, {MODEL}\n",
        "| | seconds |\n|---|---|",
        f"| first | {first:.1f} |",
        f"| second, features from the cache | {spread(again)} |",
        (
            f"\n{first / statistics.median(again):.0f} times as fast; the remaining time is for"
            " building and hashing the model, and for the intervals. Neither includes the start of"
            f" Python and its imports, {start:.1f} s.\n"
        ),
    ]


def searching(rounds: int) -> list[str]:
    """Milliseconds of one query in exact indices."""
    import faiss

    from openclip_eclip.evaluate.inputs.report_index import ReportIndex, build_index

    lines = [
        "## One query in an exact index (the image's encoding not included), top 5\n",
        "| reports | ms a query |\n|---|---|",
    ]
    queries = unit(rounds * 5, 2)
    for count in (3000, 1_000_000):
        index = build_index(unit(3000, 3), [""] * 3000)
        if count > 3000:  # added in parts, so that only one copy is in memory
            flat = faiss.IndexFlatIP(WIDTH)
            for part in range(count // 50_000):
                flat.add(unit(50_000, 4 + part))
            index = ReportIndex(flat, [""] * count)
        index.search(queries[:1], 5)
        times = [
            wall(lambda i=i, index=index: index.search(queries[i : i + 1], 5))
            for i in range(len(queries))
        ]
        lines.append(
            f"| {count:,} | {spread(times, 1000, 3 if count == 3000 else 0)} |".replace(",", " ")
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=400,
        help="number of images to encode (default: %(default)s)",
    )
    parser.add_argument(
        "--note", default="", help="sentence on the state of the machine, printed under the title"
    )
    # internal: marks the process whose memory is measured
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.large:
        sys.stdout.write(json.dumps(large()))
        return
    if args.out is None:
        parser.error("--out FILE is needed")
    start = time.perf_counter()
    lines = ranking(args.rounds) + large_lines()
    with tempfile.TemporaryDirectory() as name:
        table = write_images(Path(name), args.images)
        lines += encoding(table, min(160, args.images), args.rounds) + caching(
            table, args.images, Path(name), args.rounds
        )
    lines += searching(args.rounds)
    model = next(
        (
            line.split(": ")[1]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    head = [
        f"# What evaluating costs\n\n`python scripts/costs/evaluate.py`: {model}, one thread,"
        f" median of {args.rounds} rounds with the range; {(time.perf_counter() - start) / 60:.0f}"
        f" minutes in all. {args.note}\n"
    ]
    args.out.write_text("\n".join(head + lines), encoding="utf-8")
    sys.stdout.write(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
