"""Timed calls and paired ratios. Pure but for the clock, which may be given."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# Runs once on inputs prepared before: (seconds it took, output).
Call = Callable[[], tuple[float, Any]]


@dataclass(frozen=True)
class Ratio:
    """Quartiles of the paired time ratios rival / baseline: above 1 the rival is slower."""

    lower: float
    median: float
    upper: float


def timed(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> Call:
    """`function` as a Call."""

    def call() -> tuple[float, Any]:
        begun = clock()
        output = function()
        return clock() - begun, output

    return call


def paired_ratio(rival: list[float], baseline: list[float]) -> Ratio:
    """Quartiles of rival[i] / baseline[i]: what slows a whole round down cancels out. ValueError unless paired."""
    if len(rival) != len(baseline) or not rival:
        raise ValueError(f"{len(rival)} and {len(baseline)} timings cannot be paired")
    lower, median, upper = np.percentile(np.array(rival) / np.array(baseline), (25, 50, 75))
    return Ratio(float(lower), float(median), float(upper))
