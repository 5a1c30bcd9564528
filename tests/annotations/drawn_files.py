"""Reads annotation files as `prepare annotations` does, and compares areas pixel by pixel."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from openclip_eclip.annotations import formats
from openclip_eclip.annotations.record import Drawing
from openclip_eclip.gaze import Boxes, Polygons, render

SIZES = [(61, 83), (96, 40), (33, 33)]  # (height, width): landscape, portrait, square


def read_drawings(
    expected: str, *sources: Path, flags: Sequence[str] = (), name: str | None = None
) -> tuple[list[Drawing], Counter[str]]:
    """(drawings, reasons of what was left out); the format must be recognised as `expected`."""
    found = formats.recognise(sources, name)
    assert found.format.name == expected
    parser = argparse.ArgumentParser()
    module = formats.module_of(found.format)
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    left_out: Counter[str] = Counter()

    def leave_out(reason: str, where: str) -> None:
        assert str(sources[0].parent) in where
        left_out[reason] += 1

    root = sources[0] if sources[0].is_dir() else sources[0].parent
    records = list(formats.read_records(found, root, parser.parse_args(flags), leave_out))
    assert all(isinstance(record, Drawing) and str(root) in record.where for record in records)
    return records, left_out


def area(drawing: Drawing, size: tuple[int, int]) -> np.ndarray:
    """bool (height, width): the pixels whose larger part is marked."""
    shape = drawing.shape
    if drawing.fractions:
        scale = np.array(size[::-1])
        if isinstance(shape, Boxes):
            shape = Boxes(shape.xyxy * np.tile(scale, 2))
        else:
            assert isinstance(shape, Polygons)
            shape = Polygons([line * scale for line in shape.outlines])
    heatmap = render(shape, size, size)
    return np.zeros(size, bool) if heatmap is None else heatmap.values >= 0.5


def within_a_pixel(found: np.ndarray, drawn: np.ndarray) -> bool:
    """Whether two areas are equal but for pixels beside an edge."""
    wide, narrow = drawn.copy(), drawn.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            wide |= np.roll(wide, step, axis)
            narrow &= np.roll(narrow, step, axis)
    return bool(drawn.any() and (found <= wide).all() and (found >= narrow).all())


def random_box(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """xmin, ymin, xmax, ymax in whole pixels, some pixels wide and high."""
    left, top = rng.integers(0, size[1] - 12), rng.integers(0, size[0] - 12)
    return np.array([left, top, rng.integers(left + 5, size[1]), rng.integers(top + 5, size[0])])


def random_outline(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(K, 2) around a point of the image, some pixels wide."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 9)))
    angles = (angles + np.arange(len(angles)) * 2 * np.pi / len(angles)) / 2
    reach = rng.uniform(0.2, 0.45, len(angles))[:, None] * np.array(size[::-1])
    return np.array(size[::-1]) / 2 + np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach


def filled(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool (height, width) of an outline, by Pillow at 8 times the size."""
    picture = Image.new("L", (size[1] * 8, size[0] * 8))
    ImageDraw.Draw(picture).polygon([tuple(point) for point in outline * 8 - 0.5], fill=255)
    return np.asarray(picture.reduce(8)) >= 128


def box_area(xyxy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    values = np.zeros(size, bool)
    left, top, right, bottom = xyxy
    values[top:bottom, left:right] = True
    return values
