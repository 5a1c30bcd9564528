"""A table of the paper: every row with several seeds trained, measured, compared to its base, drawn.

    python scripts/run_table.py table1 --data phantoms --seeds 5 --steps 500 --tune-steps 150 --out tables      # two processes on the CPU
    python scripts/run_table.py table1 --settings paper --data DATA --test "CheXpert 5x200=DATA/chexpert_5x200.csv" --model ViT-B-16 --out tables

Runs of one seed begin with the same weights and see the same data in the same order. One run a GPU, on all visible ones; small models share a GPU
with --jobs. A second call goes on with what is missing; tables with the same --out share their runs. Flags that are not listed go to
openclip_eclip.train.
"""
from __future__ import annotations

import argparse
import csv
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from table_rows import SETTINGS, TABLES, Row
from tqdm import tqdm

METRIC = "macro-F1"


class Worker:
    """A process that runs `python -m` commands one after the other, so that only the first one imports torch. `device`: a GPU's number, or ""
    for one thread of the CPU."""

    def __init__(self, device: str) -> None:
        self.device = device
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device, "OMP_NUM_THREADS": "1"}
        self.child = subprocess.Popen([sys.executable, Path(__file__).with_name("run_commands.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      text=True, env=environment)

    def run(self, module: str, flags: list, log: Path) -> float:
        """Seconds. RuntimeError with the log's end if the command fails."""
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        self.child.stdin.write(json.dumps([module, [str(flag) for flag in flags], str(log)]) + "\n")
        self.child.stdin.flush()
        code = self.child.stdout.readline().strip() or str(self.child.wait())  # no answer: an error that the command did not handle
        if code != "0":
            raise RuntimeError(f"{log}: exit code {code}\n" + "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:]))
        return time.perf_counter() - start


class Bench:
    """Where everything lies, and how a run is made."""

    def __init__(self, args: argparse.Namespace, train_flags: list[str]) -> None:
        self.args, self.more = args, train_flags
        self.scratch, self.tune, self.evaluate = SETTINGS[args.settings]
        self.tests = dict(word.split("=", 1) for word in args.test) or {"test": str(args.data / "test.csv")}
        count = visible_gpus()
        self.workers: queue.Queue[Worker] = queue.Queue()
        for name in [str(i) for i in range(count)] * (args.jobs or 1) or [""] * (args.jobs or 2):
            self.workers.put(Worker(name))
        self.jobs = self.workers.qsize()
        self.machine = f"{self.jobs} runs at a time on {f'{count} x {gpu_name()}' if count else cpu_name()}"

    def name(self, row: Row, seed: int) -> str:
        # one model a folder: the same row in two tables is one run
        words = row.name.replace("^P", " P").lower()
        return re.sub(r"\W+", "-", words).strip("-") + f"-{seed}"

    def result(self, row: Row, seed: int, test: str) -> Path:
        return self.args.out / "results" / re.sub(r"\W+", "-", test) / self.name(row, seed)

    def make(self, row: Row, seed: int, start: Future | None) -> None:
        """Train and measure, unless that was done."""
        if start is not None:
            start.result()
        worker = self.workers.get()
        try:
            model = self.train(row, seed, worker)
            for test, data in self.tests.items():
                if not (self.result(row, seed, test) / "result.json").is_file():
                    worker.run("openclip_eclip.evaluate", ["zero-shot", "--model", model, "--data", data, "--out", self.result(row, seed, test), "--cache", "none",
                                                           *self.evaluate], self.args.out / "logs" / f"{self.name(row, seed)}-{test}.txt")
        finally:
            self.workers.put(worker)

    def train(self, row: Row, seed: int, worker: Worker) -> Path:
        """The exported model of a run; one that was killed begins anew."""
        out, name = self.args.out, self.name(row, seed)
        plain, facts = out / "models" / name, out / "runs" / name / "table.json"
        if not facts.is_file():
            shutil.rmtree(out / "runs" / name, ignore_errors=True)
            shutil.rmtree(plain, ignore_errors=True)
            started = next((other for table in TABLES.values() for other in table if other.name == row.start), None)
            model = ["--model", f"local-dir:{out / 'models' / self.name(started, seed)}"] if started else ["--model", self.args.model] if self.args.model else []
            recipe = ["--recipe", row.recipe] if self.args.settings == "paper" else []
            seconds = worker.run("openclip_eclip.train", [*(self.tune if started else self.scratch), *recipe, *model, *row.flags, *self.length(started is not None),
                           *(["--expert-data", self.args.expert_data] if self.args.expert_data and row.annotated else []),
                           "--train-data", self.args.train_data or self.args.data / "train.csv", "--logs", out / "runs", "--name", name, "--seed", seed,
                           "--device", "cuda" if worker.device else "cpu", *self.more], out / "logs" / f"{name}.txt")
            worker.run("openclip_eclip.export", [out / "runs" / name, plain], out / "logs" / f"{name}-export.txt")
            facts.write_text(json.dumps({"seconds": seconds, "views": views(out / "runs" / name), "machine": self.machine}))
        return plain

    def length(self, is_tuning: bool) -> list:
        """Whole epochs that hold the steps asked for; the recipe's own length where none was."""
        steps = self.args.tune_steps if is_tuning else self.args.steps
        if steps is None:
            return []
        batch = int(dict(zip(self.scratch, self.scratch[1:])).get("--batch-size", 512))
        flags = dict(zip(self.more, self.more[1:]))
        samples = int(flags.get("--train-num-samples", 0)) or count_rows(Path(self.args.train_data or self.args.data / "train.csv"))
        epochs = -(-steps // max(1, samples // int(flags.get("--batch-size", batch))))
        return ["--epochs", epochs, "--save-frequency", epochs]

    def facts(self, row: Row, seeds: list[int]) -> dict:
        found = [json.loads((self.args.out / "runs" / self.name(row, seed) / "table.json").read_text()) for seed in seeds]
        seen = [entry["views"] for entry in found if entry["views"] is not None]
        return {"seconds": float(np.mean([entry["seconds"] for entry in found])), "views": float(np.mean(seen)) if seen else None,
                "machines": sorted({entry["machine"] for entry in found})}


def gpu_name() -> str:
    import torch
    return torch.cuda.get_device_name()


def visible_gpus() -> int:
    import torch
    return torch.cuda.device_count()


def cpu_name() -> str:
    return next((line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "CPU")


def count_rows(table: Path) -> int:
    with open(table, newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def views(folder: Path) -> float | None:
    """How often an annotated image was seen with its heatmap, on average; None for a method that reads none."""
    path = folder / "annotated_views.csv"
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        seen = [int(row["mixed_views"]) for row in csv.DictReader(file)]
    return sum(seen) / len(seen) if seen else 0.0


def compare(bench: Bench, rows: list[Row], seeds: list[int], test: str) -> dict[str, dict]:
    """{row: {value, sd, low, high, difference: {value, low, high, p} or None}}, each row against its base."""
    found: dict[str, dict] = {}
    for base in dict.fromkeys(row.base for row in rows):
        own = [row for row in rows if row.base == base]
        own.sort(key=lambda row: row.name != base)
        if len(own) < 2:
            continue
        groups = [f"{row.name}={','.join(str(bench.result(row, seed, test)) for seed in seeds)}" for row in own]
        folder = bench.args.out / "compare" / bench.args.table / re.sub(r"\W+", "-", f"{base}-{test}")
        bench.workers.queue[0].run("openclip_eclip.evaluate", ["compare", *groups, "--out", folder], bench.args.out / "logs" / f"compare-{base}-{test}.txt")
        values = json.loads((folder / "result.json").read_text())["values"]
        for row in own:
            found[row.name] = values["methods"][row.name][METRIC] | {"difference": values["differences"].get(row.name, {}).get(METRIC), "base": base}
    return {row.name: found[row.name] for row in rows if row.name in found}


def markdown(args: argparse.Namespace, scores: dict[str, dict[str, dict]], facts: dict[str, dict], seeds: list[int]) -> str:
    title = args.table.replace("table", "Table ")
    machines = ", ".join(sorted({name for entry in facts.values() for name in entry["machines"]}))
    lines = [f"# {title}\n", f"`python scripts/run_table.py {args.table}`: {METRIC}, seeds {' '.join(map(str, seeds))}, {args.note or args.settings}; {machines}. Mean ± sd "
             "over seeds; difference to the row's base, seeds paired, with its 95 % interval over seeds and images.\n",
             f"![Differences with their intervals]({args.table}.png)\n"]
    for test, rows in scores.items():
        lines += [f"## {test}\n", f"| row | {METRIC} | difference to base | base | views an annotated image | training s |", "|---|---|---|---|---|---|"]
        for name, score in rows.items():
            d, seen = score["difference"], facts[name]["views"]
            change = "" if d is None else f"{d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"
            spread = "" if score["sd"] is None else f" ± {score['sd']:.3f}"
            lines.append(f"| {name} | {score['value']:.3f}{spread} | {change} | {score['base'] if d else ''} | {'' if seen is None else f'{seen:.1f}'} | "
                         f"{facts[name]['seconds']:.0f} |")
        lines.append("")
    return "\n".join(lines)


def draw(scores: dict[str, dict[str, dict]]) -> Figure:
    """Differences to the base with their intervals, a panel a test set."""
    shown = {test: {name: score for name, score in rows.items() if score["difference"]} for test, rows in scores.items()}
    count = max(map(len, shown.values()))
    figure = Figure(figsize=(1.2 + 4.6 * len(shown), 1.1 + 0.32 * count), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, (test, rows) in zip(panels, shown.items()):
        for y, score in enumerate(rows.values()):
            d = score["difference"]
            colour = "#8a96a3" if d["low"] <= 0 <= d["high"] else "#1f6fb2" if d["value"] > 0 else "#c0392b"
            axes.plot([d["low"], d["high"]], [y, y], color=colour, lw=2.5, solid_capstyle="round")
            axes.plot(d["value"], y, "o", color=colour, ms=6)
        axes.axvline(0, color="#1c2733", lw=1)
        axes.set_yticks(range(len(rows)), [f"{name} − {score['base']}" for name, score in rows.items()])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(test, loc="left", fontsize=11)
        axes.set_xlabel(f"difference of {METRIC}, 95 % interval")
        axes.grid(axis="x", color="#dde3ea", lw=0.7)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument("--train-data", help="instead of DATA/train.csv: a table, or shards (then also --train-num-samples)")
    parser.add_argument("--expert-data", help="a separate source of annotated pairs, for the rows that read heatmaps")
    parser.add_argument("--test", action="append", default=[], metavar="NAME=FILE", help="test sets instead of DATA/test.csv")
    parser.add_argument("--settings", choices=SETTINGS, default="phantoms", help="(default: %(default)s)")
    parser.add_argument("--model", help="instead of the settings' own")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these (and what they start from)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of training from scratch (default: the recipe's)")
    parser.add_argument("--tune-steps", type=int, help="of fine-tuning (default: the recipe's)")
    parser.add_argument("--jobs", type=int, help="runs at a time: of each GPU (default: 1), or of a machine without one (default: 2)")
    parser.add_argument("--note", default="", help="what the page says of the data")
    parser.add_argument("--out", type=Path, required=True)
    args, more = parser.parse_known_args()
    if args.settings == "phantoms" and (args.steps is None or args.tune_steps is None):
        parser.error("--settings phantoms has no recipe: give --steps and --tune-steps")
    names = {row.name for row in TABLES[args.table]}
    if unknown := set(args.rows or ()) - names:
        parser.error(f"--rows {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(names))}")
    return args, more


def main() -> int:
    args, more = parse()
    bench, seeds = Bench(args, more), list(range(args.first_seed, args.first_seed + args.seeds))
    wanted = set(args.rows or [row.name for row in TABLES[args.table]])
    wanted |= {row.start for row in TABLES[args.table] if row.name in wanted} | {row.base for row in TABLES[args.table] if row.name in wanted}
    rows = [row for row in TABLES[args.table] if row.name in wanted]
    with ThreadPoolExecutor(bench.jobs) as pool, tqdm(total=len(rows) * len(seeds), desc=args.table, unit="run", disable=None) as bar:
        futures: dict[tuple[str, int], Future] = {}
        for row in sorted(rows, key=lambda row: bool(row.start)):  # a run waits for its start in a worker: starts go first
            for seed in seeds:
                futures[row.name, seed] = pool.submit(bench.make, row, seed, futures.get((row.start, seed)))
                futures[row.name, seed].add_done_callback(lambda _: bar.update())
        for future in futures.values():
            future.result()
    scores = {test: compare(bench, rows, seeds, test) for test in bench.tests}
    facts = {row.name: bench.facts(row, seeds) for row in rows}
    (args.out / f"{args.table}.json").write_text(json.dumps({"scores": scores, "facts": facts, "seeds": seeds}, indent=2))
    (args.out / f"{args.table}.md").write_text(markdown(args, scores, facts, seeds), encoding="utf-8")
    draw(scores).savefig(args.out / f"{args.table}.png", dpi=120)
    sys.stdout.write((args.out / f"{args.table}.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
