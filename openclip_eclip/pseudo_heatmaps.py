"""Heatmaps of where a trained model looks, for the images that no expert has annotated:
self-training, not in the paper (decision 0037).

OUT holds the same table or shards, every image with a heatmap: the expert's where there is one,
else the model's, in the form of an expert's. Train anew on it with the same command. The model sees
the whole image, squashed to its size, so a map covers all of it.
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
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .config import DataError, UserError
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
from .objectives.align import Align, AlignConfig, log_attention
from .prepare.images import encode_map
from .prepare.writer import add_members, write_whole

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="new folder: the table or shards again, every image with a heatmap",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="TABLE_OR_SHARDS",
        help="training data of this machine, as in --train-data",
    )
    add_column_arguments(parser)
    add_model_arguments(parser, encoding=False)
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that decode images (default: %(default)s)"
    )
    parser.add_argument(
        "--on-bad-sample",
        choices=("stop", "skip"),
        default="stop",
        help=(
            "an unreadable image stops the run, or is named and stays without a heatmap (default:"
            " %(default)s)"
        ),
    )


def run(args: argparse.Namespace) -> str:
    """The summary. UserError: OUT is not empty, nothing to do, a tower without positions;
    DataError: unreadable data.
    """
    if args.out.exists() and any(args.out.iterdir()):
        raise UserError(
            f"{args.out} is not empty; expected a new folder, so that the maps of two models do not"
            " mix."
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
    bad = (
        f"; {counts['unreadable']} images can not be read and have none"
        if counts["unreadable"]
        else ""
    )
    bad += (
        f"; {counts.get('flat')} have none, for the model attends everywhere alike"
        if "flat" in counts
        else ""
    )
    return (
        f"pseudo-heatmaps: {counts['made']} made, {counts['expert']} of experts kept, in"
        f" {args.out}{bad}"
    )


@dataclass(frozen=True)
class Film:
    """An image without a heatmap, and its report. `name` is for people."""

    image: Path | TarEntry
    caption: str
    name: str

    def read(self) -> bytes:
        """DataError: it is missing."""
        try:
            return (
                self.image.read_bytes() if isinstance(self.image, Path) else self.image.read_image()
            )
        except OSError as error:
            raise DataError(f"{self.name}: no such image ({error}).") from error


class _Films(Dataset):
    """(transformed image, its frame), or the error where it cannot be read."""

    def __init__(self, films: Sequence[Film], transform: Any, options: ReadOptions) -> None:
        self.films, self.transform, self.options = films, transform, options

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, index: int) -> tuple[Tensor, Frame] | DataError:
        film = self.films[index]
        try:
            picture = read_picture(film.read(), film.name, self.options)
        except DataError as error:
            return error
        return self.transform(picture.image.convert("RGB")), picture.frame


@torch.inference_mode()
def look_at(encoder: Encoder, pixels: Tensor, captions: Sequence[str]) -> Tensor:
    """(B, h, w) float32 on the CPU: the distribution over positions where the model looks on
    `pixels` (B, 3, H, W), as `--method align` reads it: attention of the tower's pool, else
    similarity to the report of the image.
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
    films: Sequence[Film],
    batch_size: int,
    workers: int,
    skip_bad: bool,
    bar: tqdm,
    options: ReadOptions = ReadOptions(),
) -> Iterator[bytes | None]:
    """A grey PNG of each film in order, of its proportions, its longer side that of the model's
    input; None where it cannot be read, b"" where the model's map is the same everywhere.

    DataError: that, unless `skip_bad`.
    """
    loader = DataLoader(
        _Films(films, encoder.whole_image_transform(), options),
        batch_size,
        num_workers=workers,
        collate_fn=list,
    )
    for first, batch in zip(range(0, len(films), batch_size), loader):
        good = [i for i, found in enumerate(batch) if not isinstance(found, DataError)]
        maps: dict[int, Tensor] = {}
        if good:
            pixels = torch.stack([batch[i][0] for i in good])
            maps = dict(
                zip(good, look_at(encoder, pixels, [films[first + i].caption for i in good]))
            )
        for i, found in enumerate(batch):
            bar.update()
            if i in maps:
                yield (
                    b""
                    if is_flat((maps[i] / maps[i].max()).numpy())
                    else _png(maps[i], found[1], max(pixels.shape[-2:]))
                )
                continue
            if not skip_bad:
                raise found
            logger.warning("%s", found)
            yield None


