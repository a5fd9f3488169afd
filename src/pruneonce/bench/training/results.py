"""A record of `bench-train` as rows of text, for the terminal and for reports. Every figure follows from the record."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pruneonce.bench.measure import paired_ratio
from pruneonce.bench.training.case import DENSE, OURS, PHASES
from pruneonce.bench.training.record import MeasuredCase, TrainingBenchRecord

COLUMNS = (
    "model",
    "batch",
    "training",
    *(f"{phase} ms" for phase in PHASES),
    "step ms",
    f"time / {OURS}",
    "quartiles",
    "state MB",
    f"of {DENSE}",
    "patterns, masks MB",
    "peak MB",
)
SHARE_COLUMNS = ("model", "batch", "training")  # and the parts
NOTE = (
    "One optimisation step (forward with loss, backward; under optimizer: clipping, AdamW, clearing the gradients) on "
    "the same random batch, each training in a process of its own, steps in turn (A B C A B C …). Times are medians, "
    "least ones in brackets. Ratios are those of steps of one round, median and quartiles: above 1 the training is "
    "slower than ours. State: weights, gradients and AdamW's moments. Peak: resident memory of the steps beyond the "
    "process before the model was made."
)
SHARE_NOTE = (
    "Milliseconds of one further step under hooks, forward + backward. Linears include their weights' gradients; rest "
    "is residual sums, dropout, pooler, head and loss."
)


def step_rows(record: TrainingBenchRecord) -> list[tuple[str, ...]]:
    """One row per case and subject, as in `COLUMNS`."""
    rows: list[tuple[str, ...]] = []
    for case in record.cases:
        steps = {name: step_seconds(phases) for name, phases in case.seconds.items()}
        for name, phases in case.seconds.items():
            ratio, memory = paired_ratio(steps[name], steps[OURS]), case.memory[name]
            compared = ("", "") if name == OURS else (f"{ratio.median:.2f}", f"{ratio.lower:.2f} to {ratio.upper:.2f}")
            rows.append(
                (
                    record.model.name,
                    case_name(record, case),
                    name,
                    *(_milliseconds(phases[phase]) for phase in PHASES),
                    _milliseconds(steps[name]),
                    *compared,
                    f"{memory.state / 1e6:.0f}",
                    f"{memory.state / case.memory[DENSE].state:.0%}",
                    f"{(memory.patterns + memory.masks) / 1e6:.0f}",
                    f"{memory.peak / 1e6:.0f}" + ("" if memory.peak_of_steps else " (of the whole process)"),
                )
            )
    return rows


def step_seconds(phases: dict[str, list[float]]) -> list[float]:
    """Seconds of whole steps from those of their phases."""
    return [sum(step) for step in zip(*(phases[phase] for phase in PHASES), strict=True)]


def share_columns(records: Sequence[TrainingBenchRecord]) -> tuple[str, ...]:
    """Headings of `share_rows`."""
    return *SHARE_COLUMNS, *_parts(records)


def share_rows(records: Sequence[TrainingBenchRecord]) -> list[tuple[str, ...]]:
    """One row per record, case and subject: "forward + backward ms" of each part."""
    rows: list[tuple[str, ...]] = []
    for record in records:
        for case in record.cases:
            for name, parts in case.parts.items():
                times = (parts.get(part) for part in _parts(records))
                rows.append(
                    (
                        record.model.name,
                        case_name(record, case),
                        name,
                        *(f"{t.forward * 1e3:.1f} + {t.backward * 1e3:.1f}" if t else "" for t in times),
                    )
                )
    return rows


def case_name(record: TrainingBenchRecord, case: MeasuredCase) -> str:
    """ "16x128 classification"."""
    return f"{case.name} {record.task.replace('_', ' ')}"


def conditions(record: TrainingBenchRecord) -> str:
    """Machine and settings, in a sentence."""
    machine, versions = record.machine, record.versions
    software = ", ".join(
        f"{name} {versions[name]}" for name in ("pruneonce", "torch", "transformers") if name in versions
    )
    return (
        f"{machine.processor}, {_many(machine.cores, 'core')}, {_many(record.threads, 'thread')}, our kernels "
        f"{machine.native_isa}; {record.precision}, dropout {record.dropout:g}, {record.steps} steps, load "
        f"average {machine.load_average:.2f} before; {software}; {record.date}."
    )


def summary(record: TrainingBenchRecord) -> list[str]:
    """Model, conditions, and what ours chose and the losses say, a line each."""
    model = record.model
    lines = [
        f"{model.name}: {model.prunable:,} prunable weights, {model.sparsity:.2%} zeros",
        conditions(record),
    ]
    for case in record.cases:
        first = {name: losses[0] for name, losses in case.losses.items()}
        lines.append(
            f"{case_name(record, case)}: {kernel_choice(case)}; loss of the first step "
            + ", ".join(f"{loss:.6f} ({name})" for name, loss in first.items())
        )
    return lines


def kernel_choice(case: MeasuredCase) -> str:
    """ "72 of 73 layers with zeros sparse, dense: pooler.dense"."""
    kernels = case.kernels
    dense = f", dense: {', '.join(kernels.dense)}" if kernels.dense else ""
    return f"{OURS}: {kernels.sparse} of {kernels.layers} layers with zeros sparse{dense}"


def _parts(records: Sequence[TrainingBenchRecord]) -> list[str]:
    found = (part for record in records for case in record.cases for parts in case.parts.values() for part in parts)
    return list(dict.fromkeys(found))


def _many(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _milliseconds(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f} ({min(seconds) * 1e3:.1f})"
