"""Answers to the chunks of a long file, in order: of this process's pipeline, or of the workers of a Ray cluster.

A cluster's answers are kept beside the output too, a file per chunk, until the whole output is there: a command whose
process was killed goes on from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import read_json, sha256_file, write_bytes, write_json
from pruneonce.folder_lock import FILE_NAME, filling
from pruneonce.formats.packed_file import SUFFIX
from pruneonce.hub_files import local_path
from pruneonce.machine import cache_folder, library_versions
from pruneonce.ray_cluster import Cluster, connected
from pruneonce.remote_files import is_url
from pruneonce.run.model import load_model
from pruneonce.run.pipelines import pipeline as make_pipeline
from pruneonce.run.weights import Kernels, adopt_choices, measured_choices

_RUN = "run.json"  # in the folder of kept answers: what all of them are of


class AnswerAll(Protocol):
    """Chunks of texts to their answers, in order, while chunks are read lazily."""

    def __call__(self, chunks: Iterable[list[str]], /) -> Iterator[Any]: ...


@contextlib.contextmanager
def answering(
    pipeline: Any,
    out: str | Path,
    options: Mapping[str, Any],
    *,
    on: str = "",
    workers: int | None = None,
    worker_threads: int = 1,
) -> Iterator[AnswerAll]:
    """What answers chunks of texts for the file `out`: float32 [texts, size] of embeddings, else a list per chunk.

    on: "" is this process; else a Ray cluster (`ray_cluster.connected`) with the pipeline's packed file sent to it, and
    mapped once by each of its processes. Bits are the same: instruction set and measured kernels are this process's.
    workers: chunks computed at once there, None: as many as fit; worker_threads: CPUs of each. Kept answers go when the
    block ends well.
    """
    if not on:
        yield lambda chunks: (_answers(pipeline, texts, options) for texts in chunks)
        return
    job, model = _job_of(pipeline, options, worker_threads)
    with (
        _kept_answers(_folder_of(out), job) as kept,
        connected(on, cpus=worker_threads, at_once=workers) as cluster,
    ):
        shared = cluster.share(model.read_bytes())
        yield lambda chunks: _answers_of(cluster, shared, kept, pipeline, chunks)


def _answers(pipeline: Any, texts: list[str], options: Mapping[str, Any]) -> Any:
    """Of one chunk, however few texts it has."""
    if not texts and pipeline.task != "embeddings":
        return []
    found = pipeline(texts, **options)
    return [found] if pipeline.task == "fill-mask" and len(texts) == 1 else found


# --------------------------------------------------------------------------------------------------------- on a cluster


@dataclass(frozen=True)
class _Job:
    """All that decides the bits of an answer, but its texts."""

    model: str  # digest of the packed file
    task: str
    max_length: int | None
    options: dict[str, Any]  # of the pipeline's call
    isa: str
    kernels: Kernels
    choices: list[Any]  # kernels that were measured (`measured_choices`)
    threads: int  # which decide no bit

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for kept answers to be used; measurements are taken from where they are kept."""
        return {
            "versions": {name: library_versions().get(name) for name in ("pruneonce", "tokenizers", "numpy")},
            "model": self.model,
            "task": self.task,
            "max_length": self.max_length,
            "options": {name: repr(value) for name, value in sorted(self.options.items())},
            "isa": self.isa,
            "kernels": self.kernels,
        }


def _job_of(pipeline: Any, options: Mapping[str, Any], threads: int) -> tuple[_Job, Path]:
    """What workers need to know, and the packed file that they need."""
    text_model = pipeline.text_model
    model = text_model.model
    if model.file is None:
        raise UsageError("on a cluster a model is run from its packed file: load it with `load_model`")
    file = local_path(model.file)
    job = _Job(
        model=sha256_file(file),
        task=pipeline.task,
        max_length=text_model.max_length,
        options=dict(options),
        isa=model.isa,
        kernels=model.kernels,
        choices=measured_choices(),
        threads=threads,
    )
    return job, file


