"""`bench-train`: steps of ours, of dense and of masked training in turn, to a record."""

from __future__ import annotations

import contextlib
import datetime
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruneonce.bench.inference.cases import parse_grid
from pruneonce.bench.inference.subject import SHAPES, make_random
from pruneonce.bench.speed_limits import best_of, measure_limits
from pruneonce.bench.training.case import MASKED, OURS, PHASES, SUBJECTS, TASKS, TrainingCase
from pruneonce.bench.training.record import (
    Kernels,
    MeasuredCase,
    PartSeconds,
    StepMemory,
    TrainedModel,
    TrainingBenchRecord,
)
from pruneonce.bench.worker import Worker
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import read_json
from pruneonce.formats.model_folder import read_matrices, require_folder
from pruneonce.machine import library_versions
from pruneonce.models import encoder_plan_of
from pruneonce.progress import Advance

FIRST_LOSS_TOLERANCE = 1e-4  # relative, of all subjects
LOSSES_TOLERANCE = 1e-3  # of the later steps of ours and masked, relative to the first loss
# Longer than the threads of an OpenMP pool spin for work, on the next subject's cores, before they sleep.
PAUSE_SECONDS = 0.05
KERNELS = ("auto", "sparse")
ADVICE = "If memory ran out: three trainings need room at once, so try a smaller --grid"


@dataclass(frozen=True)
class TrainingBenchSettings:
    """What the command line asks for."""

    grid: str  # "16x128,8x384": sequences x tokens
    task: str  # of TASKS
    threads: int
    rounds: int = 10  # measured, after one that is not
    dropout: float = 0.0
    kernel: str = "auto"  # of ours: of KERNELS


def run_on_folder(folder: Path, settings: TrainingBenchSettings, on_progress: Advance) -> TrainingBenchRecord:
    """Measure steps of a model folder that has zeros."""
    _check(settings)
    return _run(folder, folder.resolve().name, "", settings, on_progress)


def run_on_random(
    shape: str, sparsity: float, settings: TrainingBenchSettings, on_progress: Advance
) -> TrainingBenchRecord:
    """Measure steps of a known shape with random weights, `sparsity` of every prunable matrix zeros."""
    _check(settings)
    if shape not in SHAPES:
        raise UsageError(f"--random '{shape}' is unknown: expected one of {', '.join(SHAPES)}")
    from pruneonce.models.hub import quiet_transformers

    quiet_transformers()
    with tempfile.TemporaryDirectory(prefix="pruneonce-bench-", ignore_cleanup_errors=True) as work:
        folder = Path(work)
        name = make_random(shape, TASKS[settings.task], sparsity, folder).name
        return _run(folder, name, shape, settings, on_progress)


def check_losses(losses: dict[str, list[float]]) -> None:
    """PruneonceError unless all subjects begin with the same loss, and ours goes on as masked does. NaN is never the
    same."""
    first = losses[OURS][0]
    for name, values in losses.items():
        if not abs(values[0] - first) <= FIRST_LOSS_TOLERANCE * abs(first):
            raise PruneonceError(
                f"the first step's loss is {values[0]:.6g} by {name}, and {first:.6g} by {OURS}: they do not compute "
                "the same, so their times say nothing. Is the model intact?"
            )
    for step, (mine, other) in enumerate(zip(losses[OURS], losses[MASKED], strict=True)):
        if not abs(mine - other) <= LOSSES_TOLERANCE * abs(first):
            raise PruneonceError(
                f"at step {step} the loss is {other:.6g} by {MASKED}, and {mine:.6g} by {OURS}: expected the same "
                f"within {LOSSES_TOLERANCE:g} of the first. Try fewer --rounds: rounding grows from step to step"
            )


def _check(settings: TrainingBenchSettings) -> None:
    for option, value, known in (("--task", settings.task, tuple(TASKS)), ("--kernel", settings.kernel, KERNELS)):
        if value not in known:
            raise UsageError(f"{option} '{value}' is unknown: expected one of {', '.join(known)}")
    if min(settings.threads, settings.rounds) < 1:
        raise UsageError("--threads and --rounds must be at least 1")
    if not 0 <= settings.dropout < 1:
        raise UsageError(f"--dropout {settings.dropout}: expected at least 0 and less than 1")


