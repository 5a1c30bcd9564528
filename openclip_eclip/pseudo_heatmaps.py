"""Pseudo-heatmaps: a trained model annotates the images that no expert has annotated.

This is self-training, which is not in the paper (decision 0037). OUT holds the same table or
shards, with a heatmap for every image: the expert's if there is one, else the attention map of the
model, in the same format. A second model, the student, is then trained on OUT with the same
command. The model sees the whole image, resized to its input size, so a map covers the whole image.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .config import DataError, UserError
from .data.enlarge import enlarge
from .data.heatmap import is_flat
from .data.images.options import ReadOptions, read_options
from .data.images.picture import Frame, turn_maps_back
from .data.images.read import read_picture
from .data.shards.stream import expand_paths
from .data.shards.tar_source import TarEntry, index_shard
from .data.tables.csv_source import (
    add_column_arguments,
    read_column_names,
    read_columns,
    read_csv_table,
)
from .data.tables.text import sniff_separator
from .evaluate.inputs.encoder import Encoder, tokenize
from .evaluate.options import add_model_arguments, read_encode_numbers, read_encoder
from .gaze.files import write_manifest
from .json_text import counted
from .objectives.align import Align, AlignConfig, log_attention
from .prepare.images import encode_map
from .prepare.writer import add_members, write_whole

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `prepare pseudo-heatmaps`."""
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="new folder for the same table or shards, with a heatmap for every image",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="TABLE_OR_SHARDS",
        help="training data: a table or .tar shards, as in --train-data",
    )
    add_column_arguments(parser)
    add_model_arguments(parser, encoding=False)
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        help="number of images in a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="number of processes that decode images (default: %(default)s)",
    )
    parser.add_argument(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help=(
            "what an unreadable image does: it stops the run, or is named and gets no heatmap"
            " (default: %(default)s)"
        ),
    )


def run(args: argparse.Namespace) -> str:
    """Writes OUT; returns the summary line.

    Raises:
        UserError: OUT is not empty, every image has a heatmap, or the image tower has no positions.
        DataError: the data are unreadable.
    """
    if args.out.exists() and any(args.out.iterdir()):
        raise UserError(
            f"{args.out} is not empty; expected a new folder, so that maps of different models are"
            " not mixed."
        )
    read_encode_numbers(args)
    paths = expand_paths(args.data)
    shards = paths[0].suffix == ".tar"
    if not shards and len(paths) > 1:
        raise UserError(
            f"--data {args.data}: {len(paths)} tables; expected one table, or .tar shards."
        )
    encoder = read_encoder(args)
    Align(AlignConfig()).check_model(encoder.model)
    counts = (_write_shards if shards else _write_table)(encoder, paths, args)
    parameters = {**encoder.facts, "data": args.data, "batch_size": args.batch_size}
    write_manifest(args.out, parameters, [] if shards else paths, counts)
    summary = (
        f"pseudo-heatmaps: {counts['made']} written, {counts['expert']} expert heatmaps kept, in"
        f" {args.out}"
    )
    if counts["unreadable"]:
        summary += f"; {counted(counts['unreadable'], 'image')} without a heatmap, unreadable"
    if "flat" in counts:
        summary += (
            f"; {counted(counts['flat'], 'image')} without a heatmap, because the attention of the"
            " model is the same everywhere"
        )
    return summary


@dataclass(frozen=True)
class Unannotated:
    """An image without a heatmap, and its report. `name` stands for it in messages."""

    image: Path | TarEntry
    caption: str
    name: str

    def read(self) -> bytes:
        """The bytes of the image file; DataError if it is missing."""
        try:
            return (
                self.image.read_bytes() if isinstance(self.image, Path) else self.image.read_image()
            )
        except OSError as error:
            raise DataError(f"{self.name}: no such image ({error}).") from error


