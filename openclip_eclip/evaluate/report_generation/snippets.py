"""Selection of the reports of an index that go into the prompt of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..inputs.report_index import ReportIndex

PICKS = ("nearest", "medoids")
POOL = 100  # number of candidates of the authors' medoids


class Snippets(NamedTuple):
    """Selected reports of an image.

    `texts` and their cosines `scores`, the nearest first; `nearest`: the report with the highest
    cosine in the index.
    """

    texts: list[str]
    scores: list[float]
    nearest: str


def pick_snippets(
    index: ReportIndex,
    queries: np.ndarray,
    count: int = 5,
    pick: str = "nearest",
    seed: int = 0,
    allowed: Sequence[int] | None = None,
) -> list[Snippets]:
    """Select `count` reports for each of the unit image features `queries` (N, D).

    `pick` "nearest": the reports with the highest cosine (§4.4). "medoids", as in the authors'
    code: k-means of the 100 nearest into `count` clusters, then the report nearest to the mean of
    each cluster. Deviation: they cluster vectors of a second model (ClinicalBERT), we those of the
    index. `allowed`: indices into `index.texts` that may be selected (default: all). If fewer
    reports are there than `count`, all are selected.
    """
    pool = count if pick == "nearest" else max(POOL, count)
    asked = pool if allowed is None else len(index.texts)
    scores, indices = index.search(queries, asked)
    fits = None if allowed is None else set(allowed)
    snippets = []
    for row_scores, row_indices in zip(scores, indices, strict=True):
        candidates = [
            (i, float(score))
            for i, score in zip(row_indices.tolist(), row_scores, strict=True)
            if i >= 0 and (fits is None or i in fits)
        ][:pool]
        chosen = (
            range(len(candidates))
            if pick == "nearest" or len(candidates) <= count
            else _medoids(index, [i for i, _ in candidates], count, seed)
        )
        snippets.append(
            Snippets(
                [index.texts[candidates[i][0]] for i in chosen],
                [candidates[i][1] for i in chosen],
                index.texts[candidates[0][0]],
            )
        )
    return snippets


def _medoids(index: ReportIndex, indices: list[int], count: int, seed: int) -> list[int]:
    """Positions in `indices` of one report for each cluster, ascending: the nearest come first."""
    from sklearn.cluster import KMeans

    # an inverted index needs a map to find a vector by its number
    if hasattr(index.index, "make_direct_map"):
        index.index.make_direct_map()
    vectors = np.stack([index.index.reconstruct(i) for i in indices])
    clusters = KMeans(count, n_init=1, random_state=seed).fit(vectors)
    # (count, candidates); for unit vectors the highest product with the mean is the highest cosine
    nearness = np.where(
        clusters.labels_ == np.arange(count)[:, None],
        clusters.cluster_centers_ @ vectors.T,
        -np.inf,
    )
    return sorted(
        int(i) for i in nearness.argmax(axis=1)[np.bincount(clusters.labels_, minlength=count) > 0]
    )
