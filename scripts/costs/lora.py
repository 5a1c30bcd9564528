"""What LoRA costs: weights, step time and memory, beside full fine-tuning and frozen towers.

    python scripts/costs/lora.py --out docs/results/lora_cost.md

The ways to train take turns in one process, in an order drawn anew in each round. Times are CPU
seconds of one thread in fp32, so they depend less on other work than seconds of the clock do. Peak
memory is that of a process of its own. Weights and inputs are random.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median

import open_clip
import torch
from grounding import peak_mib, spread
from train import Clock, machine, make_step, prepare_torch, side_by_side

from openclip_eclip.towers.frozen import freeze_image_tower, freeze_text_tower

WAYS = ("full", "LoRA, rank 8", "frozen")
SMALL = "ViT-S/16 of timm, BERT of 4 layers"
BATCHES = {"ViT-B-16": 2, SMALL: 8}  # images, and as many texts


def build(tower: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if tower != SMALL:
        return open_clip.create_model(tower, load_weights=False, output_dict=True)
    from transformers import BertConfig, BertModel

    with tempfile.TemporaryDirectory() as folder:
        sizes = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
        BertModel(BertConfig(num_hidden_layers=4, **sizes)).save_pretrained(folder)
        vision = {
            "timm_model_name": "vit_small_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 224,
        }
        text = {
            "hf_model_name": folder,
            "hf_tokenizer_name": folder,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
            "context_length": 77,
        }
        config = {"embed_dim": 256, "vision_cfg": vision, "text_cfg": text}
        path = Path(folder, "costs-lora.json")
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)
        return open_clip.create_model("costs-lora", output_dict=True)


def prepared(tower: str, way: str) -> tuple[torch.nn.Module, Callable[[], None]]:
    """A model of which `way` trains a part, and its step."""
    from openclip_eclip.towers.low_rank import add_low_rank

    model = build(tower)
    if way == "frozen":
        freeze_image_tower(model.visual)
        freeze_text_tower(model)
    elif way != "full":
        rank = int(way.split()[-1])
        add_low_rank(model, rank, rank)
    batch = BATCHES[tower]
    image, text = torch.randn(batch, 3, 224, 224), torch.randint(1, 30000, (batch, 77))
    return model, make_step(model, open_clip.ClipLoss(), image, text)


def memory(tower: str, way: str) -> float:
    """Peak MiB of a process that takes two steps."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak", tower, way], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def lines_of(tower: str, rounds: int) -> list[str]:
    models = {way: prepared(tower, way) for way in WAYS}
    shares = {}
    for way, (model, _) in models.items():
        sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
        shares[way] = sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
    steps = {way: step for way, (_, step) in models.items()}
    times = side_by_side(Clock(torch.device("cpu")), steps, rounds)
    del models, steps
    peaks = {way: memory(tower, way) for way in WAYS}
    lines = [
        f"\n## {tower}\n",
        f"Batches of {BATCHES[tower]}.\n",
        "| what is trained | trained weights | step, to full | to frozen | peak memory, to full |"
        " to frozen | step |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        trained, total = shares[way]
        cells = [
            way,
            f"{trained / 1e6:.2f} M of {total / 1e6:.1f} M ({100 * trained / total:.2f} %)",
        ]
        for base in ("full", "frozen"):
            ratios = [mine / other for mine, other in zip(times[way], times[base], strict=True)]
            cells.append("1" if base == way else spread(ratios))
        cells.append(f"{peaks[way] / peaks['full']:.2f} ({peaks[way]:.0f} MiB)")
        cells.append(f"{peaks[way] / peaks['frozen']:.2f}")
        lines.append(f"| {' | '.join(cells)} | {median(times[way]):.2f} s |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    prepare_torch()
    if args.peak:
        _, step = prepared(*args.peak)
        step()
        step()
        print(json.dumps(peak_mib()))
        return
    before = os.getloadavg()[0]
    lines = [line for tower in BATCHES for line in lines_of(tower, args.rounds)]
    head = (
        "# What LoRA costs\n\n"
        f"`python scripts/costs/lora.py`, {date.today()}: {machine(torch.device('cpu'))}, torch"
        f" {torch.__version__}, fp32. Both towers are trained in the same way. The ways take turns,"
        f" {args.rounds} rounds: median (minimum to maximum) of the ratios. Seconds are CPU"
        " seconds. Peak memory is that of a whole process. Other work ran on the machine: the load"
        f" was {before:.1f} at the start and {os.getloadavg()[0]:.1f} at the end. So the ratios"
        " mean more than the seconds."
    )
    text = "\n".join([head, *lines]) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
