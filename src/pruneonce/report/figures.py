"""Which pictures a report shows, each from what the material holds; what it lacks is said, not drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pruneonce.report.charts import Axis, Figure, Level, Point, Series, chart
from pruneonce.report.collect import Group, Material, Run, zeros
from pruneonce.report.crossover import crossover
from pruneonce.report.latency import accuracy_by_latency
from pruneonce.report.tables import spread


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
            series.append(Series(material.title_of(method), points, _colour(material, method)))
        if not series:
            continue
        metric = next(iter(groups[0].metrics))
        levels = [Level("dense", dense.main.mean)] if dense is not None and dense.main is not None else []
        ticks = tuple(sorted({100 * (group.sparsity or 0) for group in groups}))
        x = Axis("zeros in the encoder's matrices, %", ticks=ticks)
        y = Axis(f"{metric}, %")
        label = f"{metric} on {task} by sparsity, one line per method"
        charts.append((f"{task}, {metric}", chart(series, x, y, label=label, levels=levels, dodge=True)))
    legend = tuple((material.title_of(method), colour) for method, colour in shown.items())
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
    names = [material.named(group) for group in best.values()]
    colours = [_colour(material, method) for method in best]
    title = f"Fine-tuning on {material.tasks[0]}: first seed, highest sparsity of each method"
    return _curves(title, [group.runs[0] for group in best.values()], names, colours), ""


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
    name = f"{material.named(group)}: {spread(group.main)} (n = {group.main.n})"
    return Point(100 * (group.sparsity or 0), group.main.mean, name, group.main.std)


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
