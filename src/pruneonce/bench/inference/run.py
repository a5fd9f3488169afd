"""One benchmark: the model in every engine, case by case, to a record that `results` shows."""

from __future__ import annotations

import contextlib
import datetime
import gc
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pruneonce.bench.inference.accuracy import score_engines
from pruneonce.bench.inference.cases import Batch, Inputs, mixed_lengths, parse_grid
from pruneonce.bench.inference.int8_subject import float_subject, int8_subject
from pruneonce.bench.inference.record import BenchModel, BenchRecord, Case
from pruneonce.bench.inference.rivals import (
    CALIBRATION,
    OURS_INT8,
    Engine,
    Ours,
    Torch,
    make_rivals,
    own_threads,
    require,
    rows,
)
from pruneonce.bench.inference.subject import Subject, make_random, read_subject
from pruneonce.bench.measure import interleave
from pruneonce.bench.speed_limits import best_of, measure_limits
from pruneonce.errors import UsageError
from pruneonce.formats.stored_tensors import Array
from pruneonce.machine import library_versions
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.progress import Advance
from pruneonce.recipe import TaskData


@dataclass(frozen=True)
class BenchSettings:
    """What the command line asks for."""

    against: tuple[str, ...]
    grid: str
    threads: int
    rounds: int = 10
    settle: int = 1  # untimed calls of an engine before each timed one
    mixed: str = ""  # "squad", a file of lengths, or none
    texts: Path | None = None
    int8: bool = True  # measure every engine in 8 bits too
    deepsparse_python: Path | None = None
    task: TaskData | None = None  # score every engine's answers to it too


def run_on_folder(folder: Path, settings: BenchSettings, on_progress: Advance) -> BenchRecord:
    """Benchmark a model folder."""
    return _run(lambda work: read_subject(folder), settings, on_progress)


def run_on_random(
    shape: str,
    head: str,
    sparsity: float,
    settings: BenchSettings,
    on_progress: Advance,
    *,
    pattern: str = "unstructured",
) -> BenchRecord:
    """Benchmark a known shape with random weights."""
    return _run(
        lambda work: make_random(shape, head, sparsity, work / "random", pattern=pattern), settings, on_progress
    )


def _run(make_subject: Callable[[Path], Subject], settings: BenchSettings, on_progress: Advance) -> BenchRecord:
    if min(settings.threads, settings.rounds) < 1 or settings.settle < 0:
        raise UsageError("--threads and --rounds must be at least 1, --settle at least 0")
    require(["torch", *settings.against], deepsparse_python=settings.deepsparse_python)
    from pruneonce.models.hub import quiet_transformers

    quiet_transformers()
    with (
        tempfile.TemporaryDirectory(prefix="pruneonce-bench-", ignore_cleanup_errors=True) as folder,
        own_threads(settings.threads),
        contextlib.ExitStack() as processes,
    ):
        work = Path(folder)
        given = make_subject(work)
        planned = _planned(given, settings)
        on_progress(0, len(planned), "engines")
        calibration = _calibration(given, settings) if settings.int8 else None
        subject = float_subject(given, work / "float")
        ours = [Ours(subject, work)]
        if calibration:
            ours.append(Ours(int8_subject(given, work / "int8", calibration), work, OURS_INT8))
        limits_before = measure_limits(settings.threads)
        torch = Torch(subject)
        rivals = make_rivals(
            list(settings.against),
            subject,
            work,
            settings.threads,
            calibration=calibration,
            deepsparse_python=settings.deepsparse_python,
        )
        for rival in rivals:
            if hasattr(rival, "close"):
                processes.callback(rival.close)
        engines: list[Engine] = [*ours, *([torch] if "torch" in settings.against else []), *rivals]
        cases = []
        for done, (batch, uniform) in enumerate(planned):
            on_progress(done, len(planned), batch.name)
            cases.append(_measure(batch, engines, torch, subject, settings, uniform))
        limits_after = measure_limits(settings.threads)
        accuracy = {}
        if settings.task:
            tokenizer = load_tokenizer(subject.folder)
            accuracy = score_engines(engines, settings.task, tokenizer, subject.max_tokens, on_progress)
        on_progress(len(planned), len(planned), "done")
    return BenchRecord(
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        machine=best_of(limits_before, limits_after),
        versions=library_versions(),
        model=BenchModel(
            **{**asdict(subject), "folder": ""}, sparsity=subject.sparsity, weight_bytes=subject.weight_bytes
        ),
        threads=settings.threads,
        rounds=settings.rounds,
        settle=settings.settle,
        inputs="text" if settings.texts else "random words",
        engines={engine.name: engine.version for engine in engines},
        file_bytes={engine.name: engine.file_bytes for engine in ours},
        task=settings.task.name if settings.task else "",
        accuracy=accuracy,
        cases=cases,
    )


def _planned(subject: Subject, settings: BenchSettings) -> list[tuple[Batch, str]]:
    """What is measured; of a batch of mixed lengths also the name of the uniform one that it is compared with."""
    inputs = Inputs(load_tokenizer(subject.folder), texts=settings.texts)
    planned = [
        (inputs.batch(f"{sequences}x{tokens}", [tokens] * sequences), "")
        for sequences, tokens in parse_grid(settings.grid, subject.max_tokens)
    ]
    if settings.mixed:
        lengths = mixed_lengths(settings.mixed, subject.max_tokens)
        mean = round(sum(lengths) / len(lengths))
        np.random.default_rng(0).shuffle(lengths)
        uniform = f"{len(lengths)}x{mean}"
        planned.append((inputs.batch(f"{len(lengths)} of {min(lengths)} to {max(lengths)}", lengths), uniform))
        planned.append((inputs.batch(uniform, [mean] * len(lengths)), ""))
    return planned


def _calibration(subject: Subject, settings: BenchSettings) -> list[Batch]:
    """Other words than those of the batches."""
    inputs = Inputs(load_tokenizer(subject.folder), texts=settings.texts, seed=1)
    samples, tokens = CALIBRATION
    return [inputs.batch("", [min(tokens, subject.max_tokens)]) for _ in range(samples)]


def _measure(
    batch: Batch, engines: list[Engine], reference: Engine, subject: Subject, settings: BenchSettings, uniform: str
) -> Case:
    calls = {engine.name: engine.prepare(batch) for engine in engines}
    outputs = {name: rows(call()[1], batch.lengths) for name, call in calls.items()}
    expected = outputs.get(reference.name) or rows(reference.prepare(batch)()[1], batch.lengths)
    seconds = interleave(calls, rounds=settings.rounds, settle=settings.settle)
    del calls
    gc.collect()  # a compiled rival can hold a second copy of the weights
    return Case(
        name=batch.name,
        lengths=batch.lengths,
        useful_flops=subject.useful_flops(batch.lengths),
        seconds=seconds,
        max_difference={name: _difference(output, expected) for name, output in outputs.items()},
        largest_output=max(float(np.abs(row).max()) for row in expected),
        uniform=uniform,
    )


def _difference(output: list[Array], expected: list[Array]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(output, expected, strict=True))
