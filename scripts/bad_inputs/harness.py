"""Runs commands in forks of one process that has already imported everything.

A fork takes a few hundredths of a second, a new Python process eight seconds. A case writes its bad
input into its own folder, in the child, and names a command. The command must answer with one
sentence and without a traceback, within the limits of time and memory.
"""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0  # time limit of a case
MIB = 1024  # memory limit, in addition to the idle process
# bytes of address space in addition to the idle process: a decompression bomb fails in its child
RESERVED = 2 << 30
LONGEST = 4000  # characters of an answer
SAYS = re.compile(r"^(?:[^\n:]*: |\s*)(?:error|problem): ", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One bad input.

    `make(folder)` writes the input and returns the command, `[name, argument, ...]`. The answer
    must contain all `words`; `a|b` means a or b. With `warns` the command may succeed; its whole
    output is then the answer.
    """

    name: str
    kind: str
    make: Callable[[Path], Sequence[object]]
    words: tuple[str, ...]
    warns: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of a child.

    `code` is the exit code, negative for a signal, None if the time limit stopped the child.
    """

    code: int | None
    output: str
    seconds: float
    mib: float  # peak memory in addition to the idle process
    cpu: float  # seconds

    @property
    def answer(self) -> str:
        """The output from the first `error: ` or `problem: ` on; "" without one."""
        match = SAYS.search(self.output)
        return self.output[match.start() :].strip() if match else ""


def run_command(words: Sequence[object]) -> int:
    """Runs a command of the package in this process; returns its exit code."""
    name, *rest = map(str, words)
    sys.argv = [name, *rest]
    if name == "train":
        from openclip_eclip import train

        return train.run()
    if name == "example":
        import runpy

        sys.argv = rest
        runpy.run_path(str(ROOT / "examples" / rest[0]), run_name="__main__")
        return 0
    from importlib import import_module

    module = {
        "check": "data.check",
        "overlap": "data.overlap",
        "evaluate": "evaluate.__main__",
        "prepare": "prepare.__main__",
        "report": "evaluate.report_generation.one_image",
    }.get(name, name)
    return import_module(f"openclip_eclip.{module}").main(rest)


def import_everything() -> None:
    """Imports everything that the commands need, so that no child imports it again."""
    import gc

    sys.argv = ["reliability"]
    from importlib import import_module

    import faiss  # noqa: F401
    import matplotlib
    import open_clip_train.main  # noqa: F401
    import scipy.sparse  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import tensorboard  # noqa: F401
    import webdataset  # noqa: F401

    matplotlib.use("Agg")
    import matplotlib.pyplot

    from openclip_eclip.evaluate.__main__ import TASKS
    from openclip_eclip.prepare.__main__ import DATASETS

    more = (
        "openclip_eclip.data.overlap",
        "openclip_eclip.export",
        "openclip_eclip.evaluate.report_generation.one_image",
        "openclip_eclip.train",
        "training_patches.shared_patches",
    )
    for module in (*more, *(module for module, _ in (*TASKS.values(), *DATASETS.values()))):
        import_module(module)
    gc.collect()
    gc.freeze()  # otherwise the collector of a child writes to all shared memory, which copies it


def start(work: Callable[[], int], folder: Path, limits: bool = True) -> int:
    """Forks a child that does `work` in `folder`, with its output in folder/.output.

    Returns the process id.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(".output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if limits:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            size = pages * resource.getpagesize() + RESERVED
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        Path(".idle").write_text(str(idle_memory()))
        code = work()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:  # print it as Python would
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code & 255)


def finish(pid: int, folder: Path, began: float, limit: float) -> Outcome:
    """Waits for a child, at most until `limit` seconds after `began`.

    Its whole process group ends with it.
    """
    watched = select.poll()
    descriptor = os.pidfd_open(pid)
    watched.register(descriptor, select.POLLIN)
    ended = bool(watched.poll(max(0.0, limit - (time.monotonic() - began)) * 1000))
    os.close(descriptor)
    seconds = time.monotonic() - began
    if not ended:
        os.killpg(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    try:
        os.killpg(pid, signal.SIGKILL)  # processes that the child started
    except ProcessLookupError:
        pass
    output = (folder / ".output").read_text(encoding="utf-8", errors="replace")
    return Outcome(
        os.waitstatus_to_exitcode(status) if ended else None,
        output,
        seconds,
        used.ru_maxrss / 1024 - float((folder / ".idle").read_text()),
        used.ru_utime + used.ru_stime,
    )


def idle_memory() -> float:
    """Resident MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def busy() -> float:
    """The factor by which other load slows a process; time limits are for an idle machine."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def run_case(case: Case, folder: Path, limit: float = SECONDS) -> Outcome:
    """Writes the input of a case and runs its command in a child."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    pid = start(lambda: run_command(case.make(Path())), folder)
    outcome = finish(pid, folder, began, limit * busy())
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def fault_of(case: Case, outcome: Outcome) -> str:
    """Why an outcome is wrong; "" if it is right."""
    if outcome.code is None:
        return f"no end within {SECONDS:g} s"
    if "Traceback (most recent call last)" in outcome.output:
        return f"traceback: {outcome.output.strip().splitlines()[-1][:160]}"
    if outcome.code < 0 or outcome.code > 128:
        return f"ended by signal {-outcome.code if outcome.code < 0 else outcome.code - 128}"
    if outcome.mib > MIB:
        return f"{outcome.mib:.0f} MiB"
    if case.warns and not outcome.code:
        return _missing(case.words, outcome.output, "no line")
    if not outcome.code:
        return "exit code 0"
    if not outcome.answer:
        return f"exit code {outcome.code} without a line 'error: ...'"
    errors = len(re.findall(r"^(?:[^\n:]*: )?error: ", outcome.output, re.MULTILINE))
    if errors > 1:
        return f"{errors} lines 'error: ...'"
    if len(outcome.answer) > LONGEST:
        return f"an answer of {len(outcome.answer)} characters"
    return _missing(case.words, outcome.answer, "the answer does not")


def _missing(words: Iterable[str], text: str, who: str) -> str:
    absent = [
        word for word in words if not any(one.lower() in text.lower() for one in word.split("|"))
    ]
    return f"{who} say {absent}: {text[:200]!r}" if absent else ""


def run_all(cases: Sequence[Case], folder: Path, say: Callable[[str], object]) -> list[dict]:
    """One record for each case, in order; `say` gets a line for each wrong outcome."""
    records = []
    for number, case in enumerate(cases):
        outcome = run_case(case, folder / f"{number:03d}")
        fault = fault_of(case, outcome)
        if fault:
            say(f"wrong: {case.kind}: {case.name}: {fault}\n")
        records.append(
            {
                "name": case.name,
                "kind": case.kind,
                "right": not fault,
                "fault": fault,
                "code": outcome.code,
                "seconds": round(outcome.seconds, 2),
                "cpu": round(outcome.cpu, 2),
                "mib": round(max(0.0, outcome.mib)),
                "answer": (outcome.answer or outcome.output[-300:])[:600],
            }
        )
    return records
