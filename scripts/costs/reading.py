"""Measures how many samples a second one core reads for training, beside open_clip's pipeline.

    python scripts/costs/reading.py --images FOLDER --before CHECKOUT

JPEGs of several sizes are read from shards without worker processes. The pipelines alternate in an
order drawn anew in each round, and their CPU seconds are compared. `--images` adds photographs of
your own; `--before` names a checkout of another version, measured in the same rounds. It writes
docs/results/reading.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, image_transform
from reading_data import ALL_PNG, SHARES, VIEW, draw_image, draw_map, write_data
from train import CONTEXT, Clock, machine, prepare_torch, ratio

from openclip_eclip.data.heatmap import decode_heatmap
from openclip_eclip.data.images.read import read_picture
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.params import eclip_parser
from training_patches.train_data import train_source

HERE = Path(__file__).resolve().parents[2]
STOCK, STOCK_MAPS, FAST = "open_clip", "open_clip, shards with heatmaps on all", "--fast-jpeg"
TRANSFORM = "transform"
ALONE, WITH_MAP = "alone", "with a heatmap"
NOW, BEFORE = "now", "before"
REPEATS = 40  # of the transform


# ---- one version of the package, in a process of its own


def exhaust(loader: Iterable[Any]) -> Callable[[], object]:
    return lambda: [len(batch) for batch in loader]


def contestants(folder: Path, is_before: bool) -> dict[tuple[str, str], Callable[[], object]]:
    """(images, pipeline) -> one pass over a shard."""
    import open_clip_train.data as upstream

    stock = image_transform(VIEW, is_train=True)
    tokenizer = open_clip.get_tokenizer("eclip-vit-small", context_length=CONTEXT)
    work: dict[tuple[str, str], Callable[[], object]] = {}
    for name, (count, batch) in json.loads((folder / "sizes.json").read_text()).items():
        for label in SHARES:
            if count < SHARES[label][0]:
                continue
            args = eclip_parser().parse_args([])
            vars(args).update(
                train_data=str(folder / name / label / "train-000000.tar"),
                dataset_type="webdataset",
                train_num_samples=count,
                dataset_resampled=False,
                train_data_upsampling_factors=None,
                **{"seed": 0, "batch_size": batch, "workers": 0, "rank": 0, "world_size": 1},
            )
            has_maps = SHARES[label][0] > 0

            def ours(transform: JointTransform, args: Any = args, maps: bool = has_maps) -> Any:
                return train_source(args, transform, tokenizer, 0, heatmaps=maps).info.dataloader

            if not is_before and (not has_maps or label == ALL_PNG):
                plain = upstream.get_wds_dataset(args, stock, True, tokenizer=tokenizer)
                work[name, STOCK_MAPS if has_maps else STOCK] = exhaust(plain.dataloader)
            work[name, label] = exhaust(ours(JointTransform(stock, 0.1)))
            if not has_maps and not is_before:
                work[name, FAST] = exhaust(ours(JointTransform(stock, 0.1, fast_jpeg=True)))
    rng = np.random.default_rng(2)
    image = draw_image(rng, 256, 256)
    heatmap = decode_heatmap(draw_map(rng, 256, 256), "h.png")
    joint = JointTransform(stock, 0.1)
    work[TRANSFORM, WITH_MAP] = lambda: [joint(image, heatmap) for _ in range(REPEATS)]
    work[TRANSFORM, ALONE] = lambda: [joint(image) for _ in range(REPEATS)]
    if not is_before:
        work[TRANSFORM, STOCK] = lambda: [stock(image) for _ in range(REPEATS)]
    return work


def serve(folder: Path, is_before: bool) -> None:
    """Answer the names of contestants, one a line, with the CPU seconds of one pass."""
    work, clock = contestants(folder, is_before), Clock(torch.device("cpu"))
    sys.stdout.write(json.dumps([list(key) for key in work]) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(f"{clock(work[tuple(json.loads(line))])}\n")
        sys.stdout.flush()


class Version:
    """A process that measures one version of the package."""

    def __init__(self, package: Path, folder: Path, is_before: bool) -> None:
        paths = [str(package), str(HERE / "scripts" / "costs")]
        environment = {
            **os.environ,
            **{"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            **{"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        }
        command = [sys.executable, "-W", "ignore", "-P", __file__, "--serve", str(folder)]
        self.process = subprocess.Popen(
            command + ["--is-before"] * is_before,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.keys = [tuple(key) for key in json.loads(self._answer())]

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("error: a measuring process ended; its message is above")
        return line

    def measure(self, key: tuple[str, ...]) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(key) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def alternate(versions: dict[str, Version], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round of warm-up, in changing order."""
    jobs = [(label, key) for label, version in versions.items() for key in version.keys]
    times: dict[str, list[float]] = {joined(label, *key): [] for label, key in jobs}
    rng = np.random.default_rng(0)
    for number in range(rounds + 1):
        for i in rng.permutation(len(jobs)):
            label, key = jobs[i]
            seconds = versions[label].measure(key)
            if number:
                times[joined(label, *key)].append(seconds)
        sys.stderr.write(f"round {number} of {rounds}\n")
    return times


