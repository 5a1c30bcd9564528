"""Synthetic images with reports and gaze: training and test data in seconds, no download.

    openclip-eclip prepare phantom OUT --train 2000 --test 1000 --annotated 0.05 --seed 0

There are two anatomies, chest X-rays (chest.py) and head CT slices (head.py), with other shapes,
textures, findings, words and random numbers. The images have six classes: normal (30 %) and five
focal findings (14 % each). A finding has a side, a zone and a severity. Exposure, noise, devices
and R/L markers are independent of the finding. Reports are paraphrased (reports.py). A gaze heatmap
has two fixations at the finding and four weak fixations of visual search. `--findings K` puts up to
K findings on an image, each with its own sentence and gaze (findings.py).

**Gaze leaks the class**, because each finding has its natural positions and normal images are only
searched. `gaze_leak` is the share of samples with natural positions, and of normal images without
a decoy. All other samples, normal ones included, draw the position from one distribution. At 0,
gaze and class are independent by construction. For that reason every finding here is focal and has
one of the same three sizes; cardiomegaly or effusion could not be moved.

Logistic regression on the gaze alone (heatmap averaged to 8 x 8), 2 000 training and 1 000 test
samples, mean and s.d. over seeds 0-4, by `gaze_score` of tests/phantom/test_generate.py
(chance: balanced accuracy 0.167; always "normal": accuracy 0.30):

    anatomy   gaze_leak   macro-F1        balanced accuracy   accuracy
    chest     1           0.710 ± 0.006   0.714 ± 0.007       0.731 ± 0.007
    chest     0.5         0.405 ± 0.010   0.404 ± 0.010       0.434 ± 0.007
    chest     0           0.108 ± 0.015   0.169 ± 0.008       0.290 ± 0.016
    head      1           0.770 ± 0.014   0.773 ± 0.014       0.786 ± 0.014
    head      0.5         0.437 ± 0.017   0.436 ± 0.017       0.457 ± 0.016
    head      0           0.096 ± 0.004   0.163 ± 0.006       0.280 ± 0.010

Three more settings degrade the training split alone. `gaze_noise` is the share of a heatmap's mass
at random positions. `gaze_shift` moves each heatmap in a random direction, by that share of the
image side. `shortcut` is the share of images whose devices follow from the class. The test split
has none of them: its heatmaps are the truth, and its devices are independent of the class.
`contrast`, `noise` and `devices` change the images of both splits.

Every draw comes from a numpy Generator seeded by (seed, split, block of 32 samples, purpose), and
by the anatomy. The same arguments give the same bytes (with the same numpy and Pillow). A smaller
`n` gives the same first samples, though not the same annotated ones (see `generate`).
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from .batch import SPLITS, PhantomBatch
from .findings import render_findings
from .images import render_gaze, render_images
from .reports import compose_report
from .scenes import ANATOMIES, Knobs, draw_scenes

_BLOCK = 32  # samples per generator; a block of 64-pixel planes stays in the processor's cache
# Purposes: each has its own stream of random numbers
_SCENE, _NOISE, _GAZE, _REPORT, _ANNOTATED, _FINDINGS = range(6)


def generate(
    n: int,
    *,
    seed: int,
    split: str,
    annotated: float,
    size: int = 64,
    gaze_leak: float = 1.0,
    gaze_noise: float = 0.0,
    gaze_shift: float = 0.0,
    shortcut: float = 0.0,
    findings: int = 1,
    anatomy: str = "chest",
    contrast: float = 1.0,
    noise: float = 1.0,
    devices: float = 1.0,
) -> PhantomBatch:
    """Generate `n` samples of `split` ("train" or "test").

    The module's docstring says what the samples show.

    Args:
        n: number of samples, at least 1.
        seed: any integer >= 0; the splits of one seed share no sample.
        annotated: share of samples marked as annotated, exact to rounding; 0 for the test split. A
            larger share only adds samples to those of a smaller one.
        size: image side in pixels, at least 32. The scenes do not depend on it.
        gaze_leak: 0 .. 1, share of samples whose gaze goes to the natural position of the class.
        gaze_noise: 0 .. 0.9, share of a heatmap's mass at random positions.
        gaze_shift: 0 .. 0.5, length of each heatmap's displacement in image sides.
        shortcut: 0 .. 1, share of images whose devices follow from the class.
        findings: maximum number of findings on an image (findings.py). Labels and boxes are those
            of the finding dictated first.
        anatomy: "chest" or "head".
        contrast: 0.1 .. 3, factor of the findings' contrast.
        noise: 0 .. 5, factor of the noise in the images.
        devices: 0 .. 3, factor of how often an image shows each device.

    Raises:
        ValueError: an argument is out of range.
    """
    knobs = Knobs(
        gaze_leak, gaze_noise, gaze_shift, shortcut, findings, anatomy, contrast, noise, devices
    )
    check(n, seed, split, annotated, size, knobs)
    parts = list(generate_blocks(n, seed, split, annotated, size, knobs))
    return PhantomBatch(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        reports=[report for part in parts for report in part.reports],
        heatmaps=np.concatenate([part.heatmaps for part in parts]),
        annotated=np.concatenate([part.annotated for part in parts]),
        classes=parts[0].classes,
        boxes=np.concatenate([part.boxes for part in parts]),
        described=[described for part in parts for described in part.described],
    )


def generate_blocks(
    n: int, seed: int, split: str, annotated: float, size: int, knobs: Knobs
) -> Iterator[PhantomBatch]:
    """Generate in blocks of at most _BLOCK samples, so that large sets need not fit in memory.

    The arguments are those that `check` has passed.
    """
    if split == "test":
        knobs = dataclasses.replace(knobs, gaze_noise=0, gaze_shift=0, shortcut=0)
    words = ANATOMIES[knobs.anatomy].words
    is_annotated = _choose_annotated(n, seed, split, annotated, knobs)
    for start in range(0, n, _BLOCK):
        rngs = [
            _rng(seed, split, start // _BLOCK, purpose, knobs)
            for purpose in (_SCENE, _NOISE, _GAZE, _REPORT)
        ]
        # A partial last block is drawn whole and cut: the first samples are the same for any n
        scenes = draw_scenes(rngs[0], _BLOCK, knobs)
        keep = min(_BLOCK, n - start)
        if knobs.findings > 1:
            further = _rng(seed, split, start // _BLOCK, _FINDINGS, knobs)
            several = render_findings(scenes, [*rngs[1:], further], size, knobs)
            yield PhantomBatch(
                annotated=is_annotated[start : start + keep],
                classes=words.classes,
                **{name: values[:keep] for name, values in several.items()},
            )
            continue
        images, boxes = render_images(scenes, rngs[1], size)
        findings = zip(scenes.label, scenes.side, scenes.zone, scenes.severity, strict=True)
        reports = [
            compose_report(rngs[3], words, finding, worn)
            for finding, worn in zip(findings, scenes.devices, strict=True)
        ]
        yield PhantomBatch(
            images=images[:keep],
            labels=scenes.label[:keep],
            reports=reports[:keep],
            heatmaps=render_gaze(scenes, rngs[2], size, knobs)[:keep],
            annotated=is_annotated[start : start + keep],
            classes=words.classes,
            boxes=boxes[:keep],
        )


def _rng(seed: int, split: str, block: int, purpose: int, knobs: Knobs) -> np.random.Generator:
    key = [seed, SPLITS.index(split), block, purpose]
    # an anatomy after the first has a spawn key of its own, as purposes have in streams.py
    return np.random.default_rng(
        np.random.SeedSequence(key, spawn_key=ANATOMIES[knobs.anatomy].stream)
    )


def _choose_annotated(n: int, seed: int, split: str, share: float, knobs: Knobs) -> np.ndarray:
    """Bool (n,), round(share * n) of them True: the samples with the lowest of n random ranks."""
    ranks = _rng(seed, split, 0, _ANNOTATED, knobs).random(n)
    chosen = np.zeros(n, dtype=bool)
    chosen[np.argsort(ranks, kind="stable")[: round(share * n)]] = True
    return chosen


def check(n: int, seed: int, split: str, annotated: float, size: int, knobs: Knobs) -> None:
    """ValueError: an argument of `generate` is out of range."""
    if knobs.anatomy not in ANATOMIES:
        raise ValueError(
            f"anatomy {knobs.anatomy!r}: expected one of {', '.join(ANATOMIES)}. The default is"
            " chest."
        )
    if split not in SPLITS:
        raise ValueError(
            f"split {split!r}: expected one of {', '.join(SPLITS)}. For further sets, use another"
            " seed."
        )
    if n < 1:
        raise ValueError(
            f"n = {n} {split} samples: expected at least 1. Ask for a positive number."
        )
    if knobs.findings < 1:
        raise ValueError(
            f"findings {knobs.findings}: expected at least 1 per image. The default is 1."
        )
    if seed < 0:
        raise ValueError(f"seed {seed}: expected an integer >= 0, as numpy requires.")
    if size < 32:
        raise ValueError(
            f"size {size}: expected at least 32 pixels. Smaller images do not show the lesions; the"
            " default is 64."
        )
    for name, value, most in (
        ("annotated", annotated, 1),
        ("gaze_leak", knobs.gaze_leak, 1),
        ("gaze_noise", knobs.gaze_noise, 0.9),
        ("gaze_shift", knobs.gaze_shift, 0.5),
        ("shortcut", knobs.shortcut, 1),
    ):
        if not 0 <= value <= most:
            raise ValueError(f"{name} {value}: expected a share in 0 .. {most}. Give 0.05 for 5 %.")
    for name, value, least, most in (
        ("contrast", knobs.contrast, 0.1, 3),
        ("noise", knobs.noise, 0, 5),
        ("devices", knobs.devices, 0, 3),
    ):
        if not least <= value <= most:
            raise ValueError(
                f"{name} {value}: expected a factor in {least} .. {most}. The default is 1."
            )
    if split == "test" and annotated > 0:
        raise ValueError(
            f"annotated {annotated} for split 'test': expected 0. Test samples never carry"
            " heatmaps."
        )
