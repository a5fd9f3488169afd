"""Several runs that differ in their seed alone: mean, standard deviation and how many."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What is said of a metric over seeds."""

    mean: float
    std: float | None  # of the sample (n - 1); None for a single run, which says nothing of its spread
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(mean=2.0, std=1.0, n=3)
    """
    if not values:
        raise ValueError("no values to summarise")
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def summarise_metrics(runs: Sequence[Mapping[str, float]]) -> dict[str, Summary]:
    """Metric -> summary over `runs`; metrics that some run lacks are left out."""
    names = [name for name in (runs[0] if runs else {}) if all(name in run for run in runs)]
    return {name: summarise([run[name] for run in runs]) for name in names}
