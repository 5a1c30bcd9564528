"""Synthetic images with several findings (`--findings K`), each with its own sentence and gaze.

The findings are dictated one after the other. The first finding and the rest of the image are those
of the image with one finding. Each further finding has another class and lies apart from the
others, so that no sentence and no position fits two of them. Normal images stay normal and have no
sentence windows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.sentence_windows import encode_windows
from .anatomy import NORMAL, Scenes
from .images import render_gaze, render_images
from .reports import dictate
from .scenes import Knobs, draw_scenes

_APART = 0.24  # image sides between two findings: more than two radii of the largest one
_TRIES = 6  # scenes to take a further finding from; if none fits, the image has fewer findings
# Timing of the dictation in seconds (decision 0007): from one sentence to the next, the length of
# a sentence, and how long the gaze precedes it
_PACE, _SPOKEN, _LEAD = 3.0, 2.5, 1.5


class DescribedFinding(NamedTuple):
    """A finding of an image together with the sentence that describes it."""

    name: str  # of its class
    box: list[int]  # x0, y0, x1, y1 in pixels
    sentence: str
    start: float  # of the sentence's window, seconds
    end: float
    heatmap: np.ndarray  # float32 (H, W) in [0, 1], max 1: the gaze during the window

    def facts(self) -> dict[str, Any]:
        """The class, box and sentence, as the test tables and shards store them."""
        return {"class": self.name, "box": self.box, "sentence": self.sentence}


def windows_of(described: Sequence[DescribedFinding]) -> tuple[bytes, bytes]:
    """Encode the sentence windows of an image as `prepare ... --windows sentence` does.

    Returns (JSON, npz).
    """
    spoken = [(finding.sentence, finding.start, finding.end) for finding in described]
    return encode_windows(spoken, [finding.heatmap for finding in described])


def render_findings(
    scenes: Scenes, rngs: Sequence[np.random.Generator], size: int, knobs: Knobs
) -> dict[str, Any]:
    """Render B images of `scenes` with up to `knobs.findings` findings each.

    Returns the fields of a `PhantomBatch` except `annotated`. Label and box are those of the
    finding that is dictated first.

    Args:
        rngs: the generators of noise, gaze, reports and further findings.
    """
    noise_rng, gaze_rng, report_rng, findings_rng = rngs
    further, shown = _further_findings(scenes, findings_rng, knobs)
    layers = (scenes, *further)  # each layer holds at most one finding of every image
    images, boxes = render_images(scenes, noise_rng, size, further)
    gaze = [render_gaze(layer, gaze_rng, size, knobs) for layer in layers]
    reports, heatmaps, described = [], [], []
    for i in range(len(scenes.label)):
        image_layers = np.flatnonzero(shown[:, i])  # the first layer is always among them
        dictation = dictate(
            report_rng,
            scenes.anatomy.words,
            [
                (layers[k].label[i], layers[k].side[i], layers[k].zone[i], layers[k].severity[i])
                for k in image_layers
            ],
            scenes.devices[i],
        )
        reports.append(" ".join(sentence for sentence, _ in dictation))
        summed = np.sum([gaze[k][i] for k in image_layers], axis=0)  # equal time on each finding
        heatmaps.append(summed / summed.max())
        findings = []
        for position, (sentence, number) in enumerate(dictation):
            if number is None or scenes.label[i] == NORMAL:
                continue
            k = image_layers[number]
            findings.append(
                DescribedFinding(
                    scenes.anatomy.words.classes[layers[k].label[i]],
                    boxes[k][i].tolist(),
                    sentence,
                    _PACE * position - _LEAD,
                    _PACE * position + _SPOKEN,
                    gaze[k][i],
                )
            )
        described.append(findings)
    return {
        "images": images,
        "labels": scenes.label,
        "reports": reports,
        "heatmaps": np.stack(heatmaps),
        "boxes": boxes[0],
        "described": described,
    }


def _further_findings(
    scenes: Scenes, rng: np.random.Generator, knobs: Knobs
) -> tuple[list[Scenes], np.ndarray]:
    """Draw the further findings of B images.

    Returns findings - 1 layers and bool (findings, B). A layer is the same images with another
    finding, or with none (label normal). The array says which images show the finding of a layer;
    its first row is that of `scenes` itself.
    """
    layers, count = [scenes], len(scenes.label)
    wanted = rng.integers(1, knobs.findings + 1, size=count)
    shown = np.ones((1, count), dtype=bool)
    for k in range(1, knobs.findings):
        layer = dataclasses.replace(scenes, label=np.full(count, NORMAL))
        # images that still lack a finding in this layer
        lacking = (scenes.label != NORMAL) & (wanted > k)
        for _ in range(_TRIES):
            drawn = draw_scenes(rng, count, dataclasses.replace(knobs, shortcut=0))
            fits = lacking & (drawn.label != NORMAL)
            for earlier, has_earlier in zip(layers, shown, strict=True):
                apart = np.hypot(*(drawn.position - earlier.position).T) >= _APART
                fits &= ~has_earlier | (apart & (drawn.label != earlier.label))
            layer = _with_finding(layer, drawn, fits)
            lacking &= ~fits
        layers.append(layer)
        shown = np.concatenate([shown, layer.label[None] != NORMAL])
    return layers[1:], shown


def _with_finding(scenes: Scenes, drawn: Scenes, chosen: np.ndarray) -> Scenes:
    """Take the finding of `drawn` for the images `chosen`, bool (B,).

    Patient and exposure stay those of `scenes`.
    """
    fields = {
        name: np.where(
            chosen.reshape(-1, *[1] * (getattr(scenes, name).ndim - 1)),
            getattr(drawn, name),
            getattr(scenes, name),
        )
        for name in ("label", "side", "zone", "severity", "natural", "position", "angle")
    }
    phase = scenes.phase.copy()
    # column 3 is the outline of the finding; the others belong to the patient
    phase[chosen, 3] = drawn.phase[chosen, 3]
    return dataclasses.replace(scenes, phase=phase, **fields)
