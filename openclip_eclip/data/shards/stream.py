"""Read shards one after the other for training and validation, as the index reads them."""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
KEPT = MAX_HEADER + 4 * BLOCK  # maximum bytes of a header with all its extensions
OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


class Announced(NamedTuple):
    """The result of the check of a shard, with which training must agree."""

    samples: int
    maps: int  # samples with a member that is read as a heatmap
    good: int  # samples without a fault
    annotated: int  # good samples with a heatmap
    bad: Mapping[str, tuple[str, str]]  # key -> (member, message)


class ForwardReader:
    """A stream of unknown length for `walk`: seeks forward by reading, and back within `KEPT`."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.position = stream, 0
        self.recent: deque[bytes] = deque()  # the last reads, of at least `KEPT` bytes together
        self.recent_size = 0  # bytes in `recent`
        self.pushed_back = b""  # bytes to return again after a step back

    def tell(self) -> int:
        return self.position

    def read(self, size: int = -1, /) -> bytes:
        parts = [self.pushed_back[:size] if size >= 0 else self.pushed_back]
        self.pushed_back = self.pushed_back[len(parts[0]) :]
        missing = size - len(parts[0])
        # a pipe may return fewer bytes than asked for
        while (size < 0 or missing > 0) and (
            part := self.stream.read(missing if size >= 0 else 1 << 20)
        ):
            parts.append(part)
            missing -= len(part)
        content = b"".join(parts)
        self._remember(content)
        self.position += len(content)
        return content

    def _remember(self, content: bytes) -> None:
        self.recent.append(content)
        self.recent_size += len(content)
        while self.recent_size - len(self.recent[0]) >= KEPT:
            self.recent_size -= len(self.recent.popleft())

    def seek(self, offset: int, /) -> int:
        if offset < self.position:
            recent = b"".join(self.recent)
            start = len(recent) - (self.position - offset)
            if start < 0:
                raise io.UnsupportedOperation(f"a step back to byte {offset} of a stream")
            self.pushed_back = recent[start:] + self.pushed_back
            self.recent, self.recent_size = deque([recent[:start]]), start
            self.position = offset
        while self.position < offset and self.read(min(offset - self.position, 1 << 20)):
            pass
        return self.position


def is_remote(url: str) -> bool:
    """Whether webdataset would read `url` through a program; file: is a local file."""
    return url.startswith(REMOTE)


def local_path(url: str) -> Path:
    """The path of a local shard, with or without `file:`, as in webdataset."""
    return Path(urlparse(url).path if url.startswith("file:") else url)


def expand_shards(shards: str) -> list[str]:
    """Expand braces and :: as in --train-data. Raises a DataError for another notation."""
    try:
        return expand_urls(shards)
    # AssertionError: an environment variable in ${...} is not set
    except (UnbalancedBracesError, AssertionError) as error:
        raise DataError(
            f"{shards}: not a list of shards ({error}); expected names with braces, such as "
            "train-{000..041}.tar, joined by ::."
        ) from error


def expand_paths(files: str) -> list[Path]:
    """Expand braces and :: to local paths."""
    return [local_path(url) for url in expand_shards(files)]


def shard_name(url: str) -> str:
    """The name of a shard in messages and sample ids: its path, or its URL."""
    return url if is_remote(url) else str(local_path(url))


def read_shards(
    sources: Iterable[Mapping[str, Any]],
    skip_bad: bool,
    announced: Mapping[str, Announced] | None = None,
    wanted: Collection[str] = READ_MEMBERS,
) -> Iterator[dict[str, Any]]:
    """A stage of open_clip's webdataset pipeline: {"url"} in, samples out.

    A sample is {`__url__`, `__key__`, `__faults__`, extension: bytes}. Only members in `wanted` are
    read; the content of the others is empty. A sample that is bad in `announced`, a dict by the
    name of the shard, has its fault here too.

    Raises:
        DataError: a damaged shard (with `skip_bad`, the rest of it is skipped with a warning), or
            a shard with other numbers of samples or heatmaps than `announced`.
    """
    for source in sources:
        url = source["url"]
        name = shard_name(url)
        expected = (announced or {}).get(name)
        samples = maps = 0
        try:
            for sample in _read_shard(url, wanted):
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
                f"heatmap; training read {samples} and {maps}. The shard has changed meanwhile; "
                "start again."
            )


def _read_shard(url: str, wanted: Collection[str]) -> Iterator[dict[str, Any]]:
    stream = _open(url)
    try:
        file = _unpacked(stream) if is_remote(url) else stream
        total = None if file is not stream else file.seek(0, 2)

        def take(extension: str, member: Member) -> bytes:
            return (
                read_content(file, member.offset, member.size, member.name)
                if extension in wanted
                else b""
            )

        for sample in walk_samples(file, total, take):
            yield {"__key__": sample.key, "__faults__": sample.faults, **sample.members}
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ArchiveError(f"not readable ({error}).") from error
    finally:
        # OSError: a program's exit code. Its output was a whole archive, or is an error already
        with suppress(OSError):
            stream.close()


def _open(url: str) -> Any:
    try:
        return gopen(url) if is_remote(url) else open(local_path(url), "rb")
    except (OSError, ValueError) as error:
        raise ArchiveError(f"not readable ({error}).") from error


def _unpacked(stream: Any) -> ForwardReader:
    """A reader of a remote stream that may be compressed, which webdataset accepts too."""
    reader = ForwardReader(stream)
    start = reader.read(6)
    reader.seek(0)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
    return reader if opener is None else ForwardReader(opener(reader))
