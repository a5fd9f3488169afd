"""Accuracy against latency of the runs of a report that `pruneonce bench` has measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruneonce.bench.inference.record import BASELINE, BenchRecord, Case
from pruneonce.report.charts import Axis, Figure, Point, Series, chart
from pruneonce.report.collect import Group, Material, Run, is_percent, zeros

NAMED = 3  # benchmarks of other models that a note names
MARK_MB = 1.1  # px of radius per square root of a megabyte


@dataclass(frozen=True)
class _Mark:
    """One engine with one run."""

    group: Group
    engine: str
    milliseconds: float
    accuracy: float | None  # main metric in percent; None: not measured
    bytes: int | None  # of its file; None: not known

    @property
    def kind(self) -> str:
        return f"{self.engine}, {'dense' if self.group.sparsity is None else 'sparse'}"


def accuracy_by_latency(material: Material) -> tuple[Figure | None, str]:
    """Accuracy against latency, area by size: engines that `pruneonce bench` has measured on runs of the report.

    A record made with --task has every engine's own accuracy; without, an engine in fp32 has that of the run, and one
    in int8 none.
    """
    if not material.benches:
        return None, "no record of `pruneonce bench --json` was given"
    runs = {run.name: (group, run) for group in material.groups for run in group.runs}
    ours = [record for record in material.benches if record.model.name in runs]
    strangers = list(dict.fromkeys(each.model.name for each in material.benches if each.model.name not in runs))
    if not ours:
        return None, f"the benchmarks are of other models ({', '.join(strangers)})"
    batch = _shared_batch(ours)
    if not batch:
        return None, "the benchmarks of these runs have no batch in common"
    marks = [mark for record in ours for mark in _marks(record, record.case(batch), *runs[record.model.name])]
    scored = [mark for mark in marks if mark.accuracy is not None]
    unscored = {mark.engine for mark in marks if mark.accuracy is None}
    if not scored:
        return None, f"no accuracy is known of the engines that were measured: {', '.join(sorted(unscored))}"
    sizeless = {mark.engine for mark in scored if mark.bytes is None}
    return _figure(material, scored, batch, _note(unscored, sizeless, strangers)), ""


def _shared_batch(records: Sequence[BenchRecord]) -> str:
    """The first batch that all of them have; "" if there is none."""
    shared = set.intersection(*({case.name for case in record.cases} for record in records))
    return next((case.name for case in records[0].cases if case.name in shared), "")


def _marks(record: BenchRecord, case: Case, group: Group, run: Run) -> list[_Mark]:
    return [
        _Mark(
            group,
            engine,
            case.median_seconds(engine) * 1e3,
            _engine_accuracy(record, run, engine),
            _engine_bytes(record, run, engine),
        )
        for engine in case.seconds
    ]


def _figure(material: Material, marks: Sequence[_Mark], batch: str, note: str) -> Figure:
    points: dict[str, list[Point]] = {}
    for mark in marks:
        points.setdefault(mark.kind, []).append(_point(material, mark))
    series = [Series(kind, tuple(each), number, line=False) for number, (kind, each) in enumerate(points.items())]
    x = Axis(f"latency of a batch of {batch}, median, ms", logarithmic=True)
    y = Axis("main metric, %")
    label = "accuracy by latency, one mark per model and engine, area by size"
    drawn = chart(series, x, y, label=label, width=640, height=380)
    legend = tuple((each.name, each.colour) for each in series)
    return Figure("Accuracy by latency and size", (("", drawn),), legend, note)


def _note(unscored: set[str], sizeless: set[str], strangers: Sequence[str]) -> str:
    """What the marks are, and whom they leave out."""
    note = ["Area of a mark: bytes of its file. One mark per run and engine; rest on it for its task and numbers."]
    if unscored:
        note.append(f"Not drawn, for their accuracy was not measured (bench --task): {', '.join(sorted(unscored))}.")
    if sizeless:
        note.append(f"Least mark, for their file is not known: {', '.join(sorted(sizeless))}.")
    if strangers:
        more = f" and {len(strangers) - NAMED} more" if len(strangers) > NAMED else ""
        note.append(f"Of other models: {', '.join(strangers[:NAMED])}{more}.")
    return " ".join(note)


def _point(material: Material, mark: _Mark) -> Point:
    group, size = mark.group, mark.bytes
    megabytes = "" if size is None else f", {size / 1e6:.1f} MB"
    note = (
        f"{material.named(group)}, {group.task}, {mark.engine}: {mark.accuracy:.2f} %, {mark.milliseconds:.2f} ms"
        f"{megabytes}"
    )
    assert mark.accuracy is not None
    radius = max(3.0, MARK_MB * (size or 0) ** 0.5 / 1e3)
    label = "" if group.sparsity is None else zeros(group.sparsity)
    return Point(mark.milliseconds, mark.accuracy, note, radius=radius, label=label)


def _engine_accuracy(record: BenchRecord, run: Run, engine: str) -> float | None:
    main = next(iter(run.record.metrics), None)
    if main is None:
        return None
    scale = 1 if is_percent(run.task) else 100
    measured = record.accuracy.get(engine, {})
    if main in measured:
        return scale * measured[main]
    return None if "int8" in engine else scale * run.record.metrics[main]


def _engine_bytes(record: BenchRecord, run: Run, engine: str) -> int | None:
    """Of our packed file, or of the weights that a rival in fp32 reads."""
    if engine in record.file_bytes:
        return record.file_bytes[engine]
    if engine == BASELINE:
        return run.packed_bytes
    return None if "int8" in engine else run.weights_bytes
