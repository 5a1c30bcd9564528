"""The eCLIP authors' shards to ours: films, reports, and the experts' heatmaps as grey PNGs.

SRC/{train,val}/*.tar hold `key.frontal_img` (an encoded image) and `key.report`; the expert folder's *.tar hold `key.img.jpg`,
`key.report.txt`, `key.manifest.json` and the members it names: [{"heatmap": extension, "snippet": extension}], a heatmap
being a CSR matrix (shape, indices, indptr, data) in .npz or JSON. Source: the reader of the authors' repository; the scripts that
wrote such shards are not public. Its reader takes the first heatmap alone and casts it to 8 bit, which makes a map in
[0, 1] all zero; here each is divided by its own maximum. Shards are read member by member and nothing is unpacked to disk.
"""
from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..config import UserError
from ..data.heatmap import DataError, normalise_heatmap
from .eclip_shards_files import decode_text, read_manifest, read_map
from .images import encode_jpeg, read_grey
from .options import Options, add_image_arguments, read_options
from .plan import Plan
from .writer import Chunk, add_members, begin, finish, write_whole

MAIN, EXPERT = ("frontal_img", "report"), ("img.jpg", "report.txt")
LAYOUT = "train/*.tar, val/*.tar of frontal_img and report; --expert FOLDER/*.tar of img.jpg, report.txt and manifest.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", type=Path, metavar="SRC", help="folder with train/*.tar and val/*.tar in the authors' layout")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to; an interrupted run goes on")
    parser.add_argument("--expert", type=Path, metavar="FOLDER", help="folder of the expert shards; they become expert-*.tar")
    parser.add_argument("--heatmaps", choices=("mean", "first"), default="mean",
                        help="of a sample's heatmaps: the mean of all, each by its own maximum, since the text trained on is the "
                             "whole report; or the first, as the authors' reader (default: %(default)s)")
    parser.add_argument("--resized-heatmaps", action="store_true",
                        help="heatmaps may have another size than their image, of the same proportions")
    add_image_arguments(parser)
    parser.add_argument("--part", default="0/1", metavar="I/N",
                        help="the I-th (from 0) of N jobs that share the shards and OUT (default: %(default)s)")
    parser.add_argument("--on-bad-sample", choices=("stop", "skip"), default="stop",
                        help="a faulty sample stops the run, or is counted and named (default: %(default)s)")
    # one shard in, one out, one process: the flags of the other data sets that would have no effect are not offered
    parser.set_defaults(format="webdataset", workers=None, limit=None, shard_size=None)


def run(args: argparse.Namespace) -> str:
    """Convert this part's shards, in order; the summary line. UserError: no shards, faults, OUT begun with other settings."""
    options = read_options(args)
    shards = list_shards(args.src, args.expert)
    plan = Plan("eclip-shards")
    sources = {chunk.name: f"{path.parent.name}/{path.name}, {path.stat().st_size} bytes" for chunk, path in shards.items()}
    begin(plan, options, {"expert": str(args.expert), "heatmaps": args.heatmaps, "resized_heatmaps": args.resized_heatmaps,
                          "shards": sources})
    records = {chunk: options.out / ".chunks" / f"{chunk.name}.json" for chunk in shards}
    for i, (chunk, path) in enumerate(tqdm(shards.items(), desc=plan.name, unit="shard", disable=None)):
        done = records[chunk].exists() and (options.out / f"{chunk.name}.tar").exists()
        if i % options.part[1] == options.part[0] and not done:
            write_shard(chunk, path, args, options)
    missing = [chunk.name for chunk, record in records.items() if not record.exists()]
    if missing:
        return f"{plan.name}: part {args.part} done; {len(missing)} of {len(shards)} shards wait for others"
    for record in records.values():
        for reason, keys in json.loads(record.read_text(encoding="utf-8"))["counted"].items():
            for key in keys:
                plan.leave_out(reason, key)
    return "; ".join([finish(plan, options, list(shards)), *(f"{reason}: {count}" for reason, count in plan.left_out.items())])


def list_shards(src: Path, expert: Path | None) -> dict[Chunk, Path]:
    """Source of each shard to be written, by split and name; UserError without any, or for an empty or missing expert folder."""
    found: dict[Chunk, Path] = {}
    for split, folder in (("train", src / "train"), ("val", src / "val"), ("expert", expert)):
        paths = sorted(folder.glob("*.tar")) if folder else []
        if split == "expert" and expert and not paths:
            raise UserError(f"--expert {expert}: no *.tar there; expected the folder that holds the expert shards themselves.")
        found.update({Chunk(split, number, (), False): path for number, path in enumerate(paths)})
    if not found:
        raise UserError(f"{src}: neither train/*.tar nor val/*.tar; expected the authors' layout ({LAYOUT}).")
    return found


