"""AUROC against scikit-learn; the linear probe: splits, standardisation and choice of C."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from openclip_eclip.config import UserError
from openclip_eclip.metrics import probe
from openclip_eclip.metrics.auroc import auroc, auroc_of_rows


def problem(
    count: int = 120, width: int = 6, classes: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D), and noisy labels (N, K) of its first columns."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, width))
    return features, (features[:, :classes] + rng.normal(size=(count, classes)) > 0.5).astype(
        np.float64
    )


def test_auroc_by_hand_and_by_scikit_learn() -> None:
    assert auroc(np.array([[0], [0], [1], [1]]), np.array([[0.1], [0.4], [0.35], [0.8]]))[0] == 0.75
    assert auroc(np.array([[0], [1]]), np.array([[3], [3]]))[0] == 0.5  # a tie
    rng = np.random.default_rng(0)
    # many ties
    labels, scores = (
        rng.integers(0, 2, (200, 3)).astype(float),
        rng.integers(0, 15, (200, 3)) / 7,
    )
    labels[::5, 1] = np.nan
    for k, value in enumerate(auroc(labels, scores)):
        known = ~np.isnan(labels[:, k])
        assert value == pytest.approx(roc_auc_score(labels[known, k], scores[known, k]), abs=1e-12)
    rows = rng.integers(0, 200, 200)
    of_rows = auroc_of_rows(labels, scores)(rows)
    assert of_rows[2] == pytest.approx(roc_auc_score(labels[rows, 2], scores[rows, 2]), abs=1e-12)


def test_auroc_of_absent_classes_and_bad_scores() -> None:
    labels = np.array([[1, 0, np.nan], [1, 0, np.nan]])
    assert np.isnan(auroc(labels, np.zeros((2, 3)))).all()
    with pytest.raises(ValueError, match="NaN among the scores"):
        auroc(np.array([[0], [1]]), np.array([[np.nan], [1]]))
    with pytest.raises(ValueError, match="two arrays"):
        auroc(np.zeros(3), np.zeros(3))


def test_subsets_are_nested_and_whole_patients() -> None:
    groups = [f"p{i // 3}" for i in range(60)]
    subsets = probe.nested_subsets(groups, [0.1, 10, 25, 100], (0, 1))
    assert [len(rows) for rows in subsets] == [3, 6, 15, 60]  # 0.1 % of 20 patients: one
    for small, large in zip(subsets, subsets[1:]):
        assert set(small) <= set(large)
    for rows in subsets:
        members = [groups[row] for row in rows]
        assert all(members.count(name) == 3 for name in members)
    assert list(probe.nested_subsets(groups, [10], (0, 2))[0]) != list(subsets[1])
    order = np.random.default_rng(0).permutation(60)  # the order of the file does not matter
    again = probe.nested_subsets([groups[i] for i in order], [25], (0, 1))[0]
    assert {groups[order[row]] for row in again} == {groups[row] for row in subsets[2]}


def test_split_keeps_patients_together() -> None:
    groups = [f"p{i // 4}" for i in range(80)]
    parts = probe.split_groups(groups, (0.6, 0.2, 0.2), 3)
    assert sorted(np.concatenate(parts)) == list(range(80))
    assert [len(rows) for rows in parts] == [
        48,
        16,
        16,
    ]
    names = [{groups[row] for row in rows} for rows in parts]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
    with pytest.raises(
        UserError, match="2 patients or images; expected enough to split 60% / 20% / 20%"
    ):
        probe.split_groups(["a", "a", "b"], (0.6, 0.2, 0.2), 0)


def test_standardisation_uses_only_training_rows() -> None:
    features = np.c_[np.random.default_rng(0).normal(5, 3, 20), np.full(20, 0.1)].astype(np.float32)
    train = np.arange(10)
    moved = probe.standardise(features, train)
    assert moved[train].mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert moved[train, 0].std() == pytest.approx(1)
    assert not moved[:, 1].any()  # a constant
    features[10:] += 100
    np.testing.assert_array_equal(probe.standardise(features, train)[train], moved[train])


@pytest.mark.slow
def test_probe_equals_scikit_learn_at_the_c_of_best_validation() -> None:
    features, labels = problem()
    result = probe.fit_probe(features[:60], labels[:60], features[60:], labels[60:])
    scores = {}
    for strength in result.validation:
        models = [
            LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(
                features[:60], labels[:60, k]
            )
            for k in range(2)
        ]
        raw = np.stack([model.decision_function(features[60:]) for model in models], axis=1)
        scores[strength] = (
            raw,
            np.mean([roc_auc_score(labels[60:, k], raw[:, k]) for k in range(2)]),
        )
    best = max(value for _, value in scores.values())
    assert (
        result.validation[result.strength]
        == max(result.validation.values())
        == pytest.approx(best, abs=5e-3)
    )
    assert result.strength == min(
        c for c, value in result.validation.items() if value == max(result.validation.values())
    )
    np.testing.assert_allclose(
        result.scores(features[60:]), scores[result.strength][0], rtol=0.02, atol=1e-3
    )
    assert result.unconverged == 0


def test_search_over_c_ends_after_four_falls_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = problem(60, 40, 1)
    for path, tried, best in (
        ([0.6, 0.7, 0.6, 0.5, 0.4, 0.3, 0.9], 6, 1),  # four falls after the best
        ([0.5] * 17, 17, 0),  # flat: C is too small to matter yet
        # a tie is no fall
        (
            [0.5, 0.5, 0.5, 0.5, 0.5, 0.8, 0.7, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2],
            13,
            5,
        ),
        ([0.6, 0.5, 0.4, 0.3, 0.35] + [0.9] * 12, 17, 5),
    ):
        values = iter(path)
        monkeypatch.setattr(
            probe,
            "auroc",
            lambda labels, scores, values=values: np.array([next(values) if scores.any() else 0.5]),
        )
        result = probe.fit_probe(features[:30], labels[:30], features[30:], labels[30:])
        assert len(result.validation) == tried
        assert probe.STRENGTHS.index(result.strength) == best


def test_the_smallest_c_is_fitted_too() -> None:
    features, labels = problem(60, 40, 1)
    result = probe.fit_probe(features[:30], labels[:30], features[30:], labels[30:])
    # its limit, the difference of class means
    direction = features[:30].T @ (labels[:30, 0] - labels[:30, 0].mean())
    mean_difference = auroc(labels[30:], features[30:] @ direction[:, None])[0]
    assert result.validation[1e-6] == pytest.approx(mean_difference) != 0.5


def test_validation_labels_choose_c() -> None:
    features, labels = problem(80, 60, 1, seed=4)
    one = probe.fit_probe(features[:40], labels[:40], features[40:], labels[40:])
    other = probe.fit_probe(features[:40], labels[:40], features[40:], 1 - labels[40:])
    assert one.validation != other.validation
    assert one.strength != other.strength


@pytest.mark.slow
def test_blank_labels_are_left_out_class_by_class() -> None:
    features, labels = problem()
    with_blanks = labels.copy()
    with_blanks[:20, 1] = np.nan
    with_blanks[60:70, 0] = np.nan
    both = probe.fit_probe(features[:60], with_blanks[:60], features[60:], with_blanks[60:])
    alone = LogisticRegression(C=both.strength, tol=1e-8, max_iter=5000).fit(
        features[20:60], labels[20:60, 1]
    )
    np.testing.assert_allclose(both.weights[1], alone.coef_[0], rtol=0.02, atol=1e-3)
    zeroed = np.nan_to_num(with_blanks[:60])
    assert not np.allclose(
        probe.fit_probe(features[:60], zeroed, features[60:], with_blanks[60:]).weights[1],
        both.weights[1],
        rtol=0.1,
    )


@pytest.mark.slow
def test_classes_without_both_labels_are_left_out() -> None:
    features, labels = problem(classes=3)
    labels[:60, 1] = 0
    result = probe.fit_probe(features[:60], labels[:60], features[60:], labels[60:])
    assert result.fitted.tolist() == [True, False, True]
    assert np.isnan(result.scores(features)[:, 1]).all()
    assert np.isfinite(result.scores(features)[:, [0, 2]]).all()
    labels[60:, 0] = 1  # not in validation: fitted, and C comes from the third
    again = probe.fit_probe(features[:60], labels[:60], features[60:], labels[60:])
    assert again.fitted.tolist() == [True, False, True]
    only = probe.fit_probe(features[:60], labels[:60, 2:], features[60:], labels[60:, 2:])
    assert again.strength == only.strength
    labels[60:, 2] = 0
    assert probe.fit_probe(features[:60], labels[:60], features[60:], labels[60:]) is None
    assert probe.fit_probe(features[:1], labels[:1], features[60:], labels[60:]) is None


def test_unconverged_fits_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_ITERATIONS", 1)
    features, labels = problem()
    assert probe.fit_probe(features[:60], labels[:60], features[60:], labels[60:]).unconverged > 2


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    features, labels = problem()
    with pytest.raises(UserError, match=r"pip install 'openclip_eclip\[evaluate\]'"):
        probe.fit_probe(features[:60], labels[:60], features[60:], labels[60:])
