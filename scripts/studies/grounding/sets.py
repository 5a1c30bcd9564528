"""The image sets of the study in one form: images, texts, maps, and the groups that stay together.

Three are real photographs and radiographs, stamps are drawings pasted on backgrounds, phantoms are
synthetic. README.md names the sources.
"""

from __future__ import annotations

import csv
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_sample_images

from openclip_eclip.data.sentence_windows import decode_windows, encode_windows, file_windows
from openclip_eclip.gaze import Annotation, Boxes, Fixations, Polygons, RenderConfig, render
from openclip_eclip.prepare.__main__ import main as prepare
from openclip_eclip.prepare.datasets.coco import find_named

sys.path.append(str(Path(__file__).parents[1] / "stamps"))  # behind: it has a study.py too
from stamps_data import fetch_stamps, read_cutout, read_stamps
from stamps_data import render as render_stamp

SIDE = 128  # pixels of the shorter side of stored images if not told otherwise, and of the longer side of maps
SEED = 26
ZONES = 6  # of the Brixia score: A B C on the right lung from the top, D E F on the left
GAZE_SIGMA = 0.03  # of the image's width: about one degree in the viewing of winograd_gaze
DESCRIPTIONS = 5  # of a photo of winograd_gaze are tested


@dataclass
class Phrase:
    text: str
    map: np.ndarray  # (h, w) in [0, 1]


@dataclass
class Pair:
    """An image's text to train on. `phrases`: parts of it with maps of their own."""

    text: str
    map: np.ndarray | None = None
    phrases: list[Phrase] = field(default_factory=list)


@dataclass
class Photo:
    image: Image.Image
    group: str  # a patient, a scene, a photograph, a drawing
    pairs: list[Pair]
    tested: list[Phrase] = field(default_factory=list)
    source: str = ""
    licence: str = ""


def _drawn(shape: Annotation, size: tuple[int, int], sigma: float | None = None) -> np.ndarray:
    """The map of a shape in pixels of an image `size` (height, width)."""
    config = RenderConfig(sigma=sigma, unit="width") if sigma else RenderConfig()
    heatmap = render(shape, size, SIDE, config)
    assert heatmap is not None, "the caller has checked that there is something to draw"
    return heatmap.values


def coco(shared: Path) -> Iterator[Photo]:
    """Photographs with five captions each; the phrases are the objects that a caption names."""
    folder = shared / "coco_small"
    objects = json.loads((folder / "objects.json").read_text())
    for row in pd.read_csv(folder / "images.csv", dtype=str, keep_default_na=False).to_dict(
        "records"
    ):
        image = Image.open(folder / row["filepath"])
        scale = np.array(image.size)
        masks: dict[str, list[np.ndarray]] = {}
        for one in objects.get(row["patient"], []):
            if not one["crowd"] and one.get("polygons"):
                lines = [np.reshape(line, (-1, 2)) * scale for line in one["polygons"]]
                masks.setdefault(one["name"], []).extend(lines)
        size = (image.height, image.width)
        drawn = {name: _drawn(Polygons(lines), size) for name, lines in masks.items()}
        pairs, tested = [], {}
        for caption in json.loads(row["captions"]):
            phrases = {
                named.category: Phrase(named.words.lower(), drawn[named.category])
                for named in find_named(caption)
                if named.category in drawn
            }
            for name, phrase in phrases.items():
                tested.setdefault(name, phrase)
            maps = [phrase.map for phrase in phrases.values()]
            pairs.append(Pair(caption, np.max(maps, axis=0) if maps else None, [*phrases.values()]))
        yield Photo(
            image, row["patient"], pairs, [*tested.values()], row["flickr_url"], row["license"]
        )


def covid(shared: Path) -> Iterator[Photo]:
    """Radiographs with notes; the map of a note is the Brixia score of each zone of the lungs.

    The two readers' scores are averaged. Images without a score, or with zeros only, have no map.
    """
    folder = shared / "covid_cxr"
    table = pd.read_csv(folder / "pairs.csv", dtype=str, keep_default_na=False)
    for row in table.to_dict("records"):
        image = Image.open(folder / row["filepath"])
        scores = [json.loads(row[f"brixia_{who}"] or "[]") for who in ("senior", "junior")]
        zones = _zones(row, image.size)
        weight = np.mean([one for one in scores if one] or [[0] * ZONES], axis=0)
        shape = Boxes(zones[weight > 0], weight[weight > 0]) if weight.any() else None
        map_ = None if shape is None else _drawn(shape, (image.height, image.width))
        tested = [] if map_ is None else [Phrase(row["title"], map_)]
        yield Photo(
            image, row["patient"], [Pair(row["title"], map_)], tested, row["url"], row["license"]
        )


