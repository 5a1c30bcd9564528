"""Kills training runs in the middle of epochs and of writing, resumes them, and compares their end
with an uninterrupted run's.

One process imports torch and open_clip and forks every run, so that a kill costs a second instead
of ten:

    PYTHONPATH=tests python tests/workers/kill_runs.py FOLDER --kills 30 --seed 0

It prints one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

for name, value in (
    ("OMP_NUM_THREADS", "1"),
    ("HF_HUB_OFFLINE", "1"),
    ("CUDA_VISIBLE_DEVICES", ""),
):
    os.environ[name] = value

import numpy as np  # noqa: E402
import open_clip  # noqa: E402
import open_clip_train.main  # noqa: E402, F401
import torch  # noqa: E402
from conftest import BASIC, TINY, write_shard, write_table  # noqa: E402
from PIL import Image  # noqa: E402

from openclip_eclip import train  # noqa: E402
from training_patches import resume as checkpoints  # noqa: E402
from training_patches import shared_patches  # noqa: E402
from training_patches.run_log import RunLog  # noqa: E402

EPOCHS = 3
LIMIT = 120.0  # seconds of a run
# "writing" is SIGKILL when half of a checkpoint is written
KINDS = (signal.SIGKILL, signal.SIGTERM, "writing")


@dataclass
class Setting:
    """One training configuration; `steps` is the number of steps of an epoch."""

    name: str
    steps: int
    flags: list = field(default_factory=list)
    ranks: int = 1


def settings(folder: Path) -> list[Setting]:
    """All configurations; their data are written into `folder`."""
    table = write_table(folder / "table", 33, annotated=range(0, 33, 3))
    rare = write_table(folder / "rare", 33, annotated=[4])
    shards = write_shards(folder / "shards")
    crops = ["--aug-cfg", "use_timm=True", "scale=(0.5,1.0)", "re_prob=0.5", "color_jitter=0.3"]
    common = [*BASIC, *crops, "--batch-size", 4, "--epochs", EPOCHS, "--save-every-steps", 2]
    gate = ["--eclip-curriculum", 0.2, 0.3, 0.3, 0.5, 1, 0.5]
    on_table = [*common, "--train-data", table]
    return [
        Setting("table", 8, [*on_table, *gate, "--val-data", rare, "--force-patch-dropout", 0.25]),
        Setting("table-workers", 8, [*on_table, *gate, "--workers", 2]),
        Setting(
            "shards-workers",
            10,
            [*common, *gate, "--train-data", shards, "--workers", 2, "--on-bad-sample", "skip"],
        ),
        Setting(
            "expert-accumulated",
            4,
            [
                *on_table,
                *gate,
                *("--workers", 1),
                *("--accum-freq", 2),
                *("--expert-data", table),
                *("--expert-batch-size", 2),
            ],
        ),
        Setting(
            "align-two-ranks",
            4,
            [
                *common,
                *("--train-data", rare),
                *("--workers", 1),
                *("--method", "align"),
                *("--align-oversample", 0.5),
            ],
            ranks=2,
        ),
        Setting(
            "clip",
            8,
            [
                *on_table,
                *("--workers", 2),
                *("--method", "clip"),
                *("--force-patch-dropout", 0.25),
                "--save-most-recent",
            ],
        ),
        Setting(
            "shards",
            9,
            [*common, *gate, "--train-data", shards, "--workers", 0, "--on-bad-sample", "skip"],
        ),
    ]


def write_shards(folder: Path, shards: int = 4, count: int = 9) -> str:
    """Writes shards with one image that cannot be decoded."""
    folder.mkdir()
    rng, sizes = np.random.default_rng(0), {}
    for shard in range(shards):
        name, members = f"train-{shard:06d}.tar", {}
        for i in range(count):
            key, stream = f"{shard}{i:04d}", io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(stream, "PNG")
            content = stream.getvalue()
            members[f"{key}.png"] = content[:200] if (shard, i) == (1, 4) else content
            members[f"{key}.txt"] = f"finding {i} of {shard}".encode()
            if i % 3 == 0:
                maps = io.BytesIO()
                Image.fromarray(rng.integers(1, 65536, (20, 20), dtype=np.uint16)).save(maps, "PNG")
                members[f"{key}.heatmap.png"] = maps.getvalue()
        write_shard(folder / name, members)
        sizes[name] = count
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return str(folder / f"train-{{000000..{shards - 1:06d}}}.tar")


# ---- runs in forked processes


class Run:
    """A training run of `setting`, with one process for each rank."""

    def __init__(
        self,
        folder: Path,
        setting: Setting,
        name: str,
        flags: list = (),
        before: Callable[[], None] | None = None,
    ) -> None:
        self.folder, self.log = folder, folder / "logs" / name / "out.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv = [str(flag) for flag in (*setting.flags, "--name", name, *flags)]
        self.skip = self.log.stat().st_size if self.log.exists() else 0
        self.pids = [
            self._fork(argv, rank, setting.ranks, port, name, before)
            for rank in range(setting.ranks)
        ]

    def _fork(
        self,
        argv: list[str],
        rank: int,
        ranks: int,
        port: int,
        name: str,
        before: Callable[[], None] | None,
    ) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            os.setsid()
            os.chdir(self.folder)
            output = os.open(f"{name}.{rank}.output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            if ranks > 1:
                os.environ.update(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(ranks),
                    MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                )
            if before is not None and rank == 0:
                before()
            sys.argv = ["train", *argv]
            code = train.run()
        except SystemExit as found:  # of a rank that follows another one
            code = found.code
        except BaseException:  # noqa: B036 - the child must not run on as its parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def steps_done(self) -> int:
        """Number of steps that this process has logged."""
        if not self.log.exists():
            return 0
        with open(self.log, encoding="utf-8") as file:
            file.seek(self.skip)
            return file.read().count("Train Epoch: ")

    def wait(self, limit: float = LIMIT) -> list[int]:
        """The exit code of each rank; -9 for SIGKILL."""
        codes: dict[int, int] = {}
        deadline = time.monotonic() + limit
        while len(codes) < len(self.pids):
            for pid in set(self.pids) - set(codes):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                for pid in set(self.pids) - set(codes):
                    os.killpg(pid, signal.SIGKILL)
                raise AssertionError(f"the run was not over after {limit} s: {self.log}")
            time.sleep(0.005)
        return [codes[pid] for pid in self.pids]

    def kill_after(self, steps: int, number: signal.Signals, ranks: slice = slice(None)) -> None:
        """Signals the process groups, including data workers, after `steps` logged steps.

        Checks that the signal really ends the run.
        """
        deadline = time.monotonic() + LIMIT
        while self.steps_done() < steps:
            assert time.monotonic() < deadline, f"no step {steps} in {self.log}"
            assert (
                os.waitid(os.P_PID, self.pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ), f"over before its kill: {self.log}"
            time.sleep(0.002)
        for pid in self.pids[ranks]:
            os.killpg(pid, number)
        expected = -signal.SIGKILL if number == signal.SIGKILL else 128 + number
        codes = self.wait()
        assert codes == [expected] * len(codes), f"{number.name} gave {codes}: {self.log}"


def die_in_writing(count: int) -> Callable[[], None]:
    """For a child process: SIGKILL when half of its `count`-th checkpoint is written."""

    def before() -> None:
        calls = iter(range(1, 10_000))

        def half(
            save: Callable, obj: object, path: object, *args: object, **kwargs: object
        ) -> None:
            if next(calls) == count:

                def save(
                    obj: object,
                    file: io.IOBase,
                    *args: object,
                    save: Callable = save,
                    **kwargs: object,
                ) -> None:
                    stream = io.BytesIO()
                    save(obj, stream, *args, **kwargs)
                    file.write(stream.getvalue()[: stream.tell() // 2])
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)

            checkpoints.atomic_save(save, obj, path, *args, **kwargs)

        shared_patches.atomic_save = half

    return before


# ---- one chain of kills


def end_of(folder: Path, name: str, steps: int) -> tuple[dict, dict, str]:
    """The last checkpoint, the last logged {(epoch, percent): (rate, loss)}, and the views."""
    run = folder / "logs" / name
    checkpoint = torch.load(run / "checkpoints" / f"epoch_{EPOCHS}.pt", weights_only=True)
    lines = re.findall(
        r"Train Epoch: (\d+) \[.*\((\d+)%\)\] .* LR: ([\d.]+) .* Loss: ([\d.e+-]+)",
        (run / "out.log").read_text(),
    )
    # not by samples: in a resumed epoch, release 4 of the loop counts them from 0
    losses = {(epoch, percent): (rate, loss) for epoch, percent, rate, loss in lines}
    assert len(losses) == EPOCHS * steps, f"{name}: {len(losses)} steps in the log"
    views = run / "annotated_views.csv"
    return checkpoint, losses, views.read_text() if views.exists() else ""


def differences(actual: object, expected: object, where: str = "") -> list[str]:
    """The entries in which two checkpoints are not bit-for-bit identical."""
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(actual, expected) else [where]
    if isinstance(expected, dict):
        if set(actual) != set(expected):
            return [where]
        names = [key for key in expected if key not in ("name", "position")]
        parts = [(actual[key], expected[key], f"{where}.{key}") for key in names]
        return [entry for part in parts for entry in differences(*part)]
    if isinstance(expected, (list, tuple)):
        if len(actual) != len(expected):
            return [where]
        parts = [(a, e, f"{where}[{i}]") for i, (a, e) in enumerate(zip(actual, expected))]
        return [entry for part in parts for entry in differences(*part)]
    return [] if actual == expected else [where]


def kill_and_resume(
    folder: Path, setting: Setting, name: str, kinds: list, rng: random.Random
) -> dict:
    """Kills a run once for each of `kinds`, resumes it each time, and compares its end.

    The uninterrupted run has the name `setting.name`.
    """
    total, done, resumed, killed = setting.steps * EPOCHS, 0, [], []
    for i, kind in enumerate(kinds):
        # leave steps for the later kills, and one in which the signal can arrive
        room = max(1, (total - done - 4) // (len(kinds) - i))
        step = rng.randint(1, room)
        if kind == "writing":
            run = Run(folder, setting, name, resumed, die_in_writing(max(1, step // 2)))
            codes = run.wait() if setting.ranks == 1 else wait_for_first(run)
            assert codes[0] == -signal.SIGKILL, f"killed in writing: {codes}: {run.log}"
            assert list((folder / "logs" / name / "checkpoints").glob(".*.partial")), (
                "nothing was being written"
            )
        else:
            run = Run(folder, setting, name, resumed)
            run.kill_after(
                step, kind, slice(rng.choice((1, None))) if kind == signal.SIGTERM else slice(None)
            )
        killed.append(str(getattr(kind, "name", kind)))
        done = min(total - 6, done + max(0, run.steps_done() - 2))
        resumed = ["--resume", "latest"]
    codes = Run(folder, setting, name, resumed).wait()
    assert codes == [0] * setting.ranks, f"{codes}: {name}"
    actual = end_of(folder, name, setting.steps)
    expected = end_of(folder, setting.name, setting.steps)
    left = sorted(
        path.name
        for path in (folder / "logs" / name / "checkpoints").iterdir()
        if path.name.endswith(".partial")
    )
    return {
        "setting": setting.name,
        "name": name,
        "kills": killed,
        "differences": differences(actual[0], expected[0])[:5],
        "losses_differ": actual[1] != expected[1],
        "views_differ": actual[2] != expected[2],
        "left": left,
    }


def wait_for_first(run: Run) -> list[int]:
    """Waits for rank 0, then kills the others, as torchrun would do."""
    _, status = os.waitpid(run.pids[0], 0)
    for pid in run.pids[1:]:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return [os.waitstatus_to_exitcode(status)]


def all_kills(
    folder: Path, kills: int, seed: int, names: list[str] | None = None, chain: int = 3
) -> dict:
    """Spreads `kills` kills over the settings, at most `chain` in one run; returns the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny.json")
    began, rng = time.monotonic(), random.Random(seed)
    chosen = [setting for setting in settings(folder) if names is None or setting.name in names]
    results, done, uninterrupted = [], 0, set()
    while done < kills:
        setting = chosen[len(results) % len(chosen)]
        if setting.name not in uninterrupted:
            assert Run(folder, setting, setting.name).wait() == [0] * setting.ranks, setting.name
            uninterrupted.add(setting.name)
        kinds = [KINDS[(done + i) % len(KINDS)] for i in range(min(chain, kills - done))]
        rng.shuffle(kinds)
        results.append(
            kill_and_resume(folder, setting, f"{setting.name}-{len(results)}", kinds, rng)
        )
        done += len(kinds)
    faults = ("differences", "losses_differ", "views_differ", "left")
    wrong = [result for result in results if any(result[name] for name in faults)]
    return {
        "kills": done,
        "runs": len(results),
        "same": len(results) - len(wrong),
        "wrong": wrong,
        "by_kind": {
            str(getattr(kind, "name", kind)): sum(
                result["kills"].count(str(getattr(kind, "name", kind))) for result in results
            )
            for kind in KINDS
        },
        "settings": sorted(uninterrupted),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of data and runs")
    parser.add_argument("--kills", type=int, default=30, help="number of kills (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--chain", type=int, default=3, help="kills of one run, each followed by a resume"
    )
    parser.add_argument("--settings", nargs="+", help="settings to run (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    RunLog.draw = lambda *_: None  # figures would take most of the time
    sys.stdout.write(
        json.dumps(
            all_kills(args.folder.resolve(), args.kills, args.seed, args.settings, args.chain)
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
