"""The command `prepare phantom`: it writes a synthetic data set."""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from ..files import fresh_folder
from .batch import SPLITS, PhantomBatch
from .generate import check, generate_blocks
from .reports import zero_shot_prompts
from .scenes import ANATOMIES, Knobs
from .write import recipe, write_csv, write_json, write_webdataset

KNOBS = tuple(field.name for field in dataclasses.fields(Knobs))


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
    _add_image_arguments(parser)


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that change the images of both splits."""
    parser.add_argument(
        "--anatomy",
        choices=ANATOMIES,
        default="chest",
        help=(
            "what the images show: chest X-rays, or head CT slices with other shapes, textures, "
            "findings and words (default: %(default)s)"
        ),
    )
    for name, help_text in (
        ("contrast", "factor of the findings' contrast, 0.1 to 3"),
        ("noise", "factor of the noise in the images, 0 to 5"),
        ("devices", "factor of how often an image shows each device, 0 to 3"),
    ):
        parser.add_argument(
            f"--{name}",
            type=float,
            default=1.0,
            metavar="FACTOR",
            help=f"{help_text} (default: %(default)s)",
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
    knobs = Knobs(**{name: getattr(args, name) for name in KNOBS})
    for split in SPLITS:  # before any file is written
        check(counts[split], args.seed, split, shares[split], args.size, knobs)
    if args.shard_size < 1:
        raise ValueError(f"shard size {args.shard_size}: expected at least 1. 500 is the default.")
    words = ANATOMIES[knobs.anatomy].words
    labels: dict[str, list[int]] = {split: [] for split in SPLITS}
    total = sum(counts.values())
    # disable=None: no progress bar if stderr is not a terminal
    with fresh_folder(args.out) as folder, tqdm(total=total, unit="image", disable=None) as bar:
        for split in SPLITS:
            blocks = generate_blocks(
                counts[split], args.seed, split, shares[split], args.size, knobs
            )
            watched = _watch(blocks, labels[split], bar)
            if args.format == "csv":
                write_csv(folder, split, watched)
            else:
                write_webdataset(folder, split, watched, args.shard_size)
        classes = words.classes
        prompts = {name: zero_shot_prompts(words, name) for name in classes}
        write_json(folder / "classes.json", {"classes": list(classes), "prompts": prompts})
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
        # absent at their defaults, so that recipe.json keeps its bytes
        parameters |= {
            name: getattr(knobs, name)
            for name in ("findings", "anatomy", "contrast", "noise", "devices")
            if getattr(knobs, name) != getattr(Knobs, name)
        }
        write_json(folder / "recipe.json", recipe(folder, parameters, classes, labels))
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