def _run(
    folder: Path, name: str, shape: str, settings: TrainingBenchSettings, on_progress: Advance
) -> TrainingBenchRecord:
    model, max_tokens = _describe(folder, name, shape)
    grid = parse_grid(settings.grid, max_tokens)
    planned = [
        TrainingCase(
            str(folder.resolve()),
            settings.task,
            sequences,
            tokens,
            settings.threads,
            settings.dropout,
            settings.kernel,  # type: ignore[arg-type]  # checked before
        )
        for sequences, tokens in grid
    ]
    limits_before = measure_limits(settings.threads)
    cases = []
    for number, case in enumerate(planned):

        def advance(step: int, note: str, number: int = number, case: TrainingCase = case) -> None:
            on_progress(number * settings.rounds + step, len(planned) * settings.rounds, f"{case.name}: {note}")

        cases.append(_measure(case, settings.rounds, advance))
    return TrainingBenchRecord(
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        machine=best_of(limits_before, measure_limits(settings.threads)),
        versions=library_versions(),
        model=model,
        subjects=SUBJECTS,
        task=settings.task,
        threads=settings.threads,
        steps=settings.rounds,
        dropout=settings.dropout,
        precision="fp32",
        kernel=settings.kernel,
        optimizer="AdamW, fused; gradients clipped at 1",
        inputs="random words",
        cases=cases,
    )


def _describe(folder: Path, name: str, shape: str) -> tuple[TrainedModel, int]:
    """The model, and how many tokens it takes at most. UsageError for a folder without zeros."""
    path = require_folder(folder)
    matrices = [matrix for matrix in read_matrices(path) if matrix.prunable]
    from pruneonce.sparsity.cpu_training import LOCKED_FROM

    if not any(matrix.sparsity >= LOCKED_FROM for matrix in matrices):
        raise UsageError(
            f"{folder} has no zeros (less than {LOCKED_FROM:.0%} in every prunable matrix), so there is nothing to "
            "compare: give a pruned model, or --random bert-base"
        )
    prunable, zeros = sum(each.size for each in matrices), sum(each.zeros for each in matrices)
    model = TrainedModel(name, shape, prunable, zeros, sparsity=zeros / prunable)
    return model, encoder_plan_of(read_json(path / "config.json"), path).max_tokens


def _measure(case: TrainingCase, steps: int, advance: Callable[[int, str], None]) -> MeasuredCase:
    """One case with fresh processes: every subject begins with the same weights and an unused memory."""
    with tempfile.TemporaryDirectory(prefix="pruneonce-bench-") as logs, contextlib.ExitStack() as stack:
        workers, kernels = {}, {}
        for name in SUBJECTS:
            advance(0, f"starting {name}")
            workers[name] = worker = _start(name, Path(logs))
            stack.callback(worker.close)
            answer, _ = worker.ask({"subject": name, "case": asdict(case)})
            kernels[name] = answer["kernels"]

        def ask(what: str) -> dict[str, Any]:
            answers = {}
            for name, worker in workers.items():
                time.sleep(PAUSE_SECONDS)
                answers[name] = worker.ask({"do": what})[0]["answer"]
            return answers

        advance(0, "first step")
        taken = [ask("step")]
        check_losses(_losses(taken))
        ask("forget_peak")
        for step in range(steps):
            advance(step, "steps")
            taken.append(ask("step"))
        advance(steps, "steps")
        memory = ask("memory")
        parts = ask("step_by_parts")
    losses = _losses(taken)
    check_losses(losses)
    return MeasuredCase(
        name=case.name,
        sequences=case.sequences,
        tokens=case.tokens,
        kernels=Kernels(**kernels[OURS]),
        seconds={name: {phase: [each[name][phase] for each in taken[1:]] for phase in PHASES} for name in SUBJECTS},
        losses=losses,
        memory={name: StepMemory(**each) for name, each in memory.items()},
        parts={name: {part: PartSeconds(**seconds) for part, seconds in each.items()} for name, each in parts.items()},
    )


def _losses(taken: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    return {name: [step[name]["loss"] for step in taken] for name in SUBJECTS}


def _start(name: str, logs: Path) -> Worker:
    # finetune takes an accelerator where there is one; this measures processors.
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    return Worker(f"the process of {name}", _command(), logs / f"{name}.log", advice=ADVICE, environment=hidden)


def _command() -> list[str]:
    return [sys.executable, "-m", "pruneonce.bench.training.worker"]
