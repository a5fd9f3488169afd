"""`bench-train`: steps of ours, of dense and of masked training in turn, to a JSON-able record."""

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

from pruneonce.bench import machine
from pruneonce.bench.inference.cases import parse_grid
from pruneonce.bench.inference.subject import SHAPES, make_random
from pruneonce.bench.training.case import MASKED, OURS, PHASES, SUBJECTS, TASKS, TrainingCase
from pruneonce.bench.training.results import FORMAT, KIND
from pruneonce.bench.worker import Worker
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import read_json
from pruneonce.formats.model_folder import read_matrices, require_folder
from pruneonce.machine import library_versions
from pruneonce.progress import Advance

FIRST_LOSS_TOLERANCE = 1e-4  # relative, of all subjects
LOSSES_TOLERANCE = 1e-3  # of the later steps of ours and masked, relative to the first loss
# Longer than the threads of an OpenMP pool spin for work, on the next subject's cores, before they sleep.
PAUSE_SECONDS = 0.05
KERNELS = ("auto", "sparse")
ADVICE = "If memory ran out: three trainings need room at once, so try a smaller --grid"


@dataclass(frozen=True)
class TrainingOptions:
    """What the command line asks for."""

    grid: str  # "16x128,8x384": sequences x tokens
    task: str  # of TASKS
    threads: int
    rounds: int = 10  # measured, after one that is not
    dropout: float = 0.0
    kernel: str = "auto"  # of ours: of KERNELS


@dataclass(frozen=True)
class TrainedModel:
    """What the record says of the model."""

    name: str
    shape: str  # of a random model; "" for a folder
    prunable: int  # weights in prunable matrices
    zeros: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.prunable


def run_on_folder(folder: Path, options: TrainingOptions, on_progress: Advance) -> dict[str, Any]:
    """Measure steps of a model folder that has zeros."""
    _check(options)
    return _run(folder, folder.resolve().name, "", options, on_progress)


def run_on_random(shape: str, sparsity: float, options: TrainingOptions, on_progress: Advance) -> dict[str, Any]:
    """Measure steps of a known shape with random weights, `sparsity` of every prunable matrix zeros."""
    _check(options)
    if shape not in SHAPES:
        raise UsageError(f"--random '{shape}' is unknown: expected one of {', '.join(SHAPES)}")
    from pruneonce.models.hub import quiet_transformers

    quiet_transformers()
    with tempfile.TemporaryDirectory(prefix="pruneonce-bench-", ignore_cleanup_errors=True) as work:
        folder = Path(work)
        name = make_random(shape, TASKS[options.task], sparsity, folder).name
        return _run(folder, name, shape, options, on_progress)


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


def _check(options: TrainingOptions) -> None:
    for option, value, known in (("--task", options.task, tuple(TASKS)), ("--kernel", options.kernel, KERNELS)):
        if value not in known:
            raise UsageError(f"{option} '{value}' is unknown: expected one of {', '.join(known)}")
    if min(options.threads, options.rounds) < 1:
        raise UsageError("--threads and --rounds must be at least 1")
    if not 0 <= options.dropout < 1:
        raise UsageError(f"--dropout {options.dropout}: expected at least 0 and less than 1")


def _run(folder: Path, name: str, shape: str, options: TrainingOptions, on_progress: Advance) -> dict[str, Any]:
    model, max_tokens = _describe(folder, name, shape)
    grid = parse_grid(options.grid, max_tokens)
    planned = [
        TrainingCase(
            str(folder.resolve()),
            options.task,
            sequences,
            tokens,
            options.threads,
            options.dropout,
            options.kernel,  # type: ignore[arg-type]  # checked before
        )
        for sequences, tokens in grid
    ]
    here = machine.describe(options.threads)
    cases = []
    for number, case in enumerate(planned):

        def advance(step: int, note: str, number: int = number, case: TrainingCase = case) -> None:
            on_progress(number * options.rounds + step, len(planned) * options.rounds, f"{case.name}: {note}")

        cases.append(_measure(case, options.rounds, advance))
    here = machine.best_of(here, machine.describe(options.threads))
    return {
        "kind": KIND,
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "machine": asdict(here),
        "versions": library_versions(),
        "model": {**asdict(model), "sparsity": model.sparsity},
        "subjects": SUBJECTS,
        "task": options.task,
        "threads": options.threads,
        "steps": options.rounds,
        "warmup": 1,
        "dropout": options.dropout,
        "precision": "fp32",
        "kernel": options.kernel,
        "optimizer": "AdamW, fused; gradients clipped at 1",
        "inputs": "random words",
        "cases": cases,
    }


def _describe(folder: Path, name: str, shape: str) -> tuple[TrainedModel, int]:
    """The model, and how many tokens it takes at most. UsageError for a folder without zeros."""
    path = require_folder(folder)
    matrices = [matrix for matrix in read_matrices(path) if matrix.prunable]
    model = TrainedModel(name, shape, sum(each.size for each in matrices), sum(each.zeros for each in matrices))
    from pruneonce.sparsity.cpu_training import LOCKED_FROM

    if not any(matrix.sparsity >= LOCKED_FROM for matrix in matrices):
        raise UsageError(
            f"{folder} has no zeros (less than {LOCKED_FROM:.0%} in every prunable matrix), so there is nothing to "
            "compare: give a pruned model, or --random bert-base"
        )
    return model, int(read_json(path / "config.json")["max_position_embeddings"])


def _measure(case: TrainingCase, steps: int, advance: Callable[[int, str], None]) -> dict[str, Any]:
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
    return {
        "name": case.name,
        "sequences": case.sequences,
        "tokens": case.tokens,
        "kernels": kernels[OURS],
        "seconds": {name: {phase: [each[name][phase] for each in taken[1:]] for phase in PHASES} for name in SUBJECTS},
        "losses": losses,
        "memory": memory,
        "parts": parts,
    }


def _losses(taken: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    return {name: [step[name]["loss"] for step in taken] for name in SUBJECTS}


def _start(name: str, logs: Path) -> Worker:
    # finetune takes an accelerator where there is one; this measures processors.
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    return Worker(f"the process of {name}", _command(), logs / f"{name}.log", advice=ADVICE, environment=hidden)


def _command() -> list[str]:
    return [sys.executable, "-m", "pruneonce.bench.training.worker"]
