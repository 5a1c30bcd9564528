"""Read the members of a tar archive and group them to samples, for the index and for training.

The rules are those of webdataset 0.2 and open_clip's `group_by_keys_nothrow`:

* The key ends at the first dot of the base name; the rest, in lower case, is the member.
* `__name__` is skipped.
* Only neighbouring members form a sample. A member that the sample already has begins another one.

There are two differences. Names that begin with a dot are skipped in folders, too; webdataset takes
them for members of the folder. And what webdataset skips silently, but nobody intends, is a fault:
damage, links, a key that occurs twice.
"""

from __future__ import annotations

import re
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from webdataset.tariterators import base_plus_ext

from ...config import DataError

BLOCK = 512  # bytes
MAX_HEADER = 1 << 20  # maximum bytes of one long name or one set of pax fields
PAX = ord("x")
PAX_FIELD = re.compile(rb"(\d{1,9}) ([^=]+)=")
# Pax fields that change where the content is, or how to read the name
PAX_OTHER = (b"size", b"hdrcharset", b"GNU.sparse")
META = re.compile(r"__[^/]*__($|/)")  # webdataset's skip_meta
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
KEY_AGAIN = (
    "members of this key are in several parts of the archive; webdataset joins only neighbours: "
    "sort the members by name, or give each sample a different key"
)
KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


class ArchiveError(DataError):
    """Damage of an archive: what follows it cannot be read."""


class Readable(Protocol):
    """A file that is sought forward only, except for a header that was just read."""

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, /) -> Any: ...
    def tell(self) -> int: ...


class Member(NamedTuple):
    """One member of an archive."""

    name: str
    offset: int  # bytes
    size: int  # bytes
    kind: str = ""  # what it is, if it is not a regular file


END = Member("", 0, 0, "the end of the archive")


@dataclass
class ShardSample:
    """Neighbouring members of one key."""

    key: str
    members: dict[str, Any] = field(default_factory=dict)  # extension -> result of `take`
    faults: list[tuple[str, str]] = field(default_factory=list)  # (member, message)


def walk_samples(
    file: Readable, total: int | None, take: Callable[[str, Member], Any]
) -> Iterator[ShardSample]:
    """Yield the samples of an open archive in order.

    Args:
        total: size of the file in bytes; None for a stream.
        take: called as take(extension, member) for each member, while the file is at it.

    Raises:
        ArchiveError: at damage. The sample before it may lack members and is not yielded.
    """
    return group_members(walk_members(file, total), take)


def place_of(_: str, member: Member) -> tuple[int, int]:
    """(offset, size) in bytes: what the index stores of a member."""
    return member.offset, member.size


def group_members(
    members: Iterator[Member], take: Callable[[str, Member], Any] = place_of
) -> Iterator[ShardSample]:
    """Join neighbours to samples; links and the like become faults of their sample."""
    sample: ShardSample | None = None
    seen: set[str] = set()
    unread: dict[str, list[tuple[str, str]]] = {}  # faults of members that precede their sample
    for member in members:
        if member is END:  # the last sample is complete, whatever follows the end
            break
        key, extension = split_name(member.name)
        if key is None:
            continue
        # links, devices and the like
        if member.kind:
            message = (
                f"{member.kind}, which webdataset skips; expected a regular file: use tar with"
                " --dereference --hard-dereference"
            )
            in_sample = sample is not None and sample.key == key
            faults = sample.faults if sample and in_sample else unread.setdefault(key, [])
            faults.append((extension, message))
            continue
        # the first member of another sample
        if sample is None or key != sample.key or extension in sample.members:
            if sample is not None:
                yield sample
            faults = unread.pop(key, [])
            if key in seen:
                twice = sample is not None and key == sample.key
                faults.append(
                    (extension, "this member is in the archive twice")
                    if twice
                    else ("key", KEY_AGAIN)
                )
            seen.add(key)
            sample = ShardSample(key, {}, faults)
        sample.members[extension] = take(extension, member)
    if sample is not None:
        yield sample
    for key, faults in unread.items():
        yield ShardSample(key, {}, faults)
    # let `members` check what follows the end
    for _ in members:
        pass


def split_name(name: str) -> tuple[str | None, str]:
    """(key, member in lower case) of a name in an archive; key None: the name is skipped."""
    if name.startswith("__") and (META.match(name) or ("/" not in name and name.endswith("__"))):
        return None, ""
    base = name.rfind("/") + 1
    if name.startswith(".", base):  # ._name of macOS, .DS_Store
        return None, ""
    key, extension = base_plus_ext(name)
    return (None, "") if key is None else (key, extension.lower())


def walk_members(file: Readable, total: int | None) -> Iterator[Member]:
    """Yield every member that is not a folder, in order, then END.

    Raises an ArchiveError at damage, or if anything follows the end.
    """
    position = 0
    shared: dict[str, str] = {}  # pax fields that apply to all following members
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            _raise_cut(position, len(header))
        if position == 0:
            _raise_compressed(header)
        if not header.strip(b"\0"):
            yield END
            _check_rest(file, position + BLOCK)
            return
        member = None if shared else _plain_member(file, header, position)
        if member is not None:
            following = member.offset + padded(member.size)
        else:
            member, following = _library_header(file, header, position, shared)
        if total is not None and member.offset + member.size > total and not member.kind:
            raise ArchiveError(
                f"cut off in the member {member.name!r}: it ends at byte "
                f"{member.offset + member.size}, the file at {total}. Copy it again."
            )
        if member.kind != "a folder":
            yield member
        position = following


def read_content(file: Readable, offset: int, size: int, name: str) -> bytes:
    """Read the content of a member. Raises an ArchiveError if the file ends before."""
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise ArchiveError(
            f"cut off in the member {name!r}: {len(content)} of {size} bytes. Copy it again."
        )
    return content


