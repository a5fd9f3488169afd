"""What a load test found, as JSON and as lines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pruneonce.bench.serving.load import LoadSettings, Measured

PERCENTILES = (50, 90, 95, 99, 99.9)
SHOWN = (50, 99)  # second by second


def record(measured: Measured, settings: LoadSettings) -> dict[str, Any]:
    """Numbers alone; latencies in milliseconds."""
    latencies = 1000 * np.array(measured.latencies or [np.nan])
    return {
        "settings": vars(settings),
        "requests_per_second": len(measured.latencies) / measured.seconds,
        "texts_per_second": measured.texts / measured.seconds,
        "tokens_per_second": measured.tokens / measured.seconds,
        "latency_ms": {f"p{percent:g}": _number(np.percentile(latencies, percent)) for percent in PERCENTILES}
        | {"max": _number(latencies.max())},
        "statuses": {str(status): count for status, count in sorted(measured.statuses.items())},
        "lost": measured.lost,
        "changed": measured.changed,
        "by_second": _by_second(measured),
    }


def _by_second(measured: Measured) -> list[dict[str, Any]]:
    """Of the requests that were due in each: how many were answered and refused, and percentiles in milliseconds."""
    answered, refused = (np.floor(np.array(each)).astype(int) for each in (measured.due, measured.refused))
    latencies = 1000 * np.array(measured.latencies)
    rows = []
    for second in range(math.ceil(measured.seconds)):
        here = latencies[answered == second]
        row: dict[str, Any] = {"answered": len(here), "refused": int((refused == second).sum())}
        rows.append(
            row | {f"p{percent}": float(np.percentile(here, percent)) if len(here) else None for percent in SHOWN}
        )
    return rows


def lines(found: dict[str, Any]) -> list[str]:
    """For a terminal."""
    latency = "  ".join(
        f"{name} {'–' if value is None else f'{value:.2f}'}" for name, value in found["latency_ms"].items()
    )
    statuses = ", ".join(f"{count:,} × {status}" for status, count in found["statuses"].items()) or "none"
    return [
        f"  texts/s   {found['texts_per_second']:,.1f}  (requests {found['requests_per_second']:,.1f}, "
        f"tokens {found['tokens_per_second']:,.0f})",
        f"  ms        {latency}",
        f"  answers   {statuses}; lost {found['lost']:,}, changed {found['changed']:,}",
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
