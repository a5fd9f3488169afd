"""The real MiniLM on real text: short runs, the real vocabulary, the original file formats."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.data import text
from pruneonce.data.build import build
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import parse_recipe
from pruneonce.stages import RUNNERS, StageOptions, plan_pruning
from pruneonce.tasks import get_task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(assets, tmp_path_factory):
    """The first articles of the Wikipedia leads, in pairs of at most 64 tokens."""
    folder = tmp_path_factory.mktemp("real")
    some = folder / "some.jsonl"
    some.write_text("".join(assets.wikipedia.read_text().splitlines(keepends=True)[:300]))
    text.collect([some], folder / "articles", title_column="title")
    build(folder / "articles", folder / "corpus", tokenizer=assets.model, layout="segment_pair_nsp", max_tokens=64)
    return folder / "corpus"


def run(stage, values, out):
    return RUNNERS[stage](parse_recipe(values, stage), StageOptions(out))


@pytest.fixture(scope="module")
def sparse_minilm(assets, corpus, tmp_path_factory):
    """MiniLM with heads after two steps, then pruned to 90 % in six."""
    folder = tmp_path_factory.mktemp("minilm")
    values = {
        "model": str(assets.model),
        "corpus": str(corpus),
        "validation_examples": 32,
        "training": {"steps": 2, "batch_size": 4, "learning_rate": 1e-4, "checkpoint_steps": 100},
    }
    teacher = run("teacher", values, folder / "teacher")
    values |= {"model": str(folder / "teacher"), "distillation": {"kd_tokens": 0.15}}
    values["training"] = values["training"] | {"steps": 6}
    run("prune", values, folder / "sparse")
    return folder / "sparse", teacher


def test_minilm_plan_counts_its_matrices(assets, corpus):
    values = {"model": str(assets.model), "corpus": str(corpus), "training": {"steps": 10, "learning_rate": 1e-4}}
    plan = plan_pruning(parse_recipe(values, "prune"))
    pruned = [matrix for matrix in plan if matrix.target]
    assert len(pruned) == 6 * 6 + 1
    assert sum(matrix.size for matrix in pruned) == 6 * (4 * 384**2 + 2 * 384 * 1536) + 384**2


def test_fresh_heads_start_better_than_chance_on_real_text(sparse_minilm):
    _, teacher = sparse_minilm
    assert teacher.metrics["mlm_loss"] < 0.9 * math.log(30_522)


def test_real_checkpoint_is_pruned_exactly(sparse_minilm):
    folder, _ = sparse_minilm
    report = inspect_folder(folder)
    assert report.lock_intact
    assert report.prunable.sparsity == pytest.approx(0.9, abs=1e-5)
    assert report.without_embeddings.sparsity > 0.85
    assert report.everything.sparsity < 0.5, "embeddings stay dense, and the totals say so"


@pytest.mark.parametrize(
    ("task", "train", "validation", "metric"),
    [
        ("sst2", "glue/SST-2/train.tsv", "glue/SST-2/dev.tsv", "accuracy"),
        ("mnli", "glue/MNLI/train.subset.tsv", "glue/MNLI/dev_matched.subset.tsv", "accuracy"),
        ("qqp", "glue/QQP/train.subset.tsv", "glue/QQP/dev_from_train.subset.tsv", "f1"),
        ("squad", "squad/train-v1.1-subset.json", "squad/dev-v1.1.json", "f1"),
    ],
)
def test_original_files_train_and_score_with_the_zeros_locked(
    task, train, validation, metric, sparse_minilm, real_data, tmp_path
):
    folder, _ = sparse_minilm
    values = {
        "model": str(folder),
        "lock": "require",
        "task": {
            "name": task,
            "train": str(real_data / train),
            "validation": str(real_data / validation),
            "train_examples": 16,
            "validation_examples": 16,
            "max_tokens": 128,
            "stride_tokens": 32,
        },
        "training": {"steps": 2, "batch_size": 8, "learning_rate": 1e-4, "checkpoint_steps": 100},
    }
    record = run("finetune", values, tmp_path / "out")
    assert metric in record.metrics
    assert inspect_folder(tmp_path / "out").lock_intact


@pytest.mark.parametrize(
    ("task", "train", "validation", "examples"),
    [
        ("sst2", "glue/SST-2/train.tsv", "glue/SST-2/dev.tsv", 100),
        ("squad", "squad/train-v1.1-subset.json", "squad/dev-v1.1.json", 12),
    ],
)
def test_engine_and_transformers_answer_real_examples_alike(
    task, train, validation, examples, sparse_minilm, real_data, tmp_path
):
    values = {
        "model": str(sparse_minilm[0]),
        "task": {
            "name": task,
            "train": str(real_data / train),
            "validation": str(real_data / validation),
            "train_examples": 16,
            "validation_examples": 1,
            "max_tokens": 128,
        },
        "training": {"steps": 1, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_steps": 100},
    }
    run("finetune", values, tmp_path / "out")
    found = parity_script().parity(tmp_path / "out", real_data / validation, limit=examples)
    assert found.examples == examples
    assert found.equal + len(found.different) == examples
    assert found.largest_score_difference < 1e-5
    for each in found.different:  # two answers of one score: rounding decides
        assert abs(each["ours"]["score"] - each["theirs"]["score"]) < 1e-6


def parity_script():
    """benchmarks/parity.py, which is no part of the package."""
    file = Path(__file__).parents[1] / "benchmarks" / "parity.py"
    spec = importlib.util.spec_from_file_location("parity", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["parity"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_long_context_is_windowed_with_the_real_vocabulary(assets, real_data):
    task = get_task("squad")
    examples = task.read(real_data / "squad" / "dev-v1.1.json")[:50]
    windows = task.features(examples, load_tokenizer(assets.model), 64)
    assert len(windows) > len(examples)
    assert max(len(window.input_ids) for window in windows) <= 64
