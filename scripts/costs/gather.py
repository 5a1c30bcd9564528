"""What ranks send each other in a step for mixed pairs and phrases: bytes, counted and computed.

    python scripts/costs/gather.py --out docs/results/gather.md

Two to four CPU processes compute our losses of random features and their gradients over gloo. The
kernel counts the bytes of the loopback device, so other work on the machine must send none there.
Cases take turns, in rounds. Two cores take a minute. Times of a step are not measured: processes
that share cores say nothing about ranks with a device each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from openclip_eclip.config import EClipConfig
from openclip_eclip.loss import EClipLoss
from openclip_eclip.objectives.gloria import GloriaConfig, global_local_loss
from openclip_eclip.objectives.regions import gathered_contrast

BATCH, WIDTH, FLOAT = 64, 512, 4  # pairs a rank, numbers of a feature, bytes of a number
REGIONS, WORDS = 4, 2  # of an image and of a report, for GLoRIA
STEPS, ROUNDS = 4, 3


class Case(NamedTuple):
    """Mixed pairs of rank 0 and of the others, phrases of each rank, GLoRIA's global negatives."""

    name: str
    first: int = 0
    others: int = 0
    phrases: int = 0
    gloria: bool = False


CASES = [
    Case("CLIP"),
    *(Case(f"{m} mixed pairs on each rank", m, m) for m in (8, 16, 32, 64)),
    Case("32 mixed pairs on the first rank alone", 32),
    *(Case(f"{t} phrases on each rank, --align-contrast", phrases=t) for t in (16, 64)),
    Case(f"GLoRIA's global negatives, {REGIONS} regions, {WORDS} words", gloria=True),
]


def slots_bytes(ranks: int, slots: int) -> int:
    """Bytes that a rank receives for a pair of features in each of `slots` of every rank.

    Two features go to all other ranks; on the way back as many gradients come.
    """
    return 2 * 2 * (ranks - 1) * slots * WIDTH * FLOAT


def expected(case: Case, ranks: int) -> int:
    """Bytes that a rank receives in a step."""
    others, most = ranks - 1, max(case.first, case.others)
    received = slots_bytes(ranks, BATCH + most) + others * 8  # the number of mixed pairs
    if most:
        received += others * (BATCH + most) * 8  # ids
    if case.phrases:
        # both features; id, weight and twice the count, which are gathered with a gradient too
        received += slots_bytes(ranks, case.phrases)
        received += others * (case.phrases * (8 + FLOAT) + 2 * FLOAT)
    if case.gloria:
        numbers = BATCH * (REGIONS + WORDS) * WIDTH
        received += others * (2 * numbers * FLOAT + BATCH * WORDS * FLOAT + 8)
    return received


def features(rows: int, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, *shape, WIDTH), dim=-1).requires_grad_()


def make_step(case: Case, rank: int, ranks: int) -> Callable[[], None]:
    loss = EClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=ranks)
    loss.configure(EClipConfig())
    mixed = case.others if rank else case.first
    ids = torch.arange(BATCH) + BATCH * rank
    out = {"image_features": features(BATCH), "text_features": features(BATCH), "sample_id": ids}
    out |= {"mixed_features": features(mixed), "mixed_text_features": features(mixed)}
    out |= {"mixed_id": ids[:mixed], "logit_scale": torch.tensor(10.0)}
    regions, words = features(BATCH, REGIONS), features(BATCH, WORDS)
    mask = torch.ones(BATCH, WORDS, dtype=torch.bool)
    region, phrase = features(case.phrases), features(case.phrases)
    number = torch.arange(case.phrases) + case.phrases * rank

    def step() -> None:
        total = loss(**out)
        if case.phrases:
            weight, scale = torch.ones(case.phrases), torch.tensor(10.0)
            parts = (region, phrase, number, weight, scale, loss.gather, 1.0)
            total = total + gathered_contrast(*parts)
        if case.gloria:
            total = total + global_local_loss(regions, words, mask, GloriaConfig())
        total.backward()

    return step


