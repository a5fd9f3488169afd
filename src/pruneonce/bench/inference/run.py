"""One benchmark: the model in every engine, case by case, to a record that `results` shows."""

from __future__ import annotations

import contextlib
import datetime
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pruneonce.bench.inference.accuracy import score_engines
from pruneonce.bench.inference.cases import Batch, Inputs, mixed_lengths, parse_grid
from pruneonce.bench.inference.engine_process import EngineProcess, start_engine
from pruneonce.bench.inference.int8_subject import float_subject, int8_subject
from pruneonce.bench.inference.record import BenchModel, BenchRecord, Case
from pruneonce.bench.inference.rivals import (
    ABSENT,
    CALIBRATION,
    OURS,
    OURS_INT8,
    EngineSettings,
    Torch,
    engine_names,
    own_threads,
    pack,
    require,
    rows,
    write_files,
)
from pruneonce.bench.inference.subject import Subject, make_random, read_subject
from pruneonce.bench.speed_limits import best_of, measure_limits
from pruneonce.errors import UsageError
from pruneonce.formats.stored_tensors import Array
from pruneonce.machine import library_versions
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.progress import Advance
from pruneonce.recipe import TaskData

SETTLE_SECONDS = 0.1


@dataclass(frozen=True)
class BenchSettings:
    """What the command line asks for."""

    against: tuple[str, ...]
    grid: str
    threads: int
    rounds: int = 10
    settle: int = 1  # untimed calls of an engine before each timed one
    seed: int = 0  # of the order of engines, another in each round
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
        names = engine_names(settings.against, int8=settings.int8)
        calibration = _calibration(given, settings) if settings.int8 else []
        subject = float_subject(given, work / "float")
        file_bytes = {OURS: pack(subject, work).stat().st_size}
        if settings.int8:
            quantized = int8_subject(given, work / "int8", calibration)
            file_bytes[OURS_INT8] = pack(quantized, work, OURS_INT8).stat().st_size
        made_from = EngineSettings(subject, str(work), settings.threads, str(settings.deepsparse_python or ""))
        write_files(names, made_from, calibration)
        limits_before = measure_limits(settings.threads)
        reference = Torch(subject)
        engines = []
        for name in names:
            engines.append(start_engine(name, made_from, calibration))
            processes.callback(engines[-1].close)
        random = np.random.default_rng(settings.seed)
        cases = []
        for done, (batch, uniform) in enumerate(planned):
            on_progress(done, len(planned), batch.name)
            cases.append(_measure(batch, engines, reference, subject, settings, uniform, random))
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
        file_bytes=file_bytes,
        seed=settings.seed,
        load_seconds={engine.name: engine.load_seconds for engine in engines if engine.load_seconds},
        used={engine.name: engine.used for engine in engines if math.isfinite(engine.used.others)},
        absent=ABSENT if settings.against else {},
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
    batch: Batch,
    engines: list[EngineProcess],
    reference: Torch,
    subject: Subject,
    settings: BenchSettings,
    uniform: str,
    random: np.random.Generator,
) -> Case:
    expected = rows(reference.prepare(batch)()[1], batch.lengths)
    outputs, same_bits = {}, {}
    for engine in engines:
        if len(batch.sequences) > 1:
            alone = rows(engine.prepare(alone_of(batch))()[1], batch.lengths[:1])[0]
        outputs[engine.name] = rows(engine.prepare(batch)()[1], batch.lengths)
        if len(batch.sequences) > 1:
            same_bits[engine.name] = bool(np.array_equal(outputs[engine.name][0], alone))
    time.sleep(SETTLE_SECONDS)  # the reference's threads look for work for a while
    seconds, first = take_turns(engines, settings.rounds, settings.settle, random)
    return Case(
        name=batch.name,
        lengths=batch.lengths,
        useful_flops=subject.useful_flops(batch.lengths),
        seconds=seconds,
        max_difference={name: _difference(output, expected) for name, output in outputs.items()},
        largest_output=max(float(np.abs(row).max()) for row in expected),
        uniform=uniform,
        first_seconds=first,
        resident_bytes={engine.name: engine.resident_bytes for engine in engines},
        same_bits=same_bits,
    )


def alone_of(batch: Batch) -> Batch:
    """Its first sequence."""
    types = None if batch.types is None else batch.types[:1]
    return replace(batch, name=f"{batch.name}, the first alone", sequences=batch.sequences[:1], types=types)


def take_turns(
    engines: Sequence[EngineProcess], rounds: int, settle: int, random: np.random.Generator
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds by engine, one per round, of the last call of a turn, and of the first where there are several.

    Every round has its own order. A turn is `settle` calls and one more: the first finds the caches as the others left
    them, the last as its own did.
    """
    seconds: dict[str, list[float]] = {engine.name: [] for engine in engines}
    first: dict[str, list[float]] = {engine.name: [] for engine in engines if settle}
    for _ in range(rounds):
        for place in random.permutation(len(engines)):
            engine = engines[int(place)]
            results = engine.run(settle + 1)
            seconds[engine.name].append(results[-1][0])
            if settle:
                first[engine.name].append(results[0][0])
    return seconds, first


def _difference(output: list[Array], expected: list[Array]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(output, expected, strict=True))
