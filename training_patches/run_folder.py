"""The run folder: its lock, whether its name is free, and the reason of a stop in its log."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist
from open_clip.tokenizer import HFTokenizer
from open_clip_train.distributed import is_master

from openclip_eclip.config import Stopped, UserError
from openclip_eclip.files import make_folder

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOG, LOCK = "out.log", ".lock"
# lines in the log of a run that has trained or evaluated
TRAINED = ("Start epoch", "Eval Epoch", "Train Epoch")
HELD = (errno.EACCES, errno.EAGAIN)
BROKEN = ("gloo", "by peer", "NCCL")  # in the error of a rank after another one has ended


def keep_tokenizer(args: argparse.Namespace, tokenizer: Any) -> None:
    """Save a Hugging Face tokenizer of a local folder into the run folder.

    The name in its config may not be known where the run is evaluated and exported.
    """
    run = Path(args.logs, args.name)
    is_local = "local-dir:" in args.model and isinstance(tokenizer, HFTokenizer)
    if is_local and run.is_dir() and is_master(args):
        tokenizer.save_pretrained(run)


def claim(args: argparse.Namespace) -> IO[str] | None:
    """Lock the folder of a named run for the life of this process.

    Returns the open lock file, None where locks are not supported. The log of an earlier attempt
    that never trained is kept beside the new one. UserError if another process holds the lock, or
    if a run of this name has trained and --resume latest is not given.
    """
    folder = Path(args.logs, args.name)
    log = folder / LOG
    if args.resume != "latest" and log.exists() and _has_trained(folder):
        raise UserError(
            f"experiment {folder} already exists: give another --name, or --resume "
            "latest to continue it."
        )
    lock_file = lock(folder)
    if args.resume != "latest" and log.exists():
        old_log = next(
            path for i in range(1, 10_000) if not (path := folder / f"out.attempt-{i}.log").exists()
        )
        log.rename(old_log)
        logger.warning(
            "eclip: an earlier attempt at %s stopped before training; its log is now %s",
            folder,
            old_log,
        )
    return lock_file


def _has_trained(folder: Path) -> bool:
    """Whether a run has trained here; True also for an empty log, which tells nothing."""
    text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    checkpoints = folder / "checkpoints"
    return (
        not text
        or any(line in text for line in TRAINED)
        or checkpoints.is_dir()
        and any(checkpoints.iterdir())
    )


def lock(folder: Path) -> IO[str] | None:
    """An open file that locks `folder` until it is closed or the process ends.

    None without support for locks. UserError if another process holds the lock. It is a POSIX
    record lock, which ends with this process; one of `flock` would live on in orphaned data
    workers.
    """
    make_folder(folder, "--runs-dir, run")
    file = open(folder / LOCK, "a+", encoding="utf-8")
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "this system has no fcntl")
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        if error.errno in HELD:
            raise UserError(
                f"{folder} is in use by {_who(holder)}: two processes would overwrite "
                "each other's checkpoints; wait for it, "
                "stop it, or give another --name."
            ) from error
        logger.warning(
            "eclip: %s cannot be locked (%s): make sure that no second run writes into it",
            folder,
            error,
        )
        return None
    file.truncate(0)
    json.dump(
        {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "start": datetime.now().isoformat(timespec="seconds"),
        },
        file,
    )
    file.flush()
    return file


def _who(holder: str) -> str:
    try:
        facts = json.loads(holder)
        return f"process {facts['pid']} on {facts['host']}, started {facts['start']}"
    except (ValueError, LookupError, TypeError):  # the other process is writing it now
        return "another process"


def log_stop(args: argparse.Namespace | None, reason: str) -> None:
    """Write `reason` as the last line of the run's log.

    Any rank may call it; only the first one has a handler for the file.
    """
    record = logging.LogRecord(
        __name__, logging.ERROR, __file__, 0, "eclip: stopped: %s", (reason,), None
    )
    files = [
        handler for handler in logging.root.handlers if isinstance(handler, logging.FileHandler)
    ]
    for handler in files:
        handler.handle(record)
    if files or args is None or not args.name or getattr(args, "rank", 0) == 0:
        return
    log = Path(args.logs, args.name, LOG)
    if log.is_file():
        with open(log, "a", encoding="utf-8") as file:
            file.write(
                f"{datetime.now():%Y-%m-%d,%H:%M:%S} | ERROR | eclip: stopped on rank "
                f"{args.rank}: {reason}\n"
            )


def has_logged(args: argparse.Namespace | None, reason: str) -> bool:
    """Whether the first rank has written the same reason into the run's log."""
    if args is None or not args.name:
        return False
    log = Path(args.logs, args.name, LOG)
    return log.is_file() and f"stopped: {reason}" in log.read_text(
        encoding="utf-8", errors="replace"
    )


def is_consequence(args: argparse.Namespace | None, error: BaseException) -> bool:
    """Whether `error` follows from a stop of another rank, whose reason is in the log's last line.

    Such an error is a broken connection, or torchrun's signal.
    """
    if args is None or getattr(args, "world_size", 1) == 1 or not args.name:
        return False
    broken = isinstance(error, dist.DistError) or any(word in str(error) for word in BROKEN)
    log = Path(args.logs, args.name, LOG)
    if not (broken or isinstance(error, Stopped)) or not log.is_file():
        return False
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return bool(lines) and "| ERROR | eclip: stopped" in lines[-1]
