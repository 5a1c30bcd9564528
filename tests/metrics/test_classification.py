"""Classification metrics: by hand, against scikit-learn and torchmetrics, known mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from openclip_eclip.metrics.classification import (
    auroc,
    class_scores,
    confusion_matrix,
    floor_f1,
    measure,
    measure_multi,
    standardise,
)


def one_hot_scores(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[predicted]


def random_case(seed: int, samples: int = 60, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    # few values: many ties
    return (
        rng.integers(0, classes, samples),
        rng.integers(0, 9, (samples, classes)) / 4,
    )


def test_by_hand() -> None:
    """Truth a a b b c, predicted a b b b a: TP 1 2 0, F1 2/4, 4/5, 0."""
    result = measure(np.array([0, 0, 1, 1, 2]), one_hot_scores([0, 1, 1, 1, 0], 3))
    np.testing.assert_allclose(result["F1"], [0.5, 0.8, 0])
    np.testing.assert_allclose(result["recall"], [0.5, 1, 0])
    # nothing was called c: no precision, yet an F1 of 0
    np.testing.assert_allclose(result["precision"], [0.5, 2 / 3, np.nan])
    assert result["macro-F1"] == pytest.approx(1.3 / 3)
    assert result["accuracy"] == 0.6
    assert result["balanced accuracy"] == 0.5
    np.testing.assert_array_equal(
        confusion_matrix(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0]), 3),
        [[1, 1, 0], [0, 2, 0], [1, 0, 0]],
    )


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_agrees(seed: int) -> None:
    labels, scores = random_case(seed)
    result, called = measure(labels, scores), scores.argmax(axis=1)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, called, labels=range(5))
    for name, expected in (
        ("precision", precision),
        ("recall", recall),
        ("F1", f1),
        ("macro-F1", sk.f1_score(labels, called, average="macro")),
        ("balanced accuracy", sk.balanced_accuracy_score(labels, called)),
        ("accuracy", sk.accuracy_score(labels, called)),
        ("AUROC", [sk.roc_auc_score(labels == k, scores[:, k]) for k in range(5)]),
        ("macro AUROC", sk.roc_auc_score(np.eye(5)[labels], scores, average="macro")),
    ):
        np.testing.assert_allclose(result[name], expected, atol=1e-12, rtol=0, err_msg=name)
    np.testing.assert_array_equal(
        confusion_matrix(labels, called, 5), sk.confusion_matrix(labels, called, labels=range(5))
    )


@pytest.mark.slow
def test_torchmetrics_agrees() -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_auroc, multiclass_f1_score

    labels, scores = random_case(7)
    scores += np.linspace(0, 1e-3, scores.size).reshape(scores.shape)
    # it would take a softmax of what leaves [0, 1]
    probabilities = torch.tensor(scores / (scores.max() + 1))
    result = measure(labels, scores)
    assert result["macro-F1"] == pytest.approx(
        float(multiclass_f1_score(probabilities, torch.tensor(labels), 5, average="macro")),
        abs=1e-6,
    )
    np.testing.assert_allclose(
        result["AUROC"],
        multiclass_auroc(probabilities, torch.tensor(labels), 5, average=None),
        atol=1e-6,
    )


def test_order_of_samples_and_copies_of_the_set_do_not_matter() -> None:
    labels, scores = random_case(3)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    for rows in (shuffled, np.tile(np.arange(len(labels)), 3)):
        again = measure(labels[rows], scores[rows])
        for name, value in measure(labels, scores).items():
            np.testing.assert_allclose(again[name], value, atol=1e-12, err_msg=name)


def test_equal_scores_count_half_and_the_first_class_is_predicted() -> None:
    result = measure(np.array([0, 1, 1]), np.ones((3, 2)))
    np.testing.assert_allclose(result["AUROC"], [0.5, 0.5])
    assert result["accuracy"] == pytest.approx(1 / 3)


def test_absent_class_has_no_score_and_is_left_out_of_the_means() -> None:
    """Truth a a b, predicted a c b; c is not in the set.

    scikit-learn's union of labels would count it as 0 (decision 0011).
    """
    labels, called = np.array([0, 0, 1]), [0, 2, 1]
    result = measure(labels, one_hot_scores(called, 3))
    np.testing.assert_allclose(result["F1"], [2 / 3, 1, np.nan])
    assert np.isnan(result["recall"][2])
    assert np.isnan(result["AUROC"][2])
    assert result["precision"][2] == 0
    assert (
        result["macro-F1"]
        == pytest.approx(sk.f1_score(labels, called, labels=[0, 1], average="macro"))
        == pytest.approx(5 / 6)
    )
    assert result["balanced accuracy"] == 0.75
    assert result["macro AUROC"] == pytest.approx(np.mean(result["AUROC"][:2]))


def test_f1_of_the_positive_class_is_not_the_macro_f1() -> None:
    """All predicted positive at prevalence 0.225: F1+ is 0.367, macro-F1 half of it.

    The release calls the first macro (peers.md §0.6).
    """
    labels = np.repeat([0, 1], [775, 225])
    result = measure(labels, one_hot_scores([1] * 1000, 2))
    assert (
        result["F1 of the positive class"]
        == pytest.approx(floor_f1(0.225))
        == pytest.approx(0.45 / 1.225)
    )
    assert (
        result["macro-F1"]
        == pytest.approx(0.45 / 1.225 / 2)
        == pytest.approx(sk.f1_score(labels, np.ones(1000), average="macro"))
    )
    assert floor_f1(0.5) == pytest.approx(2 / 3)
    assert "F1 of the positive class" not in measure(*random_case(0))


def test_auroc_of_two_classes_uses_the_difference_of_scores() -> None:
    labels, scores = random_case(4, classes=2)
    result = measure(labels, scores)
    expected = sk.roc_auc_score(labels, scores[:, 1] - scores[:, 0])
    np.testing.assert_allclose(result["AUROC"], [expected, expected], atol=1e-12)


def test_auroc_leaves_unlabelled_samples_out_class_by_class() -> None:
    labels, scores = random_case(5, classes=3)
    table = (labels[:, None] == np.arange(3)).astype(float)
    table[::7, 0], table[1::5, 2] = np.nan, np.nan
    result = measure_multi(table, scores)
    known = ~np.isnan(table)
    expected = [sk.roc_auc_score(table[known[:, k], k], scores[known[:, k], k]) for k in range(3)]
    np.testing.assert_allclose(result["AUROC"], expected, atol=1e-12)
    assert result["macro AUROC"] == pytest.approx(np.mean(expected))
    table[:, 1] = 0
    assert np.isnan(measure_multi(table, scores)["AUROC"][1])
    assert measure_multi(table, scores)["macro AUROC"] == pytest.approx(
        (expected[0] + expected[2]) / 2
    )


def test_bad_arrays_are_an_error() -> None:
    with pytest.raises(ValueError, match="NaN among the scores"):
        auroc(np.ones((2, 2)), np.array([[1, 2], [3, np.nan]]))
    with pytest.raises(ValueError, match="a label is 3; expected 0 to 2"):
        confusion_matrix(np.array([0, 3]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match=r"labels \(2,\) and predictions \(3,\)"):
        confusion_matrix(np.array([0, 1]), np.array([0, 1, 1]), 3)
    with pytest.raises(ValueError, match="1 samples; expected at least 2"):
        standardise(np.ones((1, 2)))


def unit(*angles: float) -> np.ndarray:
    return np.array([[np.cos(a), np.sin(a)] for a in np.deg2rad(angles)], np.float32)


def test_unnormalised_mean_changes_a_decision() -> None:
    """The prompts of class a agree (±5°), those of b do not (90° ± 63°).

    The image at 50° is nearer to the direction of b (defect 29).
    """
    image, prompts = unit(50), [unit(-5, 5), unit(27, 153)]
    mean, normed = (class_scores(image, prompts, [], rule)[0] for rule in ("mean", "unit_mean"))
    np.testing.assert_allclose(
        mean, np.cos(np.deg2rad([50, 40])) * np.cos(np.deg2rad([5, 63])), atol=1e-7
    )
    np.testing.assert_allclose(normed, np.cos(np.deg2rad([50, 40])), atol=1e-7)
    assert mean.argmax() == 0
    assert normed.argmax() == 1
    # = the mean cosine
    np.testing.assert_allclose(mean, [np.mean(image @ texts.T) for texts in prompts], atol=1e-7)


def test_max_takes_the_best_prompt_and_pairs_compare_with_absence() -> None:
    image, prompts = unit(50), [unit(-5, 5), unit(27, 153)]
    np.testing.assert_allclose(
        class_scores(image, prompts, [], "max"), np.cos(np.deg2rad([[45, 23]])), atol=1e-7
    )
    pair = class_scores(image, prompts[:1], prompts[1:], "pair_softmax")
    a, b = np.exp(np.cos(np.deg2rad([50, 40])))
    np.testing.assert_allclose(pair, [[a / (a + b)]], atol=1e-7)
    with pytest.raises(ValueError, match="class vector 'median'"):
        class_scores(image, prompts, [], "median")


def test_with_one_prompt_all_rules_but_pairs_are_equal() -> None:
    rng = np.random.default_rng(0)
    images, texts = (
        values / np.linalg.norm(values, axis=1, keepdims=True)
        for values in (rng.normal(size=(9, 4)), rng.normal(size=(3, 4)))
    )
    prompts = [texts[k : k + 1] for k in range(3)]
    for rule in ("mean", "unit_mean", "max"):
        np.testing.assert_allclose(
            class_scores(images, prompts, [], rule), images @ texts.T, atol=1e-12
        )


def test_standardised_scores_depend_on_the_test_set() -> None:
    """The first image is the same in both sets, but its predicted class is not."""
    result = [
        standardise(np.array([[1, 0.9, 0.1], *others]))
        for others in ([[0, 0.9, 0.1], [0, 0, 0.1]], [[1, 0, 0.1], [0, 0, 0.1]])
    ]
    for scores in result:
        np.testing.assert_allclose(scores[:, :2].mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(scores[:, :2].std(axis=0), 1)
        # a constant column, not NaN and not rounding noise
        np.testing.assert_array_equal(scores[:, 2], 0)
    assert [scores[0].argmax() for scores in result] == [0, 1]
