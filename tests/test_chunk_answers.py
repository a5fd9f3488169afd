"""Answers that a cluster's run keeps beside its output: never another job's, never a damaged one; and `--on` itself."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys

import numpy as np
import pytest

from pruneonce import ray_cluster
from pruneonce.data.executor import ordered_map
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.run import chunk_answers as module

JOB = module._Job("5" * 64, "embeddings", None, {"prompt": None}, "avx2", "measured", [[["float", 8], "dense"]], 1)
TEXTS = ["a good film", "the old city"]
VECTORS = np.arange(8, dtype=np.float32).reshape(2, 4)


def left_by_a_failed_run(folder, job=JOB, answers=VECTORS):
    with contextlib.suppress(KeyboardInterrupt), module._kept_answers(folder, job) as kept:
        kept.keep(module._digest(TEXTS), answers)
        raise KeyboardInterrupt


def found(folder, job=JOB, texts=TEXTS):
    with contextlib.suppress(KeyboardInterrupt), module._kept_answers(folder, job) as kept:
        answers = kept.find(module._digest(texts), len(texts))
        raise KeyboardInterrupt
    return answers


def test_a_run_that_failed_leaves_its_answers_and_one_that_ended_well_leaves_nothing(tmp_path):
    folder = tmp_path / ".v.npy.chunks"
    left_by_a_failed_run(folder)
    np.testing.assert_array_equal(found(folder), VECTORS)
    with module._kept_answers(folder, JOB):
        pass
    assert not folder.exists()


def test_a_run_that_fails_before_its_first_answer_leaves_no_folder(tmp_path):
    assert found(tmp_path / "chunks") is None
    assert not (tmp_path / "chunks").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model": "6" * 64},
        {"options": {"prompt": "query: "}},
        {"isa": "avx512"},
        {"max_length": 8},
        {"kernels": "dense"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_answers_of_another_job_are_not_taken_and_do_not_stay(tmp_path, change):
    left_by_a_failed_run(tmp_path / "chunks")
    assert found(tmp_path / "chunks", dataclasses.replace(JOB, **change)) is None
    assert found(tmp_path / "chunks") is None


def test_other_texts_find_no_answers(tmp_path):
    left_by_a_failed_run(tmp_path / "chunks")
    assert found(tmp_path / "chunks", texts=["a good film", "the old river"]) is None
    assert found(tmp_path / "chunks", texts=["a good filmthe old city"]) is None


def test_a_run_that_goes_on_computes_with_the_kernels_that_the_first_one_measured(tmp_path):
    left_by_a_failed_run(tmp_path / "chunks")
    other = dataclasses.replace(JOB, choices=[[["float", 8], "sparse"]], threads=7)
    with module._kept_answers(tmp_path / "chunks", other) as kept:
        assert kept.job.choices == JOB.choices
        assert kept.find(module._digest(TEXTS), 2) is not None


@pytest.mark.parametrize("task", ["embeddings", "text-classification"])
@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"", lambda data: b"\x80\x04." + data])
def test_a_damaged_answer_is_computed_again(tmp_path, task, damage):
    job = dataclasses.replace(JOB, task=task)
    answers = VECTORS if task == "embeddings" else [{"label": "good", "score": 0.5}] * 2
    left_by_a_failed_run(tmp_path / "chunks", job, answers)
    (file,) = (each for each in (tmp_path / "chunks").iterdir() if each.name.startswith(module._digest(TEXTS)))
    file.write_bytes(damage(file.read_bytes()))
    assert found(tmp_path / "chunks", job) is None


def test_two_commands_do_not_keep_answers_in_one_folder(tmp_path):
    with (
        module._kept_answers(tmp_path / "chunks", JOB),
        pytest.raises(PruneonceError, match="is being filled by process"),
        module._kept_answers(tmp_path / "chunks", JOB),
    ):
        pass


def test_what_is_kept_for_a_url_is_on_this_machine_and_apart_for_each(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {module._folder_of(f"s3://bucket/{name}.npy") for name in "ab"}
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {tmp_path / "pruneonce"}


@pytest.mark.parametrize(
    "on", ["local", "ray:", "ray://", "ray://host", "ray://:1", "ray://host:x", "rays://h:1", "RAY"]
)
def test_what_is_no_cluster_is_one_line(on):
    with pytest.raises(UsageError, match=r"ray or ray://HOST:PORT is expected"):
        ray_cluster.check_on(on)


def test_without_ray_a_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'pruneonce\[ray\]'"):
        list(ordered_map(len, ["a"], workers=None, on="ray"))


def test_a_worker_that_does_not_see_the_shared_folder_or_is_of_another_version_is_one_line(tmp_path):
    version = ray_cluster._own_version()
    unshared = ray_cluster._Setting(version, 1, str(tmp_path), str(tmp_path / "gone" / ".marker"))
    with pytest.raises(PruneonceError, match=r"does not see .*gone: a folder that all nodes share"):
        ray_cluster._work(unshared, len, "a")
    with pytest.raises(PruneonceError, match=r"has pruneonce .*, and you 0\.0\.1: make them equal"):
        ray_cluster._work(ray_cluster._Setting("0.0.1", 1), len, "a")


def test_a_relative_path_means_in_a_worker_what_it_means_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    (tmp_path / "marker").mkdir()
    setting = ray_cluster._Setting(ray_cluster._own_version(), 1, str(tmp_path), str(tmp_path / "marker"))
    assert ray_cluster._work(setting, os.path.realpath, "out") == str(tmp_path.resolve() / "out")
