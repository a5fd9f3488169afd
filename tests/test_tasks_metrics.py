"""Metrics against scikit-learn and scipy, and SQuAD's scores against values of its official scripts."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from pruneonce.errors import PruneonceError
from pruneonce.tasks.metrics import (
    METRICS,
    accuracy,
    average_ranks,
    binary_f1,
    check_no_nan,
    exact_match,
    matthews,
    normalize_answer,
    pearson,
    spearman,
    squad_scores,
    token_f1,
)


def pairs(values):
    return st.lists(st.tuples(values, values), min_size=1, max_size=40).map(
        lambda rows: (np.array([a for a, _ in rows]), np.array([b for _, b in rows]))
    )


@settings(deadline=None)  # the references import lazily
@given(pairs(st.integers(0, 1)))
def test_binary_metrics_equal_scikit_learn_even_when_constant(pair):
    predictions, labels = pair
    assert accuracy(predictions, labels) == pytest.approx(reference.accuracy_score(labels, predictions))
    assert binary_f1(predictions, labels) == pytest.approx(reference.f1_score(labels, predictions, zero_division=0))
    assert matthews(predictions, labels) == pytest.approx(_quiet(reference.matthews_corrcoef, labels, predictions))


@settings(deadline=None)
@given(pairs(st.integers(0, 4)))
def test_matthews_equals_scikit_learn_for_many_classes(pair):
    predictions, labels = pair
    assert matthews(predictions, labels) == pytest.approx(_quiet(reference.matthews_corrcoef, labels, predictions))


# Few different values: ties are the rule, not the exception.
@settings(deadline=None)
@given(pairs(st.sampled_from([0.0, 0.1, 0.1 + 1e-9, 1.0, 3.5, 5.0])))
def test_correlations_with_ties_equal_scipy(pair):
    x, y = pair
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert pearson(x, y) == spearman(x, y) == 0.0
        return
    assert spearman(x, y) == pytest.approx(_quiet(stats.spearmanr, x, y).statistic, abs=1e-9)
    if min(np.ptp(x), np.ptp(y)) > 0.01:  # below, the two round differently
        assert pearson(x, y) == pytest.approx(_quiet(stats.pearsonr, x, y).statistic, abs=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=1).map(np.array))
def test_average_ranks_equal_scipy(values):
    np.testing.assert_array_equal(average_ranks(values), stats.rankdata(values))


def test_correlation_of_float32_survives_a_large_offset_and_scale():
    x = np.arange(8, dtype=np.float32)
    assert pearson(x * 1e30, x) == pytest.approx(1.0)
    assert pearson(x * 1e-30, -x) == pytest.approx(-1.0)
    assert pearson(x + 1e6, x) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "spearman"])
def test_constant_predictions_score_zero_without_warning(metric):
    assert METRICS[metric](np.zeros(4), np.array([0, 1, 0, 1])) == 0.0


def test_misaligned_predictions_are_refused_not_broadcast():
    with pytest.raises(ValueError, match=r"shape \(1,\) for labels of shape \(3,\)"):
        accuracy(np.array([1]), np.array([1, 1, 1]))


def test_nan_is_refused_because_argmax_would_call_it_class_0():
    with pytest.raises(PruneonceError, match="NaN"):
        check_no_nan(np.array([[np.nan, 0.0]]))


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("The Denver Broncos!", "denver broncos", 1.0, 1.0),
        ("Denver", "Denver Broncos", 0.0, 2 / 3),
        ("an", "a", 1.0, 0.0),  # nothing is left of either: the official 1.1 script gives F1 0 and exact match 1
        ("U.S.", "US", 1.0, 1.0),
        ("7–4", "74", 0.0, 0.0),  # only ASCII punctuation is removed
        ("theatre", "atre", 0.0, 0.0),  # "the" is an article only as a whole word
        ("b b a b", "b b c", 0.0, 4 / 6),  # words count as often as they occur; "a" is an article
    ],
)
def test_squad_answer_scores(prediction, answer, exact, f1):
    assert exact_match(prediction, answer) == exact
    assert token_f1(prediction, answer) == pytest.approx(f1)


def test_squad_takes_the_best_gold_answer_of_each_score():
    scores = squad_scores(["Denver Broncos", ""], [["Broncos", "the Denver Broncos"], []])
    assert scores == {"exact_match": 100.0, "f1": 100.0}
    assert squad_scores(["Paris"], [[]]) == {"exact_match": 0.0, "f1": 0.0}


@given(st.text())
def test_normalisation_is_idempotent_for_plain_words(text):
    words = normalize_answer(" ".join(word for word in text.split() if word.isascii()))
    assert normalize_answer(words) == words


def _quiet(function, *arguments):
    """Constant and nearly constant inputs make the references warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)
