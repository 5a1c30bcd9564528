"""Figures of embeddings: a projection to two dimensions, and cosines by group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 5000  # of each modality in a figure


def clouds_figure(
    images: np.ndarray, texts: np.ndarray, names: list[str], member: np.ndarray, seed: int
) -> tuple[str, Figure]:
    """(name of the projection, figure) of image and text features, each (N, D).

    `member` (N,) int: the group of each image, -1 for none. At most MOST_POINTS pairs, drawn by
    the seed, are shown.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:MOST_POINTS])
    images, texts, member = images[rows], texts[rows], member[rows]
    kind, flat = project(images, seed)
    _, both = project(np.concatenate([images, texts]), seed)
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    size = float(np.clip(8000 / len(images), 4, 28))
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"]
    left.scatter(
        *flat[member < 0].T,
        s=size,
        color="0.75",
        linewidths=0,
        label="no group" if names and (member < 0).any() else None,
    )
    for k, name in enumerate(names):
        left.scatter(
            *flat[member == k].T,
            s=size,
            color=colours(k % colours.N),
            linewidths=0,
            alpha=0.8,
            label=name,
        )
    right.scatter(
        *both[: len(images)].T, s=size, color="#1f6fb2", linewidths=0, alpha=0.6, label="images"
    )
    right.scatter(
        *both[len(images) :].T, s=size, color="#d9772b", linewidths=0, alpha=0.6, label="texts"
    )
    for axes, title, columns in (
        (left, f"images, {kind}", 4),
        (right, f"images and texts, {kind}", 2),
    ):
        axes.set(title=title, xticks=[], yticks=[])
        if axes.get_legend_handles_labels()[0]:
            axes.legend(
                frameon=False,
                fontsize=8,
                ncols=columns,
                markerscale=1.5,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.01),
            )
    return kind, figure


def project(points: np.ndarray, seed: int) -> tuple[str, np.ndarray]:
    """("UMAP" or "PCA", projected points (N, 2)).

    UMAP needs umap-learn and more points than its 15 neighbours; else it is PCA.
    """
    if len(points) > 15:
        try:
            from umap import UMAP

            return "UMAP", np.asarray(
                UMAP(metric="cosine", random_state=seed).fit_transform(points)
            )
        except ImportError:
            pass
    moved = points - points.mean(axis=0)
    _, vectors = np.linalg.eigh(moved.T @ moved)
    return "PCA", moved @ vectors[:, :-3:-1]


def cosine_figure(
    within: np.ndarray, between: np.ndarray, names: list[str], mean: np.ndarray
) -> Figure:
    """Histograms of cosines, and the mean cosine of each pair of groups as a coloured table.

    `within`, `between`: counts in equal bins of [-1, 1], (bins,); `mean` (K, K), NaN for no pair.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(-1, 1, len(within) + 1)
    for counts, label, colour in (
        (between, "two groups", "#d9772b"),
        (within, "one group", "#1f6fb2"),
    ):
        if counts.sum():
            left.stairs(
                counts / counts.sum(), edges, fill=True, alpha=0.45, color=colour, label=label
            )
    used = np.flatnonzero(within + between)
    left.set(
        xlabel="cosine of two images",
        ylabel="share of pairs",
        xlim=(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 2, len(within))]),
    )
    left.legend(frameon=False)
    low, high = np.nanmin(mean), np.nanmax(mean)
    centre, half = (low + high) / 2, max((high - low) / 2, 0.02)  # no colours for rounding
    picture = right.imshow(mean, cmap="viridis", vmin=centre - half, vmax=centre + half)
    right.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    right.set_yticks(range(len(names)), names, fontsize=8)
    for i, j in np.argwhere(~np.isnan(mean)) if len(names) <= 15 else ():
        right.text(
            j,
            i,
            f"{mean[i, j]:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if mean[i, j] < centre else "black",
        )
    figure.colorbar(picture, ax=right, label="mean cosine", shrink=0.8)
    return figure
