"""Synthetic chest X-rays with reports and gaze: training and test data in seconds, no download.

    openclip-eclip prepare phantom OUT --train 2000 --test 1000 --annotated 0.05 --seed 0

The images have six classes: normal (30 %) and five focal findings (14 % each). A finding has a
side, a zone and a severity. Exposure, noise, leads, pacemaker, tubes and R/L markers are
independent of the finding. Reports are paraphrased (reports.py). A gaze heatmap has two fixations
at the lesion and four weak fixations of visual search. `--findings K` puts up to K findings on an
image, each with its own sentence and gaze (findings.py).

**Gaze leaks the class**, because each finding has its natural positions and normal images are only
searched. `gaze_leak` is the share of samples with natural positions, and of normal images without
a decoy. All other samples, normal ones included, draw the position from one distribution. At 0,
gaze and class are independent by construction. For that reason every finding here is focal and has
one of the same three sizes; cardiomegaly or effusion could not be moved.

Logistic regression on the gaze alone (heatmap averaged to 8 x 8), 2 000 training and 1 000 test
samples, mean and s.d. over seeds 0-4, by `gaze_score` of tests/phantom/test_generate.py
(chance: balanced accuracy 0.167; always "normal": accuracy 0.30):

    gaze_leak   macro-F1        balanced accuracy   accuracy
    1           0.710 ± 0.006   0.714 ± 0.007       0.731 ± 0.007
    0.5         0.405 ± 0.010   0.404 ± 0.010       0.434 ± 0.007
    0           0.108 ± 0.015   0.169 ± 0.008       0.290 ± 0.016

Three more settings degrade the training split alone. `gaze_noise` is the share of a heatmap's mass
at random positions. `gaze_shift` moves each heatmap in a random direction, by that share of the
image side. `shortcut` is the share of images whose devices follow from the class. The test split
has none of them: its heatmaps are the truth, and its devices are independent of the class.

Every draw comes from a numpy Generator seeded by (seed, split, block of 32 samples, purpose). The
same arguments give the same bytes (with the same numpy and Pillow). A smaller `n` gives the same
first samples, though not the same annotated ones (see `generate`).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..files import fresh_folder
from .batch import SPLITS, PhantomBatch
from .findings import render_findings
from .images import Knobs, draw_scenes, render_gaze, render_images
from .reports import CLASS_NAMES, compose_report, zero_shot_prompts
from .write import recipe, write_csv, write_json, write_webdataset

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

    Raises:
        ValueError: an argument is out of range.
    """
    knobs = Knobs(gaze_leak, gaze_noise, gaze_shift, shortcut, findings)
    parts = list(_generate_blocks(n, seed, split, annotated, size, knobs))
    return PhantomBatch(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        reports=[report for part in parts for report in part.reports],
        heatmaps=np.concatenate([part.heatmaps for part in parts]),
        annotated=np.concatenate([part.annotated for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts]),
        described=[described for part in parts for described in part.described],
    )


