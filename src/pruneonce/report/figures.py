"""Which pictures a report shows, each from what the material holds; what it lacks is said, not drawn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pruneonce.bench.inference.results import BASELINE
from pruneonce.report.charts import Axis, Figure, Level, Point, Series, chart
from pruneonce.report.collect import Group, Material, Run, is_percent
from pruneonce.report.crossover import crossover
from pruneonce.report.tables import spread, zeros

NAMED = 3  # benchmarks of other models that a note names
MARK_MB = 1.1  # px of radius per square root of a megabyte


@dataclass(frozen=True)
class Heat:
    """Sparsity of every matrix of a model: rows are kinds of matrix, columns layers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def figures(material: Material) -> tuple[list[Figure], list[str]]:
    """The figures, and what could not be drawn and why."""
    made: list[Figure] = []
    missing: list[str] = []
    for name, draw in (
        ("accuracy by sparsity", accuracy_by_sparsity),
        ("curves of pre-training", pretraining_curves),
        ("curves of fine-tuning", finetuning_curves),
        ("accuracy by latency and size", accuracy_by_latency),
        ("int8 by sparsity", lambda material: crossover(material.benches)),
    ):
        figure, reason = draw(material)
        if figure is not None:
            made.append(figure)
        if reason:
            missing.append(f"{name}: {reason}")
    return made, missing


def heats(material: Material) -> list[Heat]:
    """Sparsity per matrix of every pruned language model, or of a pruned task model where there is none."""
    runs = [run for run in material.language_models if run.sparsity is not None]
    runs = runs or [group.runs[0] for group in material.groups if group.sparsity is not None]
    return [_heat(run) for run in runs]


def widely_run(material: Material) -> list[str]:
    """Methods with results on at least half of the tasks: those that a study is about, without its ablations."""
    tasks = {
        method: len({group.task for group in material.groups if group.method == method}) for method in material.methods
    }
    return [method for method in material.methods if 2 * tasks[method] >= len(material.tasks)]


def accuracy_by_sparsity(material: Material, methods: Sequence[str] = ()) -> tuple[Figure | None, str]:
    """Main metric of every task over sparsity, one line per method, the dense baseline as a level.

    methods: only these; all if empty.
    """
    if not any(group.sparsity is not None for group in material.groups):
        return None, "no sparse run"
    charts, shown = [], {}
    for task in material.tasks:
        groups = [group for group in material.groups if group.task == task and group.sparsity is not None]
        groups = [group for group in groups if not methods or group.method in methods]
        dense = material.dense(task)
        series = []
        for method in dict.fromkeys(group.method for group in groups):
            mine = sorted((group for group in groups if group.method == method), key=lambda group: group.sparsity or 0)
            points = tuple(_accuracy_point(material, group) for group in mine if group.main is not None)
            shown[method] = _colour(material, method)
            series.append(Series(_title(material, method), points, _colour(material, method)))
        if not series:
            continue
        metric = next(iter(groups[0].metrics))
        levels = [Level("dense", dense.main.mean)] if dense is not None and dense.main is not None else []
        ticks = tuple(sorted({100 * (group.sparsity or 0) for group in groups}))
        x = Axis("zeros in the encoder's matrices, %", ticks=ticks)
        y = Axis(f"{metric}, %")
        label = f"{metric} on {task} by sparsity, one line per method"
        charts.append((f"{task}, {metric}", chart(series, x, y, label=label, levels=levels, dodge=True)))
    legend = tuple((_title(material, method), colour) for method, colour in shown.items())
    return Figure(
        "Accuracy by sparsity",
        tuple(charts),
        legend,
        "Mean over seeds; bars are ± one standard deviation. Marks at one sparsity are moved apart sideways.",
    ), ""


def pretraining_curves(material: Material) -> tuple[Figure | None, str]:
    """Loss, sparsity and learning rate of teacher and pruning runs over their steps."""
    runs = [run for run in material.language_models if run.log]
    if not runs:
        return None, "no pre-training run with a log"
    return _curves("Pre-training: teacher and pruning", runs, [run.name for run in runs]), ""