def write_shard(chunk: Chunk, source: Path, args: argparse.Namespace, options: Options) -> None:
    """One shard whole or not at all, its record last; a faulty sample stops it, or is named with --on-bad-sample skip."""
    buffer, samples, skipped, counted = io.BytesIO(), 0, {}, {}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:  # USTAR would refuse long keys
        for key, members in read_samples(source):
            where = f"{source}, {key}"
            try:
                converted, notes = convert(members, where, chunk.split == "expert", args, options)
            except UserError as error:
                if not options.skip_bad:
                    raise
                skipped[where] = str(error)
                continue
            for note in notes:
                counted.setdefault(note, []).append(where)
            add_members(archive, key, converted)
            samples += 1
    write_whole(options.out / f"{chunk.name}.tar", buffer.getvalue())
    record = {"source": str(source), "samples": samples, "skipped": skipped, "counted": counted, "rows": []}
    write_whole(options.out / ".chunks" / f"{chunk.name}.json", json.dumps(record).encode())


def read_samples(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: content}) in the shard's order, one at a time; DataError for a truncated or damaged archive."""
    seen, key, members = set(), None, {}
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
                        raise DataError(f"{shard}, {name}: its members stand in two places; expected them together.")
                    seen.add(name)
                    key, members = name, {}
                if extension in members:
                    raise DataError(f"{shard}, {name}: member {extension} stands there twice; expected each once.")
                members[extension] = archive.extractfile(member).read()
            end = archive.offset
        with open(shard, "rb") as file:  # tarfile takes a header that is cut off or damaged for the end
            file.seek(end)
            if file.read(512) != bytes(512):
                raise tarfile.ReadError(f"no end mark at byte {end}")
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard}: not a whole tar archive ({error}); expected an uncompressed one. Copy it again.") from error
    if key is None:
        raise DataError(f"{shard}: no samples; expected members {LAYOUT}.")
    yield key, members


def convert(members: dict[str, bytes], where: str, expert: bool, args: argparse.Namespace,
            options: Options) -> tuple[dict[str, bytes], list[str]]:
    """Our members of a sample, and what is to be counted. `members`: the authors', by extension; UserError names `where`."""
    image_name, text_name = EXPERT if expert else MAIN
    missing = [name for name in (image_name, text_name) if name not in members]
    if missing:
        raise DataError(f"{where}: members {sorted(members)}, without {' and '.join(missing)}; expected {LAYOUT}.")
    image, original = read_grey(Path(f"{where}.{image_name}"), options.size, members[image_name])
    text = decode_text(members[text_name], f"{where}.{text_name}")
    if not text.strip():
        raise DataError(f"{where}.{text_name}: empty; expected a report.")
    jpeg = options.size is None and members[image_name].startswith(b"\xff\xd8")
    converted = {"jpg": members[image_name] if jpeg else encode_jpeg(image, options.quality), "txt": text.encode()}
    if not expert:
        return converted, []
    entries = read_manifest(members.get("manifest.json") or b"[]", f"{where}.manifest.json")
    used = entries if args.heatmaps == "mean" else entries[:1]
    snippets = [name for entry in entries if (name := entry.get("snippet"))]
    notes = ["a snippet is missing" for name in snippets if name not in members][:1]
    if not used or any(entry["heatmap"] not in members for entry in used):  # such samples train as plain pairs
        notes.append(f"not annotated: {'a heatmap named by the manifest is missing' if used else 'no or an empty manifest'}")
    else:
        maps = [read_map(members[entry["heatmap"]], f"{where}.{entry['heatmap']}", original, args.resized_heatmaps, image.size)
                for entry in used]
        mean = normalise_heatmap(np.mean(maps, axis=0), where)  # float32 (h, w) of the written image, maximum 1
        stream = io.BytesIO()
        Image.fromarray(np.rint(mean * 255).astype(np.uint8)).save(stream, "PNG")
        converted["heatmap.png"] = stream.getvalue()
    if found := [decode_text(members[name], f"{where}.{name}") for name in snippets if name in members]:
        converted["json"] = json.dumps({"snippets": found}).encode()
    return converted, notes