def _zones(row: dict[str, str], size: tuple[int, int]) -> np.ndarray:
    """(6, 4) boxes xmin, ymin, xmax, ymax in pixels: each lung box in thirds by height."""
    boxes = []
    for side in ("right", "left"):
        x0, y0, x1, y1 = json.loads(row[f"{side}_lung_box"])
        edges = np.linspace(y0, y1, 4)
        boxes += [[x0, top, x1, bottom] for top, bottom in zip(edges, edges[1:])]
    return np.array(boxes) * np.array([*size, *size])


def winograd(shared: Path) -> Iterator[Photo]:
    """Photographs whose describers were filmed: a sentence and the same person's fixations.

    Tested are sentences of some people against the mean map of all *other* describers.
    """
    folder = shared / "winograd_gaze"
    gaze = pd.read_csv(folder / "gaze_pairs.csv", dtype=str, keep_default_na=False)
    captions = pd.read_csv(folder / "captions.csv", dtype=str, keep_default_na=False)
    rng = np.random.default_rng(SEED)
    for path, rows in gaze.groupby("filepath"):
        image = Image.open(folder / path)
        size = (image.height, image.width)
        pairs = []
        for row in rows.to_dict("records"):
            x, y, milliseconds = np.array(json.loads(row["gaze"])).T
            fixations = Fixations(x * image.width, y * image.height, milliseconds / 1000)
            pairs.append(Pair(row["title"], _drawn(fixations, size, GAZE_SIGMA)))
        total = np.sum([pair.map for pair in pairs], axis=0)
        chosen = rng.permutation(len(pairs))[:DESCRIPTIONS]
        tested = [Phrase(pairs[i].text, total - pairs[i].map) for i in chosen]
        source = "github.com/shravan1394/WinogradDataset"
        yield Photo(image, rows["patient"].iloc[0], pairs, tested, source, "MIT")
    known = set(gaze["filepath"])
    for path, rows in captions.groupby("filepath"):
        if path not in known:  # an object was erased from these; nobody's gaze was recorded
            pairs = [Pair(text) for text in rows["title"]]
            yield Photo(Image.open(folder / path), rows["patient"].iloc[0], pairs)


def stamps(cache: Path) -> Iterator[Photo]:
    """Drawings of Tux Paint on backgrounds; the map of a caption is the drawing's own mask."""
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(SEED)
    for stamp in read_stamps(fetch_stamps(cache)):
        cutout = read_cutout(stamp)
        if cutout.has_mask:
            image, mask = render_stamp(cutout, rng, SIDE, photos)
            map_ = np.asarray(mask, np.float32) / 255
            phrase = Phrase(stamp.caption, map_)
            first_word = stamp.path.stem.split("_")[0].lower()  # relatives of a drawing share it
            yield Photo(
                image, first_word, [Pair(stamp.caption, map_)], [phrase], "Tux Paint", "GPL-2"
            )


def phantoms(_: Path) -> Iterator[Photo]:
    """Synthetic radiographs with up to two findings, each with its own sentence and gaze."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "phantoms")
        flags = f"--train 500 --test 1 --size {SIDE} --annotated 1 --findings 2 --seed {SEED}"
        if prepare(["phantom", str(out), *flags.split()]):
            raise SystemExit("prepare phantom failed; its reason is printed above.")
        with open(out / "train.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for i, row in enumerate(rows):
            image = Image.open(out / row["filepath"])
            image.load()
            phrases = []
            if row["windows"]:
                path = out / row["windows"]
                found = decode_windows(*file_windows(path), path.name)
                phrases = [Phrase(s, m / 255) for s, m in zip(found.sentences, found.heatmaps)]
            map_ = np.asarray(Image.open(out / row["heatmap"])) / 255 if row["heatmap"] else None
            yield Photo(image, str(i), [Pair(row["title"], map_, phrases)], phrases)


SETS: dict[str, Callable[[Path], Iterator[Photo]]] = {
    "coco_small": coco,
    "covid_cxr": covid,
    "winograd_gaze": winograd,
    "stamps": stamps,
    "phantoms": phantoms,
}


def stored(image: Image.Image, side: int = SIDE) -> Image.Image:
    """RGB, reduced to `side` pixels on the shorter side."""
    image = image.convert("RGB")
    scale = side / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(scale * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def heatmap_png(map_: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(255 * map_ / map_.max()).astype(np.uint8))


def windows_files(phrases: list[Phrase]) -> tuple[bytes, bytes]:
    """The two files of sentence windows, see data/sentence_windows.py."""
    spoken = [(phrase.text, math.nan, math.nan) for phrase in phrases]
    return encode_windows(spoken, [phrase.map / (phrase.map.max() or 1) for phrase in phrases])
