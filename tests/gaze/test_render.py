"""Annotations to heatmaps, against SciPy's full-resolution filter and against closed forms.

Saved heatmaps are what training reads.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path

import gaze as benchmark_gaze
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from openclip_eclip.data.heatmap import check_aspect, decode_heatmap
from openclip_eclip.gaze import (
    Boxes,
    Ellipses,
    Fixations,
    GazeError,
    Heatmap,
    Mask,
    Points,
    Polygons,
    RenderConfig,
    area_average,
    decode_rle,
    kernels,
    merge,
    render,
    save_heatmap,
    write_manifest,
)
from openclip_eclip.gaze.kernels import gaussian_responses

RAW = {"normalise": "none"}


def scattered(size: tuple[int, int], count: int = 9, seed: int = 0) -> Fixations:
    """Fixations spread over an image, and in all four corners."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = rng.integers(0, height, count), rng.integers(0, width, count)
    y[:4], x[:4] = (0, 0, height - 1, height - 1), (0, width - 1, 0, width - 1)
    return Fixations(x, y, rng.uniform(0.1, 0.9, count))


def impulses(fixations: Fixations, size: tuple[int, int]) -> np.ndarray:
    full = np.zeros(size)
    np.add.at(full, (fixations.y.astype(int), fixations.x.astype(int)), fixations.duration)
    return full


