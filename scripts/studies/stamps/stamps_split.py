"""Strict split of the stamps into training, validation and test.

No stamp, caption or variant of a drawing is in two parts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from stamps_data import Stamp, read_cutout

PARTS = ("train", "validation", "test")
ALIKE = 0.93  # correlation of two cutouts' fingerprints from which they count as the same drawing
SIDE = 16  # of a fingerprint


def plain_caption(caption: str) -> str:
    """The letters and digits of a caption: `A cow.` and `a cow` are equal."""
    return " ".join(re.findall(r"\w+", caption.casefold()))


def first_word(path: Path) -> str:
    """The first word of a file name that has more than one letter.

    apple_red, apple-2 and Apple_mirror are variants of `apple`. A name without words stays as it
    is.
    """
    words = [word for word in re.findall(r"[a-z]+", path.stem.casefold()) if len(word) > 1]
    return words[0] if words else path.stem


def fingerprints(stamps: Sequence[Stamp]) -> np.ndarray:
    """Fingerprints (N, 16, 16, 4) of colour over grey and outline, independent of the size."""
    prints = []
    for stamp in stamps:
        picture = read_cutout(stamp).picture
        # soft edges differ with the size
        picture = picture.crop(
            picture.getchannel("A").point(lambda alpha: 255 * (alpha >= 128)).getbbox()
        )
        small = (
            np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) / 255
        )
        prints.append(
            np.concatenate(
                [small[..., :3] * small[..., 3:] + 0.5 * (1 - small[..., 3:]), small[..., 3:]],
                axis=-1,
            )
        )
    return np.stack(prints)


def likeness(prints: np.ndarray) -> np.ndarray:
    """The highest correlation (N, N) of two fingerprints, also mirrored, upside down, or both."""

    def unit(maps: np.ndarray) -> np.ndarray:
        flat = maps.reshape(len(maps), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(min=1e-12)

    turned = (prints, prints[:, :, ::-1], prints[:, ::-1], prints[:, ::-1, ::-1])
    return np.maximum.reduce([unit(prints) @ unit(other).T for other in turned])


def families(stamps: Sequence[Stamp]) -> list[list[int]]:
    """Groups of indices of stamps that must stay in one part.

    A group is a chain of equal captions, equal first words of file names, or alike drawings.
    """
    parent = list(range(len(stamps)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        parent[root(j)] = root(i)

    for key in (lambda stamp: plain_caption(stamp.caption), lambda stamp: first_word(stamp.path)):
        seen: dict[str, int] = {}
        for i, stamp in enumerate(stamps):
            join(seen.setdefault(key(stamp), i), i)
    for i, j in np.argwhere(np.triu(likeness(fingerprints(stamps)) >= ALIKE, 1)):
        join(i, j)
    groups: dict[int, list[int]] = {}
    for i in range(len(stamps)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def strict_split(
    stamps: Sequence[Stamp], test: int, validation: int, seed: int
) -> dict[str, list[Stamp]]:
    """Assign whole families to the parts in random order.

    The test part gets `test` captions, then the validation part gets `validation`; all others are
    for training.
    """
    groups = sorted(families(stamps), key=lambda group: min(str(stamps[i].path) for i in group))
    random.Random(seed).shuffle(groups)
    parts: dict[str, list[Stamp]] = {name: [] for name in PARTS}
    for group in groups:
        part = next(
            (
                name
                for name, count in (("test", test), ("validation", validation))
                if len({plain_caption(stamp.caption) for stamp in parts[name]}) < count
            ),
            "train",
        )
        parts[part] += [stamps[i] for i in group]
    return {name: sorted(part, key=lambda stamp: str(stamp.path)) for name, part in parts.items()}
