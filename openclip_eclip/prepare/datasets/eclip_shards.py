"""Converts the eCLIP authors' shards: images, reports, and the experts' heatmaps as grey PNGs.

SRC/{train,val}/*.tar hold `key.frontal_img` (an encoded image) and `key.report`. The expert
folder's *.tar hold `key.img.jpg`, `key.report.txt`, `key.manifest.json` and the members that the
manifest names: [{"heatmap": extension, "snippet": extension}]. A heatmap is a CSR matrix (shape,
indices, indptr, data) in .npz or JSON.

This layout is known from the reader in the authors' repository; the scripts that wrote such shards
are not public. That reader uses only the first heatmap and casts it to 8 bits, which turns a map in
[0, 1] into zeros. Here each heatmap is divided by its own maximum. Shards are read member by
member, and nothing is unpacked to disk.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...config import DataError, UserError
from ...data.heatmap import normalise_heatmap
from ...data.images.picture import QUARTER_TURNS, turn_maps
from ...data.tables.missing_text import is_missing
from ...json_text import counted, decode_text
from ..images import encode_jpeg, encode_map, read_small_picture
from ..options import Options, add_writing_arguments, read_options
from ..plan import Plan
from ..writer import Chunk, add_members, begin, write_chunks, write_files, write_whole
from .eclip_shards_files import read_manifest, read_map

MAIN, EXPERT = ("frontal_img", "report"), ("img.jpg", "report.txt")
LAYOUT = (
    "train/*.tar, val/*.tar of frontal_img and report; --expert FOLDER/*.tar of img.jpg, report.txt"
    " and manifest.json"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "src",
        type=Path,
        metavar="SRC",
        help="folder with train/*.tar and val/*.tar in the authors' layout",
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="folder to write to; the same command resumes an interrupted run",
    )
    parser.add_argument(
        "--expert",
        type=Path,
        metavar="FOLDER",
        help="folder of the expert shards, which become expert-*.tar",
    )
    parser.add_argument(
        "--heatmaps",
        choices=("mean", "first"),
        default="mean",
        help=(
            "which heatmaps of a sample are used; mean: the mean of all, each divided by its own"
            " maximum, because the text is the whole report; first: only the first, as in the"
            " authors' reader (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--resized-heatmaps",
        action="store_true",
        help="allows heatmaps of another size than their image, if the proportions are the same",
    )
    add_writing_arguments(parser)
    parser.set_defaults(shard_size=None)  # each shard becomes one shard


def run(args: argparse.Namespace) -> str:
    """Converts the shards of this job; returns the summary.

    Raises:
        UserError: there are no shards, a sample has errors, or OUT was started with other settings.
    """
    options = read_options(args)
    shards = list_shards(args.src, args.expert)
    plan = Plan("eclip-shards")
    chunks = plan_chunks(shards, plan, options)
    if args.dry_run:
        return plan.summary()
    sources = {
        name: f"{path.parent.name}/{path.name}, {path.stat().st_size} bytes"
        for (_, name), path in shards.items()
    }
    begin(
        plan,
        options,
        {
            "expert": str(args.expert),
            "heatmaps": args.heatmaps,
            "resized_heatmaps": args.resized_heatmaps,
            "shards": sources,
        },
    )
    write = partial(write_shard, {name: path for (_, name), path in shards.items()}, args)
    return "; ".join(
        [
            write_chunks(plan, options, chunks, write),
            *(f"{reason}: {count}" for reason, count in plan.left_out.items()),
        ]
    )


def list_shards(src: Path, expert: Path | None) -> dict[tuple[str, str], Path]:
    """{(split, new name): source} of each shard.

    Raises:
        UserError: there are no shards, or the expert folder has none.
    """
    shards: dict[tuple[str, str], Path] = {}
    for split, folder in (("train", src / "train"), ("val", src / "val"), ("expert", expert)):
        paths = sorted(folder.glob("*.tar")) if folder else []
        if split == "expert" and expert and not paths:
            raise UserError(
                f"--expert {expert}: no *.tar in this folder; expected the folder that directly"
                " holds the expert shards."
            )
        shards.update({(split, f"{split}-{number:06d}"): path for number, path in enumerate(paths)})
    if not shards:
        raise UserError(
            f"{src}: neither train/*.tar nor val/*.tar; expected the authors' layout ({LAYOUT})."
        )
    return shards


def plan_chunks(shards: dict[tuple[str, str], Path], plan: Plan, options: Options) -> list[Chunk]:
    """One chunk for each shard, with the keys of its samples as items.

    Each split is cut to --limit samples. The counts go into `plan`.

    Raises:
        DataError: a shard is damaged.
    """
    chunks: list[Chunk] = []
    for split in dict.fromkeys(split for split, _ in shards):
        paths = [path for (other, _), path in shards.items() if other == split]
        left, samples, with_manifest = options.limit, 0, 0
        for number, path in enumerate(
            tqdm(paths, desc=f"reading {split}", unit="shard", disable=None)
        ):
            keys = [(key, "manifest.json" in members) for key, members in read_samples(path)]
            keys = keys[:left]
            left = None if left is None else left - len(keys)
            samples += len(keys)
            with_manifest += sum(has_manifest for _, has_manifest in keys)
            chunks.append(Chunk(split, number, [key for key, _ in keys], False))
        plan.facts[f"split {split}"] = (
            f"{counted(samples, 'sample')} in {counted(len(paths), 'shard')}, {with_manifest}"
            " with a manifest of heatmaps"
        )
    return [chunk for chunk in chunks if chunk.items]


def write_shard(
    sources: dict[str, Path], args: argparse.Namespace, chunk: Chunk, options: Options
) -> None:
    """Writes one shard completely or not at all, and its record last.

    A sample with errors stops the run; with --on-bad-sample skip it is left out and named.
    """
    source, buffer, samples = sources[chunk.name], io.BytesIO(), 0
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}  # sample -> reason
    counted: dict[str, list[str]] = {}  # reason to leave out a part of a sample -> samples
    # GNU format, because USTAR does not take long keys
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for i, (key, members) in enumerate(islice(read_samples(source), len(chunk.items))):
            where = f"{source}, {key}"
            try:
                converted, notes = convert(
                    {name: read() for name, read in members.items()},
                    where,
                    chunk.split == "expert",
                    args,
                    options,
                )
            except UserError as error:
                if not options.skip_bad:
                    raise
                skipped[where] = str(error)
                continue
            for note in notes:
                counted.setdefault(note, []).append(where)
            if chunk.is_shard(options):
                add_members(archive, key, converted)
            else:  # a key of someone else's archive is not a safe file name
                files = write_files(
                    options.out,
                    f"{chunk.name}-{i:06d}",
                    converted["jpg"],
                    converted["txt"].decode(),
                    converted.get("heatmap.png"),
                )
                rows.append({**files, "key": key, **json.loads(converted.get("json", b"{}"))})
            samples += 1
    if chunk.is_shard(options):
        write_whole(options.out / f"{chunk.name}.tar", buffer.getvalue())
    record = {
        "source": str(source),
        "samples": samples,
        "skipped": skipped,
        "counted": counted,
        "rows": rows,
    }
    write_whole(chunk.record(options.out), json.dumps(record).encode())


def read_samples(shard: Path) -> Iterator[tuple[str, dict[str, Callable[[], bytes]]]]:
    """(key, {extension: function that reads the member}) in the order of the shard.

    Raises:
        DataError: the archive is truncated or damaged, a member is repeated, or the members of a
            sample are not together.
    """
    seen: set[str] = set()
    key: str | None = None
    members: dict[str, Callable[[], bytes]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if not member.isfile() or not extension:
                    continue
                name = f"{folder}/{stem}" if folder else stem
                if name != key:
                    if key is not None:
                        yield key, members
                    if name in seen:
                        raise DataError(
                            f"{shard}, {name}: its members are not together; expected all members"
                            " of a sample one after the other."
                        )
                    seen.add(name)
                    key, members = name, {}
                if extension in members:
                    raise DataError(
                        f"{shard}, {name}: member {extension} occurs twice; expected each once."
                    )
                members[extension] = partial(_read, shard, archive, member)
            if key is not None:
                yield key, members
            # tarfile takes a truncated or damaged header for the end, so check the end mark
            with open(shard, "rb") as file:
                file.seek(archive.offset)
                if file.read(512) != bytes(512):
                    raise tarfile.ReadError(f"no end mark at byte {archive.offset}")
    except (OSError, tarfile.TarError) as error:
        raise damaged(shard, error) from error
    if key is None:
        raise DataError(f"{shard}: no samples; expected members {LAYOUT}.")


def _read(shard: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        stream = archive.extractfile(member)
        assert stream is not None  # a regular file has one
        return stream.read()
    except (OSError, tarfile.TarError) as error:
        raise damaged(shard, error) from error


def damaged(shard: Path, error: Exception) -> DataError:
    return DataError(
        f"{shard}: not a complete tar archive ({error}); expected an uncompressed one. Copy it"
        " again."
    )


def convert(
    members: dict[str, bytes], where: str, expert: bool, args: argparse.Namespace, options: Options
) -> tuple[dict[str, bytes], list[str]]:
    """The members of a converted sample, and the reasons why something was left out.

    `members` are the authors' members by extension.

    Raises:
        UserError: a member is missing or has errors; the message begins with `where`.
    """
    image_name, text_name = EXPERT if expert else MAIN
    missing = [name for name in (image_name, text_name) if name not in members]
    if missing:
        raise DataError(
            f"{where}: members {sorted(members)}, without {' and '.join(missing)}; expected"
            f" {LAYOUT}."
        )
    image, frame = read_small_picture(
        Path(f"{where}.{image_name}"), options.size, members[image_name], options.reading
    )
    text = decode_text(members[text_name], f"{where}.{text_name}")
    if is_missing(text):
        problem = f"{text.strip()[:40]!r} means no text" if text.strip() else "empty"
        raise DataError(f"{where}.{text_name}: {problem}; expected a report.")
    # an upright JPEG of the wanted size is kept unchanged
    is_jpeg = members[image_name].startswith(b"\xff\xd8")
    keep = options.size is None and frame.orientation == 1 and is_jpeg
    converted = {
        "jpg": members[image_name] if keep else encode_jpeg(image, options.quality),
        "txt": text.encode(),
    }
    if not expert:
        return converted, []
    entries = read_manifest(members.get("manifest.json") or b"[]", f"{where}.manifest.json")
    used = entries if args.heatmaps == "mean" else entries[:1]
    snippets = [name for entry in entries if (name := entry.get("snippet"))]
    notes = ["a snippet is missing" for name in snippets if name not in members][:1]
    # samples without all their heatmaps become plain image-text pairs
    if not used or any(entry["heatmap"] not in members for entry in used):
        reason = "a heatmap named by the manifest is missing" if used else "no or an empty manifest"
        notes.append(f"not annotated: {reason}")
    else:
        # maps cover the stored pixels, the written image is upright
        size = image.size[::-1] if frame.orientation in QUARTER_TURNS else image.size
        maps = [
            turn_maps(
                read_map(
                    members[entry["heatmap"]],
                    f"{where}.{entry['heatmap']}",
                    frame.stored_size,
                    args.resized_heatmaps,
                    size,
                ),
                frame.orientation,
            )
            for entry in used
        ]
        # (h, w) float32 at the size of the written image, maximum 1
        mean = normalise_heatmap(np.mean(maps, axis=0), where)
        converted["heatmap.png"] = encode_map(mean)
    texts = [decode_text(members[name], f"{where}.{name}") for name in snippets if name in members]
    if texts:
        converted["json"] = json.dumps({"snippets": texts}).encode()
    return converted, notes
