"""metrics/power_law.py: parameters are recovered, and the interval covers the spread of seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.stats import t

from openclip_eclip.metrics.power_law import bootstrap_power_law, fit_power_law

X = np.array([50, 100, 200, 400, 800, 1600])


@pytest.mark.parametrize(
    "a, b, c", [(0.2, 3.0, 0.5), (0.0, 0.9, 0.05), (0.45, 900.0, 2.0), (0.3, 8.0, 1.0)]
)
def test_exact_curves_are_recovered(a: float, b: float, c: float) -> None:
    law = fit_power_law(X, a + b * X**-c)
    assert law.sse < 1e-12
    assert (law.a, law.b, law.c) == pytest.approx((a, b, c), rel=1e-4, abs=1e-5)
    assert law.predict([3200]) == pytest.approx(a + b * 3200**-c, abs=1e-5)


def test_parameters_stay_in_bounds_for_errors_that_grow() -> None:
    law = fit_power_law(X, 0.2 + 0.0002 * X)
    assert 0 <= law.a <= 1
    assert law.b >= 0
    assert 0 <= law.c <= 5
    # flat: it may not rise
    assert law.predict(X) == pytest.approx(np.full(6, (0.2 + 0.0002 * X).mean()), abs=1e-9)


def test_scipy_finds_no_better_fit() -> None:
    """Noisy curves, with the best parameters inside and on the bounds."""
    rng = np.random.default_rng(0)
    for c in (0.05, 0.5, 2.0):
        error = np.clip(0.1 + 0.8 * (X / 50) ** -c + rng.normal(0, 0.02, 6), 0, 1)
        law = fit_power_law(X, error)
        for start in ((0.1, 0.5, 0.1), (0.3, 0.5, 1.0), (0.0, 0.9, 0.3)):
            other = least_squares(
                lambda p, error=error: p[0] + p[1] * (X / 50) ** -p[2] - error,
                start,
                bounds=([-1e-12, 0, 0.01], [1, np.inf, 5]),
            )
            assert law.sse <= 2 * other.cost + 1e-9


def test_scale_of_x_does_not_matter() -> None:
    error = 0.3 + 2 * X**-0.4 + np.array([0.01, -0.01, 0.005, 0, -0.004, 0.002])
    one, thousandth = fit_power_law(X, error), fit_power_law(X / 1000, error)
    assert one.c == pytest.approx(thousandth.c, rel=1e-4)
    assert one.a == pytest.approx(thousandth.a, rel=1e-4)


@pytest.mark.parametrize(
    "x, error, message",
    [
        ([1, 2, 4, 4], [0.5] * 4, "3 distinct values"),
        ([0, 1, 2, 3], [0.5] * 4, "above 0"),
        ([1, 2, 3, 4], [0.5, 0.5, 0.5, 1.2], "from 0 to 1"),
        ([1, 2, 3, 4], [0.5, np.nan, 0.5, 0.5], "from 0 to 1"),
    ],
)
def test_points_that_cannot_be_fitted_are_an_error(
    x: list[float], error: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_power_law(np.array(x), np.array(error))


@pytest.mark.slow
def test_interval_of_the_curve_covers_it() -> None:
    rng, truth = np.random.default_rng(0), 0.3 + 2 * X**-0.5
    inside, widths = 0, []
    for repeat in range(40):
        error = truth + rng.normal(0, 0.02, (8, 1)) + rng.normal(0, 0.005, (8, 6))
        drawn = [law.predict(X) for law in bootstrap_power_law(X, error, draws=100, seed=repeat)]
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        inside += ((low <= truth) & (truth <= high)).sum()
        widths.append((high - low).mean())
    assert 0.85 < inside / 240 <= 0.99
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.02 / np.sqrt(8), rel=0.4)


@pytest.mark.slow
def test_band_of_few_seeds_follows_students_t() -> None:
    """Three curves that differ by a shift: at every x the band is the t interval of the mean."""
    shift = np.array([-0.01, 0.0, 0.01])
    drawn = [
        law.predict(X)
        for law in bootstrap_power_law(X, 0.3 + 2 * X**-0.5 + shift[:, None], draws=4000)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    assert (high - low) / 2 == pytest.approx(
        np.full(6, t.ppf(0.975, 2) * 0.01 / np.sqrt(3)), rel=0.1
    )
