"""Alignment, uniformity, modality gap, cosines by group, clusters: closed forms and slow loops."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from openclip_eclip.config import UserError
from openclip_eclip.metrics import embedding


def unit(count: int, width: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, width))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def slow(images: np.ndarray, texts: np.ndarray) -> tuple[float, float]:
    """Eq. 2 and Eq. 3 as the paper prints them."""
    count, differences, kernels = len(images), [], []
    for i in range(count):
        wrong = []
        for j in range(count):
            distance = sum((a - b) ** 2 for a, b in zip(images[i], texts[j]))
            if j != i:
                wrong.append(distance)
                kernels.append(np.exp(-2 * distance))
            else:
                own = distance
        differences.append(own - min(wrong))
    return -sum(differences) / count, -np.log(sum(kernels) / len(kernels))


def separated(size: float, count: int = 1000, width: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Perfectly paired clouds, moved apart by `size` each, scaled to length 1."""
    points, direction = unit(count, width, 0), unit(1, width, 1)
    moved = [points + size * direction, points - size * direction]
    return tuple(values / np.linalg.norm(values, axis=1, keepdims=True) for values in moved)


def test_equations_2_and_3_agree_with_double_loops() -> None:
    images, texts = unit(23, 5, 2), unit(23, 5, 3)
    result = embedding.alignment(images, texts), embedding.uniformity(images, texts)
    assert result == pytest.approx(slow(images, texts), abs=1e-12)
    # texts, not images, compete
    assert result[0] != pytest.approx(embedding.alignment(texts, images), abs=1e-3)
    within = [
        np.exp(-2 * ((images[i] - images[j]) ** 2).sum())
        for i in range(23)
        for j in range(23)
        if i != j
    ]
    assert embedding.wang_isola_uniformity(images) == pytest.approx(
        np.log(np.mean(within)), abs=1e-12
    )
    distances = [np.linalg.norm(a - b) for a, b in zip(images, texts)]
    assert embedding.wang_isola_alignment(images, texts) == pytest.approx(
        np.mean(np.square(distances))
    )
    assert embedding.wang_isola_alignment(images, texts, 1) == pytest.approx(np.mean(distances))


def test_closed_forms() -> None:
    equal = np.tile(unit(1, 8, 0), (6, 1))
    assert embedding.alignment(equal, equal) == pytest.approx(0, abs=1e-12)
    assert embedding.uniformity(equal, equal) == pytest.approx(0, abs=1e-12)
    assert embedding.wang_isola_uniformity(equal) == pytest.approx(0, abs=1e-12)
    assert embedding.modality_gap(equal, -equal) == pytest.approx(2)
    # two points opposite: the best that Eq. 3 knows
    assert embedding.uniformity(equal, -equal) == pytest.approx(8)
    orthogonal = np.eye(6)
    assert embedding.alignment(orthogonal, orthogonal) == pytest.approx(2)
    # with i = j it would be 1.67
    assert embedding.uniformity(orthogonal, orthogonal) == pytest.approx(4)
    assert embedding.wang_isola_uniformity(orthogonal) == pytest.approx(-4)
    assert embedding.modality_gap(orthogonal, orthogonal) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "gap", "eq2", "eq3", "align", "unif"),
    [
        (0, 0.00, 1.71, 3.93, 0.00, -3.96),
        (0.5, 0.90, 1.34, 4.77, 0.81, -3.69),
        (1, 1.41, 0.82, 5.99, 2.00, -2.67),
        (4, 1.94, 0.10, 7.76, 3.76, -0.93),
    ],
)
def test_separating_paired_clouds_raises_eq_3_and_keeps_neighbours(
    size: float, gap: float, eq2: float, eq3: float, align: float, unif: float
) -> None:
    images, texts = separated(size)
    # within 0.02, as the points are not those of the table, whose Eq. 3 takes i = j in as well
    result = embedding.uniformity(images, texts)
    with_own = -np.log(
        (999 * np.exp(-result) + np.exp(-2 * ((images - texts) ** 2).sum(axis=1)).mean()) / 1000
    )
    assert embedding.modality_gap(images, texts) == pytest.approx(gap, abs=0.02)
    assert embedding.alignment(images, texts) == pytest.approx(eq2, abs=0.02)
    assert with_own == pytest.approx(eq3, abs=0.02)
    assert result == pytest.approx({0: 3.98, 0.5: 4.79, 1: 5.99, 4: 7.77}[size], abs=0.006)
    assert embedding.wang_isola_alignment(images, texts) == pytest.approx(align, abs=0.02)
    assert embedding.wang_isola_uniformity(np.concatenate([images, texts])) == pytest.approx(
        unif, abs=0.02
    )
    assert (embedding.margins(images, texts) > 0).all()  # R@1 is 1
    centred = embedding.centre(images), embedding.centre(texts)
    assert embedding.modality_gap(*centred) < 0.01
    assert embedding.uniformity(*centred) == pytest.approx(3.99, abs=0.01)


