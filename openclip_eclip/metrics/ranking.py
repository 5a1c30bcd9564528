"""Ranks of right answers in retrieval, in strips of the similarity matrix, with ties counted and
not hidden.

Scores are float32 products, and answers tie where these are equal. Equal vectors get bit for bit
equal scores: each distinct vector is multiplied once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from scipy.special import gammaln

TIES = ("optimistic", "expected", "pessimistic")
STRIP = 2**25  # scores held at a time: 128 MiB


@dataclass(frozen=True)
class Ranks:
    """Where the best right answer of each of N queries stands among `gallery` answers.

    `above` (N,) int64: answers that score higher; `right` (at least 1) and `wrong` (N,) int64: the
    right and the wrong answers at exactly its score, whose order is arbitrary.
    """

    above: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    gallery: int

    @property
    def tied(self) -> int:
        """Queries whose best right answer scores the same as a wrong one."""
        return int((self.wrong > 0).sum())

    def rank(self, ties: str) -> np.ndarray:
        """(N,) float64 from 1: the rank of the first right answer; for "expected" its mean over all
        orders of the tied.
        """
        between = {
            "optimistic": 0.0,
            "expected": self.wrong / (self.right + 1),
            "pessimistic": self.wrong,
        }
        return 1.0 + self.above + between[ties]

    def hits(self, k: int, ties: str) -> np.ndarray:
        """(N,) float64: is a right answer among the first `k`; for "expected" the probability over
        all orders of the tied.

        With m = k - above places for `right` + `wrong` answers, the chance that all m go to wrong
        ones is hypergeometric: C(wrong, m) / C(right + wrong, m).
        """
        if ties != "expected":
            return (self.rank(ties) <= k).astype(np.float64)
        return 1 - _all_wrong(self.right, self.wrong, k - self.above)

    def reciprocal(self, ties: str) -> np.ndarray:
        """(N,) float64: 1 / rank; for "expected" its mean over all orders of the tied, which is not
        1 / mean rank.
        """
        if ties != "expected" or not self.tied:
            return 1 / self.rank(ties)
        kinds, which = np.unique(
            np.stack([self.above, self.right, self.wrong], axis=1), axis=0, return_inverse=True
        )
        means = np.empty(len(kinds))
        for i, (above, right, wrong) in enumerate(kinds):
            # P(the first right answer stands after place p of the tied)
            places = np.arange(wrong + 2)
            after = _all_wrong(np.full(len(places), right), np.full(len(places), wrong), places)
            means[i] = (-np.diff(after) / (above + places[1:])).sum()
        return means[which.reshape(-1)]


def rank_answers(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_groups: Sequence[object],
    gallery_groups: Sequence[object],
) -> Ranks:
    """Rank the `gallery` (M, D) for each of `queries` (N, D), float32; an answer is right if its
    group is the query's.

    Holds a strip of the N x M scores. ValueError: NaN, shapes, a query without any right answer.
    """
    queries, gallery = _checked(queries, gallery, query_groups, gallery_groups)
    query_codes, gallery_codes = _codes(query_groups, gallery_groups)
    order = np.argsort(gallery_codes, kind="stable")
    first, last = (
        np.searchsorted(gallery_codes[order], query_codes, side=side) for side in ("left", "right")
    )
    if (first == last).any():
        lost = int(np.flatnonzero(first == last)[0])
        raise ValueError(
            f"query {lost} (group {query_groups[lost]!r}) has no right answer in the gallery; leave"
            " such queries out."
        )
    above, right, wrong = np.empty((3, len(queries)), np.int64)
    for start, scores in _strips(queries, gallery):
        for i, row in enumerate(scores, start):
            own = row[order[first[i] : last[i]]]
            best = own.max()
            above[i], right[i] = np.count_nonzero(row > best), np.count_nonzero(own == best)
            wrong[i] = np.count_nonzero(row == best) - right[i]
    return Ranks(above, right, wrong, len(gallery))


def chance_ranks(query_groups: Sequence[object], gallery_groups: Sequence[object]) -> Ranks:
    """The ranks under a model that gives every pair the same score: its "expected" numbers are
    chance.
    """
    query_codes, gallery_codes = _codes(query_groups, gallery_groups)
    right = np.bincount(gallery_codes, minlength=int(query_codes.max(initial=0)) + 1)[query_codes]
    return Ranks(np.zeros_like(right), right, len(gallery_codes) - right, len(gallery_codes))


def precision_at_k(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_labels: Sequence[object],
    gallery_labels: Sequence[object],
    k: int,
) -> np.ndarray:
    """(N,) float64: share of the first `k` answers with the query's label; answers tied at place k
    count by their expectation.
    """
    queries, gallery = _checked(queries, gallery, query_labels, gallery_labels)
    if not 1 <= k <= len(gallery):
        raise ValueError(
            f"precision at {k} of {len(gallery)} answers; expected 1 to {len(gallery)}."
        )
    query_codes, gallery_codes = _codes(query_labels, gallery_labels)
    found = np.empty(len(queries))
    for start, scores in _strips(queries, gallery):
        for i, row in enumerate(scores, start):
            last = np.partition(row, -k)[-k]
            same = gallery_codes == query_codes[i]
            inside, at = row > last, row == last
            found[i] = (
                (same & inside).sum() + (k - inside.sum()) * (same & at).sum() / at.sum()
            ) / k
    return found


def _all_wrong(right: np.ndarray, wrong: np.ndarray, places: np.ndarray) -> np.ndarray:
    """C(wrong, places) / C(right + wrong, places): 1 without places, 0 with more places than wrong
    answers.
    """
    m = np.clip(places, 0, wrong)
    log = (
        gammaln(wrong + 1)
        - gammaln(wrong - m + 1)
        + gammaln(right + wrong - m + 1)
        - gammaln(right + wrong + 1)
    )
    return np.where(places > wrong, 0.0, np.where(places <= 0, 1.0, np.exp(log)))


def _strips(queries: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first query, scores (rows, M)), again and again."""
    # BLAS rounds a product by its place in the matrix, so two copies of a vector might not tie
    number: dict[bytes, int] = {}
    zero = np.float32(0)  # added, makes -0.0 the same as 0.0
    place = np.array(
        [number.setdefault(blake2b(row + zero).digest(), len(number)) for row in gallery]
    )
    copies = len(number) < len(gallery)
    distinct = gallery[np.unique(place, return_index=True)[1]] if copies else gallery
    step = max(1, STRIP // len(gallery))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ distinct.T
        yield start, scores[:, place] if copies else scores


def _checked(
    queries: np.ndarray, gallery: np.ndarray, *names: Sequence[object]
) -> tuple[np.ndarray, np.ndarray]:
    arrays = [np.ascontiguousarray(values, dtype=np.float32) for values in (queries, gallery)]
    for values, groups, kind in zip(arrays, names, ("queries", "gallery"), strict=True):
        if values.ndim != 2 or not len(values) or len(groups) != len(values):
            raise ValueError(
                f"{kind}: features {values.shape} and {len(groups)} groups; expected (N, D), N >="
                " 1, and N groups."
            )
        if not np.isfinite(values).all():
            wrong = int((~np.isfinite(values).all(axis=1)).sum())
            raise ValueError(f"{kind}: {wrong} of {len(values)} features are NaN or infinite.")
    return arrays[0], arrays[1]


def _codes(*names: Sequence[object]) -> list[np.ndarray]:
    """Equal names, equal numbers; names may be text, numbers or tuples."""
    number: dict[object, int] = {}
    return [
        np.array([number.setdefault(name, len(number)) for name in part], dtype=np.int64)
        for part in names
    ]
