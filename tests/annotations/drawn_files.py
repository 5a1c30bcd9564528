"""Reads annotation files as `prepare annotations` does, and compares areas pixel by pixel."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation

from openclip_eclip.annotations.formats import add_format_arguments, read_records, recognise
from openclip_eclip.annotations.record import Drawing
from openclip_eclip.gaze import Annotation, render
from openclip_eclip.gaze.kernels import fill_ellipse, fill_polygon
from openclip_eclip.prepare.annotations.join import files_of
from openclip_eclip.prepare.annotations.kept import in_pixels

SIZES = ((60, 90), (97, 41), (128, 128), (33, 150))  # (height, width)


def read_all(
    source: Path, *flags: str, name: str | None = None
) -> tuple[list[Drawing], list[tuple[str, str]]]:
    """(drawings, what was left out) of a file or folder, by the way that the command goes."""
    parser = argparse.ArgumentParser()
    add_format_arguments(parser)
    left_out: list[tuple[str, str]] = []
    records = read_records(
        recognise([source], name),
        files_of([source]),
        parser.parse_args(flags),
        lambda reason, where: left_out.append((reason, where)),
    )
    return list(records), left_out  # type: ignore[arg-type]


def read_drawings(
    expected: str, source: Path, flags: Sequence[str] = (), name: str | None = None
) -> tuple[list[Drawing], Counter[str]]:
    """(drawings, reasons of what was left out); the format must be recognised as `expected`."""
    assert recognise([source], name).format.name == expected
    records, left_out = read_all(source, *flags, name=name)
    root = str(files_of([source]))
    assert all(isinstance(record, Drawing) and root in record.where for record in records)
    assert all(str(source.parent) in where for _, where in left_out)
    return records, Counter(reason for reason, _ in left_out)


def area(drawing: Drawing, size: tuple[int, int]) -> np.ndarray:
    """The pixels that are at least half within the shape of a drawing, bool (height, width)."""
    return drawn(in_pixels(drawing, size), size)


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def drawn(shape: Annotation, size: tuple[int, int]) -> np.ndarray:
    """The pixels that are at least half within a shape, bool (height, width)."""
    heatmap = render(shape, size, size)
    assert heatmap is not None
    return heatmap.values >= 0.5


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """IoU 1 within a pixel: each mask lies within the other one, grown by a pixel."""
    assert found.shape == expected.shape and found.any() and expected.any()
    grown = [binary_dilation(mask, np.ones((3, 3))) for mask in (found, expected)]
    assert not (found & ~grown[1]).any() and not (expected & ~grown[0]).any()


def random_outlines(seed: int) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
    """(size, outline (K, 2), its pixels) of star-shaped outlines on images of all SIZES."""
    rng = np.random.default_rng(seed)
    for size in SIZES:
        for count in (3, 5, 12):
            angle = np.sort(rng.uniform(0, 2 * np.pi, count))
            reach = rng.uniform(0.2, 0.45, count)[:, None] * size[::-1]
            middle = np.array(size[::-1]) * rng.uniform(0.4, 0.6, 2)
            line = middle + reach * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            mask = fill_polygon(line, size) >= 0.5
            if mask.sum() > 9:
                yield size, line, mask


def random_boxes(seed: int) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
    """(size, xyxy, pixels of the box, those of the ellipse in it) on images of all SIZES."""
    rng = np.random.default_rng(seed)
    for size in SIZES:
        for _ in range(3):
            low = rng.uniform(0, 0.5, 2) * size[::-1]
            box = np.concatenate([low, low + rng.uniform(0.2, 0.5, 2) * size[::-1]])
            x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
            mask = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
            yield size, box, mask


def ellipse_pixels(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return fill_ellipse(box, size) >= 0.5


def random_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Blocks of both values, some of them one pixel, bool (height, width)."""
    coarse = rng.random((max(size[0] // 5, 1), max(size[1] // 7, 1))) < 0.4
    rows = np.arange(size[0]) * coarse.shape[0] // size[0]
    columns = np.arange(size[1]) * coarse.shape[1] // size[1]
    mask = coarse[rows[:, None], columns] ^ (rng.random(size) < 0.02)
    mask[0, 0] = rng.random() < 0.5
    return mask


def set_in(content: Any, key: str, value: Any) -> None:
    """Set a value in nested JSON, such as images.0.height; KeyError as the value removes it."""
    *path, name = key.split(".")
    for step in path:
        content = content[int(step) if isinstance(content, list) else step]
    last = int(name) if isinstance(content, list) else name
    if value is KeyError:
        del content[last]
    elif isinstance(content, list) and last == len(content):
        content.append(value)
    else:
        content[last] = value


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