def block_average(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Area average without fractions: repeat every pixel, then average whole blocks."""
    for axis, count in enumerate(size):
        values = np.repeat(values, count, axis=axis)
        values = np.moveaxis(values, axis, 0)
        values = values.reshape(count, -1, values.shape[1]).mean(axis=1)
        values = np.moveaxis(values, 0, axis)
    return values


def mass(heatmap: Heatmap) -> float:
    """Sum over the pixels of the original."""
    return float(heatmap.values.astype(float).mean() * np.prod(heatmap.image_size))


# ---- fixations


@pytest.mark.parametrize("sigma", (0.3, 1, 2.6, 11, 45, 200), ids=lambda sigma: f"sigma-{sigma}")
@pytest.mark.parametrize(
    "image_size, size",
    (
        ((61, 47), (61, 47)),
        ((61, 47), (13, 7)),
        ((40, 90), (17, 31)),
        ((1, 30), (1, 11)),
        ((30, 20), (41, 50)),
    ),
    ids=str,
)
def test_fixations_agree_with_the_full_resolution_filter(
    image_size: tuple[int, int], size: tuple[int, int], sigma: float
) -> None:
    fixations = scattered(image_size)
    expected = block_average(gaussian_filter(impulses(fixations, image_size), sigma), size)
    rows, columns = (
        gaussian_responses(position.astype(int), np.full(9, float(sigma)), full, part)
        for position, full, part in zip((fixations.y, fixations.x), image_size, size)
    )
    exact = (rows * fixations.duration[:, None]).T @ columns
    # differences of cumulative sums of up to 160 reflections; 1e-6 is required
    assert np.abs(exact - expected).max() < 1e-10 * expected.max()
    heatmap = render(fixations, image_size, size, RenderConfig(sigma=sigma))
    assert np.abs(heatmap.values - expected / expected.max()).max() < 1e-6
    assert heatmap.values.dtype == np.float32 and heatmap.values.max() == 1
    assert (heatmap.used, heatmap.dropped) == (9, {})


def test_border_none_is_the_filter_with_zeros_outside() -> None:
    fixations = scattered((50, 40))
    filtered = gaussian_filter(impulses(fixations, (50, 40)), 9, mode="constant")
    expected = area_average(filtered, (23, 19))
    heatmap = render(fixations, (50, 40), (23, 19), RenderConfig(sigma=9, border="none"))
    assert np.abs(heatmap.values - expected / expected.max()).max() < 1e-6


@pytest.mark.parametrize("sigma", (2, 30, 500))
def test_reflection_keeps_the_whole_duration(sigma: float) -> None:
    fixations = scattered((60, 45))
    for weight, total in (("duration", fixations.duration.sum()), ("count", 9)):
        config = RenderConfig(sigma=sigma, weight=weight, **RAW)
        heatmap = render(fixations, (60, 45), (11, 13), config)
        assert mass(heatmap) == pytest.approx(total, rel=1e-6)


def test_the_part_shown_holds_the_integral_of_the_gaussian_over_it() -> None:
    shown = [[300, 100, 640, 900]]
    fixation = Fixations([500], [400], [2.0], ppd_x=[120], ppd_y=[80], shown=shown)
    config = RenderConfig(sigma=1, unit="degrees", border="none", **RAW)
    heatmap = render(fixation, (1000, 1200), (50, 60), config)

    def share(low: float, high: float, sigma: float) -> float:
        return 0.5 * (math.erf(high / sigma / math.sqrt(2)) - math.erf(low / sigma / math.sqrt(2)))

    # the impulse fills pixel 500, whose middle is 500.5; the cut at 4 sigma drops 6e-5
    expected = 2 * share(300 - 500.5, 640 - 500.5, 120) * share(100 - 400.5, 900 - 400.5, 80)
    assert mass(heatmap) == pytest.approx(expected, rel=2e-4)
    outside = np.ones((50, 60), dtype=bool)
    outside[5:45, 15:32] = False
    assert (heatmap.values[outside] == 0).all()
    assert (heatmap.values[5:20, 15:32] > 0).all()


def test_pixels_per_degree_apply_per_axis_and_fixation() -> None:
    y, x, ppd_y, ppd_x = np.array([[50, 60, 9, 4], [150, 190, 15, 30]]).T
    fixations = Fixations(x, y, [1.0, 0.5], ppd_x=ppd_x, ppd_y=ppd_y)
    expected = sum(
        gaussian_filter(impulses(fixations.take([i]), (200, 240)), (2 * ppd_y[i], 2 * ppd_x[i]))
        for i in range(2)
    )
    heatmap = render(fixations, (200, 240), (200, 240), RenderConfig(sigma=2, unit="degrees"))
    assert np.abs(heatmap.values - expected / expected.max()).max() < 1e-6


def test_sigma_is_a_share_of_the_width_or_150_pixels_by_default() -> None:
    fixations = scattered((70, 50))

    def values(config: RenderConfig) -> np.ndarray:
        return render(fixations, (70, 50), 20, config).values

    of_width = values(RenderConfig(sigma=0.1, unit="width"))
    assert np.array_equal(of_width, values(RenderConfig(sigma=5)))
    by_default = render(fixations, (70, 50), 20).values
    assert np.array_equal(by_default, values(RenderConfig(sigma=150)))


def test_a_single_number_as_size_keeps_the_aspect_ratio() -> None:
    fixations = scattered((3056, 2544))
    assert render(fixations, (3056, 2544), 224).values.shape == (269, 224)
    assert render(fixations, (2544, 3056), 224).values.shape == (224, 269)
    check_aspect((269, 224), (3056, 2544), "the map for training")


def test_between_weights_fixations_by_their_overlap() -> None:
    fixations = Fixations(
        [1, 2, 3, 4, 5, 6],
        [0] * 6,
        [1, 2, 1, 1, np.nan, 4],
        start=[0, 0.5, 3, 2, 1, 0],
        ppd_x=range(6),
        ppd_y=range(6),
    )
    part = fixations.between(1, 2.5)
    # fixation 1 ends at t0, and 3 begins after t1
    assert part.x.tolist() == [2, 4, 5, 6]
    assert part.ppd_x.tolist() == [1, 3, 4, 5]
    assert part.duration[[0, 1, 3]].tolist() == [1.5, 0.5, 1.5]
    assert part.start.tolist() == [1, 2, 1, 1]
    assert part.usable((9, 9))[1] == {"no duration": 1}
    with pytest.raises(GazeError, match="after the start"):
        fixations.between(2, 2)
    with pytest.raises(GazeError, match="without start times"):
        Fixations([1], [1], [1]).between(0, 1)


def test_unusable_fixations_are_counted_by_reason() -> None:
    nan = np.nan
    fixations = Fixations(
        x=[5, nan, -2, 10, 9.9, 5, 5, 5, 5, 5],
        y=[5, 5, 5, 5, 20, 5, 5, 5, 5, 5],
        duration=[1, 1, 1, 1, 1, 0, nan, 1, 1, 1],
        ppd_x=[2] * 7 + [0, 2, 2],
        ppd_y=[2] * 10,
        shown=[[0, 0, 99, 99]] * 8 + [[8, 0, 8, 20], [0, 19, 1, 20]],
    )
    config = RenderConfig(sigma=1, unit="degrees", border="none")
    heatmap = render(fixations, (20, 10), (20, 10), config)
    assert heatmap.used == 1 and heatmap.dropped == {
        "no position": 1,
        "off image": 3,
        "no duration": 2,
        "no resolution": 1,
        "empty window": 1,
        "kernel outside its window": 1,
    }
    counted = render(fixations, (20, 10), 10, RenderConfig(sigma=1, weight="count"))
    assert "no duration" not in counted.dropped
    # None, never a map of zeros
    assert render(fixations.take(np.arange(1, 9)), (20, 10), 10, config) is None
    assert render(fixations.take([9]), (20, 10), 10, config) is None
    assert render(Fixations([], [], []), (20, 10), 10) is None


def test_points_are_drawn_as_gaussians() -> None:
    points = Points([3, 30, 99], [4, 20, 4], [1, 2, 1])
    heatmap = render(points, (40, 50), (40, 50), RenderConfig(sigma=3))
    same = render(Fixations([3, 30], [4, 20], [1, 2]), (40, 50), (40, 50), RenderConfig(sigma=3))
    assert np.array_equal(heatmap.values, same.values)
    assert (heatmap.used, heatmap.dropped) == (2, {"off image": 1})
    with pytest.raises(GazeError, match="visual angle"):
        render(points, (40, 50), 20, RenderConfig(sigma=1, unit="degrees"))


# ---- areas


def test_boxes_cover_their_area() -> None:
    # the second box extends beyond the image
    boxes = Boxes.from_xywh([[10.5, 20, 30, 8.25], [60, 50, 90, 90]])
    heatmap = render(boxes, (80, 100), (7, 9), RenderConfig(**RAW))
    assert mass(heatmap) == pytest.approx(30 * 8.25 + 40 * 30, rel=1e-6)
    sharp = render(Boxes([[2, 1, 4.5, 3]]), (4, 6), (4, 6)).values
    assert sharp.tolist() == [[0] * 6, [0, 0, 1, 1, 0.5, 0], [0, 0, 1, 1, 0.5, 0], [0] * 6]


def test_overlapping_boxes_are_combined_and_unusable_ones_dropped() -> None:
    boxes = Boxes(
        [[0, 0, 4, 4], [2, 0, 6, 4], [3, 3, 3, 9], [7, 0, 9, 2], [0, 0, np.nan, 1], [0, 0, 1, 1]],
        [1, 0.5, 1, 1, 1, 0],
    )
    assert render(boxes, (4, 6), (4, 6)).values[0].tolist() == [1, 1, 1, 1, 0.5, 0.5]
    added = render(boxes, (4, 6), (4, 6), RenderConfig(overlap="sum", **RAW))
    assert added.values[0].tolist() == [1, 1, 1.5, 1.5, 0.5, 0.5]
    assert added.used == 2
    assert added.dropped == {"empty": 1, "off image": 1, "no position": 1, "no weight": 1}
    assert render(Boxes([[7, 0, 9, 2]]), (4, 6), 4) is None
    assert render(Boxes([]), (4, 6), 4) is None


def test_boxes_that_share_an_edge_have_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirds of a lung, whose edges lie within pixels; the map is that of the whole."""
    thirds = Boxes([[10.3, y, 60.7, y + 21.1] for y in (5.2, 26.3, 47.4)])
    whole = render(Boxes([[10.3, 5.2, 60.7, 68.5]]), (80, 100), (40, 50))
    joined = render(thirds, (80, 100), (40, 50))
    np.testing.assert_allclose(joined.values, whole.values, atol=1e-6)
    assert joined.values[4:33, 7:29].min() == pytest.approx(1)

    # against many samples in each pixel, boxes that overlap, of several weights
    rng = np.random.default_rng(0)
    low, sides = rng.uniform(-2, 7, (20, 2)), rng.uniform(0.1, 3, (20, 2))
    boxes, weight = np.concatenate([low, low + sides], axis=1), rng.uniform(0.2, 1, 20)
    points = (np.arange(8 * 100) + 0.5) / 100
    inside = [
        w * ((points >= y0) & (points < y1))[:, None] * ((points >= x0) & (points < x1))
        for (x0, y0, x1, y1), w in zip(boxes, weight)
    ]
    for overlap, joint in (("max", np.max(inside, axis=0)), ("sum", np.sum(inside, axis=0))):
        config = RenderConfig(overlap=overlap, **RAW)
        expected = joint.reshape(8, 100, 8, 100).mean(axis=(1, 3))
        found = render(Boxes(boxes, weight), (8, 8), (8, 8), config).values
        np.testing.assert_allclose(found, expected, atol=0.03)
    # many are drawn in groups
    monkeypatch.setattr(kernels, "TOGETHER", 3)
    np.testing.assert_allclose(
        render(Boxes(boxes, weight), (8, 8), (8, 8), config).values, found, atol=1e-6
    )


@pytest.mark.parametrize("size", ((300, 400), (23, 31), (7, 9)), ids=str)
def test_an_ellipse_covers_pi_a_b(size: tuple[int, int]) -> None:
    heatmap = render(Ellipses([[40.3, 20, 240.3, 270]]), (300, 400), size, RenderConfig(**RAW))
    assert mass(heatmap) == pytest.approx(math.pi * 100 * 125, rel=3e-4)
    values = heatmap.values.astype(float)
    centre = (
        values.sum(axis=0) @ (np.arange(size[1]) + 0.5) / values.sum() * 400 / size[1],
        values.sum(axis=1) @ (np.arange(size[0]) + 0.5) / values.sum() * 300 / size[0],
    )
    assert centre == pytest.approx((140.3, 145), abs=0.1 if size[0] > 7 else 0.5)
    half = render(Ellipses([[-100, 20, 100, 270]]), (300, 400), size, RenderConfig(**RAW))
    assert mass(half) == pytest.approx(math.pi * 100 * 125 / 2, rel=3e-4)
    thin = render(Ellipses([[40, 20, 40.01, 20.01]]), (300, 400), size, RenderConfig(**RAW))
    assert mass(thin) == pytest.approx(math.pi * 0.005**2, rel=3e-3)  # in one column: 16 slices


def test_certainty_is_the_weight_of_an_ellipse() -> None:
    apart = [[10 * i, 0, 10 * i + 9, 9] for i in range(7)]
    ellipses = Ellipses(apart, [1, 2, 3, 4, 5, 2.5, np.nan])
    heatmap = render(ellipses, (9, 70), (9, 70), RenderConfig(**RAW))
    expected = [0.05, 0.25, 0.5, 0.75, 0.95, 0, 0]
    assert heatmap.values[4, 4:70:10] == pytest.approx(expected, abs=1e-6)
    assert (heatmap.used, heatmap.dropped) == (5, {"no weight": 2})
    assert render(Ellipses(apart), (9, 70), (9, 70)).used == 7


@pytest.mark.parametrize("turn", (1, -1), ids=("clockwise", "counterclockwise"))
def test_polygons_cover_their_area(turn: int) -> None:
    triangle = np.array([[10, 10], [90.5, 20], [30, 70]])[::turn]
    # extends beyond the image to the right
    square = np.array([[100, 80], [140, 80], [140, 95], [100, 95]])[::turn]
    heatmap = render(
        Polygons([triangle, square, triangle[:2], [[np.nan, 1]] * 3]),
        (100, 120),
        (17, 23),
        RenderConfig(**RAW),
    )
    (ax, ay), (bx, by) = triangle[1] - triangle[0], triangle[2] - triangle[0]
    assert mass(heatmap) == pytest.approx(abs(ax * by - ay * bx) / 2 + 20 * 15, rel=1e-4)
    assert (heatmap.used, heatmap.dropped) == (2, {"fewer than 3 points": 1, "no position": 1})
    box = render(Boxes([[100, 80, 140, 95]]), (100, 120), (17, 23), RenderConfig(**RAW))
    polygon = render(Polygons([square]), (100, 120), (17, 23), RenderConfig(**RAW))
    assert np.abs(polygon.values - box.values).max() < 1e-6


def test_a_mask_is_averaged_over_fractions_of_pixels() -> None:
    values = np.random.default_rng(0).random((30, 21))
    assert np.abs(area_average(values, (7, 8)) - block_average(values, (7, 8))).max() < 1e-14
    inside = values > 0.6
    heatmap = render(Mask(inside.astype(np.uint8) * 255), (30, 21), (7, 8), RenderConfig(**RAW))
    assert mass(heatmap) == pytest.approx(inside.sum()) and heatmap.values.max() <= 1
    weighted = render(Mask(values), (30, 21), (7, 8), RenderConfig(**RAW))
    assert np.abs(weighted.values - area_average(values, (7, 8))).max() < 1e-6
    assert render(Mask(np.zeros((30, 21), bool)), (30, 21), 7) is None
    for bad, message in ((np.ones((21, 30)), "transposed"), (np.ones((5, 5)), "expected the same")):
        with pytest.raises(GazeError, match=message):
            render(Mask(bad), (30, 21), 7)
    for bad, message in (
        (np.ones((2, 2, 3)), "one channel"),
        (np.array([[np.nan, 1]]), "NaN"),
        (np.array([[-1.0, 1]]), "negative"),
    ):
        with pytest.raises(GazeError, match=message):
            Mask(bad)


def test_blurred_areas_keep_their_mass_at_any_size_of_the_map() -> None:
    boxes, config = Boxes([[300, 400, 600, 700]]), RenderConfig(sigma=50, **RAW)
    soft = render(boxes, (1000, 1200), (100, 120), config)
    assert mass(soft) == pytest.approx(300 * 300, rel=1e-6)
    assert 0.4 < soft.values[55, 30] < 0.6  # one half at the edge
    coarse = render(boxes, (1000, 1200), (50, 40), config)
    assert np.abs(coarse.values - area_average(soft.values, (50, 40))).max() < 0.02
    of_width = RenderConfig(sigma=50 / 1200, unit="width", **RAW)
    assert np.allclose(render(boxes, (1000, 1200), (50, 40), of_width).values, coarse.values)
    with pytest.raises(GazeError, match="degrees for an area"):
        render(boxes, (1000, 1200), 50, RenderConfig(sigma=1, unit="degrees"))


# Runs down the columns: 00 111 00 11 00 1
RUNS = np.array([[0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]], bool)


@pytest.mark.parametrize(
    "kind, code",
    (
        ("siim", "2 3 2 2 2 1"),
        ("kaggle", "3 3 8 2 12 1"),
        ("kaggle", "8 2 3 2 4 2 12 1"),
        ("coco", [2, 3, 2, 2, 2, 1]),
        ("coco", [2, 3, 2, 2, 2, 1, 0]),
        # encoded by hand: 2, 3, 2, then the differences 2 - 3 = -1, 2 - 2 = 0, 1 - 2 = -1;
        # -1 is five bits of 1, chr(48 + 31) = "O"
        ("coco", "232O0O"),
    ),
)
def test_all_rle_forms_are_decoded(kind: str, code: str | list[int]) -> None:
    assert np.array_equal(decode_rle(code, (3, 4), kind), RUNS)
    assert np.array_equal(decode_rle(code, (4, 3), kind, row_major=True), RUNS.T)


def test_rle_of_empty_masks_long_counts_and_errors() -> None:
    assert not decode_rle("-1", (3, 4), "siim").any()
    assert not decode_rle("", (3, 4), "kaggle").any()
    # 100 = 00011 00100: 4 with the continuation bit is chr(48 + 4 + 32) = "T", 3 is chr(48 + 3)
    assert decode_rle("T3T3", (20, 10), "coco").sum() == 100
    for code, kind, message in (
        ("1 2", "rle", "kind"),
        ("1 2 3", "siim", "pairs"),
        ("1 x", "siim", "integers"),
        ("11 3", "kaggle", "outside"),
        ("0 3", "kaggle", "outside"),
        ("3 -1", "siim", "outside"),
        ([1, 2], "coco", "add up to 3"),
        ("T", "coco", "cut off"),
        ("2 3", "coco", "character"),
    ):
        with pytest.raises(GazeError, match=message):
            decode_rle(code, (3, 4), kind)


# ---- several readers, settings, files


def test_the_maps_of_several_readers_are_merged() -> None:
    a, b = (
        Heatmap(np.array([values], np.float32), (10, 30), 2, {"off image": 1})
        for values in ([1, 0.5, 0], [0, 0.5, 1])
    )
    b = Heatmap(
        np.array([[0, 0.5, 0.5]], np.float32), (10, 30), 3, {"off image": 2, "empty window": 4}
    )
    mean = merge([a, None, b])
    assert mean.values.tolist() == [[1, 1, 0.5]]
    assert (mean.used, mean.dropped) == (5, {"off image": 3, "empty window": 4})
    assert merge([a, b], "noisy-or").values.tolist() == [[1, 0.75, 0.5]]
    assert merge([None, a, b], "one", pick=1) is b
    assert merge([None]) is None
    drawn = {id(merge([a, b], "one", pick=np.random.default_rng(seed))) for seed in range(9)}
    assert drawn == {id(a), id(b)}
    big = Heatmap(a.values * 2, (10, 30), 1)
    turned, transposed = Heatmap(a.values, (30, 10), 1), Heatmap(a.values.T, (10, 30), 1)
    for maps, how, message in (
        ([a, big], "noisy-or", "probabilities"),
        ([a], "sum", "expected one of"),
        ([a], "one", "expected 0 to 0"),
        ([a, turned], "mean", "same"),
        ([a, transposed], "mean", "same"),
    ):
        with pytest.raises(GazeError, match=message):
            merge(maps, how, pick=1)


def test_normalisation_by_the_sum_gives_a_probability_map() -> None:
    config = RenderConfig(sigma=4, normalise="sum")
    heatmap = render(scattered((60, 45)), (60, 45), (20, 15), config)
    assert heatmap.values.astype(float).sum() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    (
        ({"unit": "cm"}, "unit"),
        ({"sigma": 0}, "positive"),
        ({"sigma": math.nan}, "positive"),
        ({"unit": "degrees"}, "without a sigma"),
        ({"border": "wrap"}, "border"),
    ),
)
def test_wrong_settings_are_an_error(settings: dict[str, object], message: str) -> None:
    with pytest.raises(GazeError, match=message):
        RenderConfig(**settings)


