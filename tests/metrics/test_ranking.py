"""Ranks, recall and precision of retrieval: by hand, over all orders, and against other packages.

The other packages are clip_benchmark and open_clip.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k
from open_clip_train.train import get_clip_metrics

from openclip_eclip.metrics import ranking
from openclip_eclip.metrics.ranking import TIES, Ranks, chance_ranks, precision_at_k, rank_answers


def unit(count: int, width: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def scored(scores: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Features whose products are exactly these scores, which are small integers."""
    return np.array(scores, np.float32), np.eye(len(scores[0]), dtype=np.float32)


def test_by_hand() -> None:
    """Query 0: the right answer is highest. Query 1: it is the lowest of three.

    Query 2: right answer 2 ties with answer 0, below answer 1.
    """
    ranks = rank_answers(*scored([[3, 2, 1], [3, 1, 2], [1, 2, 1]]), [0, 1, 2], [0, 1, 2])
    assert ranks.above.tolist() == [0, 2, 1]
    assert ranks.right.tolist() == [1, 1, 1]
    assert ranks.wrong.tolist() == [0, 0, 1]
    assert [ranks.rank(ties).tolist() for ties in TIES] == [[1, 3, 2], [1, 3, 2.5], [1, 3, 3]]
    assert [ranks.hits(2, ties).tolist() for ties in TIES] == [[1, 0, 1], [1, 0, 0.5], [1, 0, 0]]
    assert ranks.reciprocal("expected").tolist() == pytest.approx(
        [1, 1 / 3, (1 / 2 + 1 / 3) / 2], abs=1e-15
    )
    assert ranks.tied == 1


def test_the_highest_score_has_rank_1() -> None:
    """The paper prints min_j of v.t, but the nearest report has the largest product."""
    features = unit(6, 8, 0)
    assert rank_answers(features, features, range(6), range(6)).rank("expected").tolist() == [1] * 6
    assert precision_at_k(features, features, range(6), range(6), 1).tolist() == [1] * 6


@pytest.mark.parametrize("above", [0, 2])
@pytest.mark.parametrize("right,wrong", [(1, 0), (1, 3), (2, 3), (3, 1), (4, 2)])
def test_expectation_is_the_mean_over_all_orders(above: int, right: int, wrong: int) -> None:
    """All orders of the tied answers, in exact fractions.

    The other conventions are the best and the worst order.
    """
    first = [
        above + 1 + order.index(True) for order in permutations([True] * right + [False] * wrong)
    ]
    ranks = Ranks(*(np.array([value]) for value in (above, right, wrong)), gallery=20)

    def mean(values: list) -> float:
        return float(sum(map(Fraction, values)) / len(values))

    assert ranks.rank("expected")[0] == pytest.approx(mean(first), abs=1e-12)
    assert ranks.reciprocal("expected")[0] == pytest.approx(
        mean([Fraction(1, rank) for rank in first]), abs=1e-12
    )
    assert (ranks.rank("optimistic")[0], ranks.rank("pessimistic")[0]) == (min(first), max(first))
    for k in range(1, 12):
        assert ranks.hits(k, "expected")[0] == pytest.approx(
            mean([int(rank <= k) for rank in first]), abs=1e-12
        )
        assert ranks.hits(k, "optimistic")[0] == (min(first) <= k)
        assert ranks.hits(k, "pessimistic")[0] == (max(first) <= k)


def test_expectation_of_a_large_tie_is_accurate() -> None:
    """100 000 answers with one score, as of a collapsed model: chance, to 1e-9."""
    ranks = chance_ranks([7], [7] + [8] * 99_999)
    assert ranks.hits(10, "expected")[0] == pytest.approx(1e-4, abs=1e-9)
    assert ranks.rank("expected")[0] == 50_000.5


@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize("per_image", [1, 5])
def test_agrees_with_clip_benchmark(k: int, per_image: int) -> None:
    """Its recall is the retrieved share of the right answers; above 0 is a hit.

    Its `evaluate` counts it like that.
    """
    images, texts = unit(60, 16, 1), unit(60 * per_image, 16, 2)
    owner = np.arange(60 * per_image) // per_image
    positive = torch.from_numpy(owner[:, None] == np.arange(60)[None])
    scores = torch.from_numpy(texts @ images.T)
    to_image = (recall_at_k(scores, positive, k) > 0).double().mean().item()
    to_text = (recall_at_k(scores.T, positive.T, k) > 0).double().mean().item()
    for ties in TIES:
        assert rank_answers(texts, images, owner, range(60)).hits(k, ties).mean() == pytest.approx(
            to_image, abs=1e-9
        )
        assert rank_answers(images, texts, range(60), owner).hits(k, ties).mean() == pytest.approx(
            to_text, abs=1e-9
        )