def _png(found: Tensor, frame: Frame, longer: int) -> bytes:
    """(h, w) over what is shown, as an expert's map of an image of `frame` is kept: over the pixels
    as stored.
    """
    height, width = (
        max(1, round(longer * side / max(frame.shown_size))) for side in frame.shown_size
    )
    large = interpolate(found[None, None], size=(height, width), mode="bilinear")[0, 0]
    return encode_map(turn_maps_back((large / large.max()).numpy(), frame.orientation))


def _write_table(encoder: Encoder, paths: list[Path], args: argparse.Namespace) -> dict[str, int]:
    """OUT/heatmaps/ and the table with all its columns, its paths relative to OUT."""
    # it may be the name of a column that is to be made
    columns = replace(read_column_names(args), heatmap_named=False)
    table, frame = read_csv_table(paths[0], columns), read_columns(paths[0], columns.separator)
    bare = [i for i, heatmap in enumerate(table.heatmaps) if heatmap is None]
    films = [
        Film(
            table.image(i),
            table.captions[i],
            f"{table.name(i)}, column {columns.image!r}: {table.images[i]}",
        )
        for i in bare
    ]
    cells, flat = [_relative(heatmap, args.out) for heatmap in table.heatmaps], 0
    with _bar(len(films)) as bar:
        pngs = pseudo_heatmaps(
            encoder,
            films,
            args.batch_size,
            args.workers,
            args.on_bad_sample == "skip",
            bar,
            read_options(args),
        )
        for i, png in zip(bare, pngs, strict=True):
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
    return _counts(len(films), len(table) - len(films), cells.count("") - flat, flat)


def _relative(path: Path | None, folder: Path) -> str:
    return "" if path is None else Path(os.path.relpath(path, folder)).as_posix()


def _write_shards(encoder: Encoder, paths: list[Path], args: argparse.Namespace) -> dict[str, int]:
    """Every shard again under its name, its samples in order with one member more, and
    sizes.json.
    """
    repeated = [name for name, count in Counter(path.name for path in paths).items() if count > 1]
    if repeated:
        raise UserError(
            f"--data {args.data}: {repeated[0]} is in several folders; expected names that differ,"
            f" since all go to {args.out}."
        )
    entries = {path: index_shard(path) for path in paths}
    films = {
        path: [_film(entry) for entry in found if not entry.annotated]
        for path, found in entries.items()
    }
    bare, missing, flat = sum(map(len, films.values())), 0, 0
    with _bar(bare) as bar:
        for path, found in entries.items():
            pngs = pseudo_heatmaps(
                encoder,
                films[path],
                args.batch_size,
                args.workers,
                args.on_bad_sample == "skip",
                bar,
                read_options(args),
            )
            buffer = io.BytesIO()
            with tarfile.open(
                fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT
            ) as archive:  # GNU: USTAR would refuse long keys
                for entry in found:
                    png = None if entry.annotated else next(pngs)
                    missing += not entry.annotated and png is None
                    flat += png == b""
                    add_members(
                        archive,
                        entry.key,
                        {**entry.read(), **({"heatmap.png": png} if png else {})},
                    )
            write_whole(args.out / path.name, buffer.getvalue())
    sizes = {path.name: len(found) for path, found in entries.items()}
    write_whole(args.out / "sizes.json", json.dumps(sizes, indent=2).encode())
    return _counts(bare, sum(sizes.values()) - bare, missing, flat)


def _film(entry: TarEntry) -> Film:
    if entry.image_key is None or "txt" not in entry.members:
        raise DataError(
            f"{entry.where}: members {sorted(entry.members)}; expected an image and a txt."
        )
    return Film(entry, entry.read("txt")["txt"].decode("utf-8", errors="replace"), entry.where)


def _bar(total: int) -> tqdm:
    """UserError: nothing to do."""
    if not total:
        raise UserError(
            "every image has a heatmap already; expected some without, for the model to make."
        )
    return tqdm(total=total, desc="pseudo-heatmaps", unit="image", disable=None)


def _counts(bare: int, expert: int, unreadable: int, flat: int) -> dict[str, int]:
    return {
        "made": bare - unreadable - flat,
        "expert": expert,
        "unreadable": unreadable,
        **({"flat": flat} if flat else {}),
    }
