"""Measures the training of open_clip and of this package, in turn: images a second, MFU, waiting.

Both train on the same synthetic shards with the same flags, each in a process of its own, as a user
would. Writes docs/results/throughput.md and throughput.json. With several GPUs it also measures how
the images a second grow with the ranks.

    python scripts/costs/throughput.py            # one GPU, under ten minutes
    python scripts/costs/throughput.py --small    # a CPU: tiny towers, few steps
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from peak_memory import peak_mib
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

RESULT = "THROUGHPUT "  # what follows on a line of a run's output
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
SWIN = {"timm_model_name": "swin_tiny_patch4_window7_224", "timm_pool": "", "timm_proj": "linear"}
TINY_TEXT = {**TEXT, "context_length": 16, "width": 32, "heads": 2, "layers": 1}
TINY_VIT = {"image_size": 64, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
TINY_CNN = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
TOWERS = {
    False: {
        "ViT-B/16": (512, {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}, TEXT),
        "Swin-T": (512, {"image_size": 224, **SWIN}, TEXT),
    },
    True: {"tiny ViT": (32, TINY_VIT, TINY_TEXT), "tiny ResNet": (32, TINY_CNN, TINY_TEXT)},
}
# bf16 TFLOPS without sparsity, from NVIDIA's data sheets of these cards
PEAKS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
}
METHODS = {  # flags, share of annotated samples, images encoded for each image of the batch
    "open_clip": ((), 0.05, 1.0),
    "CLIP": (("--method", "clip"), 0.05, 1.0),
    "eclip-plus, 5 %": (
        ("--method", "align", "--align-weight", "0.2", "--align-min-share", "0.05"),
        *(0.05, 1.0),
    ),
    "eCLIP, r = 0.5": (
        ("--method", "eclip", "--eclip-curriculum", *"0 0 0 0 0 1".split()),
        *(0.5, 1.5),
    ),
}


def write_shards(folder: Path, share: float, size: int, shards: int, samples: int) -> str:
    """Smooth JPEGs with a text each; a `share` of them has a heatmap. Returns the shards' names."""
    rng = np.random.default_rng(0)

    def smooth(cells: tuple[int, ...], form: str) -> bytes:
        values = rng.integers(0, 256, cells, dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC).save(stream, form)
        return stream.getvalue()

    folder.mkdir()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as archive:
            for i in range(samples):
                members = {"jpg": smooth((14, 14, 3), "JPEG")}
                members["txt"] = f"small left pleural effusion, number {shard} {i}".encode()
                if rng.random() < share:
                    members["heatmap.png"] = smooth((7, 7), "PNG")
                for name, data in members.items():
                    info = tarfile.TarInfo(f"{shard:04d}{i:05d}.{name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return str(folder / f"{{0000..{shards - 1:04d}}}.tar")


def run_one(spec: dict[str, Any]) -> None:
    """Train in this process, and print the seconds of each step and the peak memory."""
    import open_clip_train.train as loop

    open_clip.add_model_config(spec["config"])
    meters: list[Any] = []

    class Meter(loop.AverageMeter):
        """The first of them is of batches, the second of data."""

        def __init__(self) -> None:
            super().__init__()
            self.values: list[float] = []
            meters.append(self)

        def update(self, val: float, n: int = 1) -> None:
            super().update(val, n)
            self.values.append(val)

    loop.AverageMeter = Meter
    if spec["stock"]:
        from open_clip_train.main import main as train

        assert not any(name.startswith("openclip_eclip") for name in sys.modules)
    else:
        from openclip_eclip.train import main as train
    train(spec["flags"])
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated() / 2**30
    else:
        memory = peak_mib() / 2**10
    if os.environ.get("RANK", "0") == "0":
        batch, data = (meter.values for meter in meters[:2])
        sys.stdout.write(RESULT + json.dumps({"batch": batch, "data": data, "GiB": memory}) + "\n")


def measure(
    args: argparse.Namespace, config: Path, method: str, shards: str, fast: bool, ranks: int = 1
) -> dict[str, float]:
    """Images a second, waiting share of the steps, peak GiB of one run, after its first steps."""
    stock = method == "open_clip"
    total = args.batch * ranks * args.steps
    flags = [*("--model", config.stem, "--train-data", shards, "--dataset-type", "webdataset")]
    flags += ["--dataset-resampled", "--train-num-samples", str(total), "--epochs", "1"]
    flags += ["--batch-size", str(args.batch), "--workers", str(args.workers), "--lr", "1e-5"]
    flags += ["--warmup", "1", "--save-frequency", "0", "--log-every-n-steps", str(args.steps)]
    flags += ["--logs", str(config.parent / "runs"), "--name", f"run{time.time_ns()}"]
    flags += ["--local-loss", "--gather-with-grad", "--device", args.device]
    precision = "fp32" if args.small else "amp_bf16"
    if fast and stock and not args.small:
        flags.append("--torchcompile")
    flags += ["--fast"] if fast and not stock else []
    flags += [] if fast and not stock and not args.small else ["--precision", precision]
    spec = {"config": str(config), "stock": stock, "flags": [*flags, *METHODS[method][0]]}
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = [sys.executable, *(several if ranks > 1 else []), __file__, "--one", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not lines:
        raise RuntimeError(f"{method}: {done.stderr[-2000:]}")
    found = json.loads(lines[-1].removeprefix(RESULT))
    batch, data = (sum(found[name][args.skip :]) for name in ("batch", "data"))
    counted = (args.steps - args.skip) * args.batch * ranks
    return {"images": counted / batch, "waiting": data / batch, "GiB": found["GiB"]}


def forward_flops(config: Path) -> tuple[float, float]:
    """FLOPs of one image, and of one text, forward; attention counts as its matrix products."""
    # with gradients: without them torch takes fused layers, which are not counted
    model = open_clip.create_model(config.stem).eval()
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    found = []
    for encode, value in (
        (model.encode_image, torch.zeros(1, 3, height, width)),
        (model.encode_text, torch.ones(1, model.context_length, dtype=torch.int64)),
    ):
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter:
            encode(value)
        found.append(float(counter.get_total_flops()))
    return found[0], found[1]


def peak_of(name: str) -> float | None:
    """FLOP/s of a device in bf16; None where it is not in the table."""
    return next((1e12 * peak for part, peak in PEAKS.items() if part in name), None)


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, shared"


def measure_all(args: argparse.Namespace, folder: Path, began: float) -> dict[str, Any]:
    """Every tower, eager and fast, all methods in turn; what the time does not reach is missing."""
    towers, size = TOWERS[args.small], 64 if args.small else 224
    count, samples = max(1, args.workers), 64 if args.small else 256
    shards = {
        share: write_shards(folder / f"shards{share}", share, size, count, samples)
        for share in (0.05, 0.5)
    }
    result: dict[str, Any] = {"rows": [], "scaling": [], "missing": []}

    def is_late() -> bool:
        return time.monotonic() - began > 60 * args.minutes

    for tower, (width, vision, text) in towers.items():
        config = folder / f"throughput-{tower.replace('/', '-').replace(' ', '-')}.json"
        settings = {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}
        config.write_text(json.dumps(settings), encoding="utf-8")
        open_clip.add_model_config(config)
        image_flops, text_flops = forward_flops(config)
        for fast in (False, True):
            runs: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
            for turn in range(args.rounds):
                for method in list(METHODS)[:: 1 if turn % 2 == 0 else -1]:
                    if is_late():
                        result["missing"].append(f"{tower}, {method}, round {turn + 1}")
                        continue
                    share = METHODS[method][1]
                    found = measure(args, config, method, shards[share], fast)
                    runs[method].append(found)
                    sys.stderr.write(f"{tower} fast={fast} {method}: {found}\n")
            for method, found in runs.items():
                flops = 3 * (image_flops * METHODS[method][2] + text_flops)
                if found:
                    row = {name: statistics.median(one[name] for one in found) for name in found[0]}
                    row |= {"tower": tower, "fast": fast, "method": method, "flops": flops}
                    result["rows"].append(row)
        for ranks in (1, 2, 4, 8) if torch.cuda.device_count() > 1 else ():
            if ranks <= torch.cuda.device_count() and not is_late():
                found = measure(args, config, "eclip-plus, 5 %", shards[0.05], True, ranks)
                result["scaling"].append({"tower": tower, "ranks": ranks, **found})
    return result


def page(args: argparse.Namespace, result: dict[str, Any]) -> str:
    rows, name, peak = result["rows"], result["machine"], peak_of(result["machine"])
    lines = ["# Throughput of training", ""]
    if args.device != "cuda":
        lines += [
            "**The GPU numbers are missing: no GPU was at hand.** On one GPU this command measures"
            " them in under ten minutes and writes this page:",
            *(
                "",
                "<!-- needs data -->",
                "```bash",
                "python scripts/costs/throughput.py",
                "```",
                "",
            ),
            "Below is its small form on a CPU that other work shared. It shows that the command"
            " works. Its towers are tiny, and other work takes most of its time, so no ratio is"
            " given.",
            "",
        ]
    lines += [
        f"{name}; torch {torch.__version__}, open_clip {open_clip.__version__}; batch {args.batch},"
        f" {args.workers} workers, {args.steps} steps, the first {args.skip} left out;"
        f" medians of {args.rounds} runs, the methods in turn.",
        "",
        "Each run is a training command of its own on the same synthetic shards; eCLIP has shards"
        " with heatmaps on half of the samples, the others on 5 %. *Waiting* is the share of a step"
        " in which data is waited for. *Memory* is the peak: allocated on a GPU, of the process on"
        " a CPU.",
        "",
        "FLOPs of a step: 3 × (images encoded × FLOPs of an image forward + texts × FLOPs of a text"
        " forward), counted by `torch.utils.flop_counter`; backward counts twice. The heatmap"
        " processor is not counted. MFU: these FLOPs a second, divided by the card's peak in bf16"
        " without sparsity (NVIDIA's data sheet)."
        + (f" Peak: {peak / 1e12:g} TFLOPS." if peak else " No peak is known here, so no MFU."),
        "",
        "| tower | settings | method | images/s | of open_clip's | MFU | waiting | memory, GiB |"
        " GFLOPs a pair |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base = next(
            (
                other["images"]
                for other in rows
                if other["method"] == "open_clip"
                and (other["tower"], other["fast"]) == (row["tower"], row["fast"])
            ),
            None,
        )
        on_gpu = args.device == "cuda"  # runs beside other work on a CPU differ by factors
        ratio = f"{row['images'] / base:.3f}" if base and on_gpu else "-"
        mfu = f"{100 * row['flops'] * row['images'] / peak:.1f} %" if peak else "-"
        fast = "`--torchcompile`" if on_gpu else "eager"
        kind = "eager" if not row["fast"] else fast if row["method"] == "open_clip" else "`--fast`"
        lines.append(
            f"| {row['tower']} | {kind} | {row['method']} | {row['images']:.4g} | {ratio} | {mfu} |"
            f" {100 * row['waiting']:.1f} % | {row['GiB']:.2f} | {row['flops'] / 1e9:.4g} |"
        )
    if result["scaling"]:
        lines += ["", "| tower | GPUs | images/s, eclip-plus with `--fast` |", "|---|---|---|"]
        lines += [f"| {r['tower']} | {r['ranks']} | {r['images']:.4g} |" for r in result["scaling"]]
    else:
        lines += ["", "Scaling over ranks: not measured, fewer than two GPUs were visible."]
    if result["missing"]:
        lines += ["", f"The time limit left out: {'; '.join(result['missing'])}."]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny towers on the CPU, few steps")
    parser.add_argument("--batch", type=int, help="batch of a rank (default: 256, small: 8)")
    parser.add_argument("--steps", type=int, help="steps of a run (default: 60, small: 8)")
    parser.add_argument("--skip", type=int, help="first steps left out (default: 20, small: 3)")
    parser.add_argument("--rounds", type=int, help="runs of each method (default: 1)")
    parser.add_argument("--workers", type=int, help="data workers (default: cores, small: 0)")
    parser.add_argument(
        "--minutes", type=float, default=8.5, help="no run begins later (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/results/throughput.md"),
        help="page to write, with a .json beside it (default: %(default)s)",
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    small = {"batch": 8, "steps": 8, "skip": 3, "rounds": 1, "workers": 0}
    large = {"batch": 256, "steps": 60, "skip": 20, "rounds": 1, "workers": os.cpu_count() or 4}
    for name, value in (small if args.small else large).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.device = "cpu" if args.small else "cuda"
    return args


def main() -> None:
    args, began = parse(), time.monotonic()
    if args.one:
        run_one(json.loads(args.one))
        return
    if not args.small and not torch.cuda.is_available():
        raise SystemExit("no GPU: give --small, which tries the command on a CPU.")
    with tempfile.TemporaryDirectory() as folder:
        result = measure_all(args, Path(folder), began)
    result["machine"] = machine(args.device)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page(args, result), encoding="utf-8")
    text = json.dumps({"torch": torch.__version__, **result}, indent=1)
    args.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
