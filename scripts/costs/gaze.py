"""Measures the cost of rendering heatmaps: one image, and a whole data set to PNG files.

Our renderer is compared with the full-resolution method of the EGD-CXR authors, which has the same
output. It puts durations as impulses into a map of the image's full size, applies
`scipy.ndimage.gaussian_filter(map, 150)`, and averages down. Tables are synthetic, in the columns of
EGD-CXR's fixations.csv. Writes docs/results/gaze.md.
"""

from __future__ import annotations

import os

# two processes are two cores; before numpy is imported
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
import scipy
from scipy.ndimage import gaussian_filter

from openclip_eclip.gaze import (
    Fixations,
    RenderConfig,
    area_average,
    render,
    save_heatmap,
    write_manifest,
)

ROOT = Path(__file__).resolve().parents[2]
IMAGE = (3056, 2544)  # height, width in pixels
COLUMNS = (
    "SESSION_ID,MEDIA_ID,DICOM_ID,CNT,Time (in"
    " secs),TIMETICK(f=10000000),FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,FPOGV,"
    "BPOGX,BPOGY,BPOGV,LPCX,LPCY,LPD,LPS,LPV,RPCX,RPCY,RPD,RPS,RPV,BKID,BKDUR,BKPMIN,LPMM,LPMMV,RPMM,RPMMV,"
    "SACCADE_MAG,SACCADE_DIR,VID_FRAME,X_ORIGINAL,Y_ORIGINAL"
).split(",")
Work = list[tuple[str, Fixations, tuple[int, int]]]


def random_fixations(count: int, seed: int) -> Fixations:
    """Random fixations on one image."""
    rng = np.random.default_rng(seed)
    return Fixations(
        rng.integers(0, IMAGE[1], count),
        rng.integers(0, IMAGE[0], count),
        rng.gamma(2, 0.15, count) + 0.05,
    )


def full_resolution_line(fixations: Fixations, sigma: float, size: tuple[int, int]) -> np.ndarray:
    """The heatmap of the full-resolution method, divided by its maximum."""
    impulses = np.zeros(IMAGE)
    np.add.at(impulses, (fixations.y.astype(int), fixations.x.astype(int)), fixations.duration)
    values = area_average(gaussian_filter(impulses, sigma), size)
    return values / values.max()


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of a call, which depend less on other jobs than wall-clock seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def write_tables(folder: Path, images: int, seed: int) -> None:
    """Writes fixations.csv in EGD-CXR's columns, and images.csv with the sizes of the images.

    An image has about 46 rows, including calibration rows and rows outside the image.
    """
    rng = np.random.default_rng(seed)
    counts = rng.poisson(45, images) + 1
    hexes = [rng.bytes(20).hex() for _ in range(images)]
    keys = np.array(["-".join(text[i : i + 8] for i in range(0, 40, 8)) for text in hexes])
    image = np.repeat(np.arange(images), counts)  # of each row
    rows = len(image)
    table = pd.DataFrame({name: rng.random(rows).round(5) for name in COLUMNS})
    table["SESSION_ID"] = image // 30 + 1
    table["MEDIA_ID"] = image % 30
    table["DICOM_ID"] = keys[image]
    table["FPOGD"] = (rng.gamma(2, 0.15, rows) + 0.05).round(5)
    table["FPOGV"] = (rng.random(rows) > 0.02).astype(int)
    inside = rng.random(rows) > 0.03
    table["X_ORIGINAL"] = np.where(inside, rng.integers(0, IMAGE[1], rows), -2)
    table["Y_ORIGINAL"] = np.where(inside, rng.integers(0, IMAGE[0], rows), -2)
    calibration = table.groupby("DICOM_ID").head(1).iloc[::20].copy()
    calibration["DICOM_ID"] = calibration["DICOM_ID"].str[:-5]
    pd.concat([table, calibration]).to_csv(folder / "fixations.csv", index=False)
    pd.DataFrame({"dicom_id": keys, "height": IMAGE[0], "width": IMAGE[1]}).to_csv(
        folder / "images.csv", index=False
    )


def read_tables(folder: Path) -> Work:
    """(dicom_id, valid fixations, size) of every image; the sizes come from images.csv."""
    sizes = pd.read_csv(folder / "images.csv").set_index("dicom_id")
    table = pd.read_csv(
        folder / "fixations.csv",
        usecols=["DICOM_ID", "X_ORIGINAL", "Y_ORIGINAL", "FPOGD", "FPOGS", "FPOGV"],
    )
    table = table[(table["FPOGV"] == 1) & table["DICOM_ID"].isin(sizes.index)]
    work = []
    for key, rows in table.groupby("DICOM_ID"):
        fields = (rows[name].to_numpy() for name in ("X_ORIGINAL", "Y_ORIGINAL", "FPOGD", "FPOGS"))
        work.append(
            (key, Fixations(*fields), (int(sizes.at[key, "height"]), int(sizes.at[key, "width"])))
        )
    return work


