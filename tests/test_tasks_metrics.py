"""Metrics against scikit-learn and scipy, and SQuAD's scores against values of its official scripts."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from pruneonce.errors import PruneonceError
from pruneonce.tasks import get_task
from pruneonce.tasks.classification import TextExample
from pruneonce.tasks.metrics import (
    METRICS,
    accuracy,
    average_precision,
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
@given(pairs(st.integers(0, 8)))
def test_average_precision_equals_scikit_learn_with_ties(pair):
    predictions, values = pair
    labels = values / 8
    expected = reference.average_precision_score(labels >= 0.5, predictions) if (labels >= 0.5).any() else 0.0
    assert average_precision(predictions, labels) == pytest.approx(expected)


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


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("", "Denver", 0.0, 0.0),
        ("Denver", "", 0.0, 0.0),
        ("", "", 1.0, 0.0),  # 1.1: no word in common
        ("  the\tDenver\n Broncos ", "denver broncos", 1.0, 1.0),
        ("Denver\u00a0Broncos", "Denver Broncos", 1.0, 1.0),  # every white space of Unicode
        ("Denver\u2003Broncos", "Denver Broncos", 1.0, 1.0),
        ("ÉCOLE", "école", 1.0, 1.0),
        ("e\u0301cole", "école", 0.0, 0.0),  # composed and decomposed letters differ, as in the script
        ("“Denver”", "Denver", 0.0, 0.0),  # typographic quotes are no ASCII punctuation
        ("İstanbul", "i̇stanbul", 1.0, 1.0),
        ("An apple a day", "apple day", 1.0, 1.0),
        ("a-ha", "aha", 1.0, 1.0),  # punctuation goes before articles
        ("the-end", "end", 0.0, 0.0),
        ("A", "a", 1.0, 0.0),
        ("1,000", "1000", 1.0, 1.0),
        ("$5", "5", 1.0, 1.0),
        ("don't", "dont", 1.0, 1.0),
        ("to be or not to be", "not to be", 0.0, 2 * 3 / 9),
        ("北京 大学", "北京", 0.0, 2 / 3),  # words are what white space parts
    ],
)
def test_squad_edge_cases(prediction, answer, exact, f1):
    assert exact_match(prediction, answer) == exact
    assert token_f1(prediction, answer) == pytest.approx(f1)
    both = squad_scores([prediction], [[answer]])
    assert both == {"exact_match": 100 * exact, "f1": pytest.approx(100 * f1)}


def official_normal_form(text):
    """One step after the other, as the scripts define it."""
    text = "".join(letter for letter in text.lower() if letter not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_f1(prediction, gold, *, version):
    words, right = (official_normal_form(text).split() for text in (prediction, gold))
    if version == 2 and not (words and right):
        return float(words == right)
    same = sum(min(words.count(word), right.count(word)) for word in set(words))
    if not same:
        return 0.0
    precision, recall = same / len(words), same / len(right)
    return 2 * precision * recall / (precision + recall)


def official_scores(predictions, answers, *, version):
    exact, f1 = [], []
    for prediction, gold in zip(predictions, answers, strict=True):
        if version == 2:
            gold = [text for text in gold if official_normal_form(text)] or [""]
        exact.append(max(official_normal_form(prediction) == official_normal_form(text) for text in gold))
        f1.append(max(official_f1(prediction, text, version=version) for text in gold))
    return {"exact_match": 100 * sum(exact) / len(exact), "f1": 100 * sum(f1) / len(f1)}


ANSWERS = st.lists(
    st.sampled_from(["the", "a", "An", "Denver", "denver", "Broncos", "U.S.", "--", "b", "B!", "\u00a0", "é", ""]),
    max_size=4,
).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.tuples(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_squad_scores_are_those_of_version_1(rows):
    predictions, answers = zip(*rows, strict=True)
    assert squad_scores(predictions, answers) == pytest.approx(official_scores(predictions, answers, version=1))


@settings(deadline=None)
@given(st.lists(st.tuples(ANSWERS, st.lists(ANSWERS, max_size=3)), min_size=1, max_size=5), ANSWERS)
def test_squad_scores_with_unanswerable_questions_are_those_of_version_2(rows, prediction):
    predictions, answers = zip(*rows, (prediction, []), strict=True)
    assert squad_scores(predictions, answers) == pytest.approx(official_scores(predictions, answers, version=2))


@pytest.mark.parametrize("task", ["qqp", "mrpc"])
@pytest.mark.parametrize(
    ("predicted", "labels"),
    [
        ([0, 1, 1, 0, 1], [0, 1, 0, 1, 1]),
        ([0, 0, 0, 0], [0, 1, 0, 1]),  # class 1 is never predicted
        ([1, 1, 1, 1], [0, 1, 0, 1]),
        ([0, 0, 0], [0, 0, 0]),  # nor present: 0/0
        ([1, 1, 1], [1, 1, 1]),
        ([1], [0]),
    ],
)
def test_f1_of_a_task_is_that_of_its_positive_class(task, predicted, labels):
    """Class 1 is "duplicate" and "equivalent": swapped ids would go unnoticed in the accuracy."""
    scores = _task_scores(task, np.eye(2, dtype=np.float32)[predicted], labels)
    assert list(scores) == ["f1", "accuracy"]
    assert scores["f1"] == pytest.approx(reference.f1_score(labels, predicted, pos_label=1, zero_division=0))
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert get_task(task).labels[1] in ("duplicate", "equivalent")


@pytest.mark.parametrize(
    ("predicted", "labels"),
    [([0, 1, 1, 0], [0, 1, 0, 1]), ([1, 1, 0], [0, 0, 1]), ([1, 1, 1], [0, 1, 1]), ([1, 0], [1, 1]), ([0], [0])],
)
def test_cola_is_scored_by_matthews_alone(predicted, labels):
    scores = _task_scores("cola", np.eye(2, dtype=np.float32)[predicted], labels)
    expected = _quiet(reference.matthews_corrcoef, labels, predicted)
    assert scores == {"matthews": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("predicted", "labels"),
    [
        ([0.1, 2.2, 2.2, 4.9], [0.0, 2.5, 3.0, 5.0]),  # ties among predictions
        ([1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 0.0, 0.0]),  # and among labels
        ([-7.0, 9.5, 2.0], [1.0, 2.0, 1.5]),  # beyond 0 to 5: not clipped
    ],
)
def test_stsb_is_scored_by_both_correlations(predicted, labels):
    scores = _task_scores("stsb", np.array(predicted, np.float32)[:, None], labels)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(predicted, labels).statistic)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(predicted, labels).statistic)
    assert _task_scores("stsb", np.full((3, 1), 2.5, np.float32), [1.0, 2.0, 3.0]) == {"pearson": 0.0, "spearman": 0.0}


def _task_scores(name, logits, labels):
    examples = [TextExample("a", label) for label in labels]
    return get_task(name).score(examples, examples, logits)


@given(st.text())
def test_normalisation_is_idempotent_for_plain_words(text):
    words = normalize_answer(" ".join(word for word in text.split() if word.isascii()))
    assert normalize_answer(words) == words


def _quiet(function, *arguments):
    """Constant and nearly constant inputs make the references warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)
