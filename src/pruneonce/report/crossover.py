"""From which sparsity on zeros pay: our int8 engine beside a dense int8 one, over models that differ in zeros alone."""

from __future__ import annotations

from collections.abc import Sequence

from pruneonce.bench.inference.record import INT8_BASELINE, BenchRecord
from pruneonce.bench.measure import paired_ratio
from pruneonce.report.charts import Axis, Figure, Level, Point, Series, chart

RIVALS = ("openvino-int8", "onnxruntime-int8")  # dense engines, the fastest one first
FEWEST = 3  # sparsities; fewer are no curve


def crossover(records: Sequence[BenchRecord]) -> tuple[Figure | None, str]:
    """A chart per batch: a dense int8 rival's time over ours, by sparsity, a curve per pattern of zeros.

    None and the reason where no shape was measured at enough sparsities.
    """
    rival = next((name for name in RIVALS if any(_measured(record, name) for record in records)), "")
    shapes: dict[str, list[BenchRecord]] = {}
    for record in records:
        if record.model.shape and _measured(record, rival):
            shapes.setdefault(record.model.shape, []).append(record)
    for shape, found in shapes.items():
        if len({_percent(record) for record in found}) >= FEWEST:
            return _figure(shape, found, rival), ""
    return None, f"no random model was measured in int8 beside a dense engine at {FEWEST} sparsities or more"


def _figure(shape: str, records: Sequence[BenchRecord], rival: str) -> Figure:
    patterns = list(dict.fromkeys(record.model.pattern for record in records))
    shared = [case.name for case in records[0].cases]
    charts = []
    for batch in shared:
        series = [
            Series(_called(pattern), tuple(_points(records, pattern, batch, rival)), number)
            for number, pattern in enumerate(patterns)
        ]
        x = Axis("zeros, %", ticks=(0, 50, 70, 80, 90))
        y = Axis(f"time of {rival} / ours", from_zero=True)
        label = f"time of {rival} over that of {INT8_BASELINE} by sparsity, batch {batch}"
        charts.append((f"batch of {batch}", chart(series, x, y, label=label, levels=[Level("equally fast", 1.0)])))
    legend = tuple((_called(pattern), number) for number, pattern in enumerate(patterns))
    title = f"{shape} in int8: where zeros pay"
    note = f"Above 1 we are faster than {rival}, which computes every zero. Bars: quartiles of the paired ratios."
    return Figure(title, tuple(charts), legend, note)


def _points(records: Sequence[BenchRecord], pattern: str, batch: str, rival: str) -> list[Point]:
    points = []
    for record in sorted(records, key=_percent):
        # A model without zeros is part of every curve.
        if record.model.pattern not in (pattern, "dense") and _percent(record) > 0:
            continue
        for case in record.cases:
            if case.name == batch:
                ratio = paired_ratio(case.seconds[rival], case.seconds[INT8_BASELINE])
                half = (ratio.upper - ratio.lower) / 2
                note = f"{_percent(record):.0f} % zeros: {ratio.median:.2f}"
                points.append(Point(_percent(record), ratio.median, note=note, error=half))
    return points


def _measured(record: BenchRecord, rival: str) -> bool:
    return all({rival, INT8_BASELINE} <= case.seconds.keys() for case in record.cases)


def _percent(record: BenchRecord) -> float:
    return round(100 * record.model.sparsity, 1)


def _called(pattern: str) -> str:
    return "zeros in blocks of 1×4" if pattern == "1x4" else "unstructured zeros"
