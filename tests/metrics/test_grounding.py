"""Grounding metrics: by hand, at extremes, and AUPRO against its definition step by step."""

from __future__ import annotations

import numpy as np
import pytest

from openclip_eclip.metrics.grounding import (
    aupro,
    cnr,
    false_alarm_rate,
    on_left_side,
    overlaps,
    pointing_game,
    widen,
)

REGION = np.array([[True, True, False, False], [False, False, False, False]])
ALL, NONE = np.ones((2, 4), bool), np.zeros((2, 4), bool)
FLAT = np.full((2, 4), 0.1)
MAP = np.array([[4.0, 2.0, 3.0, 0.0], [0.0, 0.0, 1.0, 0.0]])


def test_pointing_game_counts_maxima_within_the_tolerance() -> None:
    assert pointing_game(MAP, REGION) == 1
    assert pointing_game(-MAP, REGION) == 0
    assert pointing_game(FLAT, REGION) == 0.25  # two of eight equal maxima
    near = np.zeros((30, 40))
    near[10, 20] = 1
    region = np.zeros((30, 40), bool)
    region[22, 29] = True  # 12 rows and 9 columns away: 15 pixels
    assert pointing_game(near, region) == 0
    assert pointing_game(near, widen(region, 15)) == 1
    assert pointing_game(near, widen(region, 14.9)) == 0
    np.testing.assert_array_equal(widen(region, 0), region)
    assert pointing_game(MAP, ALL) == 1
    assert np.isnan(pointing_game(MAP, NONE))
    assert not widen(NONE, 15).any()


def test_cnr() -> None:
    """Inside 4, 2: mean 3, variance 1. Outside 3, 1 and four 0: mean 2/3, variance 10/6 - 4/9."""
    expected = (3 - 2 / 3) / np.sqrt(1 + 10 / 6 - 4 / 9)
    assert cnr(MAP, REGION) == cnr(-MAP, REGION) == pytest.approx(expected)
    assert cnr(-MAP, REGION, signed=True) == pytest.approx(-expected)
    assert cnr(5 * MAP - 7, REGION) == pytest.approx(expected)
    assert cnr(FLAT, REGION) == 0
    assert np.isnan(cnr(REGION.astype(float), REGION))  # infinite
    assert np.isnan(cnr(MAP, ALL)) and np.isnan(cnr(MAP, NONE))


def test_overlaps_at_thresholds_of_the_scaled_map() -> None:
    """The map scaled to [0, 1] has 1, 0.5, 0.75, 0.25 and zeros. A threshold includes its value."""
    iou, dice = overlaps(MAP, REGION, (0.1, 0.5, 0.6, 0.9))
    assert iou.tolist() == [2 / 4, 2 / 3, 1 / 3, 1 / 2]
    assert dice.tolist() == [4 / 6, 4 / 5, 2 / 4, 2 / 3]
    same = overlaps(3 * MAP - 5, REGION, (0.1, 0.5, 0.6, 0.9))
    np.testing.assert_allclose(same, (iou, dice))
    assert overlaps(REGION.astype(float), REGION)[0].tolist() == [1] * 5
    assert not np.any(overlaps(FLAT, REGION))  # a constant map reaches no threshold
    assert overlaps(MAP, ALL, (0.5,))[0].tolist() == [3 / 8]
    assert np.isnan(overlaps(MAP, NONE)).all()


def slow_aupro(attention: np.ndarray, region: np.ndarray, limit: float) -> float:
    """From the definition: regions by flood fill, a threshold at a time, area by small steps."""
    left, parts = set(zip(*np.nonzero(region), strict=True)), []
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            part |= edge
            edge = {
                (y + dy, x + dx) for y, x in edge for dy in (-1, 0, 1) for dx in (-1, 0, 1)
            } & left
            left -= edge
        parts.append(part)
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(attention.ravel().tolist()), reverse=True):
        above = attention >= threshold
        overlap = np.mean([np.mean([above[pixel] for pixel in part]) for part in parts])
        curve.append((float(above[~region].mean()), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(curve, curve[1:], strict=False):
        if x0 < x1 and x0 < limit:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def test_aupro_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        attention, region = rng.integers(0, 7, (9, 8)).astype(float), rng.random((9, 8)) > 0.8
        for limit in (0.05, 0.3, 1.0):
            assert aupro(attention, region, limit) == pytest.approx(
                slow_aupro(attention, region, limit), abs=1e-12
            )


def test_aupro_by_hand() -> None:
    """Two parts, of one and of two pixels, count alike; the outside has ten pixels."""
    region = np.zeros((1, 13), bool)
    region[0, [0, 5, 6]] = True
    attention = np.zeros((1, 13))
    attention[0, 0] = 5  # the small part first: overlap 1/2
    attention[0, 12] = 4  # then one pixel outside, so a false-positive rate of 0.1
    attention[0, [5, 6]] = 3  # then the other part
    # 0.5 up to 0.1, then 1 up to the limit 0.3
    assert aupro(attention, region) == pytest.approx((0.05 + 0.2) / 0.3)
    assert aupro(region.astype(float), region) == pytest.approx(1)
    assert aupro(-region.astype(float), region) == 0
    assert aupro(FLAT, REGION) == pytest.approx(0.15)
    assert np.isnan(aupro(MAP, ALL)) and np.isnan(aupro(MAP, NONE))


def test_false_alarms_at_the_threshold_that_detects_95_percent() -> None:
    with_region = np.arange(1.0, 21)  # 19 of 20 reach 2
    assert false_alarm_rate(with_region, np.array([1.9, 2.0, 50.0, 0.0])) == 0.5
    assert false_alarm_rate(with_region, np.array([1.0, 1.0]), sensitivity=1) == 1
    assert false_alarm_rate(np.ones(3), np.ones(2)) == 1
    # 55 of 100 reach 46; 0.55 * 100 is above 55 in floating point
    assert false_alarm_rate(np.arange(1.0, 101), np.array([45.0, 46.0]), sensitivity=0.55) == 0.5
    assert np.isnan(false_alarm_rate(np.ones(3), np.ones(0)))
    assert np.isnan(false_alarm_rate(np.ones(0), np.ones(3)))


def test_side_of_the_maximum() -> None:
    assert on_left_side(MAP) == 1
    assert on_left_side(MAP[:, ::-1]) == 0
    assert on_left_side(FLAT) == 0.5
    assert on_left_side(np.array([[0.0, 1.0, 0.0]])) == 0.5  # the middle column