# ---- the page


def differences(folder: Path) -> dict[str, tuple[float, float, float]]:
    """How far the views of `--fast-jpeg` are from the plain ones with the same crops.

    By set of images: (mean, 99.9th percentile, maximum) of the absolute difference, of 255.
    """
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    )
    transforms = [
        JointTransform(image_transform(VIEW, is_train=True), 0.1, fast_jpeg=fast)
        for fast in (False, True)
    ]
    found = {}
    for name in json.loads((folder / "sizes.json").read_text()):
        parts: list[np.ndarray] = []
        with tarfile.open(folder / name / "without heatmaps" / "train-000000.tar") as archive:
            jpegs = [archive.extractfile(one).read() for one in archive if one.name.endswith("jpg")]
        for i, data in enumerate(jpegs):
            views = []
            for joint in transforms:
                torch.manual_seed(i)
                draft = joint.draft()
                image = read_picture(data, f"image {i}", draft=draft).image.convert("RGB")
                crop = draft.crop if draft else None
                views.append(joint.with_windows(image, None, None, (), crop)[0] * std + mean)
            parts.append((255 * (views[0] - views[1])).abs().flatten().numpy())
        values = np.concatenate(parts)
        most = (values.mean(), np.percentile(values, 99.9), values.max())
        found[name] = (float(most[0]), float(most[1]), float(most[2]))
    return found