def loopback() -> int:
    """Bytes that the loopback device has received."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    raise SystemExit("error: no device lo in /proc/net/dev; expected Linux")


def run_rank(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=ranks)
    steps = [make_step(case, rank, ranks) for case in CASES]
    for step in steps:
        step()
    measured: list[list[float]] = [[] for _ in CASES]
    for _ in range(ROUNDS):
        for step, results in zip(steps, measured):
            dist.barrier()
            before = loopback()
            dist.barrier()
            for _ in range(STEPS):
                step()
            dist.barrier()
            results.append((loopback() - before) / STEPS / ranks)
            dist.barrier()
    if rank == 0:
        torch.save(measured, f"{folder}/measured")
    dist.destroy_process_group()


def measure(ranks: int) -> list[list[float]]:
    """The bytes that a rank received in a step, for each case and round."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(run_rank, (ranks, folder), nprocs=ranks, start_method="fork")
        return torch.load(f"{folder}/measured")


# ---- the page

# a run of 8 x 8 GPUs; phrases and regions of a rank's batch
RANKS, FULL, EVEN = 64, 256, 25
LARGE = [
    ("CLIP", slots_bytes(RANKS, FULL)),
    (f"{EVEN} mixed pairs on the fullest rank", slots_bytes(RANKS, FULL + EVEN)),
    ("256 mixed pairs on the fullest rank, whatever the others have", slots_bytes(RANKS, 2 * FULL)),
    ("alignment, with or without windows", slots_bytes(RANKS, FULL) + (RANKS - 1) * 2 * FLOAT),
    ("`--align-contrast`, 100 phrases", slots_bytes(RANKS, FULL) + slots_bytes(RANKS, 100)),
    ("`--align-contrast`, 2 048 phrases", slots_bytes(RANKS, FULL) + slots_bytes(RANKS, 2048)),
    (
        "`--gloria-local-negatives global`, 196 regions, 77 words",
        slots_bytes(RANKS, FULL) + 2 * (RANKS - 1) * FULL * (196 + 77) * WIDTH * FLOAT,
    ),
]


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares of y over x."""
    return statistics.linear_regression(*zip(*points)).slope


def page(measured: dict[int, list[list[float]]]) -> list[str]:
    lines = [
        "# What ranks send each other in a step",
        "",
        f"`python scripts/costs/gather.py`, {date.today()}: {os.cpu_count()} cores, torch"
        f" {torch.__version__}, gloo on one machine. {BATCH} pairs a rank, features of {WIDTH}"
        " numbers in fp32, `--local-loss --gather-with-grad`, without the towers and their"
        f" gradients. Cases take turns, {ROUNDS} rounds of {STEPS} steps: medians. kB: what a rank"
        " received in a step, as the kernel counts the loopback device.",
        "",
        "| ranks | case | kB, formula | kB, counted |",
        "|---|---|---|---|",
    ]
    slopes = []
    for ranks, cases in measured.items():
        points = []
        for case, rounds in zip(CASES, cases):
            counted, formula = statistics.median(rounds), expected(case, ranks)
            lines.append(f"| {ranks} | {case.name} | {formula / 1000:.0f} | {counted / 1000:.0f} |")
            if case.first == case.others and case.first:
                points.append((case.first, counted))
        formula = slots_bytes(ranks, 1) + 8 * (ranks - 1)
        slopes.append(f"| {ranks} | {formula / 1000:.2f} | {slope(points) / 1000:.2f} |")
    lines += [
        "",
        "One mixed pair more on each rank adds, in kB that a rank receives:",
        "",
        "| ranks | formula | counted slope |",
        "|---|---|---|",
        *slopes,
        "",
        "## The formula",
        "",
        "W ranks, B pairs a rank, D numbers of 4 bytes a feature, M mixed pairs. A rank receives"
        " 16 (W - 1) (B + max M) D bytes: two features of each slot, and as many gradients. Every"
        " rank fills as many slots as the fullest. Ids add 8 (W - 1) (B + max M). Phrases of"
        " `--align-contrast` add 16 (W - 1) max T D. Alignment itself adds 8 (W - 1): a sum and a"
        " count.",
        "",
        f"With W = {RANKS}, B = {FULL}, D = {WIDTH}, computed:",
        "",
        "| case | MB a rank receives in a step |",
        "|---|---|",
        *(f"| {name} | {count / 1e6:.0f} |" for name, count in LARGE),
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4], help="2 3 4 (default)")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    args = parser.parse_args()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    measured = {ranks: measure(ranks) for ranks in args.ranks}
    args.out.write_text("\n".join(page(measured)) + "\n", encoding="utf-8")
    sys.stdout.write(args.out.read_text())


if __name__ == "__main__":
    main()
