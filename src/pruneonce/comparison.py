"""Are two runs different, or was it these examples? A paired bootstrap over the validation examples of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruneonce.errors import UsageError
from pruneonce.predictions import Split, read_predictions

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


def compare(
    a: Sequence[str | Path],
    b: Sequence[str | Path],
    *,
    samples: int = SAMPLES,
    seed: int = SEED,
    main_only: bool = False,
) -> list[Comparison]:
    """Every metric that the run folders of both sides have, on every validation split.

    a, b: run folders of each side: one, or one per seed. main_only: the first metric of each split alone. The examples
    are resampled with replacement, `samples` times, the same ones for both sides; a metric that is no mean over
    examples (F1, Matthews, correlations) is computed anew on each sample. The interval is of percentiles; it covers the
    choice of examples, not that of seeds. The answer is a function of the files, `samples` and `seed`. UsageError if
    the runs were not scored on the same examples.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 16; Berg-Kirkpatrick et al. 2012,
    https://aclanthology.org/D12-1091/ (for pairs of systems).
    """
    if not a or not b or samples < 1:
        raise UsageError("a comparison needs a run on each side and at least one sample")
    sides = [[read_predictions(folder)[1] for folder in side] for side in (a, b)]
    first = sides[0][0]
    for folder, splits in zip([*a, *b], [*sides[0], *sides[1]], strict=True):
        _check_same_examples(a[0], first, folder, splits)
    found = []
    for suffix, split in first.items():
        for metric in split.metrics[:1] if main_only else split.metrics:
            values = [[run[suffix] for run in side] for side in sides]
            found.append(_compare(f"{metric}{suffix}", metric, values[0], values[1], samples, seed))
    return found


def _compare(name: str, metric: str, a: Sequence[Split], b: Sequence[Split], samples: int, seed: int) -> Comparison:
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
    tail = (1 - CONFIDENCE) / 2
    lower, upper = np.quantile(differences, [tail, 1 - tail])
    # One more sample on either side: a p-value of 0 cannot be had from finitely many.
    below, above = np.sum(differences <= 0) + 1, np.sum(differences >= 0) + 1
    ours, theirs = _mean(a, metric), _mean(b, metric)
    return Comparison(
        metric=name,
        a=ours,
        b=theirs,
        difference=ours - theirs,
        lower=float(lower),
        upper=float(upper),
        p_value=min(1.0, 2 * float(min(below, above)) / (samples + 1)),
        examples=examples,
        samples=samples,
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
