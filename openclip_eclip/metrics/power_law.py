"""The sample-efficiency curve err = a + b x^(-c), by bounded least squares, with draws over seeds.

For a given c the best a and b have a closed form, so the search is over c alone (variable
projection): on a grid, then on finer grids around its best point. So there is no starting point and
no local minimum, and all draws are fitted at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_X = 4  # three parameters, and one point more to test them
FLATTEST, STEEPEST = 0.01, 5.0
ZOOMS = 8  # number of grids; each is ten times finer than the one before


@dataclass(frozen=True)
class PowerLaw:
    """err = a + b x^(-c).

    0 <= a <= 1: the error that remains with any amount of data; b >= 0; 0.01 <= c <= 5: how fast
    the rest of the error falls; `sse`: sum of squared residuals.
    """

    a: float
    b: float
    c: float
    sse: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The error at x > 0."""
        return self.a + self.b * np.asarray(x, dtype=np.float64) ** -self.c


def fit_power_law(x: np.ndarray, error: np.ndarray) -> PowerLaw:
    """Fit a power law to points `x`, `error` (P,), all with equal weight.

    ValueError: fewer than four distinct x, x <= 0, or an error outside 0 to 1 or not finite.
    """
    x, error = np.asarray(x, dtype=np.float64), np.asarray(error, dtype=np.float64)
    if len(np.unique(x)) < LEAST_X:
        raise ValueError(
            f"{len(np.unique(x))} distinct values of x; a power law has three parameters and needs"
            f" at least {LEAST_X}."
        )
    if not (x > 0).all() or not ((error >= 0) & (error <= 1)).all():
        raise ValueError("expected x above 0 and errors (1 - score) from 0 to 1.")
    return _fit(x, error[None])[0]


def bootstrap_power_law(
    x: np.ndarray, error: np.ndarray, draws: int = 1000, seed: int = 0
) -> list[PowerLaw]:
    """Fits to `draws` mean curves that agree with these seeds; `x` (X,), `error` (S, X), S >= 2.

    A draw is the mean curve plus normal multiples of the deviations of the seeds from it, over the
    root of a chi-square. At each x the draws follow Student's t with S - 1 degrees of freedom about
    the mean, as the interval of a mean over few seeds does. The points of a curve vary together
    (decision 0043).
    """
    rng, count = np.random.default_rng(seed), len(error)
    mean = error.mean(0)
    normal = rng.standard_normal((draws, count)) @ (error - mean) / np.sqrt(count * (count - 1))
    tails = np.sqrt(rng.chisquare(count - 1, (draws, 1)) / (count - 1))
    return _fit(np.asarray(x, dtype=np.float64), np.clip(mean + normal / tails, 0, 1))


def _fit(x: np.ndarray, error: np.ndarray) -> list[PowerLaw]:
    """A power law for each row of `error` (D, P)."""
    scale = np.exp(np.log(x).mean())  # keeps x^-c near 1
    low, high = np.full(len(error), np.log(FLATTEST)), np.full(len(error), np.log(STEEPEST))
    for _ in range(ZOOMS):
        grid = np.linspace(low, high, 41, axis=1)  # (D, C)
        a, b, sse = _best_lines(error[:, None], (x / scale) ** -np.exp(grid)[:, :, None])
        best = sse.argmin(1)
        rows = np.arange(len(error))
        low, high = (
            grid[rows, np.maximum(best - 2, 0)],
            grid[rows, np.minimum(best + 2, grid.shape[1] - 1)],
        )
    c = np.exp(grid[rows, best])
    return [
        PowerLaw(*map(float, entry))
        for entry in zip(a[rows, best], b[rows, best] * scale**c, c, sse[rows, best], strict=True)
    ]


def _best_lines(error: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, sse), each (D, C), of the best lines error (D, 1, P) = a + b z (D, C, P).

    0 <= a <= 1 and b >= 0: the best line is inside this region, or on one of its edges.
    """
    centred = z - z.mean(2, keepdims=True)
    slope = (centred * error).sum(2) / (centred**2).sum(2)
    through = [((z * (error - a)).sum(2) / (z**2).sum(2)) for a in (0.0, 1.0)]
    mean = np.broadcast_to(error.mean(2), slope.shape)
    a = np.stack(
        [mean - slope * z.mean(2), np.zeros_like(slope), np.ones_like(slope), np.clip(mean, 0, 1)]
    )
    b = np.stack([slope, *(np.maximum(line, 0) for line in through), np.zeros_like(slope)])
    sse = ((a[..., None] + b[..., None] * z - error) ** 2).sum(3)
    sse[(a < 0) | (a > 1) | (b < 0)] = np.inf
    best = sse.argmin(0)[None]
    return tuple(np.take_along_axis(values, best, axis=0)[0] for values in (a, b, sse))
