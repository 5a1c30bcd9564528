"""Writes a plan in chunks, by any number of processes and jobs, in any order.

A chunk is `shard_size` samples of one split, in the plan's order. It is written completely or not
at all: its record `.chunks/SPLIT-000000.json` is written last. An interrupted run therefore resumes
with the chunks that have no record. All jobs share OUT; the job that finds all records writes the
tables. The jobs together write the same bytes as one run.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..config import DataError, UserError
from ..data import scanpath
from ..files import sha256
from ..gaze import files
from ..json_text import counted, read_json
from ..version import __version__
from .images import ImageError
from .options import Options
from .plan import Item, Plan
from .write_sample import Written, write_sample


class Chunk(NamedTuple):
    split: str
    number: int
    items: Collection[Any]  # one for each sample
    labelled: bool  # of an evaluation set, which is always a table with files

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}"

    def record(self, out: Path) -> Path:
        """The file that is written last: a chunk with a record is complete."""
        return out / ".chunks" / f"{self.name}.json"

    def is_shard(self, options: Options) -> bool:
        """Whether this chunk is one .tar file."""
        return options.format == "webdataset" and not self.labelled

    def is_whole(self, options: Options) -> bool:
        """Whether this chunk has been written completely."""
        return self.record(options.out).exists() and (
            not self.is_shard(options) or (options.out / f"{self.name}.tar").exists()
        )


def write_plan(plan: Plan, options: Options, parameters: dict[str, Any]) -> str:
    """Writes this job's part of the plan; returns the summary line.

    `parameters`: everything besides the tables that the output depends on.

    Raises:
        UserError: OUT was started with other parameters.
    """
    begin(plan, options, parameters)
    return write_chunks(plan, options, list(_chunks(plan, options)), write_chunk)


def write_chunks(
    plan: Plan, options: Options, chunks: list[Chunk], write: Callable[[Chunk, Options], None]
) -> str:
    """Writes the incomplete chunks of this job; returns the summary line.

    `write` runs in the worker processes. The job that completes the last chunk writes the tables.
    """
    mine = [chunk for i, chunk in enumerate(chunks) if i % options.part[1] == options.part[0]]
    todo = [chunk for chunk in mine if not chunk.is_whole(options)]
    with (
        ProcessPoolExecutor(options.workers) as pool,
        tqdm(
            total=sum(len(chunk.items) for chunk in todo),
            unit="image",
            desc=plan.name,
            disable=None,
        ) as bar,
    ):
        futures = {pool.submit(write, chunk, options): chunk for chunk in todo}
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(len(futures[future].items))
        finally:  # after an error, do not start further chunks
            pool.shutdown(cancel_futures=True)
    missing = [chunk.name for chunk in chunks if not chunk.is_whole(options)]
    if missing:
        return (
            f"{plan.name}: part {options.part[0]} of {options.part[1]} done; {len(missing)} of"
            f" {len(chunks)} chunks are left to other parts"
        )
    return finish(plan, options, chunks)


def begin(plan: Plan, options: Options, parameters: dict[str, Any]) -> None:
    """Creates OUT, or checks that it was started with the same tables, package and settings.

    Raises:
        UserError: OUT was started with other settings, or holds other files.
    """
    settings = {
        "data_set": plan.name,
        "version": __version__,
        "size": options.size,
        "quality": options.quality,
        "format": options.format,
        "limit": options.limit,
        "shard_size": options.shard_size,
        "image_range": options.reading.grey_range,
        **parameters,
        "tables": {path.name: sha256(path) for path in plan.tables},
    }
    path = options.out / ".chunks" / "settings.json"
    settings = json.loads(json.dumps(settings, default=str))
    if path.exists():
        earlier = read_json(path)
        different = sorted(
            key for key in {*earlier, *settings} if earlier.get(key) != settings.get(key)
        )
        if different:
            raise UserError(
                f"{options.out} was started with other settings ({', '.join(different)}); expected"
                " the same settings to resume. Name another folder, or remove this one."
            )
        return
    if options.out.exists() and any(entry.name != ".chunks" for entry in options.out.iterdir()):
        raise UserError(
            f"{options.out} holds other files; expected a new or empty folder. Name another one."
        )
    write_whole(path, json.dumps(settings, indent=2).encode())


def _chunks(plan: Plan, options: Options) -> Iterator[Chunk]:
    """All chunks: those of the splits, then those of the evaluation sets."""
    sets = [(name, items, False) for name, items in plan.splits.items()]
    sets += [(name, chosen.items, True) for name, chosen in plan.evaluation.items()]
    for name, items, labelled in sets:
        items = items[: options.limit]
        for number, first in enumerate(range(0, len(items), options.shard_size)):
            yield Chunk(name, number, items[first : first + options.shard_size], labelled)


def write_chunk(chunk: Chunk, options: Options) -> None:
    """Writes all samples of a chunk, as one shard or as files with rows, and the record last."""
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}  # key -> reason
    counted: dict[str, list[str]] = {}  # reason to leave out a part of a sample -> keys
    buffer = io.BytesIO()
    archive = (
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT)
        if chunk.is_shard(options)
        else None
    )
    for item in chunk.items:
        try:
            written = write_sample(item, options)
        except FileNotFoundError as error:
            skipped[item.key] = f"no such file: {error.filename}"
            continue
        except ImageError as error:
            if not options.skip_bad:
                raise
            skipped[item.key] = str(error)
            continue
        for note in written.notes:
            counted.setdefault(note, []).append(item.key)
        if archive is not None:
            _add_to_shard(archive, item, written)
        else:
            rows.append(_write_files(options.out, item, written, chunk.labelled))
    if archive is not None:
        archive.close()
        write_whole(options.out / f"{chunk.name}.tar", buffer.getvalue())
    record = {
        "samples": len(chunk.items) - len(skipped),
        "skipped": skipped,
        "counted": counted,
        "rows": rows,
    }
    write_whole(chunk.record(options.out), json.dumps(record).encode())


def _add_to_shard(archive: tarfile.TarFile, item: Item, written: Written) -> None:
    members = {"jpg": written.image, "txt": item.text.encode()}
    if written.heatmap is not None:
        members["heatmap.png"] = written.heatmap
    if item.columns:
        members["json"] = json.dumps(item.columns).encode()
    if written.windows is not None:
        members["windows.json"], members["windows.npz"] = written.windows
    if written.scanpath is not None:
        members[scanpath.MEMBER] = written.scanpath
    add_members(archive, item.key, members)


def add_members(archive: tarfile.TarFile, key: str, members: dict[str, bytes]) -> None:
    """Adds one sample, {extension: content}, to a shard."""
    for extension, content in members.items():
        info = tarfile.TarInfo(f"{key}.{extension}")  # mtime 0, no owner: always the same bytes
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def _write_files(out: Path, item: Item, written: Written, labelled: bool) -> dict[str, Any]:
    row = write_files(out, item.key, written.image, item.text, written.heatmap)
    if labelled:
        del row["heatmap"]
    if written.windows is not None:
        row["windows"] = f"windows/{item.key}.windows.json"
        for name, content in zip(
            (row["windows"], f"windows/{item.key}.windows.npz"), written.windows, strict=True
        ):
            write_whole(out / name, content)
    if written.scanpath is not None:
        row["scanpath"] = f"scanpaths/{item.key}.{scanpath.MEMBER}"
        write_whole(out / row["scanpath"], written.scanpath)
    return {**row, **item.columns}


def write_files(
    out: Path, key: str, image: bytes, text: str, heatmap: bytes | None
) -> dict[str, Any]:
    """Writes the files of one sample; returns its row, with paths relative to the table.

    `key` is the name of the files, without a suffix.
    """
    row: dict[str, Any] = {
        "filepath": f"images/{key}.jpg",
        "title": text,
        "heatmap": f"heatmaps/{key}.png" if heatmap else "",
    }
    write_whole(out / row["filepath"], image)
    if heatmap:
        write_whole(out / row["heatmap"], heatmap)
    return row


def finish(plan: Plan, options: Options, chunks: list[Chunk]) -> str:
    """Writes what needs all chunks; returns the summary line.

    That is the tables, sizes.json, the recipes of the evaluation sets, and manifest.json.
    """
    records = {chunk.name: _read_record(chunk.record(options.out)) for chunk in chunks}
    skipped = {
        key: reason for record in records.values() for key, reason in record["skipped"].items()
    }
    if skipped and not any(record["samples"] for record in records.values()):
        key, reason = next(iter(skipped.items()))
        raise UserError(
            f"{plan.name}: none of the {len(skipped)} images can be read, such as {key}: {reason}."
            f" Check the folder of the images, and remove {options.out} before the next try."
        )
    sizes, summary = {}, []
    for split in dict.fromkeys(chunk.split for chunk in chunks):
        of_split = [chunk for chunk in chunks if chunk.split == split]
        samples = {chunk.name: records[chunk.name]["samples"] for chunk in of_split}
        summary.append(f"{split} {sum(samples.values())}")
        if of_split[0].is_shard(options):
            sizes.update({f"{name}.tar": count for name, count in samples.items()})
        else:
            rows = [row for chunk in of_split for row in records[chunk.name]["rows"]]
            write_table(options.out / f"{split}.csv", rows)
    if sizes:
        write_whole(options.out / "sizes.json", json.dumps(sizes, indent=2).encode())
    for record in records.values():
        for reason, names in record.get("counted", {}).items():
            for name in names:
                plan.leave_out(reason, name)
    for name, chosen in plan.evaluation.items():
        keys = [item.key for item in chosen.items[: options.limit] if item.key not in skipped]
        recipe = {
            "set": name,
            "rule": chosen.rule,
            "seed": chosen.seed,
            "classes": chosen.classes,
            "images": keys,
            "sha256_of_images": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
        }
        write_whole(options.out / f"{name}.recipe.json", json.dumps(recipe, indent=2).encode())
    settings = read_json(options.out / ".chunks" / "settings.json")
    manifest = {
        **settings,
        "numpy": np.__version__,
        "facts": plan.facts,
        "left_out": dict(plan.left_out),
        "examples": plan.examples,
        "skipped": skipped,
    }
    write_whole(options.out / "manifest.json", json.dumps(manifest, indent=2, default=str).encode())
    unread = counted(len(skipped), "image")
    missing = f"; {unread} could not be read, see manifest.json" if skipped else ""
    return f"{plan.name}: {', '.join(summary)} ({options.format}) in {options.out}{missing}"


def _read_record(path: Path) -> dict[str, Any]:
    """The record of a chunk.

    Raises:
        UserError: the record is damaged. Once it is removed, its chunk is written again.
    """
    try:
        record = read_json(path)
    except DataError as error:
        raise UserError(f"{error} Remove that file: its chunk is then written again.") from error
    if not {"samples", "skipped", "rows"} <= set(record):
        raise UserError(
            f"{path}: {sorted(record)}; expected samples, skipped and rows. Remove that file: its"
            " chunk is then written again."
        )
    return record


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as a CSV table; columns that a row lacks are blank."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_whole(path, text.getvalue().encode())


def write_whole(path: Path, content: bytes) -> None:
    """`gaze.files.write_whole`, in a folder that is created if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, content)
