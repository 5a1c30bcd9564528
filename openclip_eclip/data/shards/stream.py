"""Shards read one after the other for training and validation, by the walk of the index."""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

from braceexpand import UnbalancedBracesError  # type: ignore[attr-defined]  # not in its stub
from webdataset.gopen import gopen, gopen_schemes
from webdataset.shardlists import expand_urls

from ...config import DataError
from .members import HEATMAP_MEMBERS, READ_MEMBERS, find_member
from .walk import BLOCK, MAX_HEADER, ArchiveError, Member, read_content, walk_samples

logger = logging.getLogger(__name__)

REMOTE = tuple(
    f"{scheme}:" for scheme in (*gopen_schemes, "s3", "ftp", "hf") if not scheme.startswith("__")
)
KEPT = MAX_HEADER + 4 * BLOCK  # bytes that a header with all that belongs to it may take
OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


class Announced(NamedTuple):
    """What the check found in a shard: samples, those with a heatmap, the good ones, the faults."""

    samples: int
    maps: int
    good: int
    annotated: int
    bad: Mapping[str, tuple[str, str]]  # key -> (member, message)


class ForwardReader:
    """A stream of unknown length for `tar_walk`: seeks forward by reading, back within `KEPT`."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.position = stream, 0
        self.recent: deque[bytes] = deque()  # the last reads, the last of them whole
        self.kept = 0  # bytes of `recent`
        self.again = b""  # what comes once more after a step back

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1, /) -> bytes:
        parts = [self.again[:size] if size >= 0 else self.again]
        self.again = self.again[len(parts[0]) :]
        missing = size - len(parts[0])
        while (size < 0 or missing > 0) and (
            part := self.stream.read(missing if size >= 0 else 1 << 20)
        ):
            parts.append(part)  # a pipe gives what it has
            missing -= len(part)
        found = b"".join(parts)
        self._keep(found)
        self.position += len(found)
        return found

    def _keep(self, found: bytes) -> None:
        self.recent.append(found)
        self.kept += len(found)
        while self.kept - len(self.recent[0]) >= KEPT:
            self.kept -= len(self.recent.popleft())

    def seek(self, offset: int, /) -> int:
        if offset < self.position:
            recent = b"".join(self.recent)
            start = len(recent) - (self.position - offset)
            if start < 0:
                raise io.UnsupportedOperation(f"a step back to byte {offset} of a stream")
            self.again = recent[start:] + self.again
            self.recent, self.kept = deque([recent[:start]]), start
            self.position = offset
        while self.position < offset and self.read(min(offset - self.position, 1 << 20)):
            pass
        return self.position


def is_remote(url: str) -> bool:
    """Whether webdataset would read `url` through a program; file: is a file of this machine."""
    return url.startswith(REMOTE)


def local_path(url: str) -> Path:
    """The file behind a shard of this machine, `file:` allowed as in webdataset."""
    return Path(urlparse(url).path if url.startswith("file:") else url)


def expand_shards(shards: str) -> list[str]:
    """The URLs behind braces and :: as in --train-data. DataError for another notation."""
    try:
        return expand_urls(shards)
    # an environment variable in ${...} that is not set is an assertion
    except (UnbalancedBracesError, AssertionError) as error:
        raise DataError(
            f"{shards}: not a list of shards ({error}); expected names with braces, as "
            "train-{000..041}.tar, joined by ::."
        ) from error


def expand_paths(files: str) -> list[Path]:
    """The same for files of this machine."""
    return [local_path(url) for url in expand_shards(files)]


def shard_name(url: str) -> str:
    """What a shard is called in messages and sample numbers: its path, or its URL."""
    return url if is_remote(url) else str(local_path(url))


def read_shards(
    sources: Iterable[Mapping[str, Any]],
    skip_bad: bool,
    announced: Mapping[str, Announced] | None = None,
) -> Iterator[dict[str, Any]]:
    """Stage of open_clip's webdataset pipeline: {"url"} in, samples out: `__url__`, `__key__`,
    `__faults__`, extension -> bytes.

    Only members that are used are read; the others stand there with empty content. DataError for
    damage (with `skip_bad` named in the log, and the next shard begins) and for a shard that does
    not give what `announced`, by its name, says. A sample that is bad there has that fault here
    too.
    """
    for source in sources:
        url = source["url"]
        name = shard_name(url)
        expected = (announced or {}).get(name)
        samples = maps = 0
        try:
            for sample in _read_shard(url):
                samples += 1
                maps += find_member(sample, HEATMAP_MEMBERS) is not None
                if expected is not None and sample["__key__"] in expected.bad:
                    sample["__faults__"] = [expected.bad[sample["__key__"]]]
                yield {"__url__": name, **sample}
        except ArchiveError as error:
            if not skip_bad:
                raise DataError(f"{name}: {error}") from error
            logger.warning("eclip: skipped the rest of a bad shard: %s: %s", name, error)
        if expected is not None and (samples, maps) != expected[:2]:
            raise DataError(
                f"{name}: the check announced {expected.samples} samples, {expected.maps} with a "
                f"heatmap; training read {samples} and {maps}. The shard has changed meanwhile: "
                "start again."
            )


def _read_shard(url: str) -> Iterator[dict[str, Any]]:
    stream = _open(url)
    try:
        file = _unpacked(stream) if is_remote(url) else stream
        total = None if file is not stream else file.seek(0, 2)

        def take(extension: str, member: Member) -> bytes:
            return (
                read_content(file, member.offset, member.size, member.name)
                if extension in READ_MEMBERS
                else b""
            )

        for sample in walk_samples(file, total, take):
            yield {"__key__": sample.key, "__faults__": sample.faults, **sample.members}
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ArchiveError(f"not readable ({error}).") from error
    finally:
        # a program's exit code: what it gave was a whole archive, or is an error already
        with suppress(OSError):
            stream.close()


def _open(url: str) -> Any:
    try:
        return gopen(url) if is_remote(url) else open(local_path(url), "rb")
    except (OSError, ValueError) as error:
        raise ArchiveError(f"not readable ({error}).") from error


def _unpacked(stream: Any) -> ForwardReader:
    """A stream that may be compressed, as webdataset reads it too."""
    reader = ForwardReader(stream)
    start = reader.read(6)
    reader.seek(0)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
    return reader if opener is None else ForwardReader(opener(reader))
