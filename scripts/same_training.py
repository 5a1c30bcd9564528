"""Do two checkouts train every method to the same bits? Losses and weights, on the CPU.

    python scripts/same_training.py BEFORE AFTER

Each checkout generates the same phantoms and trains each method for some steps with a tiny model.
Prints a Markdown table; exit code 1 where anything differs. Flags are spelt as in release 0.1, so
that it can be one of the checkouts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PHANTOMS = "phantom phantoms --train 64 --test 8 --annotated 0.3 --findings 2"
COMMON = (
    "--model tiny --precision fp32 --device cpu --workers 0 --seed 0 --lr 1e-3 --warmup 1"
    " --batch-size 16 --epochs 2 --log-every-n-steps 1 --logs logs"
    " --train-data phantoms/train.csv"
)
EXPERTS = "--expert-data phantoms/train.csv --expert-batch-size 4"
START = "--pretrained logs/clip/checkpoints/epoch_2.pt"
METHODS = {
    "clip": "--method clip",
    "clip, SigLIP loss": "--method clip --siglip",
    "eclip": "--method eclip",
    "eclip, authors' processor": "--method eclip --eclip-processor authors",
    "eclip, SigLIP loss": "--method eclip --siglip",
    "eclip, accumulation": "--method eclip --accum-freq 2",
    "eclip, bf16": "--method eclip --precision amp_bf16",
    "eclip, expert data": f"--method eclip {EXPERTS}",
    "eclip, shuffled placebo": "--method eclip --eclip-heatmap-control shuffled",
    "eclip, fine-tuned": f"--method eclip {START}",
    "naive": "--method naive",
    "dacl": "--method dacl",
    "eclip+dacl": "--method eclip+dacl",
    "m3-mix": f"--method m3-mix {START}",
    "gloria": "--method gloria",
    "align": "--method align",
    "align, minimum share and oversampling": "--method align --align-least 0.5 --align-replay 0.25",
    "align, windows": "--method align --align-windows",
    "align+eclip, expert data": f"--method align+eclip {EXPERTS}",
    "eclip-plus": "--recipe eclip-plus",
}
# "Loss: 2.7 (2.7)" and all its parts, without times
LOSSES = re.compile(r"\b\w*[Ll]oss: \S+")


def run(module: str, flags: str) -> None:
    """A command in this process, with what it left in logging taken away."""
    sys.argv = [module, *flags.split()]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code:
            raise
    logging.root.handlers.clear()


def digest_of_weights(path: Path) -> str:
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def train_all() -> dict[str, tuple[str, list[str]]]:
    """{name: (digest of the weights, every logged loss)} with the package that is on the path."""
    import open_clip

    Path("tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config("tiny.json")
    run("openclip_eclip.prepare", PHANTOMS)
    table = hashlib.sha256(Path("phantoms/train.csv").read_bytes()).hexdigest()
    results = {"phantoms": (table, [])}
    for method, flags in METHODS.items():
        name = re.sub(r"\W+", "-", method)
        run("openclip_eclip.train", f"{COMMON} {flags} --name {name}")
        log = Path("logs", name, "out.log").read_text()
        end = Path("logs", name, "checkpoints", "epoch_2.pt")
        results[method] = (digest_of_weights(end), LOSSES.findall(log))
    return results


def results_of(checkout: Path) -> dict[str, list]:
    """What `train_all` gives in a process of its own with that checkout's package."""
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--inside", str(out)]
        environment = {**os.environ, **settings, "PYTHONPATH": str(checkout.resolve())}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=3600
        )
        if done.returncode:
            raise RuntimeError(f"{checkout}: exit code {done.returncode}\n{done.stderr[-3000:]}")
        return json.loads(out.read_text())


def main(argv: Sequence[str] | None = None) -> int:
    """0 where all is the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="CHECKOUT", help="two of them")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside:
        args.inside.write_text(json.dumps(train_all()))
        return 0
    if len(args.checkouts) != 2:
        parser.error(f"{len(args.checkouts)} checkouts; expected two")
    before, after = map(results_of, args.checkouts)
    print("| method | losses logged | losses | weights |\n|---|---|---|---|")
    words = {True: "equal", False: "DIFFERENT"}
    for method in before:
        weights = before[method][0] == after[method][0]
        losses = before[method][1] == after[method][1]
        print(f"| {method} | {len(before[method][1])} | {words[losses]} | {words[weights]} |")
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main())