def finetuning_curves(material: Material) -> tuple[Figure | None, str]:
    """The same of every method's first seed, at its highest sparsity, on the first task."""
    best: dict[str, Group] = {}
    for group in material.groups:
        if group.task == material.tasks[0] and group.runs[0].log:
            known = best.get(group.method)
            if known is None or (group.sparsity or 0) > (known.sparsity or 0):
                best[group.method] = group
    if not best:
        return None, "no fine-tuning run with a log"
    names = [_called(material, group) for group in best.values()]
    colours = [_colour(material, method) for method in best]
    title = f"Fine-tuning on {material.tasks[0]}: first seed, highest sparsity of each method"
    return _curves(title, [group.runs[0] for group in best.values()], names, colours), ""


def accuracy_by_latency(material: Material) -> tuple[Figure | None, str]:
    """Accuracy against latency, area by size: engines that `pruneonce bench` has measured on runs of the report.

    A record made with --task has every engine's own accuracy; without, an engine in fp32 has that of the run, and one
    in int8 none.
    """
    if not material.benches:
        return None, "no record of `pruneonce bench --json` was given"
    runs = {run.name: (group, run) for group in material.groups for run in group.runs}
    ours = [record for record in material.benches if record["model"]["name"] in runs]
    strangers = dict.fromkeys(name for record in material.benches if (name := record["model"]["name"]) not in runs)
    if not ours:
        return None, f"the benchmarks are of other models ({', '.join(strangers)})"
    shared = set.intersection(*({case["name"] for case in record["cases"]} for record in ours))
    wanted = next((case["name"] for case in ours[0]["cases"] if case["name"] in shared), "")
    if not wanted:
        return None, "the benchmarks of these runs have no batch in common"
    points: dict[str, list[Point]] = {}
    unscored, sizeless = set(), set()
    for record in ours:
        group, run = runs[record["model"]["name"]]
        case = next(case for case in record["cases"] if case["name"] == wanted)
        for engine, seconds in case["seconds"].items():
            accuracy = _engine_accuracy(record, run, engine)
            size = _engine_bytes(record, run, engine)
            if accuracy is None:
                unscored.add(engine)
                continue
            if size is None:
                sizeless.add(engine)
            kind = f"{engine}, {'dense' if group.sparsity is None else 'sparse'}"
            points.setdefault(kind, []).append(_latency_point(material, group, engine, accuracy, seconds, size))
    if not points:
        return None, f"no accuracy is known of the engines that were measured: {', '.join(sorted(unscored))}"
    series = [Series(kind, tuple(each), number, line=False) for number, (kind, each) in enumerate(points.items())]
    x = Axis(f"latency of a batch of {wanted}, median, ms", logarithmic=True)
    y = Axis("main metric, %")
    label = "accuracy by latency, one mark per model and engine, area by size"
    figure = chart(series, x, y, label=label, width=640, height=380)
    note = ["Area of a mark: bytes of its file. One mark per run and engine; rest on it for its task and numbers."]
    if unscored:
        note.append(f"Not drawn, for their accuracy was not measured (bench --task): {', '.join(sorted(unscored))}.")
    if sizeless:
        note.append(f"Least mark, for their file is not known: {', '.join(sorted(sizeless))}.")
    if strangers:
        more = f" and {len(strangers) - NAMED} more" if len(strangers) > NAMED else ""
        note.append(f"Of other models: {', '.join(list(strangers)[:NAMED])}{more}.")
    legend = tuple((each.name, each.colour) for each in series)
    return Figure("Accuracy by latency and size", (("", figure),), legend, " ".join(note)), ""


def _engine_accuracy(record: dict[str, Any], run: Run, engine: str) -> float | None:
    """Main metric in percent."""
    main = next(iter(run.record.metrics), None)
    if main is None:
        return None
    scale = 1 if is_percent(run.task) else 100
    measured = (record.get("accuracy") or {}).get(engine) or {}
    if main in measured:
        return scale * float(measured[main])
    return None if "int8" in engine else scale * run.record.metrics[main]


