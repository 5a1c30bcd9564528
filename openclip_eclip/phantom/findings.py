"""Phantom films with several findings (`--findings K`): dictated one after the other, each sentence
with its own gaze.

The first finding and everything else of the film are those of the film with one finding. Each
further one has another class and lies apart from the others, so that neither a sentence nor a place
fits two of them. Normal films stay normal, and carry no windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.sentence_windows import encode_windows
from .images import NORMAL, Knobs, Scenes, draw_scenes, render_films, render_gaze
from .reports import CLASS_NAMES, dictate

_APART = 0.24  # image sides between two places: more than two radii of the largest finding
_TRIES = 6  # scenes to take a further finding from; where none fits, the film has fewer
# seconds from sentence to sentence, of a sentence, and of looking before it (decision 0007)
_PACE, _SPOKEN, _LEAD = (
    3.0,
    2.5,
    1.5,
)


class Told(NamedTuple):
    """A finding of a film as it was dictated."""

    name: str  # of its class
    box: list[int]  # x0, y0, x1, y1 in pixels
    sentence: str
    start: float  # of its window, seconds
    end: float
    heatmap: np.ndarray  # float32 (H, W) in [0, 1], max 1: the gaze meanwhile

    def facts(self) -> dict[str, Any]:
        """As the test tables and shards hold it."""
        return {"class": self.name, "box": self.box, "sentence": self.sentence}


def windows_of(found: Sequence[Told]) -> tuple[bytes, bytes]:
    """(JSON, npz) of a film's sentence windows, as `prepare ... --windows sentence` writes them."""
    return encode_windows(
        [(one.sentence, one.start, one.end) for one in found], [one.heatmap for one in found]
    )


def render_findings(
    scenes: Scenes, rngs: Sequence[np.random.Generator], size: int, knobs: Knobs
) -> dict[str, Any]:
    """The fields of a `PhantomBatch` but `annotated`, of B films of `scenes` with up to
    `knobs.findings` findings each.

    `rngs`: of noise, gaze, reports and further findings. Label and box are those of the finding
    dictated first.
    """
    noise, gaze, words, more = rngs
    layers, shown = _further(scenes, more, knobs)
    images, boxes = render_films(scenes, noise, size, layers)
    heat = [render_gaze(layer, gaze, size, knobs) for layer in (scenes, *layers)]
    reports, heatmaps, told = [], [], []
    for i in range(len(scenes.label)):
        ranks = np.flatnonzero(shown[:, i])  # of the layers; the first is always there
        every = (scenes, *layers)
        spoken = dictate(
            words,
            [
                (every[k].label[i], every[k].side[i], every[k].zone[i], every[k].severity[i])
                for k in ranks
            ],
            scenes.devices[i],
        )
        reports.append(" ".join(sentence for sentence, _ in spoken))
        summed = np.sum([heat[k][i] for k in ranks], axis=0)  # as long on each
        heatmaps.append(summed / summed.max())
        told.append(
            [
                Told(
                    CLASS_NAMES[every[ranks[n]].label[i]],
                    boxes[ranks[n]][i].tolist(),
                    sentence,
                    _PACE * place - _LEAD,
                    _PACE * place + _SPOKEN,
                    heat[ranks[n]][i],
                )
                for place, (sentence, n) in enumerate(spoken)
                if n is not None and scenes.label[i] != NORMAL
            ]
        )
    return {
        "images": images,
        "labels": scenes.label,
        "reports": reports,
        "heatmaps": np.stack(heatmaps),
        "boxes": boxes[0],
        "told": told,
    }


def _further(
    scenes: Scenes, rng: np.random.Generator, knobs: Knobs
) -> tuple[list[Scenes], np.ndarray]:
    """findings - 1 layers, each the same films with another finding or none (label normal), and
    (findings, B) bool: the film shows it.
    """
    layers, count = [scenes], len(scenes.label)
    wanted = rng.integers(1, knobs.findings + 1, size=count)
    shown = np.ones((1, count), dtype=bool)
    for k in range(1, knobs.findings):
        layer, found = (
            dataclasses.replace(scenes, label=np.full(count, NORMAL)),
            (scenes.label == NORMAL) | (wanted <= k),
        )
        open_ = ~found  # films that still look for their finding
        for _ in range(_TRIES):
            drawn = draw_scenes(rng, count, Knobs(knobs.gaze_leak))
            fits = open_ & (drawn.label != NORMAL)
            for old, seen in zip(layers, shown, strict=True):
                apart = np.hypot(*(drawn.place - old.place).T) >= _APART
                fits &= ~seen | (apart & (drawn.label != old.label))
            layer = _with_finding(layer, drawn, fits)
            open_ &= ~fits
        layers.append(layer)
        shown = np.concatenate([shown, layer.label[None] != NORMAL])
    return layers[1:], shown


def _with_finding(scenes: Scenes, drawn: Scenes, rows: np.ndarray) -> Scenes:
    """The finding of `drawn` in the films `rows` (B,) bool; patient and exposure stay."""
    fields = {
        name: np.where(
            rows.reshape(-1, *[1] * (getattr(scenes, name).ndim - 1)),
            getattr(drawn, name),
            getattr(scenes, name),
        )
        for name in ("label", "side", "zone", "severity", "natural", "place", "angle")
    }
    phase = scenes.phase.copy()
    phase[rows, 3] = drawn.phase[rows, 3]  # the finding's outline; the others are the patient's
    return dataclasses.replace(scenes, phase=phase, **fields)
