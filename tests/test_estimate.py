"""What passes cost is measured; how a run is made up of them is checked here."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_stages import prune_values, run
from transformers import AutoConfig, AutoModelForPreTraining

from pruneonce.cost import estimate as module
from pruneonce.cost.estimate import estimate
from pruneonce.cost.probe import Probe
from pruneonce.recipe import parse_recipe


@pytest.fixture
def probes(monkeypatch):
    """Passes that cost what they are called: 1 s per example dense, 0.25 s with few weights left, 10 s a teacher."""
    asked = []

    def probe(recipe, tokens, locked=None, pruned=None):
        asked.append((tokens, locked, pruned))
        example = 1.0 if locked is None and pruned is None else 0.25
        distilled = recipe.distillation is not None
        return Probe(0.0, example, 10.0 if distilled else 0.0, 0.0, 0.0, 1000, 100, 100, 80)

    monkeypatch.setattr(module, "probe", probe)
    return asked


def finetune(**changes):
    training = {"steps": 100, "batch_size": 4, "learning_rate": 1e-4}
    values = {"model": "bert-base", "task": {"name": "sst2", "max_tokens": 8, "train_examples": 400}}
    return parse_recipe(values | {"training": training} | changes, "finetune")


def test_pruning_costs_less_from_the_step_on_that_leaves_a_fifth(probes):
    """The cubic schedule passes 80 % of 90 % after 1 - (1/9)^(1/3) of its half of the steps."""
    training = {"steps": 10_000, "batch_size": 4, "learning_rate": 1e-4}
    recipe = parse_recipe(
        {"model": "bert-base", "corpus": "none", "training": training, "distillation": False}, "prune"
    )
    early = 0.5 * (1 - (1 / 9) ** (1 / 3))
    assert estimate(recipe).seconds_per_step == pytest.approx(4 * (early + (1 - early) * 0.25), rel=1e-3)
    assert probes == [(512, None, None), (512, None, 0.9)]


@pytest.mark.parametrize(("lock", "expected"), [("require", 0.9), ("auto", None), ("off", None)])
def test_zeros_are_taken_for_granted_only_where_the_recipe_requires_them(probes, lock, expected):
    found = estimate(finetune(lock=lock))
    assert probes == [(8, expected, None)]
    assert found.seconds_per_step == pytest.approx(4 * (1.0 if expected is None else 0.25))
    assert estimate(finetune(lock="require"), sparsity=0.5).probe.endswith("50% of the weights locked at 0")


@pytest.mark.parametrize(("steps", "taught"), [(100, 400), (149, 149 * 4), (150, 400), (1000, 400)])
def test_a_task_teacher_is_paid_once_per_example_if_they_come_up_often_enough(probes, steps, taught):
    training = {"steps": steps, "batch_size": 4, "learning_rate": 1e-4}
    found = estimate(finetune(training=training, distillation={"teacher": "bert-base"}))
    assert found.hours * 3600 == pytest.approx(4 * steps + 10 * taught)


@pytest.mark.slow
def test_the_room_on_disk_that_is_told_is_what_a_run_comes_to(tiny_bert, pair_corpus, tmp_path):
    """At its most: the model, and two checkpoints with latent weights and both of Adam's moments."""
    config = AutoConfig.from_pretrained(tiny_bert)
    config.hidden_size, config.intermediate_size = 192, 768
    torch.manual_seed(0)
    AutoModelForPreTraining.from_config(config).save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, tmp_path / "model" / name)
    values = prune_values(tmp_path / "model", pair_corpus, steps=6, checkpoint_steps=2)
    told = estimate(parse_recipe(values, "prune"))
    out = tmp_path / "out"
    run("prune", values, out, keep_checkpoints=True)
    measured = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert told.disk_bytes == pytest.approx(measured, rel=0.05)


def test_the_memory_that_is_told_holds_the_state_and_grows_with_the_examples_of_a_pass(tiny_bert, pair_corpus):
    def told(**training):
        values = prune_values(tiny_bert, pair_corpus, **training) | {"distillation": False}
        return estimate(parse_recipe(values, "prune")).memory_bytes

    parameters = sum(p.numel() for p in AutoModelForPreTraining.from_pretrained(tiny_bert).parameters())
    one, two, four = (told(batch_size=8, micro_batch_size=size) for size in (1, 2, 4))
    assert one > 16 * parameters, "weights, gradients and both of Adam's moments"
    assert four - two == 2 * (two - one) > 0
    assert told(batch_size=64, micro_batch_size=2) == two