def _answers_of(
    cluster: Cluster, model: Any, kept: _KeptAnswers, pipeline: Any, chunks: Iterable[list[str]]
) -> Iterator[Any]:
    def ask(texts: list[str]) -> Future[tuple[str, Any]]:
        digest = _digest(texts)
        found = kept.find(digest, len(texts)) if texts else _answers(pipeline, [], kept.job.options)
        if found is None:
            return cluster.submit(_answers_there, model, kept.job, digest, texts)
        ready: Future[tuple[str, Any]] = Future()
        ready.set_result(("", found))
        return ready

    for digest, found in cluster.in_order(ask, chunks):
        if digest:
            kept.keep(digest, found)
        yield found


def _digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


_loaded: dict[tuple[Any, ...], Any] = {}  # the pipeline of this worker


def _answers_there(model: Any, job: _Job, digest: str, texts: list[str]) -> tuple[str, Any]:
    """In a worker: the answers to a chunk, and its digest. model: uint8 [bytes], the packed file."""
    key = (job.model, job.task, job.max_length, job.isa, job.kernels, job.threads)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = _pipeline_there(model, job)
    return digest, _answers(_loaded[key], texts, job.options)


def _pipeline_there(model: Any, job: _Job) -> Any:
    adopt_choices(job.choices)
    with tempfile.TemporaryDirectory(prefix="pruneonce-") as scratch:
        file = Path(scratch) / f"model{SUFFIX}"
        file.write_bytes(model)
        try:
            loaded = load_model(file, isa=job.isa, kernels=job.kernels)  # maps it, so that its name may go
        except UsageError as error:
            raise PruneonceError(
                f"node {socket.gethostname()}: {error}; for a cluster of unequal processors set PRUNEONCE_ISA, where "
                "you start it, to what all of them have"
            ) from error
    return make_pipeline(job.task, loaded, threads=job.threads, max_length=job.max_length)


# -------------------------------------------------------------------------------------------------------- kept answers


class _KeptAnswers:
    """Answers of finished chunks in a folder, each in a file with the digest of its texts for a name."""

    def __init__(self, folder: Path, job: _Job) -> None:
        self.job = job
        self._folder = folder
        self._suffix = ".npy" if job.task == "embeddings" else ".json"

    @property
    def empty(self) -> bool:
        return next(self._folder.glob(f"*[0-9a-f]{self._suffix}"), None) is None

    def find(self, digest: str, texts: int) -> Any:
        """The answers to so many texts; None if they are not there."""
        file = self._folder / f"{digest}{self._suffix}"
        try:
            found = np.load(file, allow_pickle=False) if self._suffix == ".npy" else json.loads(file.read_bytes())
        except (OSError, ValueError, EOFError):
            return None  # not there, or damaged: computed again
        return found if len(found) == texts else None

    def keep(self, digest: str, answers: Any) -> None:
        file = self._folder / f"{digest}{self._suffix}"
        if self._suffix == ".npy":
            stream = io.BytesIO()
            np.save(stream, answers, allow_pickle=False)
            write_bytes(file, stream.getvalue())
        else:
            write_bytes(file, json.dumps(answers, ensure_ascii=False).encode())


@contextlib.contextmanager
def _kept_answers(folder: Path, job: _Job) -> Iterator[_KeptAnswers]:
    """The folder, held by this process; emptied first if its answers are of another job."""
    with filling(folder):
        kept = _KeptAnswers(folder, _same_job(folder, job))
        needed = True
        try:
            yield kept
            needed = False
        finally:
            if not needed or kept.empty:
                shutil.rmtree(folder, ignore_errors=True)


def _same_job(folder: Path, job: _Job) -> _Job:
    """`job`, with the measured kernels of the answers that are there."""
    try:
        found = read_json(folder / _RUN)
        if found["identity"] == job.identity:
            return replace(job, choices=found["choices"])
    except (PruneonceError, LookupError, TypeError):
        pass  # new, or not whole
    for file in folder.iterdir():
        if file.name != FILE_NAME and file.is_file():
            file.unlink()
    write_json(folder / _RUN, {"identity": job.identity, "choices": job.choices})
    return job


def _folder_of(out: str | Path) -> Path:
    """Beside a file of this machine; for one of elsewhere, in the cache of this machine's user."""
    if not is_url(out):
        return Path(out).absolute().parent / f".{Path(out).name}.chunks"
    return cache_folder() / f"chunks-{hashlib.sha256(str(out).encode()).hexdigest()[:16]}"
