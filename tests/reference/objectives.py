"""DACL and m3-mix in slow numpy loops, written from their papers.

They share no code with the package.
"""

from __future__ import annotations

import numpy as np


def slerp(a: np.ndarray, b: np.ndarray, lam: float) -> np.ndarray:
    """One pair of unit vectors at an angle that is neither 0 nor pi."""
    theta = np.arccos(np.clip(float(a @ b), -1, 1))
    return (np.sin(lam * theta) * a + np.sin((1 - lam) * theta) * b) / np.sin(theta)


def log_softmax(row: list[float]) -> list[float]:
    total = np.log(sum(np.exp(x) for x in row))
    return [x - total for x in row]


def soft_cross_entropy(
    image: np.ndarray, text: np.ndarray, scale: float, target: np.ndarray
) -> float:
    """Mean over rows, both directions averaged; `target` (N, N) of image rows."""
    size = len(image)
    total = 0.0
    for i in range(size):
        by_text = log_softmax([scale * float(image[i] @ text[j]) for j in range(size)])
        by_image = log_softmax([scale * float(text[i] @ image[j]) for j in range(size)])
        total -= sum(target[i, j] * by_text[j] + target[j, i] * by_image[j] for j in range(size))
    return total / size / 2


def m3_mix(
    v: np.ndarray,
    t: np.ndarray,
    scale: float,
    lams: list[float],
    temperature: float,
    vl: tuple[float, float],
) -> dict[str, float]:
    """L_V, L_L, L_VL and L_m2 with `lams` in this order.

    The partner of row i is row i of the reversed batch; N is even.
    """
    size = len(v)

    def backwards(x: np.ndarray, lam: float) -> np.ndarray:
        return np.stack([slerp(x[i], x[size - 1 - i], lam) for i in range(size)])

    def target(own: float, other: float) -> np.ndarray:
        return own * np.eye(size) + other * np.eye(size)[::-1]

    mixed = [slerp(v[j], t[j], lams[3]) for j in range(size)]
    m2 = 0.0
    for x, y in ((v, t), (t, v)):
        for i in range(size):
            row = [float(x[i] @ (y[j] if j == i else mixed[j])) / temperature for j in range(size)]
            m2 -= log_softmax(row)[i] / size
    return {
        "v": soft_cross_entropy(backwards(v, lams[0]), t, scale, target(lams[0], 1 - lams[0])),
        "l": soft_cross_entropy(v, backwards(t, lams[1]), scale, target(lams[1], 1 - lams[1])),
        "vl": soft_cross_entropy(backwards(v, lams[2]), backwards(t, lams[2]), scale, target(*vl)),
        "m2": m2,
    }


def nt_xent(u: np.ndarray, w: np.ndarray, temperature: float) -> float:
    """Mean over all 2N points of -log of the positive's share among the other points."""
    points = np.concatenate([u, w])
    size, total = len(u), 0.0
    for k in range(2 * size):
        others = [j for j in range(2 * size) if j != k]
        row = log_softmax([float(points[k] @ points[j]) / temperature for j in others])
        total -= row[others.index((k + size) % (2 * size))]
    return total / (2 * size)


def mix(
    image: np.ndarray, partner: np.ndarray, lam: float, kind: str, mean: np.ndarray, std: np.ndarray
) -> np.ndarray:
    """Linear mixing of normalised images (3, H, W), or geometric mixing of their pixels."""
    if kind == "linear":
        return lam * image + (1 - lam) * partner
    pixels = [
        np.maximum(x * std[:, None, None] + mean[:, None, None], 1e-6) for x in (image, partner)
    ]
    return (pixels[0] ** lam * pixels[1] ** (1 - lam) - mean[:, None, None]) / std[:, None, None]
