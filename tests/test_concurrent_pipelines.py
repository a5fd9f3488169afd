"""Pipelines in one process, called at once and with other numbers of threads: each answers as it does alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import pruneonce as package
from pruneonce import _native
from pruneonce.convert.to_packed import export_packed

TEXTS = ["the film was good", "a bad story of the king", "it was not", "the " * 40, "."]
ROUNDS = 12


@pytest.fixture
def threads_as_before():
    before = _native.num_threads()
    yield
    _native.set_num_threads(before)


@pytest.mark.usefixtures("threads_as_before")
def test_two_pipelines_at_once_with_other_numbers_of_threads_answer_bit_for_bit_as_alone(
    sparse_tiny_bert, tiny_bert, tmp_path
):
    export_packed(sparse_tiny_bert, tmp_path / "classes", embeddings="fp32")
    export_packed(tiny_bert, tmp_path / "words", embeddings="fp32")
    masked = [f"{text} [MASK]" for text in TEXTS[:3]]
    calls = {
        threads: (package.pipeline(None, tmp_path / name, threads=threads), texts)
        for threads, name, texts in ((1, "classes", TEXTS), (3, "words", masked))
    }
    alone = {threads: ask(texts) for threads, (ask, texts) in calls.items()}
    start = threading.Barrier(len(calls))

    def work(threads):
        ask, texts = calls[threads]
        start.wait()
        found = []
        for _ in range(ROUNDS):
            _native.set_num_threads(threads)  # as a pipeline that is made now would
            found.append(ask(texts))
        return found

    with ThreadPoolExecutor(len(calls)) as pool:
        for threads, found in zip(calls, pool.map(work, calls), strict=True):
            assert found == [alone[threads]] * ROUNDS