class _Images(Dataset):
    """(transformed image, its frame), or the error if the image cannot be read."""

    def __init__(self, images: Sequence[Unannotated], transform: Any, options: ReadOptions) -> None:
        self.images, self.transform, self.options = images, transform, options

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Frame] | DataError:
        image = self.images[index]
        try:
            picture = read_picture(image.read(), image.name, self.options)
        except DataError as error:
            return error
        return self.transform(picture.image.convert("RGB")), picture.frame


@torch.inference_mode()
def attention_maps(encoder: Encoder, pixels: Tensor, captions: Sequence[str]) -> Tensor:
    """The attention maps of a model for `pixels` (B, 3, H, W), as `--method align` reads them.

    Returns (B, h, w) float32 on the CPU: for each image, a distribution over the positions of the
    image tower. It is the attention of the tower's pool; without a pool, the similarity to the
    report in `captions`.
    """
    log = log_attention(
        encoder.model.get_submodule("visual"),
        encoder.encode_tokens(pixels),
        lambda: encoder.encode_texts(tokenize(encoder, captions)).to(encoder.device),
        AlignConfig(),
    )
    return log.exp().float().cpu()


def pseudo_heatmaps(
    encoder: Encoder,
    images: Sequence[Unannotated],
    batch_size: int,
    workers: int,
    skip_bad: bool,
    bar: tqdm,
    options: ReadOptions = ReadOptions(),
) -> Iterator[bytes | None]:
    """The attention map of each image, in order, as a grey PNG.

    A map has the proportions of its image; its longer side is that of the model's input. An
    unreadable image gives None; a map that is the same everywhere gives b"".

    Raises:
        DataError: an image is unreadable, unless `skip_bad`.
    """
    loader = DataLoader(
        _Images(images, encoder.whole_image_transform(), options),
        batch_size,
        num_workers=workers,
        collate_fn=list,
    )
    for first, batch in zip(range(0, len(images), batch_size), loader):
        readable = [i for i, entry in enumerate(batch) if not isinstance(entry, DataError)]
        maps: dict[int, Tensor] = {}  # index in the batch: (h, w)
        if readable:
            pixels = torch.stack([batch[i][0] for i in readable])
            captions = [images[first + i].caption for i in readable]
            maps = dict(zip(readable, attention_maps(encoder, pixels, captions)))
        for i, entry in enumerate(batch):
            bar.update()
            if i in maps:
                flat = is_flat((maps[i] / maps[i].max()).numpy())
                yield b"" if flat else _png(maps[i], entry[1], max(pixels.shape[-2:]))
                continue
            if not skip_bad:
                raise entry
            logger.warning("%s", entry)
            yield None


def _png(attention: Tensor, frame: Frame, longer: int) -> bytes:
    """An attention map (h, w) of the upright image as a PNG over the stored pixels.

    Heatmaps of experts are stored in the same way. `longer` is the longer side in pixels.
    """
    height, width = (
        max(1, round(longer * side / max(frame.shown_size))) for side in frame.shown_size
    )
    large = enlarge(attention[None], (height, width))[0]
    return encode_map(turn_maps_back((large / large.max()).numpy(), frame.orientation))