def padded(size: int) -> int:
    """`size` in bytes, rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _plain_member(file: Readable, header: bytes, position: int) -> Member | None:
    """The member that begins with `header`, just read; None if only the standard library can tell.

    Pax fields are read here because webdataset's writer puts some (the time) before every member.
    """
    plain = _plain_header(header, b"0\0x")
    if plain is None or header[156] != PAX:
        return plain and Member(plain[0], position + BLOCK, plain[1])
    length = plain[1]
    if length > MAX_HEADER:
        return None
    renamed, path = _pax_path(file.read(padded(length))[:length])
    position += BLOCK + padded(length)
    header = file.read(BLOCK) if renamed else b""
    plain = _plain_header(header, b"0\0") if len(header) == BLOCK else None
    return plain and Member(path or plain[0], position + BLOCK, plain[1])


def _plain_header(header: bytes, types: bytes) -> tuple[str, int] | None:
    """(name, size) of a valid, ordinary header of one of `types`, else None."""
    if header[156] not in types or (header[345] and header[257:265] != b"ustar\x0000"):
        return None
    try:
        size = int(header[124:136].partition(b"\0")[0] or b"0", 8)
        checksum = int(header[148:156].partition(b"\0")[0] or b"0", 8)
    except ValueError:
        return None
    if size < 0 or sum(header) - sum(header[148:156]) + 256 != checksum:
        return None
    name = header[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if header[345]:
        name = header[345:500].partition(b"\0")[0].decode("utf-8", "surrogateescape") + "/" + name
    return None if name.endswith("/") else (name, size)


def _pax_path(data: bytes) -> tuple[bool, str | None]:
    """(whether these pax fields can be read here, the name of the member in them or None).

    Fields that give a size, or make the member sparse, cannot be read here.
    """
    path, position = None, 0
    while position < len(data) and data[position]:
        match = PAX_FIELD.match(data, position)
        if match is None or int(match[1]) <= match.end() - position:
            return False, None
        end = position + int(match[1])
        if match[2] == b"path":
            path = data[match.end() : end - 1].decode("utf-8", "surrogateescape")
        elif match[2].startswith(PAX_OTHER):
            return False, None
        position = end
    return not (path or "").endswith("/"), path


def _library_header(
    file: Readable, header: bytes, position: int, shared: dict[str, str]
) -> tuple[Member, int]:
    """(member, offset of the next header) by the standard library.

    It reads long names, pax fields, links and large files.
    """
    # typeshed lacks `nti`, `InvalidHeaderError` and `firstmember`, and asks for `write` of files
    # that are only read
    try:
        if (
            header[156:157] in (b"L", b"K", b"x", b"g", b"X")
            and tarfile.nti(header[124:136]) > MAX_HEADER  # type: ignore[attr-defined]
        ):
            raise tarfile.InvalidHeaderError(  # type: ignore[attr-defined]
                "a name or field of more than 1 MiB"
            )
        file.seek(position)
        archive = tarfile.TarFile(fileobj=file, pax_headers=shared)  # type: ignore[arg-type]
    except (
        tarfile.TarError,
        ValueError,
        OverflowError,
        EOFError,
        IndexError,
        struct.error,
        RecursionError,
    ) as error:
        raise ArchiveError(
            f"a damaged header at byte {position} ({error}): what follows is lost. Write the "
            "archive again."
        ) from error
    member: tarfile.TarInfo | None = archive.firstmember  # type: ignore[attr-defined]
    shared.update(archive.pax_headers)
    if member is None or member.size < 0 or archive.offset <= position:
        raise ArchiveError(
            f"a damaged header at byte {position}: what follows is lost, and webdataset would not "
            "report it. Write the archive again."
        )
    kind = ""
    if member.isdir():
        kind = "a folder"
    elif member.issparse():
        kind = "a sparse file"
    elif not member.isreg():
        kind = KINDS.get(member.type, "of an unknown type")
    return Member(member.name, member.offset_data, member.size, kind), archive.offset


def _raise_cut(position: int, size: int) -> None:
    """Raise an ArchiveError for a header of only `size` bytes at `position`."""
    if position + size == 0:
        raise ArchiveError("an empty file; expected a tar archive.")
    if position == 0:
        raise ArchiveError(f"{size} bytes; expected a tar archive.")
    raise ArchiveError(
        f"no end marker at byte {position}: the archive was cut off there, and its last samples "
        "are missing. Copy it again, or write it again and close it."
    )


def _raise_compressed(header: bytes) -> None:
    """Raise an ArchiveError if the archive is compressed."""
    kind = next((kind for magic, kind in COMPRESSED.items() if header.startswith(magic)), None)
    if kind and _plain_header(header, b"0\0") is None:
        raise ArchiveError(
            f"compressed ({kind}); shards must be uncompressed tar archives, since samples are "
            "read one by one."
        )


def _check_rest(file: Readable, position: int) -> None:
    """Raise an ArchiveError if anything but zeros follows the end marker."""
    file.seek(position)
    while chunk := file.read(BLOCK * 64):
        rest = chunk.lstrip(b"\0")
        if rest:
            start = (len(chunk) - len(rest)) // BLOCK * BLOCK
            if _plain_header(chunk[start : start + BLOCK].ljust(BLOCK, b"\0"), b"0\0x") is not None:
                raise ArchiveError(
                    f"another archive begins at byte {position + start}, and webdataset reads "
                    "only the first: name the archives one by one, or join them with tar "
                    "--concatenate."
                )
            raise ArchiveError(
                f"other data after the end of the archive, from byte {position + start} on. Copy "
                "it again."
            )
        position += len(chunk)
