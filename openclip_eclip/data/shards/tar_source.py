"""Read samples of webdataset shards.

A sample has the members `key.jpg`, `key.txt` and, if annotated, `key.heatmap.png` (.npy, .npz).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from torch.utils.data import Dataset

from ...config import DataError
from ...json_text import decode_text, parse_json
from ..images.options import ReadOptions
from ..images.read import read_picture
from ..joint_transform import JointTransform
from ..sample import Placebo, Sample, Tokenize, make_sample, read_levels, read_windows, stable_id
from ..sentence_windows import MAPS_MEMBER, TEXT_MEMBER, has_windows
from ..tables.missing_text import is_missing
from .members import (
    FIELDS_MEMBER,
    HEATMAP_MEMBERS,
    IMAGE_MEMBERS,
    READ_MEMBERS,
    Fault,
    find_member,
    member_faults,
)
from .walk import KEY_AGAIN, ArchiveError, place_of, walk_samples


def read_members(
    members: Mapping[str, Any],
    where: str,
    transform: JointTransform,
    tokenize: Tokenize,
    sample_id: int,
    placebo: Placebo | None = None,
    windows: bool = False,
    heatmaps: bool = True,
    options: ReadOptions = ReadOptions(),
    group: str | None = None,
) -> Sample:
    """Make a sample from its members, extension -> bytes.

    `windows` reads the sentence windows, too; `group`: the field that holds the sample's group.
    Raises a DataError that names shard and key.
    """
    faults = member_faults(members, heatmaps, windows)
    if faults:
        raise DataError(f"{where}, {faults[0][0]}: {faults[0][1]}.")
    image_key = find_member(members, IMAGE_MEMBERS)
    assert image_key is not None  # a sample without an image has a fault
    draft = transform.draft()
    picture = read_picture(members[image_key], f"{where}.{image_key}", options, draft)
    heatmap_key = find_member(members, HEATMAP_MEMBERS) if heatmaps else None
    heatmap = None
    if heatmap_key is not None:
        heatmap = read_levels(
            members[heatmap_key], f"{where}.{heatmap_key}", picture.frame, options
        )
    sentence_windows = None
    if windows and has_windows(members, where):
        sentence_windows = read_windows(
            members[TEXT_MEMBER], members[MAPS_MEMBER], f"{where}.windows", picture.frame, options
        )
    image = picture.image
    sample = make_sample(
        transform,
        tokenize,
        image if image.mode == "RGB" else image.convert("RGB"),
        read_caption(members, where),
        sample_id,
        heatmap,
        placebo,
        sentence_windows,
        transform.draw_view(),
        draft.crop if draft else None,
    )
    sample.group = read_group(members, where, group) if group else ""
    return sample


def read_group(members: Mapping[str, bytes], where: str, field_name: str) -> str:
    """The group of a sample, a field of its json; null is a blank. DataError: no such field."""
    content = members.get(FIELDS_MEMBER)
    fields = parse_json(content, f"{where}.{FIELDS_MEMBER}") if content is not None else {}
    if field_name not in fields:
        raise DataError(f"{where}: no field {field_name!r} (--same-text-by) in its json.")
    value = fields[field_name]
    return "" if value is None else str(value).strip()


def members_to_read(group: str | None) -> frozenset[str]:
    """The members that a sample is made of; `group` as in `read_members`."""
    return READ_MEMBERS | {FIELDS_MEMBER} if group else READ_MEMBERS


def read_caption(members: Mapping[str, bytes], where: str) -> str:
    """The txt of a sample. Raises a DataError if it is not UTF-8, or means "no text"."""
    caption = decode_text(members["txt"], f"{where}.txt")
    if is_missing(caption):
        raise DataError(f"{where}.txt: no caption, found {caption.strip()[:40]!r}.")
    return caption


def decode_stream(
    stream: Iterable[dict[str, Any]],
    transform: JointTransform,
    tokenize: Tokenize,
    skip_bad: bool,
    placebo: Placebo | None = None,
    windows: bool = False,
    heatmaps: bool = True,
    options: ReadOptions = ReadOptions(),
    group: str | None = None,
) -> Iterator[Sample]:
    """A stage of open_clip's webdataset pipeline: raw members in, samples out.

    A bad sample is a DataError. With `skip_bad` it is skipped, and the next sample names it.
    """
    skipped: list[str] = []
    for members in stream:
        where = f"{members['__url__']}, {members['__key__']}"
        try:
            content = sample_content(members)
            sample = read_members(
                content,
                where,
                transform,
                tokenize,
                stable_id(where),
                placebo,
                windows,
                heatmaps,
                options,
                group,
            )
        except DataError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
            continue
        sample.skipped, skipped = skipped, []
        yield sample


def sample_content(members: Mapping[str, Any]) -> dict[str, Any]:
    """Extension -> bytes of a sample from `stream.read_shards`.

    Raises a DataError for a fault found in the archive.
    """
    for member, message in members.get("__faults__", ()):
        raise DataError(f"{members['__url__']}, {members['__key__']}, {member}: {message}.")
    return {name: content for name, content in members.items() if not name.startswith("__")}


@dataclass(frozen=True)
class TarEntry:
    """The index of one sample in a shard."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]  # extension -> (offset, length) in bytes
    faults: tuple[Fault, ...] = ()  # (member, message) from the archive: a key twice, a link
    # the shard, if it is open already
    file: BinaryIO | None = field(default=None, repr=False, compare=False)

    @property
    def where(self) -> str:
        return f"{self.shard}, {self.key}"

    @property
    def image_key(self) -> str | None:
        return find_member(self.members, IMAGE_MEMBERS)

    @property
    def heatmap_key(self) -> str | None:
        return find_member(self.members, HEATMAP_MEMBERS)

    @property
    def annotated(self) -> bool:
        return self.heatmap_key is not None

    @property
    def with_windows(self) -> bool:
        return TEXT_MEMBER in self.members

    def all_faults(self, heatmaps: bool, windows: bool) -> list[Fault]:
        """The faults of the archive; without any, those of the members' names.

        Heatmaps and sentence windows are checked only with `heatmaps` and `windows`.
        """
        return list(self.faults) or member_faults(self.members, heatmaps, windows)

    def read(self, *names: str) -> dict[str, bytes]:
        """Read the content of the named members, or of all without a name.

        Raises a DataError if the shard has changed since it was indexed.
        """
        names = names or tuple(self.members)
        if self.file is not None:
            return self._read(self.file, names)
        try:
            with open(self.shard, "rb") as file:
                return self._read(file, names)
        except OSError as error:
            raise DataError(
                f"{self.where}: {error.strerror}; the shard existed when it was indexed."
            ) from error

    def read_image(self) -> bytes:
        """Read the image of a sample without faults. Raises DataError as `read` does."""
        key = self.image_key
        assert key is not None  # a sample without an image has a fault
        return self.read(key)[key]

    def read_heatmap(self) -> bytes:
        """Read the heatmap of an annotated sample. Raises DataError as `read` does."""
        key = self.heatmap_key
        assert key is not None
        return self.read(key)[key]

    def _read(self, file: BinaryIO, names: Iterable[str]) -> dict[str, bytes]:
        try:
            return {name: read_at(file, *self.members[name], name) for name in names}
        except ArchiveError as error:
            raise DataError(f"{self.where}: {error}") from error