def test_wrong_input_is_an_error() -> None:
    single = Fixations([1], [1], [1])
    for call, message in (
        (lambda: Fixations([1, 2], [1], [1, 2]), "fixations: y"),
        (lambda: Fixations([1], [1], ["a"]), "numbers"),
        (lambda: Fixations([1], [1], [1], ppd_x=[3]), "both or neither"),
        (lambda: Boxes([1, 2, 3, 4]), "N x 4"),
        (lambda: render(single, (5, 5), 0), "at least 1"),
        (lambda: render(single, (0, 5), 2), "at least 1"),
        (lambda: render(single, (5, 5), 2, RenderConfig(sigma=1, unit="degrees")), "no ppd_x"),
        (lambda: render(np.ones((5, 5)), (5, 5), 2), "ndarray"),
    ):
        with pytest.raises(GazeError, match=message):
            call()


@pytest.mark.parametrize("bits, error", ((8, 0.5 / 255), (16, 0.5 / 65535)))
def test_saved_maps_are_what_training_reads(tmp_path: Path, bits: int, error: float) -> None:
    heatmap = render(scattered((300, 250)), (300, 250), 50, RenderConfig(sigma=20, normalise="sum"))
    path = save_heatmap(heatmap, tmp_path / "image.png", bits)
    read = decode_heatmap(path.read_bytes(), path.name)
    assert np.abs(read - heatmap.values / heatmap.values.max()).max() <= error * 1.001
    assert read.max() == 1
    assert [file.name for file in tmp_path.iterdir()] == ["image.png"]
    for name, bad_bits in (("image.jpg", 8), ("image.png", 12)):
        with pytest.raises(GazeError, match="expected"):
            save_heatmap(heatmap, tmp_path / name, bad_bits)


