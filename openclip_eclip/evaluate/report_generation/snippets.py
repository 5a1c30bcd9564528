"""Which reports of an index go into the prompt of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..inputs.report_index import ReportIndex

PICKS = ("nearest", "medoids")
POOL = 100  # the authors' candidates


class Snippets(NamedTuple):
    """`texts` with their cosines to the image, the nearest first; `nearest`: the report with the
    highest cosine of all.
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
    """For unit image features (N, D), searched in one call. `allowed`: places in `index.texts` that
    may be found (default: all).

    nearest: the `count` reports with the highest cosine (§4.4). medoids: the authors' code instead:
    of the 100 nearest, k-means into `count` clusters and of each the report nearest to its mean.
    Deviation: they cluster vectors of a second model (ClinicalBERT), we the index's own. Fewer
    reports than asked for: all of them.
    """
    pool = count if pick == "nearest" else max(POOL, count)
    asked = pool if allowed is None else len(index.texts)
    scores, places = index.search(queries, asked)
    fits = None if allowed is None else set(allowed)
    made = []
    for row_scores, row_places in zip(scores, places, strict=True):
        found = [
            (place, float(score))
            for place, score in zip(row_places.tolist(), row_scores, strict=True)
            if place >= 0 and (fits is None or place in fits)
        ][:pool]
        chosen = (
            range(len(found))
            if pick == "nearest" or len(found) <= count
            else _medoids(index, [place for place, _ in found], count, seed)
        )
        made.append(
            Snippets(
                [index.texts[found[i][0]] for i in chosen],
                [found[i][1] for i in chosen],
                index.texts[found[0][0]],
            )
        )
    return made


def _medoids(index: ReportIndex, places: list[int], count: int, seed: int) -> list[int]:
    """Numbers in `places` of one report a cluster, ascending, so that the nearest come first."""
    from sklearn.cluster import KMeans

    # an inverted index does not know by itself where a vector lies
    if hasattr(index.index, "make_direct_map"):
        index.index.make_direct_map()
    vectors = np.stack([index.index.reconstruct(place) for place in places])
    clusters = KMeans(count, n_init=1, random_state=seed).fit(vectors)
    # unit vectors: the highest product with the mean is the highest cosine to it
    nearness = np.where(
        clusters.labels_ == np.arange(count)[:, None],
        clusters.cluster_centers_ @ vectors.T,
        -np.inf,
    )
    return sorted(
        int(i) for i in nearness.argmax(axis=1)[np.bincount(clusters.labels_, minlength=count) > 0]
    )
