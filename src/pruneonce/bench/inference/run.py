"""One benchmark: the model in every engine, case by case, to a JSON-able record that `results` shows."""

from __future__ import annotations

import datetime
import gc
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce.bench import machine
from pruneonce.bench.inference.accuracy import score_engines
from pruneonce.bench.inference.cases import Batch, Inputs, mixed_lengths, parse_grid
from pruneonce.bench.inference.int8_subject import float_subject, int8_subject
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
from pruneonce.errors import UsageError
from pruneonce.formats.stored_tensors import Array
from pruneonce.machine import library_versions
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.progress import Advance
from pruneonce.recipe import TaskData

FORMAT = 1


@dataclass(frozen=True)
class Options:
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


def run_on_folder(folder: Path, options: Options, on_progress: Advance) -> dict[str, Any]:
    """Benchmark a model folder."""
    return _run(lambda work: read_subject(folder), options, on_progress)


def run_on_random(
    shape: str, head: str, sparsity: float, options: Options, on_progress: Advance, *, pattern: str = "unstructured"
) -> dict[str, Any]:
    """Benchmark a known shape with random weights."""
    return _run(lambda work: make_random(shape, head, sparsity, work / "random", pattern=pattern), options, on_progress)


def _run(make_subject: Callable[[Path], Subject], options: Options, on_progress: Advance) -> dict[str, Any]:
    if min(options.threads, options.rounds) < 1 or options.settle < 0:
        raise UsageError("--threads and --rounds must be at least 1, --settle at least 0")
    require(["torch", *options.against], deepsparse_python=options.deepsparse_python)
    from pruneonce.models.hub import quiet_transformers

    quiet_transformers()
    with (
        tempfile.TemporaryDirectory(prefix="pruneonce-bench-", ignore_cleanup_errors=True) as folder,
        own_threads(options.threads),
    ):
        work = Path(folder)
        subject = make_subject(work)
        batches = _batches(subject, options)
        on_progress(0, len(batches), "engines")
        calibration = _calibration(subject, options) if options.int8 else None
        given, subject = subject, float_subject(subject, work / "float")
        ours = [Ours(subject, work)]
        if calibration:
            ours.append(Ours(int8_subject(given, work / "int8", calibration), work, OURS_INT8))
        here = machine.describe(options.threads)
        torch = Torch(subject)
        rivals = make_rivals(
            list(options.against),
            subject,
            work,
            options.threads,
            calibration=calibration,
            deepsparse_python=options.deepsparse_python,
        )
        engines: list[Engine] = [*ours, *([torch] if "torch" in options.against else []), *rivals]
        cases = []
        for done, batch in enumerate(batches):
            on_progress(done, len(batches), batch.name)
            cases.append(_measure(batch, engines, torch, subject, options))
        here = machine.best_of(here, machine.describe(options.threads))
        accuracy = {}
        if options.task:
            tokenizer = load_tokenizer(subject.folder)
            accuracy = score_engines(engines, options.task, tokenizer, subject.max_tokens, on_progress)
        on_progress(len(batches), len(batches), "done")
        for engine in rivals:
            if hasattr(engine, "close"):
                engine.close()
    if options.mixed:
        cases[-2]["uniform"] = cases[-1]["name"]
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
        "machine": asdict(here),
        "versions": library_versions(),
        "model": {**asdict(subject), "folder": "", "sparsity": subject.sparsity, "weight_bytes": subject.weight_bytes},
        "threads": options.threads,
        "rounds": options.rounds,
        "settle": options.settle,
        "inputs": "text" if options.texts else "random words",
        "engines": {engine.name: engine.version for engine in engines},
        "file_bytes": {engine.name: engine.file_bytes for engine in ours},
        "task": options.task.name if options.task else "",
        "accuracy": accuracy,
        "cases": cases,
    }


def _batches(subject: Subject, options: Options) -> list[Batch]:
    inputs = Inputs(load_tokenizer(subject.folder), texts=options.texts)
    batches = [
        inputs.batch(f"{sequences}x{tokens}", [tokens] * sequences)
        for sequences, tokens in parse_grid(options.grid, subject.max_tokens)
    ]
    if options.mixed:
        lengths = mixed_lengths(options.mixed, subject.max_tokens)
        mean = round(sum(lengths) / len(lengths))
        np.random.default_rng(0).shuffle(lengths)
        batches.append(inputs.batch(f"{len(lengths)} of {min(lengths)} to {max(lengths)}", lengths))
        batches.append(inputs.batch(f"{len(lengths)}x{mean}", [mean] * len(lengths)))
    return batches


def _calibration(subject: Subject, options: Options) -> list[Batch]:
    """Other words than those of the batches."""
    inputs = Inputs(load_tokenizer(subject.folder), texts=options.texts, seed=1)
    samples, tokens = CALIBRATION
    return [inputs.batch("", [min(tokens, subject.max_tokens)]) for _ in range(samples)]


def _measure(
    batch: Batch, engines: list[Engine], reference: Engine, subject: Subject, options: Options
) -> dict[str, Any]:
    calls = {engine.name: engine.prepare(batch) for engine in engines}
    outputs = {name: rows(call()[1], batch.lengths) for name, call in calls.items()}
    expected = outputs.get(reference.name) or rows(reference.prepare(batch)()[1], batch.lengths)
    seconds = interleave(calls, rounds=options.rounds, settle=options.settle)
    del calls
    gc.collect()  # a compiled rival can hold a second copy of the weights
    return {
        "name": batch.name,
        "lengths": batch.lengths,
        "useful_flops": subject.useful_flops(batch.lengths),
        "seconds": seconds,
        "max_difference": {name: _difference(output, expected) for name, output in outputs.items()},
        "largest_output": max(float(np.abs(row).max()) for row in expected),
    }


def _difference(output: list[Array], expected: list[Array]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(output, expected, strict=True))
