"""Measures the cost of each method relative to CLIP, at 224 pixels.

    python scripts/costs/methods.py --out docs/results/methods.md

It also measures m3-mix's terms at batch 256, and GLoRIA's memory at 48 pairs of 97 words. Times are
CPU seconds of one thread in fp32, or CUDA events under amp_bf16 (--batch 256). Methods alternate in
an order drawn anew in each round. A CPU cannot hold a batch of 256 images. There, m3-mix's share is
computed from its terms at 256 x 512 numbers and the measured cost of one image.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from peak_memory import peak_mib
from torch.nn import functional as F
from train import (
    CONTEXT,
    Clock,
    machine,
    make_batch,
    make_step,
    precision,
    prepare_torch,
    ratio,
    side_by_side,
)

import openclip_eclip  # noqa: F401
from openclip_eclip.loss import EClipLoss
from openclip_eclip.objectives import Dacl, Gloria, M3Mix, Objective
from openclip_eclip.objectives.dacl import DaclConfig
from openclip_eclip.objectives.gloria import GloriaConfig, local_loss

TOWERS = {"Swin-T": "eclip-swin-tiny", "ResNet-50": "eclip-resnet50"}
# name: (objectives, mixed pairs as a share of the batch, lam is 0)
METHODS: dict[str, tuple[Callable[[], tuple[Objective, ...]], float, bool]] = {
    "CLIP": (lambda: (), 0, False),
    "naive": (lambda: (), 0.5, True),
    "eCLIP": (lambda: (), 0.5, False),
    "DACL, original": (lambda: (Dacl(),), 0, False),
    "DACL, release": (lambda: (Dacl(DaclConfig("release")),), 0, False),
    "m3-mix": (lambda: (M3Mix(),), 0, False),
    "GLoRIA": (lambda: (Gloria(),), 0, False),
}
REPORT = (
    "the heart is mildly enlarged and there is a small left pleural effusion with adjacent"
    " atelectasis at the left base no pneumothorax " * 2
)
PAIRS, WORDS, REGIONS, WIDTH = 48, 97, 361, 768


def build_step(tower: str, method: str, device: torch.device, batch: int) -> Callable[[], None]:
    make, share, unmixed = METHODS[method]
    objectives, mixed = make(), round(share * batch)
    torch.manual_seed(0)
    image = torch.randn(batch, 3, 224, 224, device=device)
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    text = tokenizer([REPORT] * batch).to(device)
    config = {"processor": None} if not mixed else {}
    if "GLoRIA" in method:
        config["regions"] = True
    model = open_clip.create_model(
        TOWERS[tower],
        eclip_cfg=None if method == "CLIP" else config,
        output_dict=True,
        device=device,
        force_context_length=CONTEXT,
    )
    if method == "CLIP":
        return make_step(model, open_clip.ClipLoss(), image, text)
    model.objectives, loss = objectives, EClipLoss()
    loss.configure(model.eclip_config, objectives)
    inputs = make_batch(image, mixed)
    if unmixed:
        inputs.lam = torch.zeros(mixed, device=device)
    for objective in objectives:
        objective.use_tokenizer(tokenizer)
        inputs.draws.update(
            {
                key: value.to(device) if torch.is_tensor(value) else value
                for key, value in objective.draw(0, 3, 0, inputs.sample_id.cpu()).items()
            }
        )
    return make_step(model, loss, inputs, text)


def bench_steps(
    device: torch.device, clock: Clock, rounds: int, batch: int, methods: list[str]
) -> tuple[list[str], dict[str, float]]:
    """The rows of the table, and {tower: seconds of CLIP's step for one image}."""
    rows, cost = [], {}
    for tower in TOWERS:
        times = side_by_side(
            clock, {name: build_step(tower, name, device, batch) for name in methods}, rounds
        )
        cost[tower] = statistics.median(times["CLIP"]) / batch
        for name in methods:
            share = METHODS[name][1]
            middle, low, high = ratio(times, name, "CLIP")
            limit = f"{1.05 * (1 + share):.3f}" if share else ""
            extra = (
                f"{share:g} mixed pairs a sample"
                if share
                else {
                    "DACL, original": "3 images a sample",
                    "DACL, release": "2 images a sample",
                }.get(name, "")
            )
            rows.append(
                f"| {name} | {tower} | {1e3 * statistics.median(times[name]):.0f} ms | {middle:.3f}"
                f" ({low:.3f}-{high:.3f}) | {limit} | {extra} |"
            )
    return rows, cost


def bench_m3_mix(
    device: torch.device, clock: Clock, rounds: int, cost: dict[str, float]
) -> list[str]:
    """The sentence on m3-mix's terms; `cost`: {tower: seconds of CLIP's step for one image}."""
    size, objective = 256, M3Mix()
    image, text = (
        F.normalize(torch.randn(size, 512, device=device), dim=1).requires_grad_() for _ in range(2)
    )
    draws = objective.draw(0, 3, 0, torch.arange(size))["m3_mix_draws"].to(device)
    out = {
        "image_features": image,
        "text_features": text,
        "logit_scale": torch.tensor(14.0, device=device),
        "m3_mix_draws": draws,
    }

    def terms() -> None:
        sum(objective.losses(out, lambda a, b: (a, b, slice(None))).values()).backward()

    seconds = statistics.median(side_by_side(clock, {"terms": terms}, rounds)["terms"])
    shares = ", ".join(
        f"{1 + seconds / (size * each):.4f} with {tower} (256 x {each:.3f} s)"
        for tower, each in cost.items()
    )
    return [
        "\nm3-mix's four terms at batch 256 x 512 numbers, forward and backward:"
        f" {1e3 * seconds:.0f} ms. Relative to CLIP's step at the cost of 256 images: {shares}. The"
        " target is at most 1.05."
    ]


def gloria_peak() -> float:
    """MiB of GLoRIA's local loss in addition to its inputs, measured in this new process.

    Forward and backward are included.
    """
    torch.manual_seed(0)
    regions, words = (
        torch.randn(PAIRS, REGIONS, WIDTH, requires_grad=True),
        torch.randn(PAIRS, WORDS, WIDTH, requires_grad=True),
    )
    regions.grad, words.grad = torch.zeros_like(regions), torch.zeros_like(words)
    before = peak_mib()
    local_loss(
        regions, words, torch.ones(PAIRS, WORDS, dtype=torch.bool), GloriaConfig()
    ).backward()
    return peak_mib() - before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="torch device (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="rounds of each measurement (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=8, help="batch size (default: %(default)s)")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        help="methods to measure, CLIP among them (default: all)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/results/methods.md"),
        help="Markdown file to write (default: %(default)s)",
    )
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    prepare_torch()
    if args.peak:
        sys.stdout.write(json.dumps(gloria_peak()))
        return
    clock = Clock(device)
    rows, cost = bench_steps(device, clock, args.rounds, args.batch, args.methods)
    lines = bench_m3_mix(device, clock, args.rounds, cost)
    # freed blocks go back to the system at once, so the peak counts live memory only
    done = subprocess.run(
        [sys.executable, __file__, "--peak"],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MALLOC_TRIM_THRESHOLD_": "0",
            "MALLOC_MMAP_THRESHOLD_": "65536",
        },
    )
    peak = json.loads(done.stdout)
    lines.append(
        f"\nGLoRIA's local loss, {PAIRS} pairs, {WORDS} words, {REGIONS} regions, width {WIDTH},"
        f" fp32: {peak:.0f} MiB in addition to its inputs and their gradients on the CPU (peak of a"
        " new process). The target is less than 1024; c_w alone, without chunks, would take"
        f" {4 * PAIRS**2 * WORDS * WIDTH / 2**20:.0f}."
    )
    head = (
        f"# What the methods cost\n\n`python scripts/costs/methods.py`, {machine(device)}, torch"
        f" {torch.__version__}, open_clip {open_clip.__version__}, 224 pixels, {precision(device)},"
        f" batch {args.batch}, {CONTEXT} tokens, {args.rounds} rounds; medians, ratios of medians"
        " with 95 % intervals.\n\n| method | image tower | a step | ratio to CLIP | at most |"
        " |\n|---|---|---|---|---|---|\n"
    )
    args.out.write_text(head + "\n".join([*rows, *lines]) + "\n", encoding="utf-8")
    sys.stdout.write(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
