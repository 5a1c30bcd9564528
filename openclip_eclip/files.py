"""Checksums, and files and folders that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """A reader sees the old file or the new one, never half of it; a full disk or a kill leaves
    nothing under its name.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling of `out`, renamed to `out` if the block succeeds and removed if it does
    not.

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
