"""Phrases and regions of annotation files, as `prepare annotations` reads them, without writing."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ...annotations.drawn.values import check_on_image
from ...annotations.formats import read_records, recognise
from ...annotations.record import Absent, Drawing, Recording
from ...config import DataError, UserError
from ...data.images.options import read_options
from ...data.images.picture import Frame, turn_maps
from ...data.images.read import read_frame
from ...data.tables.csv_source import read_columns
from ...gaze import Boxes, Ellipses, GazeError, Points, Polygons, RenderConfig, render
from ...prepare.annotations.command import read_phrases
from ...prepare.annotations.join import files_of
from ...prepare.annotations.kept import in_pixels, together
from ...prepare.annotations.match import Images, find_column, read_images
from ...prepare.images import ImageError
from ...prepare.plan import Item
from ...prepare.write_sample import annotated_grid
from ..inputs.eval_set import EvalSet

LONGEST = 896  # pixels of a map's longer side; it is reduced afterwards
Shapes = dict[str, list[Drawing]]  # {annotator: what they drew}


class DrawnPhrases:
    """What annotation files say: {image: {phrase: shapes}}; no shapes for a phrase without region.

    `data`: the images that are named; `left_out`: what was not used, counted by reason.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """UserError: no phrase that fits an image, gaze, a broken record, an ambiguous name."""
        sources, left_out = args.annotations, Counter[str]()
        found = recognise(sources, args.annotation_format)
        if found.format.is_gaze:
            raise UserError(
                f"{found.files[0]}: gaze ({found.format.name}); expected drawings. Write sentences"
                " and their maps with `prepare annotations`, and name the table with --data."
            )
        images = read_images(args.images)
        phrase = read_phrases(args.phrases) or str
        self.left_out = left_out
        self._images: dict[str, dict[str, Shapes]] = defaultdict(lambda: defaultdict(dict))

        def leave_out(reason: str, where: str) -> None:
            left_out[reason] += 1

        for record in read_records(found, files_of(sources), args, leave_out):
            assert not isinstance(record, Recording)  # those are of formats of gaze
            name = _image_of(images, record)
            if name is None:
                leave_out("annotation without its image", record.where)
            elif not record.label:
                leave_out("annotation without a class or phrase", record.where)
            else:
                shapes = self._images[name][phrase(record.label)]
                if isinstance(record, Drawing):
                    shapes.setdefault(record.annotator, []).append(record)
        if not self._images:
            raise UserError(
                f"{sources[0]}: no annotation with a class or phrase fits an image of"
                f" {args.images} ({_listed(left_out)}); expected at least one."
            )
        self.data = _eval_set(args, images, self._images)

    def read(self, data: EvalSet, row: int) -> list[tuple[str, list[np.ndarray]]]:
        """Each phrase of an image, and the map (h, w) of each annotator with a region.

        UserError: a shape off the image, or an image of another size than annotations state.
        """
        frame = read_frame(data.read(row), data.name(row), data.reading)
        phrases = self._images[data.ids[row]]
        try:
            return [
                (phrase, [_draw(drawn, data, row, frame) for drawn in shapes.values()])
                for phrase, shapes in phrases.items()
            ]
        except (GazeError, ImageError) as error:
            raise DataError(f"{data.name(row)}: {error}") from error


def _image_of(images: Images, record: Drawing | Absent) -> str | None:
    try:
        file = record.file if isinstance(record, Drawing) else None
        return images.find(record.image, file=file)
    except UserError as error:
        raise UserError(f"{record.where}: {error}") from error


def _listed(left_out: Counter[str]) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "none is there"


def _eval_set(
    args: argparse.Namespace, images: Images, named: dict[str, dict[str, Shapes]]
) -> EvalSet:
    """The named images, with the columns of --images if it is a table."""
    table = pd.DataFrame({"filepath": list(images.files)})
    if args.images.is_file():
        columns = read_columns(args.images)
        name = find_column(args.images, columns.columns, "filepath", "--image-column")
        columns = columns.drop_duplicates(name).rename(columns={name: "filepath"})
        table = table.merge(columns, on="filepath", how="left")
    data = EvalSet(args.images, list(images.files.values()), table, reading=read_options(args))
    used = np.array([name in named for name in images.files])
    return replace(data.keep(used, ""), excluded={})


def _draw(drawn: list[Drawing], data: EvalSet, row: int, frame: Frame) -> np.ndarray:
    sizes = (drawing.size for drawing in drawn if drawing.size is not None)
    stated = next(sizes, frame.shown_size)
    image = data.images[row]
    assert isinstance(image, Path)
    original, orientation = annotated_grid(
        Item(data.ids[row], image, "", size=stated, upright=True), frame
    )
    for drawing in drawn:
        if drawing.size is None and isinstance(drawing.shape, Boxes | Ellipses | Polygons | Points):
            check_on_image(drawing.shape, (1, 1) if drawing.fractions else original, drawing.where)
    scale = min(1, LONGEST / max(original))
    size = max(1, round(scale * original[0])), max(1, round(scale * original[1]))
    shape = together([in_pixels(drawing, original) for drawing in drawn])
    heatmap = render(shape, original, size, RenderConfig())
    if heatmap is None:
        raise DataError(f"{drawn[0].where}: no part of the region is on the image.")
    return turn_maps(heatmap.values, orientation)