def _engine_bytes(record: dict[str, Any], run: Run, engine: str) -> int | None:
    """Of our packed file, or of the weights that a rival in fp32 reads."""
    if engine in (record.get("file_bytes") or {}):
        return int(record["file_bytes"][engine])
    if engine == BASELINE:
        return run.packed_bytes
    return None if "int8" in engine else run.weights_bytes


def _curves(title: str, runs: Sequence[Run], names: Sequence[str], colours: Sequence[int] = ()) -> Figure:
    colours = colours or range(len(runs))
    kinds: tuple[tuple[str, str, Callable[[float], float]], ...] = (
        ("loss", "training loss", float),
        ("sparsity", "zeros, %", lambda value: 100 * value),
        ("learning_rate", "learning rate, 1e-4", lambda value: 1e4 * value),
    )
    charts = []
    for key, axis, scale in kinds:
        series = []
        for run, name, colour in zip(runs, names, colours, strict=True):
            entries = [entry for entry in run.log if key in entry and "step" in entry]
            points = tuple(Point(entry["step"], scale(entry[key])) for entry in entries)
            if points:
                series.append(Series(name, points, colour, marks=False))
        if series:
            y = Axis(axis, text=lambda value: f"{value:.3g}", from_zero=key != "loss")
            steps = Axis("optimizer steps", text=lambda value: f"{value:,.0f}", from_zero=True)
            charts.append((axis, chart(series, steps, y, label=f"{axis} by step: {', '.join(names)}")))
    note = "Loss includes distillation where there is one, so that levels of different methods do not compare."
    return Figure(title, tuple(charts), tuple(zip(names, colours, strict=True)), note)


def _accuracy_point(material: Material, group: Group) -> Point:
    assert group.main is not None
    name = f"{_called(material, group)}: {spread(group.main)} (n = {group.main.n})"
    return Point(100 * (group.sparsity or 0), group.main.mean, name, group.main.std)


def _latency_point(
    material: Material, group: Group, engine: str, accuracy: float, seconds: Sequence[float], size: int | None
) -> Point:
    milliseconds = statistics.median(seconds) * 1e3
    megabytes = "" if size is None else f", {size / 1e6:.1f} MB"
    note = f"{_called(material, group)}, {group.task}, {engine}: {accuracy:.2f} %, {milliseconds:.2f} ms{megabytes}"
    radius = max(3.0, MARK_MB * (size or 0) ** 0.5 / 1e3)
    return Point(
        milliseconds, accuracy, note, radius=radius, label="" if group.sparsity is None else zeros(group.sparsity)
    )


def _heat(run: Run) -> Heat:
    """Names such as encoder.layer.3.output.dense: layer 3, kind output.dense."""
    cells: dict[str, dict[str, float]] = {}
    for name, value in run.record.sparsity.items():
        parts = name.split(".")
        number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        layer, kind = ("", name) if number is None else (parts[number], ".".join(parts[number + 1 :]))
        cells.setdefault(kind, {})[layer] = value
    layers = list(dict.fromkeys(layer for row in cells.values() for layer in row))
    layers.sort(key=lambda layer: (not layer.isdigit(), int(layer) if layer.isdigit() else 0))
    rows = tuple((kind, tuple(row.get(layer) for layer in layers)) for kind, row in cells.items())
    return Heat(f"{run.name} ({zeros(run.sparsity)})", tuple(layer or "no layer" for layer in layers), rows)


def _colour(material: Material, method: str) -> int:
    return material.methods.index(method)


def _title(material: Material, method: str) -> str:
    return material.titles.get(method, method)


def _called(material: Material, group: Group) -> str:
    """ "Prune Once for All, 90 %"; "dense" alone."""
    title = _title(material, group.method)
    return title if group.sparsity is None else f"{title}, {zeros(group.sparsity)}"
