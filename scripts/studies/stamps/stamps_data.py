"""Data of the stamps studies: captioned stamps of Tux Paint, pasted onto backgrounds.

Their hand-cut masks are the heatmaps.
A stamp is a picture cut out by hand (X.png with an alpha channel) and a caption (first line of
X.txt). The art is GPL-2: it is fetched at run time and must never be committed, nor must a picture
that shows it.
"""

from __future__ import annotations

import csv
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

PACKAGE = "tuxpaint-stamps-default"
INSIDE = Path("usr/share/tuxpaint/stamps")  # of the unpacked package
SPLIT_SEED = 2024  # which captions are held out; has nothing to do with the seeds of training
AREA = (0.15, 0.40)  # share of the picture that the object covers
LONGEST = 0.95  # of the picture's side, for objects that are long and thin


@dataclass(frozen=True)
class Stamp:
    path: Path
    caption: str


class Split(NamedTuple):
    train: list[Stamp]
    held_out: list[Stamp]


def fetch_stamps(cache: Path) -> Path:
    """The folder of stamps, unpacked under `cache` from Debian's package (161 MB, once).

    SystemExit: no apt; it says what to do.
    """
    tree = cache / "tree"
    if (tree / INSIDE).is_dir():
        return tree / INSIDE
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(
            f"{missing[0]} is not on this machine. Get the Debian package {PACKAGE}"
            " (packages.debian.org) elsewhere, unpack it (dpkg-deb -x FILE.deb FOLDER, or ar x and"
            f" tar) and give --stamps FOLDER/{INSIDE}."
        )
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob(f"{PACKAGE}_*.deb")):
        done = subprocess.run(["apt-get", "download", PACKAGE], cwd=cache)
        if done.returncode:
            raise SystemExit(
                f"'apt-get download {PACKAGE}' failed: run 'apt-get update' as root first, or give"
                " --stamps FOLDER."
            )
    archive = sorted(cache.glob(f"{PACKAGE}_*.deb"))[-1]
    partial = cache / "tree.partial"  # an interrupted unpacking must not pass for a whole one
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", str(archive), str(partial)], check=True)
    partial.rename(tree)
    return tree / INSIDE


def read_stamps(folder: Path) -> list[Stamp]:
    """Every captioned PNG outside `symbols/`, in the order of their paths."""
    stamps = []
    for path in sorted(folder.rglob("*.png")):
        text = path.with_suffix(".txt")
        if path.relative_to(folder).parts[0] == "symbols" or not text.is_file():
            continue
        lines = text.read_text(
            encoding="utf-8"
        ).splitlines()  # line 1 is English, the others are translations
        if lines and lines[0].strip():
            stamps.append(Stamp(path, lines[0].strip()))
    if not stamps:
        raise SystemExit(
            f"{folder}: no X.png with a caption X.txt outside symbols/; expected the stamps' own"
            f" folder, .../{INSIDE}."
        )
    return stamps


def split_by_caption(stamps: Sequence[Stamp], held_out: int, seed: int) -> Split:
    """Split off all stamps of `held_out` captions, so that no caption is on both sides."""
    captions = sorted({stamp.caption for stamp in stamps})
    if not 1 < held_out < len(captions):
        raise SystemExit(
            f"{held_out} captions to hold out of {len(captions)}; expected fewer than there are,"
            " and at least 2."
        )
    chosen = set(random.Random(seed).sample(captions, held_out))
    return Split(
        [s for s in stamps if s.caption not in chosen], [s for s in stamps if s.caption in chosen]
    )


# ---- pictures


def background(rng: np.random.Generator, size: int, photos: Sequence[Image.Image]) -> Image.Image:
    """An RGB background (size, size) with some grain.

    It is a gradient, smooth noise, stripes or a piece of a photograph.
    """
    colours = rng.uniform(0, 255, (2, 1, 1, 3))
    kind = rng.integers(4)
    if kind == 3:
        photo = photos[rng.integers(len(photos))]
        side = int(rng.uniform(0.2, 0.9) * min(photo.size))
        left, top = (int(rng.integers(room - side + 1)) for room in photo.size)
        crop = photo.crop((left, top, left + side, top + side)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(crop, dtype=np.float32)
    else:
        if kind == 1:
            cells = int(rng.integers(2, 13))
            grid = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            weight = (
                np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
                / 255
            )
        else:
            angle, (y, x) = rng.uniform(0, 2 * np.pi), np.mgrid[0:size, 0:size] / size
            along = (x * np.cos(angle) + y * np.sin(angle))[..., None]
            weight = (
                (along - along.min()) / np.ptp(along)
                if kind == 0
                else np.sin(along * rng.uniform(10, 60)) > 0
            )
        pixels = colours[0] * weight + colours[1] * (1 - weight)
    pixels = pixels + rng.normal(0, rng.uniform(0, 12), (size, size, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


class Cutout(NamedTuple):
    picture: Image.Image  # RGBA
    coverage: float  # share of its own rectangle that the object covers
    has_mask: bool  # False for the few stamps that are plain rectangles


def read_cutout(stamp: Stamp) -> Cutout:
    """The stamp, cropped to its object and reduced, because rendered pictures are small."""
    picture = Image.open(stamp.path).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail((256, 256), Image.Resampling.LANCZOS)
    alpha = np.asarray(picture.getchannel("A"))
    return Cutout(picture, float(alpha.mean() / 255), bool(alpha.min() < 128))


def render(
    cutout: Cutout, rng: np.random.Generator, size: int, photos: Sequence[Image.Image]
) -> tuple[Image.Image, Image.Image]:
    """(picture, mask), (size, size) RGB and grey: the object on a background.

    Its position and scale are random.
    """
    width, height = cutout.picture.size
    scale = size * np.sqrt(rng.uniform(*AREA) / (cutout.coverage * width * height))
    scale = min(scale, LONGEST * size / max(width, height))
    box = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cutout.picture.resize(box, Image.Resampling.LANCZOS)
    place = (int(rng.integers(size - box[0] + 1)), int(rng.integers(size - box[1] + 1)))
    picture, mask = background(rng, size, photos), Image.new("L", (size, size))
    picture.paste(small, place, small)
    mask.paste(small.getchannel("A"), place)
    return picture, mask


def write_table(
    folder: Path,
    name: str,
    stamps: Sequence[Stamp],
    *,
    renders: int,
    annotated: float,
    size: int,
    seed: int,
) -> Path:
    """Write `renders` pictures of each stamp, and the table `name`.csv (filepath, title, heatmap).

    `annotated`: share of the stamps whose pictures all have their mask as heatmap; the others have
    a blank cell.
    """
    rng = np.random.default_rng(seed)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    pictures = folder / name
    pictures.mkdir(parents=True)
    cutouts = [read_cutout(stamp) for stamp in stamps]
    candidates = rng.permutation([i for i, cutout in enumerate(cutouts) if cutout.has_mask])
    chosen = set(candidates[: round(annotated * len(stamps))].tolist())
    table = folder / f"{name}.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["filepath", "title", "heatmap"])
        for i, (stamp, cutout) in enumerate(zip(stamps, cutouts)):
            for j in range(renders):
                picture, mask = render(cutout, rng, size, photos)
                image, heatmap = f"{name}/{i:03d}_{j}.png", f"{name}/{i:03d}_{j}_mask.png"
                picture.save(folder / image)
                if i in chosen:
                    mask.save(folder / heatmap)
                rows.writerow([image, stamp.caption, heatmap if i in chosen else ""])
    return table