def test_order_rotation_and_precision_change_nothing() -> None:
    images, texts = unit(40, 16, 4), unit(40, 16, 5)
    order, turn = (
        np.random.default_rng(0).permutation(40),
        np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0],
    )
    for form in (
        embedding.alignment,
        embedding.uniformity,
        embedding.wang_isola_alignment,
        embedding.modality_gap,
    ):
        assert form(images[order], texts[order]) == pytest.approx(form(images, texts), abs=1e-12)
        assert form(images @ turn, texts @ turn) == pytest.approx(form(images, texts), abs=1e-12)
        single = images.astype(np.float32), texts.astype(np.float32)
        assert form(*single) == form(*(values.astype(np.float64) for values in single))


def test_a_repeated_text_counts_as_a_wrong_text_at_the_same_distance() -> None:
    images, texts = unit(8, 4, 6), unit(8, 4, 7)
    texts[1] = texts[0]
    assert (embedding.margins(images, texts)[:2] <= 1e-12).all()
    assert embedding.alignment(np.eye(3), np.eye(3)[[0, 0, 0]]) == pytest.approx(0)


def test_blocks_give_the_same_values_without_the_matrix_of_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, texts, groups = unit(301, 6, 8), unit(301, 6, 9), np.arange(301) % 3
    whole = (
        embedding.alignment(images, texts),
        embedding.uniformity(images, texts),
        embedding.cosine_histogram(images, groups),
    )
    monkeypatch.setattr(embedding, "BLOCK_BYTES", 301 * 8 * 7)  # 7 rows a block, 43 blocks
    assert (
        embedding.alignment(images, texts),
        embedding.uniformity(images, texts),
    ) == pytest.approx(whole[:2], abs=1e-12)
    for one, other in zip(embedding.cosine_histogram(images, groups), whole[2]):
        np.testing.assert_allclose(one, other, atol=1e-12)
    monkeypatch.setattr(embedding, "BLOCK_BYTES", 2**20)
    images, groups = unit(2000, 4, 0), np.zeros(2000, np.int64)
    for measure in (
        lambda: embedding.alignment(images, images[::-1]),
        lambda: embedding.uniformity(images, images[::-1]),
        lambda: embedding.cosine_histogram(images, groups),
    ):
        tracemalloc.start()
        measure()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * 2**20  # all pairs are 30.5 MiB


def test_wrong_shapes_and_collapsed_features_are_an_error() -> None:
    for images, texts in ((np.eye(3), np.eye(4)), (np.eye(3)[:1], np.eye(3)[:1])):
        with pytest.raises(ValueError, match="N at least 2"):
            embedding.alignment(images, texts)
    with pytest.raises(UserError, match="4 of 4 features equal their mean.*collapsed"):
        embedding.centre(np.tile(unit(1, 8, 0), (4, 1)))


def test_cosines_by_group_agree_with_a_loop() -> None:
    points, groups = unit(30, 3, 10), np.random.default_rng(0).integers(0, 3, 30)
    points[1] = points[0]  # a cosine of 1, rounding or not
    groups[groups == 2] = 1
    groups[7] = 2  # a group of one image
    counts, mean, deviation = embedding.cosine_histogram(points, groups, 20)
    for one in range(3):
        for other in range(3):
            cosines = [
                float(points[i] @ points[j])
                for i in range(30)
                for j in range(i)
                if {groups[i], groups[j]} == {one, other}
                and (one == other) == (groups[i] == groups[j])
            ]
            assert counts[one, other].sum() == len(cosines)
            if cosines:
                assert (mean[one, other], deviation[one, other]) == pytest.approx(
                    (np.mean(cosines), np.std(cosines)), abs=1e-12
                )
                np.testing.assert_array_equal(
                    counts[one, other], np.histogram(np.clip(cosines, -1, 1), 20, (-1, 1))[0]
                )
    assert np.isnan(mean[2, 2])
    assert not counts[2, 2].sum()
    assert counts[np.triu_indices(3)].sum() == 30 * 29 // 2


def test_clusters() -> None:
    centres = np.eye(4)[:3]
    groups = np.repeat([0, 1, 2], 10)
    points = centres[groups] + 0.01 * np.random.default_rng(0).normal(size=(30, 4))
    result = embedding.clustering(points, groups, [0, 1])
    assert result["NMI"].tolist() == pytest.approx([1, 1])
    assert result["ARI"].tolist() == pytest.approx([1, 1])
    assert (result["silhouette"] > 0.9).all()
    assert (result["Calinski-Harabasz"] > 1000).all()
    shuffled = np.random.default_rng(1).permutation(groups)
    assert embedding.clustering(points, shuffled, [0])["ARI"][0] == pytest.approx(
        adjusted_rand_score(shuffled, groups)
    )
    for wrong, labels in (
        (points, groups * 0),
        (points[:3], np.arange(3)),
        (np.tile(points[:1], (9, 1)), np.arange(9) % 2),
    ):
        with pytest.raises(UserError, match="expected at least two groups"):
            embedding.clustering(wrong, labels, [0])
