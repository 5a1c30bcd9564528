"""Algorithm 1 in slow numpy loops, written from method.md; shares no code with the package."""

from __future__ import annotations

import numpy as np


def patches(image: np.ndarray, patch: int) -> np.ndarray:
    """(3, H, W) -> (S, 3*p*p), channel first inside a patch."""
    _, height, width = image.shape
    return np.stack(
        [
            image[:, y : y + patch, x : x + patch].reshape(-1)
            for y in range(0, height, patch)
            for x in range(0, width, patch)
        ]
    )


def processor(
    image: np.ndarray,
    heatmap: np.ndarray,
    weights: dict[str, np.ndarray],
    patch: int,
    heads: int,
    residual: str,
) -> np.ndarray:
    """Queries from E*I, keys and values from I; (3, H, W), sides divisible by the patch."""
    embed = weights["patch_embed.weight"].reshape(len(weights["patch_embed.bias"]), -1)
    overlaid = heatmap * image
    tokens_i = patches(image, patch) @ embed.T + weights["patch_embed.bias"]
    tokens_e = patches(overlaid, patch) @ embed.T + weights["patch_embed.bias"]
    width = tokens_i.shape[1]
    query = tokens_e @ weights["query.weight"].T + weights["query.bias"]
    key = tokens_i @ weights["key_value.weight"][:width].T + weights["key_value.bias"][:width]
    value = tokens_i @ weights["key_value.weight"][width:].T + weights["key_value.bias"][width:]
    attended = np.zeros_like(query)
    size = width // heads
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for s in range(len(query)):
            scores = key[:, part] @ query[s, part] / np.sqrt(size)
            weight = np.exp(scores - scores.max())
            attended[s, part] = (weight / weight.sum()) @ value[:, part]
    out = attended @ weights["attend_out.weight"].T + weights["attend_out.bias"]
    pixels = out @ weights["unpatchify.weight"].T
    change = np.zeros_like(image)
    s = 0
    for y in range(0, image.shape[1], patch):
        for x in range(0, image.shape[2], patch):
            change[:, y : y + patch, x : x + patch] = pixels[s].reshape(3, patch, patch)
            s += 1
    change += weights["pixel_shift"][:, None, None]
    return change + {"query": overlaid, "image": image, "none": 0}[residual]


def priming_loss(images: np.ndarray, reconstructed: np.ndarray) -> float:
    """l. 14-18: mean over pixels, then over the n_p samples; 0 without samples."""
    if len(images) == 0:
        return 0.0
    total = 0.0
    for image, other in zip(images, reconstructed):
        total += float(((image - other) ** 2).mean())
    return total / len(images)


def info_nce(
    image: np.ndarray, text: np.ndarray, scale: float, owner: list[int], own_pairs: str
) -> float:
    """Eq. 1 over (V, T), row by row; `owner[i]` is the sample that pair i belongs to."""

    def direction(rows: np.ndarray, columns: np.ndarray) -> float:
        total = 0.0
        for i in range(len(rows)):
            copies = [j for j in range(len(rows)) if owner[j] == owner[i]]
            scores = {
                j: scale * float(rows[i] @ columns[j])
                for j in range(len(columns))
                if not (own_pairs == "mask" and j != i and j in copies)
            }
            log_sum = np.log(sum(np.exp(v) for v in scores.values()))
            targets = copies if own_pairs == "multi" else [i]
            total += log_sum - np.log(sum(np.exp(scores[j]) for j in targets))
        return total / len(rows)

    return (direction(image, text) + direction(text, image)) / 2


def sigmoid_loss(
    image: np.ndarray, text: np.ndarray, scale: float, bias: float, owner: list[int], own_pairs: str
) -> float:
    """-sum log sigmoid(z (scale v.t + bias)) over all pairs, by row."""
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            same = owner[i] == owner[j]
            if own_pairs == "mask" and same and i != j:
                continue
            sign = 1 if i == j or (same and own_pairs == "multi") else -1
            total += np.log1p(np.exp(-sign * (scale * float(image[i] @ text[j]) + bias)))
    return total / len(image)
