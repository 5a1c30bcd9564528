"""Pointing metrics: by hand, against scikit-learn, and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from openclip_eclip.metrics.bootstrap import bootstrap_interval, resamples
from openclip_eclip.metrics.pointing import marked_region, pointing_scores


def test_by_hand() -> None:
    """The pixels of 1.0 and 0.5 are marked. The map is highest in one of them.

    Its second highest pixel is outside.
    """
    heatmap = np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 0.25]])
    attention = np.array([[5.0, 1.0, 3.0], [0.0, 0.0, 0.0]])
    scores = pointing_scores(attention, heatmap)
    mean, sd = 1.5, np.sqrt((25 + 1 + 9) / 6 - 1.5**2)
    assert marked_region(heatmap).sum() == 2
    assert scores["pointing game"] == 1
    assert scores["NSS"] == pytest.approx(
        ((5 - mean) * 1 + (1 - mean) * 0.5 + (0 - mean) * 0.25) / sd / 1.75, abs=1e-12
    )
    assert scores["AUC-Judd"] == pytest.approx((4 + 3) / 8)  # 5 beats four, 1 beats three
    assert scores["IoU"] == pytest.approx(1 / 3)  # the two highest: 5 (marked) and 3 (not)


def test_ties_are_shared() -> None:
    heatmap = np.array([[1.0, 0.0], [0.0, 0.0]])
    flat = pointing_scores(np.ones((2, 2)), heatmap)
    assert flat == {
        "pointing game": 0.25,
        "NSS": 0.0,
        "AUC-Judd": 0.5,
        "IoU": pytest.approx(0.25 / 1.75),
    }
    assert pointing_scores(np.array([[2.0, 2.0], [0.0, 0.0]]), heatmap)["pointing game"] == 0.5


def test_auroc_equals_scikit_learn_and_ignores_scale() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        attention, heatmap = rng.integers(0, 5, (7, 9)).astype(float), rng.random((7, 9)) ** 4
        scores = pointing_scores(attention, heatmap)
        assert scores["AUC-Judd"] == pytest.approx(
            roc_auc_score(marked_region(heatmap).ravel(), attention.ravel()), abs=1e-12
        )
        assert pointing_scores(3 * attention - 7, 0.2 * heatmap) == pytest.approx(scores, abs=1e-9)
    assert (
        pointing_scores(heatmap, heatmap)["pointing game"]
        == pointing_scores(heatmap, heatmap)["IoU"]
        == 1
    )


@pytest.mark.parametrize(
    "attention,heatmap",
    [
        (np.ones((2, 2)), np.ones((2, 3))),
        (np.full((2, 2), np.nan), np.ones((2, 2))),
        (np.ones((2, 2)), np.zeros((2, 2))),
        (np.ones((2, 2)), -np.ones((2, 2))),
    ],
)
def test_bad_input(attention: np.ndarray, heatmap: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected two|all zero"):
        pointing_scores(attention, heatmap)


def test_bootstrap_covers_the_mean_and_draws_whole_groups() -> None:
    values = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap_interval(lambda rows: values[rows].mean(), 400)
    assert high - low == pytest.approx(2 * 1.96 / 20 * values.std(), rel=0.1)
    assert low < values.mean() < high
    groups = np.repeat(np.arange(40), 10)
    for rows in resamples(400, 5, 0, groups):
        assert (np.bincount(groups[rows], minlength=40) % 10 == 0).all()
        assert len(set(rows.tolist())) < 400
    # ten equal values a patient are worth one: the interval is that of 40 values
    wide = bootstrap_interval(lambda rows: values[::10].repeat(10)[rows].mean(), 400, groups=groups)
    assert wide[1] - wide[0] == pytest.approx(2 * 1.96 / np.sqrt(40) * values[::10].std(), rel=0.15)
