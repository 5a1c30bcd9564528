"""webdataset shards: members `key.jpg`, `key.txt` and, where annotated, `key.heatmap.png` (or .npy, .npz)."""
from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

from torch.utils.data import Dataset

from .heatmap import SUFFIXES, DataError
from .joint_transform import JointTransform
from .missing_text import is_missing
from .sample import Control, Sample, Tokenize, make_sample, read_heatmap, read_image, stable_id
from .windows import MAPS_MEMBER, TEXT_MEMBER, decode_windows, has_windows

IMAGE_MEMBERS = ("jpg", "png", "jpeg", "webp")  # open_clip's, in its order
HEATMAP_MEMBERS = tuple(f"heatmap{suffix}" for suffix in SUFFIXES)


def find_member(members: Iterable[str], names: tuple[str, ...]) -> str | None:
    """The first of `names` that a sample has."""
    return next((name for name in names if name in members), None)


def read_members(members: dict[str, Any], where: str, transform: JointTransform, tokenize: Tokenize,
                 sample_id: int, control: Control | None = None, windows: bool = False) -> Sample:
    """A sample from its members `extension -> bytes`, with `windows` also its sentences; DataError names shard and key."""
    image_key = find_member(members, IMAGE_MEMBERS)
    if image_key is None or "txt" not in members:
        found = sorted(key for key in members if not key.startswith("__"))
        raise DataError(f"{where}: members {found}; expected an image ({', '.join(IMAGE_MEMBERS)}) and a txt.")
    image = read_image(members[image_key], f"{where}.{image_key}", mode="RGB")
    heatmap_key = find_member(members, HEATMAP_MEMBERS)
    heatmap = None
    if heatmap_key is not None:
        heatmap = read_heatmap(members[heatmap_key], f"{where}.{heatmap_key}", image)
    told = None
    if windows and has_windows(members, where):
        told = decode_windows(members[TEXT_MEMBER], members[MAPS_MEMBER], f"{where}.windows", (image.height, image.width))
    try:
        caption = members["txt"].decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}.txt: not UTF-8 ({error}).") from error
    if is_missing(caption):
        raise DataError(f"{where}.txt: no caption, found {caption.strip()[:40]!r}.")
    return make_sample(transform, tokenize, image, caption, sample_id, heatmap, control, told)


def decode_stream(stream: Iterable[dict[str, Any]], transform: JointTransform, tokenize: Tokenize,
                  skip_bad: bool, control: Control | None = None, windows: bool = False) -> Iterator[Sample]:
    """Stage of open_clip's webdataset pipeline: raw members in, samples out; bad ones stop it or are named by the next."""
    skipped: list[str] = []
    for members in stream:
        where = f"{members['__url__']}, {members['__key__']}"
        try:
            sample = read_members(members, where, transform, tokenize, stable_id(where), control, windows)
        except DataError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
            continue
        sample.skipped, skipped = skipped, []
        yield sample


@dataclass(frozen=True)
class TarEntry:
    """Where the members of one sample lie: extension -> (offset, length) in bytes."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]

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

    def read(self, *names: str) -> dict[str, bytes]:
        """The content of the named members, of all without a name."""
        content = {}
        with open(self.shard, "rb") as file:
            for name in names or self.members:
                offset, length = self.members[name]
                file.seek(offset)
                content[name] = file.read(length)
        return content


def index_shard(shard: Path) -> list[TarEntry]:
    """All samples of an uncompressed shard without reading their content; DataError for a broken archive."""
    entries: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                key, _, extension = base.partition(".")
                if member.isfile() and extension:
                    name = f"{folder}/{key}" if folder else key
                    entries.setdefault(name, {})[extension.lower()] = (member.offset_data, member.size)
            end = max((offset + size for members in entries.values() for offset, size in members.values()), default=0)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard}: not a readable tar archive ({error}); shards must exist and be uncompressed.") from error
    if end > shard.stat().st_size:
        raise DataError(f"{shard}: truncated: {shard.stat().st_size} bytes where its index asks for {end}. Copy it again.")
    return [TarEntry(shard, key, members) for key, members in entries.items()]


class TarSamples(Dataset):
    """Map-style data set over indexed shards, sample i under the number `ids[i]`."""

    def __init__(self, entries: list[TarEntry], transform: JointTransform, tokenize: Tokenize, ids: Sequence[int],
                 control: Control | None = None, windows: bool = False) -> None:
        self.entries, self.transform, self.tokenize, self.ids, self.control = entries, transform, tokenize, ids, control
        self.windows = windows

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        return read_members(entry.read(), entry.where, self.transform, self.tokenize, self.ids[index], self.control,
                            self.windows)