def write_maps(work: Work, folder: Path) -> int:
    """Writes the heatmaps of some images; returns their number."""
    written = 0
    for key, fixations, size in work:
        heatmap = render(fixations, size, 224)
        if heatmap is not None:
            save_heatmap(heatmap, folder / f"{key}.png")
            written += 1
    return written


def whole_set(tables: Path, out: Path) -> int:
    """Writes all heatmaps and a manifest with two processes; returns the number of heatmaps."""
    work = read_tables(tables)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        written = sum(
            pool.imap_unordered(partial(write_maps, folder=out), [work[i::16] for i in range(16)])
        )
    inputs = [tables / "fixations.csv", tables / "images.csv"]
    write_manifest(out, {**asdict(RenderConfig()), "size": 224}, inputs, {"maps": written})
    return written


def bench_image(repeats: int) -> tuple[float, list[float], list[float]]:
    """The largest difference of both maps, and the CPU seconds of our and the other method."""
    fixations, size = random_fixations(40, seed=0), (269, 224)
    ours = render(fixations, IMAGE, size).values
    # this is also the warm-up
    difference = float(np.abs(ours - full_resolution_line(fixations, 150, size)).max())
    fast, slow = [], []
    for _ in range(repeats):  # alternate, so that other jobs affect both methods
        slow.append(cpu_seconds(lambda: full_resolution_line(fixations, 150, size)))
        fast.append(cpu_seconds(lambda: [render(fixations, IMAGE, size) for _ in range(50)]) / 50)
    return difference, fast, slow


def bench_set(images: int, repeats: int) -> tuple[int, int, float, list[float]]:
    """The number of rows and of maps, the kB of a map, and the wall seconds of the whole set."""
    walls = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tables(folder, images, seed=0)
        rows = len(pd.read_csv(folder / "fixations.csv", usecols=["CNT"]))
        for repeat in range(repeats):
            out = folder / f"maps-{repeat}"
            out.mkdir()
            start = time.perf_counter()
            written = whole_set(folder, out)
            walls.append(time.perf_counter() - start)
        return (
            rows,
            written,
            statistics.mean(path.stat().st_size for path in out.glob("*.png")) / 1000,
            walls,
        )


def spread(values: list[float], scale: float, unit: str) -> str:
    low, middle, high = (
        value * scale for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle:.3g} {unit} ({low:.3g}-{high:.3g})"


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--repeats", type=int, default=3, help="repeats of each measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=1080, help="images of the whole set (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs" / "results",
        help="folder for gaze.md (default: %(default)s)",
    )
    args = parser.parse_args()
    load = os.getloadavg()[0]
    difference, fast, slow = bench_image(args.repeats)
    rows, written, kilobytes, walls = bench_set(args.images, args.repeats)
    text = f"""# Heatmaps from fixations

`python scripts/costs/gaze.py`, {processor_name()}, {os.cpu_count()} cores, one thread a process, \
1-minute load before: {load:.1f}; Python {platform.python_version()},
numpy {np.__version__}, scipy {scipy.__version__}, pandas {pd.__version__}, pillow {PIL.__version__}. \
{args.repeats} repeats, medians (smallest-largest). Images of {IMAGE[1]} x {IMAGE[0]}, maps of 224 x 269 pixels.

| what | ours | full-resolution method | ratio | target |
|---|---|---|---|---|
| one image, 40 fixations, sigma 150, CPU time | {spread(fast, 1000, "ms")} | {spread(slow, 1, "s")} | \
{statistics.median(slow) / statistics.median(fast):.0f} | at least 200 |
| the same, largest difference, of the maximum | {difference:.1e} | | | at most 1e-6 |
| {written} images, {rows} table rows, to 8-bit PNG and a manifest, 2 processes, wall clock | \
{spread(walls, 1, "s")} | | | under 20 s |

A map takes {kilobytes:.0f} kB. Full-resolution method: impulses, `scipy.ndimage.gaussian_filter(impulses, 150)` in float64, area
average to the same size, maximum 1; the EGD-CXR authors' tool stops after the filter. The wall clock covers reading the tables,
drawing and writing, not the imports of Python packages. Tables are synthetic, in EGD-CXR's columns; image sizes come from a table:
no image is opened.

![Fixations, boxes, ellipses and a polygon on a synthetic image, and their heatmaps](gaze.png)
"""
    (args.out / "gaze.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
