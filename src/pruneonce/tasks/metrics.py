"""What a prediction is worth: accuracy, F1, Matthews, Pearson, Spearman, and SQuAD's exact match and F1.

GLUE metrics are fractions in [0, 1] or correlations in [-1, 1]; SQuAD's are percentages, as its official script
prints. Where a metric is 0/0 (constant predictions or targets), it is 0.0: such a model has learnt nothing.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pruneonce.errors import PruneonceError


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of predictions that equal their label. predictions, labels: [examples]."""
    _check_aligned(predictions, labels)
    return float(np.mean(predictions == labels))


def binary_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Harmonic mean of precision and recall of class 1; 0.0 when class 1 is neither predicted nor present."""
    _check_aligned(predictions, labels)
    hits = np.sum((predictions == 1) & (labels == 1))
    claims = np.sum(predictions == 1) + np.sum(labels == 1)
    return float(2 * hits / claims) if claims else 0.0


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of two labellings with any number of classes; 0.0 when either is constant.

    Source: Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006, equation 8 (R_K); for two classes it is
    Matthews' phi.
    """
    _check_aligned(predictions, labels)
    classes, ids = np.unique(np.concatenate([predictions, labels]), return_inverse=True)
    predicted = np.bincount(ids[: len(predictions)], minlength=len(classes)).astype(float)
    actual = np.bincount(ids[len(predictions) :], minlength=len(classes)).astype(float)
    total = float(len(labels))
    covariance = np.sum(predictions == labels) * total - predicted @ actual
    variances = (total**2 - predicted @ predicted) * (total**2 - actual @ actual)
    return float(covariance / np.sqrt(variances)) if variances else 0.0


def pearson(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Linear correlation, in float64; 0.0 when either is constant. predictions, targets: [examples]."""
    _check_aligned(predictions, targets)
    if np.ptp(predictions) == 0 or np.ptp(targets) == 0:
        return 0.0
    x, y = _unit_deviation(predictions), _unit_deviation(targets)
    return float(np.clip(x @ y, -1.0, 1.0))


def spearman(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Correlation of ranks, where tied values share their average rank; 0.0 when either is constant."""
    return pearson(average_ranks(predictions), average_ranks(targets))


def average_precision(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean precision at the rank of each positive, predictions falling; 0.0 where there is none.

    labels: positive from 0.5 on. Equal predictions come as one group. Source: as scikit-learn's
    `average_precision_score`, a sum of precisions times gains of recall.
    """
    _check_aligned(predictions, labels)
    positive = labels >= 0.5
    _, group = np.unique(-predictions, return_inverse=True)
    sizes = np.bincount(group)
    hits = np.bincount(group, positive)
    precision = np.cumsum(hits) / np.cumsum(sizes)
    return float(hits @ precision / positive.sum()) if positive.any() else 0.0


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value, from 1; equal values get the mean of the ranks they occupy. float64 [values].

    >>> average_ranks(np.array([30, 10, 20, 10])).tolist()
    [4.0, 1.5, 3.0, 1.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "average_precision": average_precision,
    "f1": binary_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def squad_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 in percent: the means of `question_scores`."""
    exact, f1 = question_scores(predictions, answers)
    return {"exact_match": 100 * sum(exact) / len(exact), "f1": 100 * sum(f1) / len(f1)}


def question_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[list[float], list[float]]:
    """Exact match and F1 of each question, as fractions: the best over its gold answers.

    An unanswerable question, one without gold answers, is answered right by "" alone, in both scores. Where there are
    such, gold answers of which normalisation leaves nothing do not count, as in version 2.0; in 1.1 they do.
    Source: the official scripts for versions 1.1 and 2.0, https://rajpurkar.github.io/SQuAD-explorer/.
    """
    if len(predictions) != len(answers) or not predictions:
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} questions")
    if not all(answers):
        answers = [[answer for answer in gold if normalize_answer(answer)] for gold in answers]
    exact, f1 = [], []
    for prediction, gold in zip(predictions, answers, strict=True):
        empty = exact_match(prediction, "")
        exact.append(max((exact_match(prediction, answer) for answer in gold), default=empty))
        f1.append(max((token_f1(prediction, answer) for answer in gold), default=empty))
    return exact, f1


def exact_match(prediction: str, answer: str) -> float:
    """1.0 when the two are equal after normalisation, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def token_f1(prediction: str, answer: str) -> float:
    """F1 of the two as bags of words after normalisation; 0.0 when they share no word."""
    predicted, gold = normalize_answer(prediction).split(), normalize_answer(answer).split()
    common = (Counter(predicted) & Counter(gold)).total()
    return 2 * common / (len(predicted) + len(gold)) if common else 0.0


_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, then without ASCII punctuation, articles and superfluous white space.

    >>> normalize_answer("The  Broncos' quarterback.")
    'broncos quarterback'
    """
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def check_no_nan(logits: np.ndarray) -> None:
    """A diverged model must not score as one that always answers class 0."""
    if np.isnan(logits).any():
        raise PruneonceError("the model's outputs contain NaN: its weights have diverged or are damaged")


def _check_aligned(predictions: np.ndarray, labels: np.ndarray) -> None:
    if predictions.shape != labels.shape or predictions.ndim != 1 or not len(labels):
        raise ValueError(f"predictions of shape {predictions.shape} for labels of shape {labels.shape}")


def _unit_deviation(values: np.ndarray) -> np.ndarray:
    """Deviations from the mean, scaled to Euclidean length 1. The first scaling keeps squares from under/overflow."""
    deviations = values.astype(np.float64) - np.mean(values, dtype=np.float64)
    deviations /= np.abs(deviations).max()
    unit: np.ndarray = deviations / np.linalg.norm(deviations)
    return unit
