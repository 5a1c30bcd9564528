"""A Python that starts in milliseconds, for tests that run many commands: forks of one process that
has imported torch.

`start(folder)` gives a path that takes the place of sys.executable: `PYTHON script.py`, `PYTHON -m
module` and `PYTHON -c code` do what python does, torchrun and its ranks included, since the forks
start their own processes by the same path. What must be seen from an empty process (which imports
happen, what a kill leaves) runs with the real one.
"""

from __future__ import annotations

import atexit
import builtins
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
# nothing of ours: `stock` runs prove that open_clip's own training does not import it
PRELOADED = (
    "torch",
    "torchvision.transforms.v2",
    "torch._dynamo",
    "torch.distributed.run",
    "torch.utils.tensorboard",
    "open_clip",
    "open_clip_train.data",
    "open_clip_train.params",
    "pandas",
    "scipy.ndimage",
    "scipy.stats",
    "sklearn.linear_model",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)
# connects, hands over arguments, folder, environment and the three streams, and ends as the fork
# ends
CLIENT = """\
#!{python} -SIE
import array, json, os, signal, socket, sys
job = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
streams = array.array("i", [0, 1, 2])
server.sendmsg([len(job).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
server.sendall(job)
child = int.from_bytes(server.recv(8), "big")
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(child, number))
code = int.from_bytes(server.recv(8), "big", signed=True)
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def start(folder: Path) -> str:
    """The path of such a Python, with a torchrun beside it; the server ends with this process."""
    python, address = folder / "python", folder / "address"
    python.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    torchrun = folder / "torchrun"
    torchrun.write_text(f'#!/bin/sh\nexec {python} -m torch.distributed.run "$@"\n')
    for path in (python, torchrun):
        path.chmod(0o755)
    command = [sys.executable, __file__, str(address), str(python)]
    server = subprocess.Popen(
        command, env={**os.environ, **SETTINGS}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout.read(1) == b"!", "the server of forks did not start"
    atexit.register(server.stdin.close)
    return str(python)


def serve(address: str, python: str) -> None:
    """Forks for every connection, until stdin ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    sys.executable = python
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    os.write(1, b"!")
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            return
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            keep(connection)
        connection.close()


def keep(connection: socket.socket) -> None:
    """Forks once more, sends the exit status to the client, and ends the fork with the client."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    job = b""
    while len(job) < int.from_bytes(size, "big"):
        job += connection.recv(1 << 20)
    child = os.fork()
    if not child:
        connection.close()
        run(json.loads(job), streams)
    connection.sendall(child.to_bytes(8, "big"))
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([ended, connection], [], [])
        if ended in ready:
            break
        if not connection.recv(1):
            os.killpg(child, signal.SIGKILL)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
    os._exit(0)


def run(job: tuple[list[str], str, dict[str, str]], streams: list[int]) -> None:
    """Runs one command line of Python to its end; does not return."""
    (_, *words), folder, environment = job
    os.setsid()
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        os.dup2(streams[number], number)
        setattr(sys, name, open(number, mode, buffering=1, closefd=False))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    own = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path = [*own, *(entry for entry in sys.path[1:] if entry not in own)]
    code = 1
    try:
        execute(words)
        code = 0
    except SystemExit as stop:
        code = 0 if stop.code is None else stop.code
        if not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:  # as the interpreter does at its top
        sys.stdout.flush()
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def execute(words: list[str]) -> None:
    """Runs the program that the words name, as __main__."""
    while words[0] in ("-u", "-W"):  # lines are written at once as it is
        words = words[2 if words[0] == "-W" else 1 :]
    kind, rest = words[0], words[1:]
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = rest
        sys.modules.pop(rest[0], None)  # runpy warns of a module that is there already
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        main = type(sys)("__main__")
        main.__builtins__ = builtins
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv = words
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    serve(*sys.argv[1:])
