import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.classification import (
    ExamplesError,
    auc,
    auc_by_group,
    classification_report,
    cross_entropy,
    log_loss,
    mae,
    rmse,
    top_k_accuracy,
)

LABELLED = st.lists(st.tuples(st.integers(0, 1), st.integers(-20, 20)), min_size=2, max_size=40)


def test_auc_by_hand() -> None:
    # pairs (positive, negative): .8>.4, .8>.6, .5>.4, .5<.6 → 3 of 4
    assert auc([1, 0, 1, 0], [0.8, 0.4, 0.5, 0.6]) == 0.75
    assert auc([1, 0], [0.5, 0.5]) == 0.5
    assert auc([1, 1, 0, 0], [4, 3, 2, 1]) == 1.0
    assert auc([1, 1, 0, 0], [1, 2, 3, 4]) == 0.0
    assert np.isnan(auc([1, 1], [0.1, 0.2]))
    assert np.isnan(auc([], []))


@given(LABELLED)
def test_auc_is_the_share_of_pairs_in_order_with_ties_half(rows: list[tuple[int, int]]) -> None:
    labels, scores = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    positive, negative = scores[labels == 1], scores[labels == 0]
    apart = positive[:, None] - negative
    if not apart.size:
        assert np.isnan(auc(labels, scores))
    else:
        assert auc(labels, scores) == pytest.approx(((apart > 0) + 0.5 * (apart == 0)).mean())


@given(LABELLED)
def test_auc_keeps_under_monotone_maps_and_turns_under_negation(rows: list[tuple[int, int]]) -> None:
    labels, scores = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    plain = auc(labels, scores)
    np.testing.assert_equal(auc(labels, np.exp(scores / 3) * 5 - 1), plain)
    np.testing.assert_allclose(auc(labels, -scores), 1 - plain)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5), st.integers(0, 3)), min_size=1, max_size=60))
def test_auc_by_group_is_the_auc_of_each_group(rows: list[tuple[int, int, int]]) -> None:
    labels, scores, groups = (np.array(column) for column in zip(*rows, strict=True))
    found = auc_by_group(labels, scores, groups, 5)
    alone = [auc(labels[groups == g], scores[groups == g]) for g in range(5)]
    np.testing.assert_allclose(found, alone)


def test_log_loss_by_hand() -> None:
    assert log_loss([1, 0], [0.5, 0.5]) == pytest.approx(np.log(2))
    assert log_loss([1, 0], [0.8, 0.4]) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert log_loss([1], [0.0]) == pytest.approx(-np.log(1e-15))


def test_cross_entropy_by_hand() -> None:
    p = [[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]]
    assert cross_entropy(np.array([2, 0]), p) == pytest.approx(-(np.log(0.5) + np.log(0.6)) / 2)
    assert cross_entropy(np.array([2, 0]), p, [3, 1]) == pytest.approx(-(3 * np.log(0.5) + np.log(0.6)) / 4)


def test_rmse_and_mae_by_hand() -> None:
    assert rmse([1, 2, 3], [2, 2, 1]) == pytest.approx(np.sqrt(5 / 3))
    assert mae([1, 2, 3], [2, 2, 1]) == pytest.approx(1.0)


def test_top_k_accuracy_by_hand() -> None:
    scores, classes = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]], np.array([0, 0, 1])
    assert top_k_accuracy(classes, scores, 1) == pytest.approx(1 / 3)  # of the tie the lower class is first
    assert top_k_accuracy(classes, scores, 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(classes, scores, 3) == 1.0
    assert top_k_accuracy(classes, scores, 1, [2, 1, 1]) == 0.5


def test_the_report_by_hand() -> None:
    classes, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 0])
    report = classification_report(classes, predicted, 4)
    np.testing.assert_allclose(report.precision, [2 / 3, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(report.recall, [2 / 3, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(report.f1, [2 / 3, 1 / 2, 0, np.nan])
    np.testing.assert_array_equal(report.support, [3, 2, 1, 0])
    assert report.accuracy == report.micro_f1 == 0.5
    assert report.macro_f1 == pytest.approx((2 / 3 + 1 / 2) / 3)  # class 3 occurs nowhere


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=30))
def test_a_weight_of_n_is_n_examples(rows: list[tuple[int, int, int]]) -> None:
    classes, predicted, weights = (np.array(column) for column in zip(*rows, strict=True))
    weighted = classification_report(classes, predicted, 4, weights)
    repeated = classification_report(classes.repeat(weights), predicted.repeat(weights), 4)
    np.testing.assert_allclose(weighted.f1, repeated.f1)
    assert weighted.macro_f1 == pytest.approx(repeated.macro_f1)
    assert weighted.micro_f1 == pytest.approx(weighted.accuracy)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc([0, 2], [0.1, 0.2]), "label 2.0 of example 1 is neither 0 nor 1"),
        (lambda: auc([0, 1], [0.1]), "columns of 2, 1 examples are not one table"),
        (lambda: auc([0, 1], [0.1, np.nan]), r"scores hold nan at \(1,\)"),
        (lambda: auc_by_group([0, 1], [0, 1], np.array([0, 2]), 2), r"groups 0..2 are not in 0..1"),
        (lambda: log_loss([], []), "there are no examples"),
        (lambda: log_loss([1], [1.5]), r"probabilities are 1.5..1.5, not in 0..1"),
        (lambda: rmse([1.0], [np.inf]), r"predictions hold inf at \(0,\)"),
        (lambda: mae([], []), "there are no examples"),
        (lambda: top_k_accuracy(np.array([0]), [[1.0]], 0), "k is 0"),
        (lambda: top_k_accuracy(np.array([1]), [[1.0]], 1), r"classes 1..1 are not in 0..0"),
        (lambda: cross_entropy(np.array([0]), [[1.0]], [-1.0]), "none may be negative"),
        (lambda: cross_entropy(np.array([0]), [[1.0]], [1.0, 1.0]), "2 weights for 1 examples"),
        (lambda: classification_report(np.array([0]), np.array([3]), 2), r"classes 3..3 are not in 0..1"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_examples_is_refused(call: object, message: str) -> None:
    with pytest.raises(ExamplesError, match=message):
        call()  # type: ignore[operator]