def test_agrees_with_open_clip() -> None:
    images, texts = unit(101, 32, 3), unit(101, 32, 4)
    theirs = get_clip_metrics(torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(1.0))
    for name, ours in (
        ("image_to_text", rank_answers(images, texts, range(101), range(101))),
        ("text_to_image", rank_answers(texts, images, range(101), range(101))),
    ):
        assert theirs[f"{name}_mean_rank"] == pytest.approx(ours.rank("expected").mean(), abs=1e-9)
        assert theirs[f"{name}_median_rank"] == np.median(ours.rank("expected"))
        assert all(
            theirs[f"{name}_R@{k}"] == pytest.approx(ours.hits(k, "expected").mean(), abs=1e-9)
            for k in (1, 5, 10)
        )


def test_equal_vectors_tie_exactly_at_any_position() -> None:
    """BLAS rounds by the position in the matrix, so copies of a vector might not tie."""
    queries, distinct = unit(37, 511, 5), unit(3, 511, 6)
    gallery = distinct[np.arange(1003) % 3]
    ranks = rank_answers(queries, gallery, [0] * 37, range(1003))
    assert (ranks.right == 1).all()
    assert set(ranks.wrong.tolist()) == {1003 // 3}
    assert set(ranks.above.tolist()) <= {0, 334, 335, 668, 669}
    minus = rank_answers(queries[:, :3], np.array([[0, 1, 0], [-0.0, 1, -0.0]]), [0] * 37, [0, 1])
    assert minus.wrong.tolist() == [1] * 37


def test_strips_give_the_same_ranks_without_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # small integers: exact products, many ties
    queries, gallery = (
        np.round(unit(50, 8, 7) * 8),
        np.round(unit(40, 8, 8) * 8),
    )
    groups = np.random.default_rng(9).integers(0, 10, 40)
    whole = rank_answers(queries, gallery, np.arange(50) % 10, groups)
    precision = precision_at_k(queries, gallery, np.arange(50) % 10, groups, 5)
    monkeypatch.setattr(ranking, "STRIP", 200)
    assert (
        max(
            len(scores)
            for _, scores in ranking._strips(queries.astype(np.float32), gallery.astype(np.float32))
        )
        == 5
    )
    parts = rank_answers(queries, gallery, np.arange(50) % 10, groups)
    assert whole.tied > 5
    for name in ("above", "right", "wrong"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    np.testing.assert_array_equal(
        precision, precision_at_k(queries, gallery, np.arange(50) % 10, groups, 5)
    )


def test_order_of_the_gallery_does_not_matter() -> None:
    queries, gallery, groups = (
        np.round(unit(30, 8, 1) * 4),
        np.round(unit(40, 8, 2) * 4),
        np.arange(40) % 15,
    )
    order = np.random.default_rng(0).permutation(40)
    one = rank_answers(queries, gallery, np.arange(30) % 15, groups)
    other = rank_answers(queries, gallery[order], np.arange(30) % 15, groups[order])
    for name in ("above", "right", "wrong"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_any_right_answer_counts_also_in_chance() -> None:
    """A report of three images: the best of them counts.

    Chance at k = 2 of 6 with 3 right: 1 - C(3,2) / C(6,2) = 0.8.
    """
    ranks = rank_answers(*scored([[1, 6, 5, 4, 3, 2]]), ["a"], ["b", "b", "a", "a", "b", "a"])
    assert ranks.rank("expected").tolist() == [2]
    assert ranks.right.tolist() == [1]
    assert chance_ranks(["a"], ["b", "b", "a", "a", "b", "a"]).hits(
        2, "expected"
    ).tolist() == pytest.approx([0.8], abs=1e-15)
    assert chance_ranks([0, 1], [0, 1, 2, 3]).rank("expected").tolist() == [2.5, 2.5]


def test_precision_by_hand_and_over_all_orders_of_a_tie() -> None:
    """First three of scores 9 5 5 5 1: the first, and two of the three tied answers.

    One of the tied has the label: (0 + 2/3) / 3.
    """
    given = (
        *scored([[9, 5, 5, 5, 1], [5, 4, 3, 2, 1]]),
        ["x", (1, 0)],
        [(1, 0), "x", (1, 0), (1, 0), "x"],
    )
    assert precision_at_k(*given, 3).tolist() == pytest.approx([2 / 9, 2 / 3], abs=1e-15)
    assert precision_at_k(*given, 1).tolist() == [0, 1]
    with pytest.raises(ValueError, match="precision at 6 of 5 answers"):
        precision_at_k(*scored([[9, 5, 5, 5, 1]]), [0], range(5), 6)


def test_wrong_input_is_an_error() -> None:
    good = unit(4, 3, 0)
    broken = good.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="queries: 1 of 4 features are NaN"):
        rank_answers(broken, good, range(4), range(4))
    with pytest.raises(ValueError, match="gallery: 1 of 4 features are NaN"):
        rank_answers(good, broken, range(4), range(4))
    with pytest.raises(ValueError, match=r"query 3 \(group 3\) has no right answer"):
        rank_answers(good, good, range(4), [0, 1, 2, 2])
    with pytest.raises(ValueError, match="3 groups"):
        rank_answers(good, good, range(3), range(4))
