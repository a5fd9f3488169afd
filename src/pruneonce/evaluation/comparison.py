"""Are two runs different, or was it these examples? A paired bootstrap over the validation examples of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruneonce.errors import UsageError
from pruneonce.evaluation.predictions import Split, read_predictions

SAMPLES = 10_000
SEED = 0
CONFIDENCE = 0.95
BLOCK = 2_000_000  # indices drawn at a time


@dataclass(frozen=True)
class Comparison:
    """One metric of A and B on the same examples. With several runs on a side, the side's metric is their mean."""

    metric: str
    a: float
    b: float
    difference: float  # a - b
    lower: float  # of the confidence interval of the difference
    upper: float
    p_value: float  # two-sided: how often a resampled difference has the other sign, twice
    examples: int
    samples: int
    seed: int


@dataclass(frozen=True)
class Sampled:
    """A comparison with the differences of its samples, to go on computing with."""

    comparison: Comparison
    differences: np.ndarray  # float64 [samples]


def compare(
    a: Sequence[str | Path], b: Sequence[str | Path], *, samples: int = SAMPLES, seed: int = SEED
) -> list[Comparison]:
    """Every metric that the run folders of both sides have, on every validation split.

    a, b: run folders of each side: one, or one per seed. The examples are resampled with replacement, `samples` times,
    the same ones for both sides; a metric that is no mean over examples (F1, Matthews, correlations) is computed anew
    on each sample. The interval is of percentiles; it covers the choice of examples, not that of seeds. The answer is a
    function of the files, `samples` and `seed`. UsageError if the runs were not scored on the same examples.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 16; Berg-Kirkpatrick et al. 2012,
    https://aclanthology.org/D12-1091/ (for pairs of systems).
    """
    sides = _read_sides(a, b, samples)
    return [
        _compare(f"{metric}{suffix}", metric, *_splits(sides, suffix), samples, seed).comparison
        for suffix, split in sides[0][0].items()
        for metric in split.metrics
    ]


def compare_main(
    a: Sequence[str | Path], b: Sequence[str | Path], *, samples: int = SAMPLES, seed: int = SEED
) -> Sampled:
    """As `compare`, of the main metric alone: the first one of the first split."""
    sides = _read_sides(a, b, samples)
    suffix, split = next(iter(sides[0][0].items()))
    return _compare(f"{split.metrics[0]}{suffix}", split.metrics[0], *_splits(sides, suffix), samples, seed)


def mean_of_tasks(found: Sequence[Sampled]) -> Comparison:
    """Of the same two methods on several tasks, each task of the same weight, its examples resampled by themselves."""
    comparisons = [each.comparison for each in found]
    a, b = (float(np.mean([getattr(each, side) for each in comparisons])) for side in ("a", "b"))
    differences = np.mean([each.differences for each in found], axis=0)
    return _summary("mean", a, b, differences, sum(each.examples for each in comparisons), comparisons[0].seed)


def _read_sides(a: Sequence[str | Path], b: Sequence[str | Path], samples: int) -> list[list[dict[str, Split]]]:
    """Of each side, of each of its runs: the predictions of every split."""
    if not a or not b or samples < 1:
        raise UsageError("a comparison needs a run on each side and at least one sample")
    sides = [[read_predictions(folder)[1] for folder in side] for side in (a, b)]
    for folder, splits in zip([*a, *b], [*sides[0], *sides[1]], strict=True):
        _check_same_examples(a[0], sides[0][0], folder, splits)
    return sides


def _splits(sides: list[list[dict[str, Split]]], suffix: str) -> tuple[list[Split], list[Split]]:
    a, b = ([run[suffix] for run in side] for side in sides)
    return a, b


def _compare(name: str, metric: str, a: Sequence[Split], b: Sequence[Split], samples: int, seed: int) -> Sampled:
    examples = len(a[0])
    rng = np.random.default_rng([seed, examples])
    if a[0].is_mean(metric):
        # The difference of means is the mean of differences: one vector to resample.
        each = np.mean([run.per_example(metric) for run in a], axis=0)
        each = each - np.mean([run.per_example(metric) for run in b], axis=0)
    differences = np.empty(samples)
    block = max(1, BLOCK // examples)
    for begin in range(0, samples, block):
        rows = rng.integers(examples, size=(min(block, samples - begin), examples))
        if a[0].is_mean(metric):
            differences[begin : begin + len(rows)] = each[rows].mean(axis=1)
        else:
            differences[begin : begin + len(rows)] = [_mean(a, metric, row) - _mean(b, metric, row) for row in rows]
    return Sampled(_summary(name, _mean(a, metric), _mean(b, metric), differences, examples, seed), differences)


def _summary(metric: str, a: float, b: float, differences: np.ndarray, examples: int, seed: int) -> Comparison:
    tail = (1 - CONFIDENCE) / 2
    lower, upper = np.quantile(differences, [tail, 1 - tail])
    # One more sample on either side: a p-value of 0 cannot be had from finitely many.
    below, above = np.sum(differences <= 0) + 1, np.sum(differences >= 0) + 1
    return Comparison(
        metric=metric,
        a=a,
        b=b,
        difference=a - b,
        lower=float(lower),
        upper=float(upper),
        p_value=min(1.0, 2 * float(min(below, above)) / (len(differences) + 1)),
        examples=examples,
        samples=len(differences),
        seed=seed,
    )


def _mean(runs: Sequence[Split], metric: str, rows: np.ndarray | None = None) -> float:
    return float(np.mean([run.metric(metric, rows) for run in runs]))


def _check_same_examples(
    first: str | Path, expected: dict[str, Split], other: str | Path, found: dict[str, Split]
) -> None:
    names = {suffix: (split.examples, split.metrics) for suffix, split in expected.items()}
    if names != {suffix: (split.examples, split.metrics) for suffix, split in found.items()}:
        raise UsageError(
            f"{first} and {other} were not scored on the same examples: only runs on the same validation data can be "
            "compared pairwise"
        )
