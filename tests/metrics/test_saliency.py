"""Saliency metrics: by hand, at extremes, and against pysaliency."""

from __future__ import annotations

import numpy as np
import pytest

from openclip_eclip.metrics.saliency import auc_judd, cc, kl, nss

GAZE = np.array([[1.0, 0.0], [0.0, 3.0]])
FLAT = np.full((2, 2), 0.1)  # its standard deviation is not 0 in floating point


def test_by_hand() -> None:
    attention = np.array([[4.0, 0.0], [0.0, 4.0]])
    assert nss(attention, GAZE) == pytest.approx(1)  # one deviation above the mean at both
    assert auc_judd(attention, GAZE >= 1) == 1
    assert auc_judd(attention, GAZE >= 2) == pytest.approx(2.5 / 3)  # one tie
    # deviations from the means: (0, -1, -1, 2) and (1, -1, -1, 1)
    assert cc(attention, GAZE) == pytest.approx(4 / np.sqrt(6 * 4))
    assert kl(attention, GAZE) == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))


def test_extremes() -> None:
    assert nss(FLAT, GAZE) == cc(FLAT, GAZE) == 0
    assert auc_judd(FLAT, GAZE >= 1) == 0.5
    uniform = 0.25 * np.log(0.25 / 0.25) + 0.75 * np.log(0.75 / 0.25)
    assert kl(FLAT, GAZE) == pytest.approx(uniform)
    assert kl(np.zeros((2, 2)), GAZE) == kl(np.full((2, 2), -3.0), GAZE) == pytest.approx(uniform)
    assert kl(GAZE, 7 * GAZE) == pytest.approx(0, abs=1e-12)
    assert kl(GAZE - 1, GAZE) == pytest.approx(0, abs=1e-12)  # shifted back to minimum 0
    assert cc(-GAZE, GAZE) == pytest.approx(-1)
    for metric in (nss, kl):
        assert np.isnan(metric(GAZE, np.zeros((2, 2))))
    assert np.isnan(cc(GAZE, FLAT))
    assert np.isnan(auc_judd(GAZE, GAZE >= 0)) and np.isnan(auc_judd(GAZE, GAZE > 9))


@pytest.mark.parametrize(
    "seed,expected",
    [
        (0, (0.105864360025, 0.531512605042, -0.0160850562275, 0.879591407913)),
        (1, (0.627844977343, 0.8125, 0.3756111914, 0.637442886414)),
    ],
)
def test_equals_pysaliency(seed: int, expected: tuple[float, ...]) -> None:
    """NSS, AUC, CC and KL of pysaliency 0.2.22, which is no dependency.

    They were made once from the maps below by `metrics.NSS(a, xs, ys).mean()` and
    `roc.general_roc(a[f], a[~f])[0]`, with a fixation in each marked pixel f, `metrics.CC(a, g)`
    and `metrics.MIT_KLDiv(a, g)`. 200 such maps agreed to 1e-9.
    """
    rng = np.random.default_rng(seed)
    attention = rng.normal(size=(6, 8)) if seed else rng.random((6, 8))  # with negative values, too
    gaze = rng.random((6, 8)) ** 3
    gaze[gaze < 0.1] = 0
    fixated = gaze >= 0.5 * gaze.max()
    scores = (
        nss(attention, fixated.astype(float)),
        auc_judd(attention, fixated),
        cc(attention, gaze),
        kl(attention, gaze),
    )
    assert scores == pytest.approx(expected, abs=1e-9)
