"""Cache the check of each shard, so that the second start of a run reads no shard.

The record of `train-0.tar` is in `.openclip_eclip_index/` of its folder. If that cannot be written,
it is in `$XDG_CACHE_HOME/openclip_eclip/index` (default ~/.cache). A record is valid for one name,
size and modification time of the shard, for the options of the check, and for this version of the
readers. Otherwise the shard is checked again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..check import Fault, Report, check_entries
from ..images.options import ReadOptions
from .stream import Announced
from .tar_source import TarEntry, open_shard, walk_shard

FOLDER = ".openclip_eclip_index"
MAGIC = b"openclip_eclip shard check\n"
LIBRARIES = ("pillow", "numpy", "webdataset", "pydicom")  # used by the readers
DIGEST = 32  # length of the hexadecimal digest before the content


@dataclass(frozen=True)
class CheckOptions:
    """What is checked, in addition to the captions."""

    heatmaps: bool = True
    windows: bool = False
    images: bool = False  # decode every image
    read: ReadOptions = ReadOptions()
    group: str | None = None  # a field of the json that every sample must have


@dataclass
class ShardReport:
    """The result of the check of one shard."""

    shard: Path
    samples: int
    maps: int  # samples with a member that is read as a heatmap
    good: int  # samples without a fault
    windows: int  # good samples with sentence windows
    faults: list[Fault]
    annotated: list[TarEntry]  # the good samples with a heatmap
    warnings: list[str] = field(default_factory=list)  # of the shard as a whole

    @property
    def announced(self) -> Announced:
        """What training must read from this shard."""
        prefix = f"{self.shard}, "
        return Announced(
            self.samples,
            self.maps,
            self.good,
            len(self.annotated),
            {
                fault.where.removeprefix(prefix): (fault.key, fault.message)
                for fault in self.faults
                if fault.where.startswith(prefix)
            },
        )


def check_shards(
    shards: Sequence[Path], options: CheckOptions, progress: bool = True
) -> list[ShardReport]:
    """Check `shards`, or take the reports from the cache where they are valid.

    Raises a DataError for a shard that cannot be opened.
    """
    reports = [_load(shard, options) for shard in shards]
    missing = [i for i, report in enumerate(reports) if report is None]
    with (
        # reading the headers is Python code: more threads would wait for each other
        ThreadPoolExecutor(max_workers=2) as pool,
        tqdm(
            total=len(missing),
            desc="check shards",
            unit="shard",
            disable=None if progress else True,
            leave=False,
        ) as bar,
    ):
        for i, report in zip(missing, pool.map(lambda i: _check(shards[i], options), missing)):
            reports[i] = report
            bar.update()
    return [report for report in reports if report is not None]  # none is None any more


def join_reports(reports: Sequence[ShardReport]) -> Report:
    """Join the reports of several shards; `good` stays empty, since each shard has its own."""
    return Report(
        sum(report.samples for report in reports),
        sum(len(report.annotated) for report in reports),
        [fault for report in reports for fault in report.faults],
        with_windows=sum(report.windows for report in reports),
        warnings=[
            f"{report.shard.name}: {warning}" for report in reports for warning in report.warnings
        ],
    )


def _check(shard: Path, options: CheckOptions) -> ShardReport:
    """Check a shard and store the record."""
    with open_shard(shard) as file:
        before = os.fstat(file.fileno())
        entries, damage = walk_shard(shard, file)
        # all samples of this shard are read from one open file
        opened = [TarEntry(shard, e.key, e.members, e.faults, file) for e in entries]
        report = check_entries(
            opened,
            heatmaps=options.heatmaps,
            windows=options.windows,
            decode_images=options.images,
            options=options.read,
            group=options.group,
        )
    good = [entries[i] for i in report.good]
    faults = [*report.faults, *([Fault(str(shard), "archive", damage)] if damage else [])]
    result = ShardReport(
        shard,
        len(entries),
        sum(entry.annotated for entry in entries),
        len(good),
        sum(entry.with_windows for entry in good) if options.windows else 0,
        faults,
        [entry for entry in good if entry.annotated] if options.heatmaps else [],
        report.warnings,
    )
    _store(result, before, options)
    return result


# ---- the cache


@lru_cache(maxsize=8)
def _fingerprint(options: CheckOptions) -> str:
    """A hash of all that decides the result: options, source of the readers, their libraries."""
    readers = sorted(Path(__file__).parents[1].rglob("*.py"))  # all of data/
    source = b"".join(path.read_bytes() for path in readers)
    text = json.dumps([asdict(options), *map(_version, LIBRARIES)], sort_keys=True)
    return hashlib.blake2b(source + text.encode(), digest_size=8).hexdigest()


def _version(library: str) -> str:
    """The version of a library, "" if it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _record_paths(shard: Path, options: CheckOptions) -> list[Path]:
    """The possible paths of the record, in the order in which they are tried."""
    name = f"{shard.name}.{_fingerprint(options)}.json"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = hashlib.blake2b(os.fsencode(shard.absolute().parent), digest_size=8).hexdigest()
    paths = [shard.parent / FOLDER / name]
    if not cache.startswith("~"):  # unexpanded for a user without a home, as in a container
        paths.append(Path(cache, "openclip_eclip", "index", folder, name))
    return paths


def _identity(shard: Path, stat: os.stat_result) -> list[Any]:
    return [shard.name, stat.st_size, stat.st_mtime_ns]


def _load(shard: Path, options: CheckOptions) -> ShardReport | None:
    """Load the record of a shard; None if there is no valid one."""
    for path in _record_paths(shard, options):
        try:
            raw = path.read_bytes()
            content = raw[len(MAGIC) + DIGEST :]
            if raw[: len(MAGIC) + DIGEST] != MAGIC + _digest(content):
                continue
            record = json.loads(content)
            if record["shard"] != _identity(shard, os.stat(shard)):
                continue
            return _from_record(shard, record)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _from_record(shard: Path, record: dict[str, Any]) -> ShardReport:
    entries = [
        TarEntry(shard, key, {name: tuple(extent) for name, extent in members.items()})
        for key, members in record["annotated"]
    ]
    faults = [
        Fault(f"{shard}, {where}" if where else str(shard), key, message)
        for where, key, message in record["faults"]
    ]
    samples, maps, good, windows = (
        int(record[name]) for name in ("samples", "maps", "good", "windows")
    )
    warnings = [str(warning) for warning in record["warnings"]]
    return ShardReport(shard, samples, maps, good, windows, faults, entries, warnings)


def _store(report: ShardReport, stat: os.stat_result, options: CheckOptions) -> None:
    """Write the record; if no folder can be written, the shard is checked again next time."""
    shard, prefix = report.shard, f"{report.shard}, "
    record = {
        "shard": _identity(shard, stat),
        "samples": report.samples,
        "maps": report.maps,
        "good": report.good,
        "windows": report.windows,
        "annotated": [[entry.key, entry.members] for entry in report.annotated],
        "warnings": report.warnings,
        "faults": [
            [where.removeprefix(prefix) if where.startswith(prefix) else "", key, message]
            for where, key, message in report.faults
        ],
    }
    content = json.dumps(record).encode()
    for path in _record_paths(shard, options):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(MAGIC + _digest(content) + content)
            os.replace(temporary, path)
            return
        except OSError:
            continue


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST // 2).hexdigest().encode()
