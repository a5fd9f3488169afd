"""Interleaved timing and paired ratios. Pure but for the clock, which may be given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Runs once on inputs prepared before: (seconds it took, output).
Call = Callable[[], tuple[float, Any]]

PAUSE_SECONDS = 0.005  # between engines: thread pools spin for a while before they sleep, on the next engine's cores


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


def interleave(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    warmup: int = 2,
    settle: int = 1,
    pause: Callable[[float], object] = time.sleep,
) -> dict[str, list[float]]:
    """Seconds of each engine's timed calls, one per round, in the order A B C A B C.

    settle: untimed calls of an engine before each timed one, so that none is charged for the caches that another
    emptied. warmup: untimed rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warmup, rounds):
        for name, call in calls.items():
            pause(PAUSE_SECONDS)
            for _ in range(settle if number >= 0 else 0):
                call()
            taken, _output = call()
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def paired_ratio(rival: list[float], baseline: list[float]) -> Ratio:
    """Quartiles of rival[i] / baseline[i]: what slows a whole round down cancels out. ValueError unless paired."""
    if len(rival) != len(baseline) or not rival:
        raise ValueError(f"{len(rival)} and {len(baseline)} timings cannot be paired")
    lower, median, upper = np.percentile(np.array(rival) / np.array(baseline), (25, 50, 75))
    return Ratio(float(lower), float(median), float(upper))
