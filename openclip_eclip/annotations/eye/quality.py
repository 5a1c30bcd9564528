"""Quality of gaze recordings in numbers, and what the numbers say is wrong, in sentences."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from ...gaze import Fixations
from ..record import Recording

FEW = 20  # least number of positions, or of statements, for a sentence on them
NEAR_ONE = -0.5, 1.5  # pixels
MOSTLY = 0.5  # share off the image above which the unit or the placement is in doubt
SOME = 0.2  # the same, if swapped axes would bring nearly all onto it
CHANCE = 0.01  # of the binomial test, one-sided
DRIFT = 0.15  # of the side; the middle of natural gaze is near the centre of the image
LOSS = 0.25  # share of missing samples
SHORT, LONG = 0.04, 1.5  # seconds; medians of fixations are 0.15 to 0.5
SIDES = {
    "x": (re.compile(r"\bleft\b", re.I), re.compile(r"\bright\b", re.I)),
    "y": (
        re.compile(r"\b(upper|top|above|apex|apical|apices|superior)\b", re.I),
        re.compile(r"\b(lower|bottom|below|base|basal|bases|basilar|inferior)\b", re.I),
    ),
}


def add_quality_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--left-of",
        choices=("image", "patient"),
        default="image",
        help=(
            "whose left a text means, to find mirrored gaze; the patient's left is on the right of"
            " a radiograph (default: %(default)s)"
        ),
    )


class GazeQuality:
    """Collects recordings, then gives `facts()` and `sentences()`."""

    def __init__(self, left_of: str = "image") -> None:
        self.left_of = left_of
        self.xy: list[np.ndarray] = []  # pixels of the image
        self.sides: list[np.ndarray] = []  # width and height, one row for each position
        self.durations: list[np.ndarray] = []
        self.stated: dict[str, list[float]] = {}
        self.recordings = 0
        self.unknown = 0  # fixations without a position
        self.places: Counter[str] = Counter()  # what positions mean: recordings
        self.images: dict[str, int] = {}  # fixations on it
        # fractions of the image, (N, 2), of the positions on it: {reader: [(image, positions)]}
        self.readers: dict[str, list[tuple[str, np.ndarray]]] = {}
        # for each axis: (whether the text names the second side, position as a fraction)
        self.statements: dict[str, list[tuple[bool, float]]] = {"x": [], "y": []}

    def add(
        self,
        recording: Recording,
        fixations: Fixations,
        image_size: tuple[int, int],
    ) -> None:
        """Take one recording.

        Args:
            fixations: those of the recording in pixels of the image, as `place` gives them.
            image_size: (height, width).
        """
        self.recordings += 1
        self.places[str(recording.place or "image-pixels")] += 1
        side = np.array(image_size[::-1], dtype=np.float64)
        xy = np.stack([fixations.x, fixations.y], axis=1)
        known = np.isfinite(xy).all(axis=1)
        self.unknown += int((~known).sum())
        on = known & (xy >= 0).all(axis=1) & (xy < side).all(axis=1)
        self.xy.append(xy[known])
        self.sides.append(np.tile(side, (int(known.sum()), 1)))
        self.durations.append(fixations.duration[np.isfinite(fixations.duration)])
        self.images[recording.image] = self.images.get(recording.image, 0) + int(on.sum())
        self.readers.setdefault(recording.annotator, []).append((recording.image, xy[on] / side))
        for name, value in recording.quality:
            self.stated.setdefault(name, []).append(value)

    def add_text(self, text: str, fixations: Fixations, image_size: tuple[int, int]) -> None:
        """Take a text that may name a side, and the fixations that belong to it, in pixels.

        Each text once: the same text with the gaze of several readers is no further evidence.
        """
        fractions = np.stack([fixations.x, fixations.y], axis=1) / image_size[::-1]
        durations = fixations.duration
        weight = np.where(np.isfinite(durations) & (durations > 0), durations, 0)
        inside = np.isfinite(fractions).all(axis=1) & (np.abs(fractions - 0.5) <= 0.5).all(axis=1)
        weight = weight * inside
        if not weight.sum() > 0:
            return
        middle = np.average(fractions[inside], axis=0, weights=weight[inside])
        for i, (axis, (first, second)) in enumerate(SIDES.items()):
            names = bool(first.search(text)), bool(second.search(text))
            if names[0] != names[1]:
                later = names[1]
                if axis == "x" and self.left_of == "patient":
                    later = not later
                self.statements[axis].append((later, float(middle[i])))

    def facts(self) -> dict[str, Any]:
        """Numbers for the manifest: shares, seconds, and fractions of the sides of the image."""
        xy, side, durations = self.all()
        facts: dict[str, Any] = {
            "recordings": self.recordings,
            "positions": dict(self.places),
            "fixations": len(xy),
            "fixations without a position": self.unknown,
            "images without a fixation on them": sum(not n for n in self.images.values()),
        }
        if len(xy):
            drift = self._drift()
            facts["share of fixations off the image"] = _off(xy, side)
            facts["share of fixations off each side"] = off_by_side(xy, side)
            if drift is not None:
                facts["middle of gaze from the centre"] = {"x": drift[0], "y": drift[1]}
        positive = durations[durations > 0]
        if len(positive):
            facts["seconds per fixation"] = {
                name: float(np.quantile(positive, share))
                for name, share in (("5 %", 0.05), ("median", 0.5), ("95 %", 0.95))
            }
            facts["share of fixations without a duration"] = float(1 - (durations > 0).mean())
        for name, values in self.stated.items():
            facts[f"{name} (mean)"] = float(np.mean(values))
        for axis, words in (("x", "left and right"), ("y", "upper and lower")):
            agree, count = self._agreement(axis)
            if count:
                facts[f"texts with {words} that gaze follows"] = {"agree": agree, "of": count}
        return facts

    def sentences(self) -> list[str]:
        """What the numbers say is wrong, and what to do; [] if nothing."""
        xy, side, durations = self.all()
        found = self._positions(xy, side)
        if not found:
            found = [*self._mirrored(), *self._drifted()]
        positive = durations[durations > 0]
        if len(positive) >= FEW and not SHORT <= np.median(positive) <= LONG:
            found.append(
                f"Half of the fixations last more than {np.median(positive):.3g} s; expected about"
                " 0.2 s. Name the unit of times with --time-unit."
            )
        lost = [value for value in self.stated.get("data loss", []) if value > LOSS]
        if lost:
            found.append(
                f"{len(lost)} of {self.recordings} recordings lack more than {LOSS:.0%} of their"
                " samples; consider leaving them out."
            )
        empty = [name for name, count in self.images.items() if not count]
        if empty:
            found.append(
                f"{len(empty)} of {len(self.images)} images have no fixation on them, such as"
                f" {', '.join(empty[:3])}."
            )
        return found

    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions in pixels (N, 2), width and height of their images (N, 2), and durations."""
        pairs = np.zeros((0, 2))
        return (
            np.concatenate([pairs, *self.xy]),
            np.concatenate([pairs, *self.sides]),
            np.concatenate([np.zeros(0), *self.durations]),
        )

    def _positions(self, xy: np.ndarray, side: np.ndarray) -> list[str]:
        """Units and axes: the first that is wrong."""
        if len(xy) < FEW:
            return []
        inside = ((xy >= NEAR_ONE[0]) & (xy <= NEAR_ONE[1])).all()
        if inside and (xy % 1 != 0).any():
            return [
                f"All {len(xy)} positions lie within the unit square, as fractions do, but are read"
                " as pixels; name the unit with --gaze-unit image-fractions or screen-fractions."
            ]
        off, swapped = _off(xy, side), _off(xy[:, ::-1], side)
        spans = (
            f"x {xy[:, 0].min():.4g} to {xy[:, 0].max():.4g}, y {xy[:, 1].min():.4g} to"
            f" {xy[:, 1].max():.4g}, images of {side[:, 0].min():g} to {side[:, 0].max():g} x"
            f" {side[:, 1].min():g} to {side[:, 1].max():g} pixels"
        )
        if off > SOME and swapped < off / 10:
            return [
                f"{off:.0%} of the positions lie off their image, {swapped:.0%} with x and y"
                f" swapped ({spans}); swap the columns with --gaze-columns x=...,y=...."
            ]
        below = (xy[:, 1] < 0).mean()
        flipped = _off(xy * [1, -1], side)
        if below > MOSTLY and flipped < off / 10:
            return [
                f"{below:.0%} of the positions have a negative y ({spans}): the origin seems to be"
                " at the bottom or in the middle; expected y that grows downwards from the top."
            ]
        if off == 1:
            return [
                f"All {len(xy)} positions lie beyond their image ({spans}); are they pixels of the"
                " screen (--screen, --placement), or of the image at another size?"
            ]
        if off > MOSTLY:
            return [
                f"{off:.0%} of the positions lie off their image ({spans}); are they pixels of the"
                " screen (--screen, --placement), or of the image at another size?"
            ]
        return []

    def _agreement(self, axis: str) -> tuple[int, int]:
        """(texts whose gaze is on the named side of the middle of all gaze, such texts)."""
        said = self.statements[axis]
        if not said:
            return 0, 0
        i = "xy".index(axis)
        middle = np.median(self._on_images(), axis=0)
        return sum(bool(at > middle[i]) == later for later, at in said), len(said)

    def _mirrored(self) -> list[str]:
        found = []
        for axis, words, remedy in (
            (
                "x",
                '"left" or "right"',
                "x may be mirrored, or --left-of name the wrong side (image, patient)",
            ),
            (
                "y",
                '"upper" or "lower"',
                "y may be mirrored: the origin at the bottom in place of the top",
            ),
        ):
            agree, count = self._agreement(axis)
            if count >= FEW:
                chance = stats.binomtest(agree, count, alternative="less").pvalue
                if chance < CHANCE:
                    found.append(
                        f"Of {count} texts with {words}, gaze goes to the other side in"
                        f" {count - agree} (by chance with p = {chance:.1g}); {remedy}."
                    )
        return found

    def _on_images(self) -> np.ndarray:
        parts = [xy for readings in self.readers.values() for _, xy in readings]
        return np.concatenate([np.zeros((0, 2)), *parts])

    def _drift(self) -> tuple[float, float] | None:
        """The median of positions on the image, less the centre, in fractions of the sides."""
        xy = self._on_images()
        if not len(xy):
            return None
        x, y = np.median(xy, axis=0) - 0.5
        return float(x), float(y)

    def _drifted(self) -> list[str]:
        drift = self._drift()
        if drift is None or self.recordings < 5 or len(self._on_images()) < FEW:
            return []
        if far := _far(drift):
            return [
                f"The middle of all gaze lies {far} of the centre of the image; check"
                " --image-rectangle or --placement."
            ]
        images: dict[str, list[np.ndarray]] = {}
        for readings in self.readers.values():
            for image, xy in readings:
                images.setdefault(image, []).append(xy)
        # a reader is compared with others on the same images: content may be above the centre
        middles = {
            image: np.median(np.concatenate(parts), axis=0)
            for image, parts in images.items()
            if len(parts) > 2 and sum(map(len, parts)) >= FEW
        }
        found = []
        for reader, readings in self.readers.items():
            apart = [xy - middles[image] for image, xy in readings if image in middles and len(xy)]
            if len(apart) >= 5 and sum(map(len, apart)) >= FEW:
                if far := _far(np.median(np.concatenate(apart), axis=0)):
                    found.append(f"{reader!r} {far}")
        if not found:
            return []
        names = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        return [
            f"The gaze of {len(found)} of {len(self.readers)} readers lies apart from that of"
            f" others on the same images: {names}; check"
            " their calibration."
        ]


def off_by_side(xy: np.ndarray, side: np.ndarray) -> dict[str, float]:
    """Shares of positions beyond each side of their image; one off a corner counts for both."""
    beyond = {"left": xy[:, 0] < 0, "right": xy[:, 0] >= side[:, 0]}
    beyond |= {"above": xy[:, 1] < 0, "below": xy[:, 1] >= side[:, 1]}
    return {name: float(off.mean()) if len(off) else 0.0 for name, off in beyond.items()}


def _far(drift: Sequence[float] | np.ndarray) -> str:
    """Such as "20% of the width right"; "" for a small drift (x, y)."""
    return " and ".join(
        f"{abs(value):.0%} of the {side} {way[int(value > 0)]}"
        for value, side, way in zip(drift, ("width", "height"), (("left", "right"), ("up", "down")))
        if abs(value) > DRIFT
    )


def _off(xy: np.ndarray, side: np.ndarray) -> float:
    return float(1 - ((xy >= 0) & (xy < side)).all(axis=1).mean()) if len(xy) else 0.0
