"""The tables of a report, as rows of text: the Markdown page and the HTML page show the same ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pruneonce.bench.inference.record import BASELINE, Case
from pruneonce.bench.measure import paired_ratio
from pruneonce.bench.training import results as training_results
from pruneonce.errors import PruneonceError
from pruneonce.evaluation.comparison import CONFIDENCE, Comparison, Sampled, compare_main, mean_of_tasks
from pruneonce.evaluation.over_seeds import Summary, summarise
from pruneonce.report.collect import Group, Material, is_percent, zeros

SAMPLES = 2_000  # of the bootstrap behind a report's differences; `--compare` draws more


@dataclass(frozen=True)
class TextTable:
    """A titled table. The first `left` columns are words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    left: int = 2


def tables(material: Material) -> list[TextTable]:
    """Every table that the material has rows for."""
    made = [
        accuracy_table(material),
        retention_table(material),
        difference_table(material),
        metrics_table(material),
        budget_table(material),
        language_model_table(material),
        training_step_table(material),
        training_share_table(material),
    ]
    return [table for table in made if table.rows]


def accuracy_table(material: Material) -> TextTable:
    """Main metric of every task, mean ± standard deviation over the seeds, and the mean over tasks."""
    columns = ["method", "zeros"]
    for task in material.tasks:
        group = next(group for group in material.groups if group.task == task)
        columns.append(f"{task} {next(iter(group.metrics), '')}".strip())
    rows = []
    for method, sparsity in _lines(material):
        groups = [material.find(method, sparsity, task) for task in material.tasks]
        means = [group.main.mean for group in groups if group is not None and group.main is not None]
        mean = f"{summarise(means).mean:.2f}" if len(means) == len(groups) else ""
        seeds = sorted({group.main.n for group in groups if group is not None and group.main is not None})
        rows.append(
            (material.title_of(method), zeros(sparsity), *(_main(group) for group in groups))
            + ((mean,) if len(material.tasks) > 1 else ())
            + (" to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))) if seeds else "",)
        )
    return TextTable(
        "Accuracy",
        (*columns, *(["mean"] if len(material.tasks) > 1 else []), "n"),
        tuple(rows),
        "In percent: mean ± sample standard deviation over n seeds. Empty: not run.",
    )


def retention_table(material: Material) -> TextTable:
    """Main metric relative to the dense baseline's."""
    rows = []
    for method, sparsity in _lines(material):
        groups = [material.find(method, sparsity, task) for task in material.tasks]
        kept = [None if group is None else material.retention(group) for group in groups]
        if any(value is not None for value in kept):
            whole = [value for value in kept if value is not None]
            mean = f"{summarise(whole).mean:.1f} %" if len(whole) == len(kept) else ""
            cells = ["" if value is None else f"{value:.1f} %" for value in kept]
            rows.append(
                (material.title_of(method), zeros(sparsity), *cells, *([mean] if len(material.tasks) > 1 else []))
            )
    return TextTable(
        "Retention",
        ("method", "zeros", *material.tasks, *(["mean"] if len(material.tasks) > 1 else [])),
        tuple(rows),
        f"Main metric as a share of the dense model's ({material.title_of(material.baseline)}), ratio of means.",
    )


def difference_table(material: Material) -> TextTable:
    """The reference method against every other, by paired bootstrap."""
    found: dict[tuple[str, float | None], dict[str, Sampled]] = {}
    left_out = 0
    for group in material.groups if material.reference else ():
        ours = material.find(material.reference, group.sparsity, group.task)
        if ours is None or ours is group:
            continue
        compared = _compared(ours, group)
        if compared is None:
            left_out += 1
        else:
            found.setdefault((group.method, group.sparsity), {})[group.task] = compared
    rows = []
    for (method, sparsity), tasks in found.items():
        line = material.title_of(method), zeros(sparsity)
        rows += [(*line, task, *_difference_cells(each.comparison)) for task, each in tasks.items()]
        if len(tasks) > 1:
            mean = mean_of_tasks(list(tasks.values()))
            rows.append((*line, f"mean of {len(tasks)}", *_difference_cells(mean)))
    return TextTable(
        f"What {material.title_of(material.reference)} gains over the others",
        ("method", "zeros", "task", "difference", f"{CONFIDENCE:.0%} interval", "p", "examples"),
        tuple(rows),
        f"Main metric in percentage points, {material.title_of(material.reference)} minus the method of the line; "
        f"paired bootstrap over the validation examples, {SAMPLES:,} samples, seeds of each side averaged. The "
        "interval does not cover the choice of seeds. Means are over the tasks that both were run on."
        + (f" Left out, for want of predictions on the same examples: {left_out}." if left_out else ""),
        left=3,
    )


def metrics_table(material: Material) -> TextTable:
    """The metrics beside the main one, where tasks have several."""
    rows = [
        (material.title_of(group.method), group.task, zeros(group.sparsity), name, spread(each), f"{each.n}")
        for group in material.groups
        for name, each in list(group.metrics.items())[1:]
    ]
    return TextTable(
        "Other metrics",
        ("method", "task", "zeros", "metric", "value", "n"),
        tuple(rows),
        "In percent (F1 and correlations times 100).",
        left=4,
    )


def budget_table(material: Material) -> TextTable:
    """What each chain was trained for."""
    rows = []
    for group in material.groups:
        chain = group.chain or group.runs[:1]
        steps = [run.record.steps for run in chain]
        examples = [run.record.steps * _batch(run.record.recipe) for run in chain]
        minutes = [sum(run.record.timings.values()) / 60 for run in chain]
        rows.append(
            (
                material.title_of(group.method),
                group.task,
                zeros(group.sparsity),
                " + ".join(f"{step:,}" for step in steps),
                f"{sum(steps):,}",
                f"{sum(examples):,}",
                f"{minutes[-1]:.1f}",
            )
        )
    return TextTable(
        "Budget of each cell",
        ("method", "task", "zeros", "steps of each stage", "steps", "examples", "minutes of the last stage"),
        tuple(rows),
        "One seed, its shared ancestors counted in full; examples count repetitions; minutes are training and scoring "
        "where the run was made.",
    )


def language_model_table(material: Material) -> TextTable:
    """Held-out scores of teacher and pruned models."""
    names = ("mlm_loss", "mlm_accuracy", "perplexity", "nsp_accuracy")
    rows = [
        (
            run.name,
            run.record.stage,
            zeros(run.sparsity),
            f"{run.record.steps:,}",
            *(f"{run.record.metrics[name]:.3f}" if name in run.record.metrics else "" for name in names),
        )
        for run in material.language_models
    ]
    titles = ("masked-LM loss", "masked-LM accuracy", "perplexity", "next-sentence accuracy")
    return TextTable("Language models", ("run", "stage", "zeros", "steps", *titles), tuple(rows), "On held-out text.")


def training_step_table(material: Material) -> TextTable:
    """What a step of fine-tuning takes: ours, dense and masked."""
    records = material.training_benches
    rows = [row for record in records for row in training_results.step_rows(record)]
    said = [training_results.conditions(record) for record in records]
    said += [
        f"{record.model.name}, {training_results.case_name(record, case)}: {training_results.kernel_choice(case)}."
        for record in records
        for case in record.cases
    ]
    note = " ".join([training_results.NOTE, *dict.fromkeys(said)])
    return TextTable("A training step", training_results.COLUMNS, tuple(rows), note, left=3)


def training_share_table(material: Material) -> TextTable:
    """Where the time of such a step goes."""
    records = material.training_benches
    columns, rows = training_results.share_columns(records), training_results.share_rows(records)
    return TextTable("Parts of a training step", columns, tuple(rows), training_results.SHARE_NOTE, left=3)


def comparison_table(found: list[Comparison], a: str, b: str) -> TextTable:
    """The answer of `report --compare`."""
    rows = tuple(
        (
            each.metric,
            f"{each.a:.4f}",
            f"{each.b:.4f}",
            f"{each.difference:+.4f}",
            f"{each.lower:+.4f} to {each.upper:+.4f}",
            f"{each.p_value:.4f}",
            f"{each.examples:,}",
        )
        for each in found
    )
    note = f"A: {a}\nB: {b}\nPaired bootstrap, {found[0].samples:,} samples, seed {found[0].seed}." if found else ""
    columns = ("metric", "A", "B", "A - B", f"{CONFIDENCE:.0%} interval", "p", "examples")
    return TextTable("Paired comparison", columns, rows, note, left=1)


SPEED_COLUMNS = ("engine", "median ms", "quartiles", f"time / {BASELINE}'s", "sequences/s")


def speed_rows(case: Case) -> list[tuple[str, ...]]:
    """One row per engine of a benchmark's case; the Markdown page has its full table."""
    rows: list[tuple[str, ...]] = []
    for engine, seconds in case.seconds.items():
        median = case.median_seconds(engine)
        quartiles = np.quantile(seconds, [0.25, 0.75]) * 1e3
        ours = case.seconds.get(BASELINE)
        ratio = "" if engine == BASELINE or ours is None else f"{paired_ratio(seconds, ours).median:.2f}"
        spread_of = f"{quartiles[0]:.2f} to {quartiles[1]:.2f}"
        rows.append((engine, f"{median * 1e3:.2f}", spread_of, ratio, f"{len(case.lengths) / median:,.1f}"))
    return rows


def spread(summary: Summary) -> str:
    """ "91.23 ± 0.45", or "91.23" for one run."""
    return f"{summary.mean:.2f}" if summary.std is None else f"{summary.mean:.2f} ± {summary.std:.2f}"


def _main(group: Group | None) -> str:
    if group is None or group.main is None:
        return ""
    return spread(group.main)


def _lines(material: Material) -> list[tuple[str, float | None]]:
    """(method, sparsity) of every line, dense ones first, then by sparsity, methods in the study's order."""
    order = {method: number for number, method in enumerate(material.methods)}
    found = dict.fromkeys((group.method, group.sparsity) for group in material.groups)
    return sorted(found, key=lambda line: (line[1] or 0.0, order[line[0]]))


def _batch(recipe: dict[str, object]) -> int:
    training = recipe.get("training")
    return int(training.get("batch_size", 0)) if isinstance(training, dict) else 0


def _difference_cells(found: Comparison) -> tuple[str, ...]:
    interval = f"{found.lower:+.2f} to {found.upper:+.2f}"
    p = f"< {2 / found.samples:.3f}" if found.p_value <= 2 / found.samples else f"{found.p_value:.3f}"
    return f"{found.difference:+.2f}", interval, p, f"{found.examples:,}"


def _compared(ours: Group, other: Group) -> Sampled | None:
    """In percentage points; None where a run kept no predictions, or was scored on other examples."""
    sides = [[run.folder for run in group.runs] for group in (ours, other)]
    try:
        found = compare_main(*sides, samples=SAMPLES)
    except PruneonceError:
        return None
    scale = 1 if is_percent(ours.runs[0].task) else 100
    names = ("a", "b", "difference", "lower", "upper")
    scaled = {name: scale * getattr(found.comparison, name) for name in names}
    return Sampled(replace(found.comparison, **scaled), scale * found.differences)
