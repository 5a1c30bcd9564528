"""Checksums, and files and folders that are written completely or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .config import UserError


def sha256(path: Path) -> str:
    """Hex digest of a file, which is read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A stream to a temporary sibling of `path`, renamed to `path` if the block succeeds.

    A reader sees the old or the new content, never a part of it: a full disk or a kill leaves no
    partial file under its name.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file completely or not at all."""
    with whole_file(path) as stream:
        stream.write(data)


def in_the_way(path: Path) -> Path | None:
    """The file that is where `path`, or a folder above it, was to be a folder."""
    return next((one for one in (path, *path.parents) if one.is_file()), None)


def make_folder(folder: Path, flag: str) -> None:
    """Make a folder, with those above it. UserError, naming `flag`: it cannot be one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        file = in_the_way(folder)
        reason = f"{file} is a file" if file else error.strerror
        raise UserError(
            f"{flag} {folder}: {reason}; give a folder, old or new, in which it may write."
        ) from error


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling of `out`, renamed to `out` if the block succeeds, else removed.

    Raises:
        ValueError: `out` is a file or a folder that is not empty.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        kind = "holds files" if out.is_dir() else "is a file"
        raise ValueError(
            f"{out} {kind}: expected an absent or empty folder. Name another one or remove it"
            " first."
        )
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            out.rmdir()  # some systems do not rename onto a folder, even an empty one
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already unless something failed