def _write_table(encoder: Encoder, paths: list[Path], args: argparse.Namespace) -> dict[str, int]:
    """Writes OUT/heatmaps/ and the table with all its columns, its paths relative to OUT.

    Returns the counts of the manifest.
    """
    # --csv-heatmap-key may name a column that does not exist yet
    columns = replace(read_column_names(args), heatmap_named=False)
    table, frame = read_csv_table(paths[0], columns), read_columns(paths[0], columns.separator)
    unannotated = [i for i, heatmap in enumerate(table.heatmaps) if heatmap is None]
    images = [
        Unannotated(
            table.image(i),
            table.captions[i],
            f"{table.name(i)}, column {columns.image!r}: {table.images[i]}",
        )
        for i in unannotated
    ]
    cells, flat = [_relative(heatmap, args.out) for heatmap in table.heatmaps], 0
    with _bar(len(images)) as bar:
        pngs = pseudo_heatmaps(
            encoder,
            images,
            args.batch_size,
            args.workers,
            args.on_bad_sample == "skip",
            bar,
            read_options(args),
        )
        for i, png in zip(unannotated, pngs, strict=True):
            flat += png == b""
            if png:
                cells[i] = f"heatmaps/{table.rows[i]:06d}.png"
                write_whole(args.out / cells[i], png)
    frame[columns.image] = [_relative(image, args.out) for image in table.images]
    frame[columns.heatmap] = cells
    if table.windows:
        frame[columns.windows] = [_relative(windows, args.out) for windows in table.windows]
    separator = columns.separator or sniff_separator(paths[0])
    write_whole(
        args.out / paths[0].name,
        frame.to_csv(index=False, sep=separator, lineterminator="\n").encode(),
    )
    return _counts(len(images), len(table) - len(images), cells.count("") - flat, flat)


def _relative(path: Path | None, folder: Path) -> str:
    """The path relative to `folder`, with forward slashes; "" for None."""
    return "" if path is None else Path(os.path.relpath(path, folder)).as_posix()


def _write_shards(encoder: Encoder, paths: list[Path], args: argparse.Namespace) -> dict[str, int]:
    """Writes every shard under its name, with a heatmap added to its samples, and sizes.json.

    The samples keep their order. Returns the counts of the manifest.
    """
    repeated = [name for name, count in Counter(path.name for path in paths).items() if count > 1]
    if repeated:
        raise UserError(
            f"--data {args.data}: {repeated[0]} is in several folders; expected different names,"
            f" because all shards go to {args.out}."
        )
    entries = {path: index_shard(path) for path in paths}
    images = {
        path: [_unannotated(entry) for entry in samples if not entry.annotated]
        for path, samples in entries.items()
    }
    total, missing, flat = sum(map(len, images.values())), 0, 0
    with _bar(total) as bar:
        for path, samples in entries.items():
            pngs = pseudo_heatmaps(
                encoder,
                images[path],
                args.batch_size,
                args.workers,
                args.on_bad_sample == "skip",
                bar,
                read_options(args),
            )
            buffer = io.BytesIO()
            # GNU format, because USTAR does not take long keys
            with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
                for entry in samples:
                    png = None if entry.annotated else next(pngs)
                    missing += not entry.annotated and png is None
                    flat += png == b""
                    added = {"heatmap.png": png} if png else {}
                    add_members(archive, entry.key, {**entry.read(), **added})
            write_whole(args.out / path.name, buffer.getvalue())
    sizes = {path.name: len(samples) for path, samples in entries.items()}
    write_whole(args.out / "sizes.json", json.dumps(sizes, indent=2).encode())
    return _counts(total, sum(sizes.values()) - total, missing, flat)


def _unannotated(entry: TarEntry) -> Unannotated:
    """The image and report of a sample; DataError if one is missing."""
    if entry.image_key is None or "txt" not in entry.members:
        raise DataError(
            f"{entry.where}: members {sorted(entry.members)}; expected an image and a txt."
        )
    return Unannotated(
        entry, entry.read("txt")["txt"].decode("utf-8", errors="replace"), entry.where
    )


def _bar(total: int) -> tqdm:
    """The progress bar; UserError if there is nothing to do."""
    if not total:
        raise UserError("every image already has a heatmap; expected some images without one.")
    return tqdm(total=total, desc="pseudo-heatmaps", unit="image", disable=None)


def _counts(unannotated: int, expert: int, unreadable: int, flat: int) -> dict[str, int]:
    """The counts of the manifest; `flat` only if it is not 0."""
    return {
        "made": unannotated - unreadable - flat,
        "expert": expert,
        "unreadable": unreadable,
        **({"flat": flat} if flat else {}),
    }
