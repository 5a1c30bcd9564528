"""Measures the cost of training with heatmaps relative to open_clip; writes a Markdown table.

It compares training steps, the processor and memory; reading.py compares the reading of data. CPU
times are CPU seconds of one thread (robust on a shared machine); CUDA times are events. The
variants alternate in an order drawn anew in each round. A ratio is that of the medians, with its
95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from peak_memory import peak_mib

import openclip_eclip  # noqa: F401
from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.config import AUTHORS_PROCESSOR, ProcessorConfig
from openclip_eclip.loss import EClipLoss
from openclip_eclip.objectives import Align
from openclip_eclip.processor import build_processor

TOWERS = {"ViT-S/16": "eclip-vit-small", "Swin-T": "eclip-swin-tiny"}
CONTEXT = 64
ALIGNED = {"align": 0.05, "replay": 0.1}  # share of the batch
# seconds a step of the authors' code, measured on another day; quoted only, not used in ratios
AUTHORS_STEP = {"ViT-S/16": 1.73, "Swin-T": 1.69}


class Clock:
    """Seconds of one call: CUDA events, or process CPU time."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def __call__(self, work: Callable[[], object]) -> float:
        if not self.cuda:
            start = time.process_time()
            work()
            return time.process_time() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000


def side_by_side(
    clock: Clock, contestants: dict[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round of warm-up.

    The order changes in each round, because a contestant can leave data in caches for the next one.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    rng = np.random.default_rng(0)
    for i in range(rounds + 1):
        for name in rng.permutation(list(contestants)):
            seconds = clock(contestants[name])
            if i:
                times[name].append(seconds)
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """Ratio of the medians over rounds, and its 95 % bootstrap interval.

    The bootstrap draws rounds; both contestants of a round stay together.
    """
    pairs = np.array([times[name], times[base]])
    drawn = np.random.default_rng(0).integers(0, pairs.shape[1], (2000, pairs.shape[1]))
    medians = np.median(pairs[:, drawn], axis=2)
    middle = np.median(pairs, axis=1)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(middle[0] / middle[1]), float(low), float(high)


def make_step(
    model: torch.nn.Module, loss: torch.nn.Module, image: object, text: torch.Tensor
) -> Callable[[], None]:
    """One training step as in open_clip's loop: forward, backward, clipping, AdamW.

    On a GPU it runs under amp_bf16.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(text.device.type, torch.bfloat16, enabled=text.is_cuda):
            total = sum(loss(**model(image, text), output_dict=True).values())
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def make_batch(image: torch.Tensor, mixed: int) -> ExpertBatch:
    size, device = len(image), image.device
    rows = torch.arange(mixed, device=device)
    heatmap = torch.rand(mixed, 1, *image.shape[-2:], device=device)
    return ExpertBatch(
        image,
        torch.arange(size, device=device),
        rows,
        heatmap,
        torch.full((mixed,), 0.4, device=device),
        rows,
        image[:0],
        torch.zeros(0, CONTEXT, dtype=torch.int64, device=device),
    )


def aligned_count(which: str, batch: int) -> int:
    return max(1, round(ALIGNED[which] * batch))


def build_step(tower: str, which: str, device: torch.device, batch: int) -> Callable[[], None]:
    """A training step of one variant.

    "stock" is open_clip's step; "closed" is ours without a heatmap; "mixed" has mixed pairs for
    half of the batch. "align" is CLIP with alignment on 5 % of the batch; "replay" adds a tenth of
    the batch for alignment only (oversampling).
    """
    torch.manual_seed(0)
    image = torch.randn(batch, 3, 224, 224, device=device)
    text = torch.randint(1, 49000, (batch, CONTEXT), device=device)
    config = None if which == "stock" else {"processor": None} if which in ALIGNED else {}
    model = open_clip.create_model(
        TOWERS[tower],
        eclip_cfg=config,
        output_dict=True,
        device=device,
        force_context_length=CONTEXT,
    )
    if which == "stock":
        return make_step(model, open_clip.ClipLoss(), image, text)
    loss, carrier = EClipLoss(), make_batch(image, batch // 2 if which == "mixed" else 0)
    if which in ALIGNED:
        model.objectives = (Align(),)
        count = aligned_count(which, batch)
        aligned = make_batch(image, count)
        own = count if which == "align" else 0
        carrier.annotated, carrier.annotated_heatmap = (
            aligned.mix_index[:own],
            aligned.heatmap[:own],
        )
        if which == "replay":
            carrier.oversampled_image, carrier.oversampled_heatmap, carrier.oversampled_text = (
                torch.randn_like(image[:count]),
                aligned.heatmap,
                text[:count],
            )
        carrier.draws = model.objectives[0].draw(0, 0, 0, carrier.sample_id)
    loss.configure(model.eclip_config, model.objectives)
    return make_step(model, loss, carrier, text)


def bench_steps(
    device: torch.device, clock: Clock, rounds: int, batch: int, rows: list[str]
) -> None:
    mixed = batch // 2
    for tower in TOWERS:
        steps = {
            which: build_step(tower, which, device, batch)
            for which in ("stock", "closed", "mixed", *ALIGNED)
        }
        times = side_by_side(clock, steps, rounds)
        align, replay = (aligned_count(which, batch) for which in ALIGNED)
        for label, limit, what in (
            ("closed", 1.02, "(a) no heatmap"),
            ("mixed", 1.05 * 1.5, f"(b) {mixed} mixed pairs, r = 0.5"),
            ("align", 1.03, f"(f) alignment of {align} annotated"),
            ("replay", 1.03 * (1 + replay / batch), f"(g) {replay} oversampled, aligned"),
        ):
            middle, low, high = ratio(times, label, "stock")
            authors = (
                f"authors' code {AUTHORS_STEP[tower]} on another day" if label == "mixed" else ""
            )
            rows.append(
                f"| {what}, {tower}, batch {batch} | {statistics.median(times[label]):.3f} s |"
                f" {statistics.median(times['stock']):.3f} s | {middle:.3f} ({low:.3f}-{high:.3f})"
                f" | {limit:.3f} | {authors} |"
            )


def bench_processor(device: torch.device, clock: Clock, rounds: int, rows: list[str]) -> None:
    image, heatmap = (
        torch.randn(16, 3, 224, 224, device=device),
        torch.rand(16, 1, 224, 224, device=device),
    )

    def run(config: ProcessorConfig) -> Callable[[], None]:
        processor = build_processor(config).to(device)
        return lambda: processor(image, heatmap).square().mean().backward()

    times = side_by_side(
        clock, {"ours": run(ProcessorConfig()), "authors' form": run(AUTHORS_PROCESSOR)}, rounds * 3
    )
    middle, low, high = ratio(times, "ours", "authors' form")
    ours, authors = (statistics.median(times[name]) for name in ("ours", "authors' form"))
    rows.append(
        f"| (c) processor forward + backward, batch 16 | {ours * 1000:.0f} ms |"
        f" {authors * 1000:.0f} ms | {middle:.3f} ({low:.3f}-{high:.3f}) | | beside the authors'"
        " form built here, with fused attention |"
    )


def peak(tower: str, which: str, device: torch.device, batch: int) -> float:
    """Peak memory in MiB over two steps; on the CPU, the peak of this whole new process."""
    step = build_step(tower, which, device, batch)
    step()
    step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_mib()


def bench_memory(device: torch.device, batch: int, rows: list[str]) -> None:
    for tower in TOWERS:
        peaks = {}
        for which in ("stock", "closed", "mixed"):
            command = [
                sys.executable,
                __file__,
                *("--peak", tower, which),
                *("--device", str(device)),
                *("--batch", str(batch)),
            ]
            peaks[which] = float(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[
                    -1
                ]
            )
        for which, what in (("closed", "no heatmap"), ("mixed", f"{batch // 2} mixed pairs")):
            rows.append(
                f"| (e) peak memory, {what}, {tower}, batch {batch} | {peaks[which]:.0f} MiB |"
                f" {peaks['stock']:.0f} MiB | {peaks[which] / peaks['stock']:.3f} | |"
                f" {'whole process' if device.type == 'cpu' else 'allocated'} |"
            )


def prepare_torch() -> None:
    """Sets one thread, and the options that open_clip's main sets for a GPU."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True


def machine(device: torch.device) -> str:
    """The name of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, one thread"


def precision(device: torch.device) -> str:
    return "amp_bf16" if device.type == "cuda" else "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="torch device (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="rounds of each measurement (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=8, help="batch size (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/results/benchmark_train.md"),
        help="Markdown file to write (default: %(default)s)",
    )
    parser.add_argument("--peak", nargs=2, metavar=("TOWER", "WHICH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    prepare_torch()
    if args.peak:
        sys.stdout.write(f"{peak(*args.peak, device, args.batch)}\n")
        return
    clock, rows = Clock(device), []
    for bench in (
        lambda: bench_steps(device, clock, args.rounds, args.batch, rows),
        lambda: bench_processor(device, clock, args.rounds, rows),
        lambda: bench_memory(device, args.batch, rows),
    ):
        before = len(rows)
        bench()
        # print finished rows, so that a later error does not lose them
        sys.stderr.write("\n".join(rows[before:]) + "\n")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        "# Cost of training with heatmaps\n\n`python scripts/costs/train.py`,"
        f" {machine(device)}, torch {torch.__version__}, open_clip {open_clip.__version__},"
        f" {precision(device)}, {CONTEXT}"
        f" tokens, {args.rounds} rounds; medians, ratios of medians with 95 % intervals.\n\n| what"
        " | ours | beside it | ratio | at most | |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n",
        encoding="utf-8",
    )
    sys.stdout.write(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
