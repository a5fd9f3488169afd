"""A load test's record as a figure: what was answered and refused, and how long answers took, second by second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruneonce.report.charts import Axis, Figure, Point, Series, chart


def load_figure(found: Mapping[str, Any]) -> Figure:
    """found: what `pruneonce loadtest --json` writes."""
    rows = found["by_second"]
    seconds = Axis("second")
    charts = []
    for caption, unit, names in (
        ("Requests", "per second", ("answered", "refused")),
        ("Latency, from when a request was due", "ms", ("p50", "p99")),
    ):
        series = [_series(rows, name, colour) for colour, name in enumerate(names)]
        label = f"{' and '.join(names)}, {unit}, second by second"
        charts.append((caption, chart(series, seconds, Axis(unit, from_zero=True), label=label)))
    legend = (("answered; p50", 0), ("refused; p99", 1))
    return Figure("A load test, second by second", tuple(charts), legend)


def _series(rows: Sequence[Mapping[str, Any]], name: str, colour: int) -> Series:
    """A line; seconds in which nothing was answered have no latency."""
    points = [
        Point(second + 0.5, float(row[name]), f"{name} {row[name]:.1f}")
        for second, row in enumerate(rows)
        if row[name] is not None
    ]
    return Series(name, tuple(points), colour, marks=len(points) <= 60)
