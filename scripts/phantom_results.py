"""CLIP, eCLIP and eCLIP^P on the phantom benchmark: trained with several seeds, measured, compared with uncertainty.

    python scripts/phantom_results.py --out phantom_results --write docs/results/phantoms.md

Every run is a folder of its own; a second call goes on with what is missing. No setting was chosen on the seeds or the test films
used here. eCLIP^P fine-tunes the CLIP of the same seed; "CLIP, longer" is the control that trains as long without heatmaps.
"""
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

HERE = Path(__file__).resolve().parent
MODEL = f"local-dir:{HERE / 'phantom_model'}"
SEEDS = (10, 11, 12, 13, 14)
FIRST = {"CLIP": ["--recipe", "clip"], "eCLIP": []}  # from scratch
SECOND = {"CLIP, longer": ["--recipe", "clip"], "eCLIP^P": []}  # from the CLIP of the same seed
TASKS = ("zero-shot", "retrieval")


def run(command: list[object], log: Path) -> None:
    """RuntimeError with the log's end if the command fails; one thread, so that several run side by side."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, *map(str, command)], stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        raise RuntimeError(f"{log}: exit code {done.returncode}\n" + "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:]))


def folder_name(method: str, seed: int) -> str:
    return re.sub(r"\W+", "-", method.lower()).strip("-") + f"-{seed}"


def train(out: Path, method: str, seed: int, start: Path | None, epochs: int, flags: list[str]) -> Path:
    """The exported model of one run; a run that was killed begins anew."""
    name = folder_name(method, seed)
    plain = out / "models" / name
    if not (plain / "README.md").is_file():
        shutil.rmtree(out / "runs" / name, ignore_errors=True)
        shutil.rmtree(plain, ignore_errors=True)
        run(["-m", "openclip_eclip.train", "--model", MODEL if start is None else f"local-dir:{start}", "--train-data", out / "data/train.csv",
             "--batch-size", 64, "--epochs", epochs, "--lr", 1e-3 if start is None else 3e-4, "--wd", 0.1, "--warmup", 50 if start is None else 10,
             "--force-context-length", 64, "--workers", 0, "--device", "cpu", "--precision", "fp32", "--logs", out / "runs", "--name", name, "--seed", seed,
             "--save-frequency", epochs, *flags], out / "logs" / f"{name}.txt")
        run(["-m", "openclip_eclip.export", out / "runs" / name, plain], out / "logs" / f"{name}-export.txt")
    return plain


def measure(out: Path, plain: Path) -> None:
    for task in TASKS:
        result = out / task / plain.name
        if not (result / "result.json").is_file():
            run(["-m", "openclip_eclip.evaluate", task, "--model", plain, "--data", out / "data/test.csv", "--out", result, "--device", "cpu",
                 "--workers", 0, "--cache", out / "cache"], out / "logs" / f"{plain.name}-{task}.txt")


def one_seed(out: Path, seed: int, epochs: int, more: int) -> None:
    """All methods of one seed, each trained and measured."""
    clip = train(out, "CLIP", seed, None, epochs, FIRST["CLIP"])
    trained = [clip, train(out, "eCLIP", seed, None, epochs, FIRST["eCLIP"])]
    trained += [train(out, method, seed, clip, more, flags) for method, flags in SECOND.items()]
    for plain in trained:
        measure(out, plain)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="data, runs and results; a second call goes on")
    parser.add_argument("--write", type=Path, help="Markdown page to write; pictures go beside it")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--more", type=int, default=3, help="epochs of the fine-tuning (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (default: %(default)s)")
    args = parser.parse_args()
    if not (args.out / "data" / "test.csv").is_file():
        run(["-m", "openclip_eclip.prepare", "phantom", args.out / "data", "--train", args.train, "--test", 1000, "--annotated", 0.05, "--seed", 1],
            args.out / "logs" / "data.txt")
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=len(args.seeds), desc="seeds", unit="seed", disable=None) as bar:
        for done in [pool.submit(one_seed, args.out, seed, args.epochs, args.more) for seed in args.seeds]:
            done.result()
            bar.update()
    methods = [*FIRST, *SECOND]
    pages = []
    for task in TASKS:
        groups = [f"{method}={','.join(str(args.out / task / folder_name(method, seed)) for seed in args.seeds)}" for method in methods]
        run(["-m", "openclip_eclip.evaluate", "compare", *groups, "--out", args.out / f"compare-{task}"], args.out / "logs" / f"compare-{task}.txt")
        pages.append((args.out / f"compare-{task}" / "result.md").read_text(encoding="utf-8").replace("# compare", f"# {task}", 1))
    if args.write:
        cpu = next((line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
        head = (f"# Phantom benchmark\n\n`python scripts/phantom_results.py`: {args.train} training films of 64 px, 5 % with gaze, 1 000 test films, "
                f"seeds {' '.join(map(str, args.seeds))}, {args.epochs} epochs (fine-tuning: {args.more} more), batch 64; {cpu}, fp32. Synthetic films: "
                "no statement on medicine follows.\n\n![Differences to CLIP](" + args.write.with_suffix(".png").name + ")\n\n")
        shutil.copy(args.out / "compare-zero-shot" / "differences.png", args.write.with_suffix(".png"))
        args.write.write_text(head + "\n".join(page.replace("\n## ", "\n### ").replace("# ", "## ", 1) for page in pages), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