class Page:
    """The tables of `docs/results/reading.md`; `times` are seconds of a pass in each round."""

    def __init__(self, times: dict[str, list[float]], counts: dict[str, list[int]]) -> None:
        self.times, self.counts = times, counts
        self.versions = [
            version for version in (NOW, BEFORE) if any(key.startswith(version) for key in times)
        ]

    def median(self, version: str, name: str, label: str, count: int) -> float:
        """Seconds a sample; NaN if it was not measured."""
        times = self.times.get(joined(version, name, label), [float("nan")])
        return statistics.median(times) / count

    def beside(self, version: str, name: str, label: str) -> str:
        """Ratio of samples a second to those of open_clip, hence the inverse of the times."""
        key = joined(version, name, label)
        if key not in self.times:
            return ""
        middle, low, high = ratio(self.times, joined(NOW, name, STOCK), key)
        return f"{middle:.2f} ({low:.2f}-{high:.2f})"

    def rates(self) -> list[str]:
        extra = [", before the change"] * (len(self.versions) - 1)
        heads = "".join(f" to open_clip's{more} |" for more in ("", *extra))
        lines = [
            f"| JPEGs | pipeline | samples/s |{heads}",
            "|---" * (3 + len(self.versions)) + "|",
        ]
        for name, (count, _) in self.counts.items():
            for label in (STOCK, STOCK_MAPS, *SHARES, FAST):
                if joined(NOW, name, label) in self.times:
                    rate = 1 / self.median(NOW, name, label, count)
                    cells = [self.beside(version, name, label) for version in self.versions]
                    shown = label if label.startswith(STOCK) else f"ours, {label}"
                    row = [name, shown, f"{rate:.3g}", *(cells if label != STOCK else ("1", ""))]
                    lines.append(f"| {' | '.join(row[: 3 + len(self.versions)])} |")
        return lines

    def transforms(self) -> list[str]:
        lines = [
            "| transform of one image of 256 x 256 px | " + " | ".join(self.versions) + " |",
            "|---" * (1 + len(self.versions)) + "|",
        ]
        for label, shown in (
            (STOCK, "open_clip's"),
            (ALONE, "ours, no heatmap"),
            (WITH_MAP, "ours, with a heatmap"),
        ):
            times = [self.median(one, TRANSFORM, label, REPEATS) for one in self.versions]
            cells = [f"{1e6 * time:.0f} µs" if time == time else "" for time in times]
            lines.append(f"| {shown} | {' | '.join(cells)} |")
        stock = self.median(NOW, TRANSFORM, STOCK, REPEATS)
        ours = [self.median(one, TRANSFORM, WITH_MAP, REPEATS) for one in self.versions]
        cells = [f"{1e6 * (time - stock):.0f} µs" for time in ours]
        return [*lines, f"| ours with a heatmap, less open_clip's | {' | '.join(cells)} |"]


def joined(*words: str) -> str:
    return "/".join(words)


def page(
    times: dict[str, list[float]],
    counts: dict[str, list[int]],
    shift: dict[str, tuple[float, float, float]],
    args: argparse.Namespace,
) -> str:
    tables = Page(times, counts)
    given = "--images FOLDER " * bool(args.images) + "--before CHECKOUT" * bool(args.before)
    lines = [
        "# Reading: samples a second",
        "",
        f"`python scripts/costs/reading.py {given.strip()}`, {machine(torch.device('cpu'))}, no",
        f"worker processes, torch {torch.__version__}, open_clip {open_clip.__version__}. CPU",
        f"seconds, medians of {args.rounds} rounds, in which all pipelines alternate; ratios of",
        "medians with 95 % intervals. Crops are open_clip's default, 90 to 100 % of the area, to",
        f"{VIEW} x {VIEW} px. A heatmap is an 8-bit PNG, {VIEW} px high if no other height is",
        "given. Ratios are to open_clip on shards without heatmaps; where they have some, its",
        "webdataset decodes these PNGs too, and drops them.",
        "",
        *tables.rates(),
        "",
        "## The transform",
        "",
        *tables.transforms(),
        "",
        "## Pixels of `--fast-jpeg`",
        "",
        "Absolute difference from the plain view of the same crop, in levels of 255:",
        "",
        "| JPEGs | mean | 99.9 % are below | maximum |",
        "|---|---|---|---|",
        *(f"| {name} | {a:.2f} | {b:.1f} | {c:.0f} |" for name, (a, b, c) in shift.items()),
        "",
        "224 px need all their pixels, so nothing changes there.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="folder of JPEGs; the first 20 are read too"
    )
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="checkout of a version to compare with"
    )
    parser.add_argument(
        "--rounds", type=int, default=25, help="rounds of all pipelines (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "docs" / "results" / "reading.md",
        help="Markdown file to write (default: %(default)s)",
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--is-before", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    prepare_torch()
    if args.serve:
        serve(args.serve, args.is_before)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, args.images)
        counts, shift = json.loads((folder / "sizes.json").read_text()), differences(folder)
        versions = {NOW: Version(HERE, folder, False)}
        if args.before:
            versions[BEFORE] = Version(args.before.resolve(), folder, True)
        times = alternate(versions, args.rounds)
        for version in versions.values():
            version.close()
    args.out.write_text(page(times, counts, shift, args), encoding="utf-8")
    sys.stdout.write(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
