"""Ranks of right answers in retrieval, with ties, computed in strips of the similarity matrix.

Scores are float32 products, and answers tie if these are equal. Equal vectors have bit-for-bit
identical scores, because each distinct vector is multiplied once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from scipy.special import gammaln

TIES = ("optimistic", "expected", "pessimistic")
STRIP = 2**25  # number of scores in memory at a time: 128 MiB


@dataclass(frozen=True)
class Ranks:
    """Ranks of the best right answer of each of N queries among `gallery` answers.

    `above` (N,) int64: number of answers with a higher score; `right` (at least 1) and `wrong` (N,)
    int64: numbers of right and wrong answers with exactly its score, whose order is arbitrary.
    """

    above: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    gallery: int

    @property
    def tied(self) -> int:
        """Number of queries whose best right answer has the same score as a wrong one."""
        return int((self.wrong > 0).sum())

    def rank(self, ties: str) -> np.ndarray:
        """Rank of the first right answer (N,) float64, from 1.

        For "expected" it is the mean over all orders of the tied answers.
        """
        between = {
            "optimistic": 0.0,
            "expected": self.wrong / (self.right + 1),
            "pessimistic": self.wrong,
        }
        return 1.0 + self.above + between[ties]

    def hits(self, k: int, ties: str) -> np.ndarray:
        """Whether a right answer is among the first `k` (N,) float64.

        For "expected" it is the probability over all orders of the tied answers. With
        m = k - above ranks for `right` + `wrong` answers, the probability that all m go to wrong
        answers is hypergeometric: C(wrong, m) / C(right + wrong, m).
        """
        if ties != "expected":
            return (self.rank(ties) <= k).astype(np.float64)
        return 1 - _all_wrong(self.right, self.wrong, k - self.above)

    def reciprocal(self, ties: str) -> np.ndarray:
        """1 / rank (N,) float64.

        For "expected" it is the mean over all orders of the tied answers, which is not 1 / mean
        rank.
        """
        if ties != "expected" or not self.tied:
            return 1 / self.rank(ties)
        kinds, which = np.unique(
            np.stack([self.above, self.right, self.wrong], axis=1), axis=0, return_inverse=True
        )
        means = np.empty(len(kinds))
        for i, (above, right, wrong) in enumerate(kinds):
            # P(the first right answer comes after position p of the tied answers)
            positions = np.arange(wrong + 2)
            after = _all_wrong(
                np.full(len(positions), right), np.full(len(positions), wrong), positions
            )
            means[i] = (-np.diff(after) / (above + positions[1:])).sum()
        return means[which.reshape(-1)]


def rank_answers(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_groups: Sequence[object],
    gallery_groups: Sequence[object],
) -> Ranks:
    """Rank the `gallery` (M, D) float32 for each of `queries` (N, D) float32.

    An answer is right if it has the group of the query. Only a strip of the N x M scores is in
    memory. ValueError: NaN, wrong shapes, or a query without a right answer.
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
            f"query {lost} (group {query_groups[lost]!r}) has no right answer in the gallery;"
            " expected at least one. Leave such queries out."
        )
    above, right, wrong = np.empty((3, len(queries)), np.int64)
    for start, scores in _strips(queries, gallery):
        for i, row in enumerate(scores, start):
            right_scores = row[order[first[i] : last[i]]]
            best = right_scores.max()
            above[i], right[i] = (
                np.count_nonzero(row > best),
                np.count_nonzero(right_scores == best),
            )
            wrong[i] = np.count_nonzero(row == best) - right[i]
    return Ranks(above, right, wrong, len(gallery))


def chance_ranks(query_groups: Sequence[object], gallery_groups: Sequence[object]) -> Ranks:
    """Ranks of a model that gives every pair the same score: its "expected" values are chance."""
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
    """Share of the first `k` answers with the label of the query (N,) float64.

    Answers that are tied at rank k count by their expectation.
    """
    queries, gallery = _checked(queries, gallery, query_labels, gallery_labels)
    if not 1 <= k <= len(gallery):
        raise ValueError(
            f"precision at {k} of {len(gallery)} answers; expected 1 to {len(gallery)}."
        )
    query_codes, gallery_codes = _codes(query_labels, gallery_labels)
    precision = np.empty(len(queries))
    for start, scores in _strips(queries, gallery):
        for i, row in enumerate(scores, start):
            last = np.partition(row, -k)[-k]
            same = gallery_codes == query_codes[i]
            inside, at = row > last, row == last
            precision[i] = (
                (same & inside).sum() + (k - inside.sum()) * (same & at).sum() / at.sum()
            ) / k
    return precision


def _all_wrong(right: np.ndarray, wrong: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """C(wrong, positions) / C(right + wrong, positions).

    1 without positions, 0 with more positions than wrong answers.
    """
    m = np.clip(positions, 0, wrong)
    log = (
        gammaln(wrong + 1)
        - gammaln(wrong - m + 1)
        + gammaln(right + wrong - m + 1)
        - gammaln(right + wrong + 1)
    )
    return np.where(positions > wrong, 0.0, np.where(positions <= 0, 1.0, np.exp(log)))


def _strips(queries: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index of the first query, scores (rows, M)) for each strip of queries."""
    # BLAS rounds a product by its position in the matrix, so two copies of a vector might not tie
    columns: dict[bytes, int] = {}
    zero = np.float32(0)  # added, makes -0.0 the same as 0.0
    column = np.array(
        [columns.setdefault(blake2b(row + zero).digest(), len(columns)) for row in gallery]
    )
    copies = len(columns) < len(gallery)
    distinct = gallery[np.unique(column, return_index=True)[1]] if copies else gallery
    step = max(1, STRIP // len(gallery))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ distinct.T
        yield start, scores[:, column] if copies else scores


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
    """Numbers for names, equal ones for equal names; names may be text, numbers or tuples."""
    number: dict[object, int] = {}
    return [
        np.array([number.setdefault(name, len(number)) for name in part], dtype=np.int64)
        for part in names
    ]