def test_the_manifest_holds_parameters_versions_and_inputs(tmp_path: Path) -> None:
    table = tmp_path / "fixations.csv"
    table.write_bytes(b"x,y\r\n" * 300_000)  # more than one block
    path = write_manifest(
        tmp_path,
        {**asdict(RenderConfig(sigma=1, unit="degrees")), "size": 224},
        [table],
        {"maps": 3},
    )
    record = json.loads(path.read_text())
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    assert record["inputs"] == [{"path": str(table), "bytes": 1_500_000, "sha256": digest}]
    assert record["parameters"]["unit"] == "degrees" and record["parameters"]["size"] == 224
    assert record["counts"] == {"maps": 3}
    assert set(record["versions"]) == {"openclip_eclip", "numpy", "scipy", "pillow"}
    assert record["versions"]["numpy"] == np.__version__
    before = path.read_bytes()
    for parameters, inputs, message in (
        ({"size": np.int64(3)}, [table], "JSON"),
        ({"sigma": math.nan}, [table], "plain numbers"),
        ({}, [tmp_path / "absent.csv"], "absent.csv"),
    ):
        with pytest.raises(GazeError, match=message):
            write_manifest(tmp_path, parameters, inputs)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_benchmark_tables_have_the_columns_of_egd(tmp_path: Path) -> None:
    benchmark_gaze.write_tables(tmp_path, images=3, seed=0)
    header = (tmp_path / "fixations.csv").read_text().splitlines()[0].split(",")
    assert len(header) == 37
    assert header[:5] == ["SESSION_ID", "MEDIA_ID", "DICOM_ID", "CNT", "Time (in secs)"]
    assert header[-3:] == ["VID_FRAME", "X_ORIGINAL", "Y_ORIGINAL"]
    work = benchmark_gaze.read_tables(tmp_path)
    assert len(work) == 3  # rows of the calibration belong to no image
    assert all(len(key) == 44 for key, _, _ in work)
    assert benchmark_gaze.write_maps(work[:2], tmp_path) == 2
    content = (tmp_path / f"{work[0][0]}.png").read_bytes()
    assert decode_heatmap(content, "map.png").shape == (269, 224)