def read_at(file: BinaryIO, offset: int, size: int, name: str) -> bytes:
    """Read the content of a member; other threads may read from the file meanwhile.

    Raises an ArchiveError if the file ends before.
    """
    content = os.pread(file.fileno(), size, offset)
    if len(content) < size:
        raise ArchiveError(
            f"cut off in the member {name!r}: {len(content)} of {size} bytes. Copy it again."
        )
    return content


@contextmanager
def open_shard(shard: Path) -> Iterator[BinaryIO]:
    """Open a shard. Raises a DataError if it cannot be opened."""
    try:
        with open(shard, "rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{shard}: not a readable tar archive ({error.strerror}).") from error


def walk_shard(shard: Path, file: BinaryIO) -> tuple[list[TarEntry], str | None]:
    """Index an open shard without reading the content of its members.

    Returns (the samples as training reads them, the message on damage that ends them, or None).
    """
    entries: list[TarEntry] = []
    damage = None
    total = file.seek(0, 2)
    try:
        for sample in walk_samples(file, total, place_of):
            entries.append(TarEntry(shard, sample.key, sample.members, tuple(sample.faults)))
    except ArchiveError as error:
        damage = str(error)
    parts = Counter(entry.key for entry in entries)
    # If a key occurs again, its first part is as bad as the others
    if len(parts) < len(entries):
        entries = [
            (
                entry
                if parts[entry.key] == 1 or entry.faults
                else replace(entry, faults=(("key", KEY_AGAIN),))
            )
            for entry in entries
        ]
    if not entries and damage is None:
        damage = "no sample in it; leave it out."
    return entries, damage


def index_shard(shard: Path) -> list[TarEntry]:
    """Index an uncompressed shard without reading the content of its members.

    Raises a DataError for a broken archive.
    """
    with open_shard(shard) as file:
        entries, damage = walk_shard(shard, file)
    if damage:
        raise DataError(f"{shard}: {damage}")
    return entries


def entries_before_damage(shard: Path) -> list[TarEntry]:
    """The samples that training reads of a shard: all, or those before the damage.

    Damage is not reported here; the check has done so.
    """
    with open_shard(shard) as file:
        return walk_shard(shard, file)[0]


class TarSamples(Dataset):
    """Map-style data set over indexed shards; sample i has the id `ids[i]`."""

    def __init__(
        self,
        entries: list[TarEntry],
        transform: JointTransform,
        tokenize: Tokenize,
        ids: Sequence[int],
        placebo: Placebo | None = None,
        windows: bool = False,
        options: ReadOptions = ReadOptions(),
        group: str | None = None,
    ) -> None:
        self.group = group
        self.entries, self.transform, self.tokenize, self.ids, self.placebo = (
            entries,
            transform,
            tokenize,
            ids,
            placebo,
        )
        self.windows, self.options = windows, options

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        wanted = members_to_read(self.group)
        content = entry.read(*(name for name in entry.members if name in wanted))
        return read_members(
            content,
            entry.where,
            self.transform,
            self.tokenize,
            self.ids[index],
            self.placebo,
            self.windows,
            options=self.options,
            group=self.group,
        )


def entry_windows(entry: TarEntry) -> tuple[bytes, bytes] | None:
    """Read (JSON, npz) of the sentence windows of a sample; None if it has none.

    Raises a DataError for one without the other.
    """
    if not has_windows(entry.members, entry.key):
        return None
    content = entry.read(TEXT_MEMBER, MAPS_MEMBER)
    return content[TEXT_MEMBER], content[MAPS_MEMBER]
