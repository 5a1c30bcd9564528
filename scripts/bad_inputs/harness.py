"""Runs commands in forks of one process that has imported everything: a few hundredths of a second
each, not eight seconds.

A case writes its bad input into a folder of its own, in the child, and names a command. The child's
output, exit code, time and memory say whether the input was answered as it should be: one sentence,
no traceback, within the limits.
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
SECONDS = 20.0  # a case that takes longer is wrong
MIB = 1024  # beside what the idle process has
RESERVED = (
    2 << 30
    # bytes of address space beside the idle process's: a bomb fails here, not the machine
)
LONGEST = 4000  # characters of an answer
SAYS = re.compile(r"^(?:[^\n:]*: |\s*)(?:error|problem): ", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """`make(folder)` writes the input and returns the command, `[name, argument, ...]`; all `words`
    must be in the answer, `a|b` is either.

    `warns`: the command may end well, its answer is then any line of its output.
    """

    name: str
    kind: str
    make: Callable[[Path], Sequence[object]]
    words: tuple[str, ...]
    warns: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a child did. `code`: exit code, negative for a signal, None if it was stopped by the
    time limit.
    """

    code: int | None
    output: str
    seconds: float
    mib: float
    cpu: float  # seconds

    @property
    def answer(self) -> str:
        """From the first `error: ` or `problem: ` on; "" without one."""
        found = SAYS.search(self.output)
        return self.output[found.start() :].strip() if found else ""


def run_command(words: Sequence[object]) -> int:
    """One of the package's commands in this process; its exit code."""
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
    """What the commands need, so that no child imports it again."""
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
        "training_patches.release_3_3",
    )
    for module in (*more, *(module for module, _ in (*TASKS.values(), *DATASETS.values()))):
        import_module(module)
    gc.collect()
    gc.freeze()  # the collector of a child would write to, and so copy, everything that it looks at


def start(work: Callable[[], int], folder: Path, limits: bool = True) -> int:
    """Fork a child that does `work` in `folder`, its output in folder/.output; the process id."""
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
            size = (
                int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                + RESERVED
            )
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        Path(".idle").write_text(str(idle_memory()))
        code = work()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:  # what Python itself would print
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code & 255)


def finish(pid: int, folder: Path, began: float, limit: float) -> Outcome:
    """Wait for a child, at most until `limit` seconds after `began`; its whole process group ends
    with it.
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
        os.killpg(pid, signal.SIGKILL)  # whatever it started
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
    """How many times longer than alone a process waits for a core; time limits mean an idle
    machine.
    """
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def run_case(case: Case, folder: Path, limit: float = SECONDS) -> Outcome:
    """Make the input and run its command in a child."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    pid = start(lambda: run_command(case.make(Path())), folder)
    found = finish(pid, folder, began, limit * busy())
    shutil.rmtree(folder, ignore_errors=True)
    return found


def fault_of(case: Case, found: Outcome) -> str:
    """Why the outcome is wrong; "" if it is right."""
    if found.code is None:
        return f"no end within {SECONDS:g} s"
    if "Traceback (most recent call last)" in found.output:
        return f"traceback: {found.output.strip().splitlines()[-1][:160]}"
    if found.code < 0 or found.code > 128:
        return f"ended by signal {-found.code if found.code < 0 else found.code - 128}"
    if found.mib > MIB:
        return f"{found.mib:.0f} MiB"
    if case.warns and not found.code:
        return _missing(case.words, found.output, "no line")
    if not found.code:
        return "exit code 0"
    if not found.answer:
        return f"exit code {found.code} without a line 'error: ...'"
    errors = len(re.findall(r"^(?:[^\n:]*: )?error: ", found.output, re.MULTILINE))
    if errors > 1:
        return f"{errors} lines 'error: ...'"
    if len(found.answer) > LONGEST:
        return f"an answer of {len(found.answer)} characters"
    return _missing(case.words, found.answer, "the answer does not")


def _missing(words: Iterable[str], text: str, who: str) -> str:
    absent = [
        word for word in words if not any(one.lower() in text.lower() for one in word.split("|"))
    ]
    return f"{who} say {absent}: {text[:200]!r}" if absent else ""


def run_all(cases: Sequence[Case], folder: Path, say: Callable[[str], object]) -> list[dict]:
    """A record a case, in order; a line through `say` for each that is wrong."""
    records = []
    for number, case in enumerate(cases):
        found = run_case(case, folder / f"{number:03d}")
        fault = fault_of(case, found)
        if fault:
            say(f"wrong: {case.kind}: {case.name}: {fault}\n")
        records.append(
            {
                "name": case.name,
                "kind": case.kind,
                "right": not fault,
                "fault": fault,
                "code": found.code,
                "seconds": round(found.seconds, 2),
                "cpu": round(found.cpu, 2),
                "mib": round(max(0.0, found.mib)),
                "answer": (found.answer or found.output[-300:])[:600],
            }
        )
    return records