def _generate_blocks(
    n: int, seed: int, split: str, annotated: float, size: int, knobs: Knobs
) -> Iterator[PhantomBatch]:
    """Generate in blocks of at most _BLOCK samples, so that large sets need not fit in memory."""
    _check(n, seed, split, annotated, size, knobs)
    if split == "test":
        knobs = Knobs(knobs.gaze_leak, findings=knobs.findings)
    is_annotated = _choose_annotated(n, seed, split, annotated)
    for start in range(0, n, _BLOCK):
        rngs = [
            _rng(seed, split, start // _BLOCK, purpose)
            for purpose in (_SCENE, _NOISE, _GAZE, _REPORT)
        ]
        # A partial last block is drawn whole and cut: the first samples are the same for any n
        scenes = draw_scenes(rngs[0], _BLOCK, knobs)
        keep = min(_BLOCK, n - start)
        if knobs.findings > 1:
            several = render_findings(
                scenes, [*rngs[1:], _rng(seed, split, start // _BLOCK, _FINDINGS)], size, knobs
            )
            yield PhantomBatch(
                annotated=is_annotated[start : start + keep],
                **{name: values[:keep] for name, values in several.items()},
            )
            continue
        images, boxes = render_images(scenes, rngs[1], size)
        facts = zip(
            scenes.label, scenes.side, scenes.zone, scenes.severity, scenes.devices, strict=True
        )
        yield PhantomBatch(
            images=images[:keep],
            labels=scenes.label[:keep],
            reports=[compose_report(rngs[3], *fact) for fact in facts][:keep],
            heatmaps=render_gaze(scenes, rngs[2], size, knobs)[:keep],
            annotated=is_annotated[start : start + keep],
            boxes=boxes[:keep],
        )


def _rng(seed: int, split: str, block: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), block, purpose])


def _choose_annotated(n: int, seed: int, split: str, share: float) -> np.ndarray:
    """Bool (n,), round(share * n) of them True: the samples with the lowest of n random ranks."""
    ranks = _rng(seed, split, 0, _ANNOTATED).random(n)
    chosen = np.zeros(n, dtype=bool)
    chosen[np.argsort(ranks, kind="stable")[: round(share * n)]] = True
    return chosen


def _check(n: int, seed: int, split: str, annotated: float, size: int, knobs: Knobs) -> None:
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
    if split == "test" and annotated > 0:
        raise ValueError(
            f"annotated {annotated} for split 'test': expected 0. Test samples never carry"
            " heatmaps."
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command; `run` says what they write."""
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder to create; must be absent or empty"
    )
    parser.add_argument(
        "--train",
        type=int,
        default=2000,
        metavar="N",
        help="number of training samples (default: %(default)s)",
    )
    parser.add_argument(
        "--test",
        type=int,
        default=1000,
        metavar="N",
        help="number of test samples (default: %(default)s)",
    )
    parser.add_argument(
        "--annotated",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of the training samples that have a heatmap (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed; the same seed gives the same bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=64,
        metavar="PIXELS",
        help="side of the square images in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=("csv", "webdataset"),
        default="csv",
        help="write a CSV table with image files, or webdataset shards (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-size",
        type=int,
        default=500,
        metavar="N",
        help="number of samples per webdataset shard (default: %(default)s)",
    )
    _add_content_arguments(parser)


def _add_content_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that change what images and heatmaps show."""
    parser.add_argument(
        "--gaze-leak",
        type=float,
        default=1.0,
        metavar="SHARE",
        help=(
            "share of the samples whose gaze goes to the natural position of their class; at 0, "
            "gaze and class are independent (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--gaze-noise",
        type=float,
        default=0.0,
        metavar="SHARE",
        help=(
            "share of each training heatmap's mass at random positions, 0 to 0.9 "
            "(default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--gaze-shift",
        type=float,
        default=0.0,
        metavar="SHARE",
        help=(
            "displacement of each training heatmap, as a share of the image side, 0 to 0.5 "
            "(default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--shortcut",
        type=float,
        default=0.0,
        metavar="SHARE",
        help=(
            "share of the training images whose devices follow from the class "
            "(default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--findings",
        type=int,
        default=1,
        metavar="K",
        help=(
            "maximum number of findings per image; above 1, annotated images have sentence windows "
            "(default: %(default)s)"
        ),
    )


def run(args: argparse.Namespace) -> str:
    """Write the data set, all of it or nothing, and return a one-line summary.

    * csv: images/, heatmaps/, train.csv (filepath, title, heatmap, label) and test.csv (filepath,
      title, label, x0, y0, x1, y1). Paths in a CSV are relative to its folder.
    * webdataset: train-000000.tar ..., test-000000.tar ... and sizes.json.
    * Both: classes.json, recipe.json and, for evaluation only, test_gaze/ with test_gaze.csv.

    With --findings above 1, there are also sentence windows: of annotated images in windows/ or in
    the shards, of test images in test_gaze/. Every test image then lists its findings in the order
    of dictation (class, box, sentence); its label and box are those of the first.

    Raises:
        ValueError: an argument is out of range, or OUT is not empty.
    """
    shares = {"train": args.annotated, "test": 0.0}
    counts = {"train": args.train, "test": args.test}
    knobs = Knobs(args.gaze_leak, args.gaze_noise, args.gaze_shift, args.shortcut, args.findings)
    for split in SPLITS:  # before any file is written
        _check(counts[split], args.seed, split, shares[split], args.size, knobs)
    if args.shard_size < 1:
        raise ValueError(f"shard size {args.shard_size}: expected at least 1. 500 is the default.")
    labels: dict[str, list[int]] = {split: [] for split in SPLITS}
    total = sum(counts.values())
    # disable=None: no progress bar if stderr is not a terminal
    with fresh_folder(args.out) as folder, tqdm(total=total, unit="image", disable=None) as bar:
        for split in SPLITS:
            blocks = _generate_blocks(
                counts[split], args.seed, split, shares[split], args.size, knobs
            )
            watched = _watch(blocks, labels[split], bar)
            if args.format == "csv":
                write_csv(folder, split, watched)
            else:
                write_webdataset(folder, split, watched, args.shard_size)
        prompts = {name: zero_shot_prompts(name) for name in CLASS_NAMES}
        write_json(folder / "classes.json", {"classes": list(CLASS_NAMES), "prompts": prompts})
        parameters = {
            name: getattr(args, name)
            for name in (
                "train",
                "test",
                "annotated",
                "seed",
                "size",
                "format",
                "gaze_leak",
                "gaze_noise",
                "gaze_shift",
                "shortcut",
                "shard_size",
            )
        }
        if args.findings > 1:  # absent at 1, so that recipe.json keeps its bytes
            parameters["findings"] = args.findings
        write_json(folder / "recipe.json", recipe(folder, parameters, labels))
    return (
        f"phantom: {args.train} train, {args.test} test images of {args.size} pixels"
        f" ({args.format}) in {args.out}"
    )


def _watch(blocks: Iterator[PhantomBatch], labels: list[int], bar: tqdm) -> Iterator[PhantomBatch]:
    """Yield `blocks`; record labels and progress as the writer takes them."""
    for block in blocks:
        yield block
        labels.extend(block.labels.tolist())
        bar.update(len(block.labels))
