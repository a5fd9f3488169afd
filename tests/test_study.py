"""Studies on a tiny model: shared runs, resuming, failures, budgets, hostile names."""

from __future__ import annotations

import json

import pytest

from pruneonce.progress import progress_bar
from pruneonce.provenance import read_provenance
from pruneonce.study.plan import make_plan
from pruneonce.study.recipe import load_study
from pruneonce.study.run import run_study

TRAINING = "training = { steps = 4, batch_size = 4, learning_rate = 1e-3, dropout = 0.0 }"
STUDY = f"""
source = "a test"
seeds = [1, 2]
sparsities = [0.5, 0.8]
reference = "once"
corpus = {{ texts = ["leads.jsonl"], title_column = "title", max_tokens = 32 }}
[stages]
teacher = {{ stage = "teacher", validation_examples = 8, {TRAINING} }}
prune = {{ stage = "prune", validation_examples = 8, pruning = {{}}, {TRAINING} }}
locked = {{ stage = "finetune", lock = "require", distillation = {{ teacher = "@dense" }}, {TRAINING} }}
finetune = {{ stage = "finetune", {TRAINING} }}
[tasks.reviews.task]
name = "classification"
train = "reviews.jsonl"
validation = "reviews.jsonl"
max_tokens = 32
[methods.dense]
stages = ["teacher", "finetune"]
[methods.once]
title = "Prune Once"
stages = ["teacher", "prune", "locked"]
"""
AT_FINETUNING = """
[methods.late]
stages = ["teacher", "finetune"]
equal_steps = "once"
sparsities = [0.8]
seeds = [1]
set.finetune = { pruning = { rewind = "off" } }
"""


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Texts and a task, as files below one folder."""
    folder = tmp_path_factory.mktemp("data")
    leads = [{"title": f"{n}", "text": "The city was old. The river was great. " * 3} for n in range(40)]
    reviews = [
        {"text": f"a {word} film {n}", "label": label}
        for n in range(10)
        for word, label in (("good", "positive"), ("bad", "negative"))
    ]
    for name, rows in (("leads.jsonl", leads), ("reviews.jsonl", reviews)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def study(tiny_bert, data, tmp_path):
    """Make the plan of a study's text."""

    def plan(text=STUDY, out="out", overrides=()):
        file = tmp_path / "tiny.toml"
        file.write_text(text)
        settings = [f"model={tiny_bert}", f"data={data}", *overrides]
        return make_plan(load_study(file, settings), tmp_path / out)

    return plan


def test_common_ancestors_are_made_once_and_a_second_run_makes_nothing(study):
    plan = study(STUDY + AT_FINETUNING)
    assert len(plan.cells) == 2 + 2 * 2 + 1
    stages = [node.stage for node in plan.nodes.values()]
    assert (stages.count("teacher"), stages.count("prune"), stages.count("finetune")) == (1, 2, 2 + 4 + 1)
    outcome = run_study(plan, progress_bar)
    assert not outcome.failures
    times = {name: (plan.out / name / "pruneonce.json").stat().st_mtime_ns for name in plan.nodes}
    assert run_study(study(STUDY + AT_FINETUNING), progress_bar).records.keys() == times.keys()
    assert times == {name: (plan.out / name / "pruneonce.json").stat().st_mtime_ns for name in plan.nodes}
    late = next(cell for cell in plan.cells if cell.method == "late")
    record = read_provenance(plan.out / late.chain[-1])
    assert record.steps == 4 + 4, "the steps of prune and locked together"
    assert list(record.sparsity.values()) == pytest.approx([0.8] * len(record.sparsity), abs=0.01)
    assert record.sparsity
