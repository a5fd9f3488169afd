"""What passes cost is measured; how a run is made up of them is checked here."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from tiny_stages import prune_values, run
from transformers import AutoConfig, AutoModelForPreTraining

from pruneonce.cost import estimate as module
from pruneonce.cost.estimate import estimate
from pruneonce.cost.probe import Probe, is_distilled, probe
from pruneonce.data.corpus import Corpus
from pruneonce.recipe import Matching, parse_recipe
from pruneonce.sparsity.layers import WorkingLinear
from pruneonce.sparsity.native_attention import NAME
from pruneonce.train.language_model import LanguageModel


@pytest.fixture
def probes(monkeypatch):
    """Passes that cost what they are called: 1 s per example dense, 0.25 s with few weights left, 10 s a teacher."""
    asked = []

    def made_up(recipe, tokens, locked=None, pruned=None):
        asked.append((tokens, locked, pruned))
        example = 1.0 if locked is None and pruned is None else 0.25
        distilled = is_distilled(recipe)
        return Probe(0.0, example, 10.0 if distilled else 0.0, 0.0, 0.0, 1000, 100, 100, 80)

    monkeypatch.setattr(module, "probe", made_up)
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


def compression(corpus="none", **training):
    training = {"steps": 1000, "batch_size": 64, "learning_rate": 1e-4} | training
    matching = {"lengths": [32, 64, 128, 192], "late_lengths": [128, 384], "late_share": 0.25}
    pruning = {"pooler": False}
    values = {"model": "bert-base", "corpus": corpus, "matching": matching, "pruning": pruning, "training": training}
    return parse_recipe(values, "compress")


def test_a_compression_is_timed_in_windows_of_about_the_mean_length_with_its_original(probes):
    """0.75 x 104 + 0.25 x 256 = 142 tokens; 64 places of 32 are 16 windows of 128."""
    found = estimate(compression())
    assert probes == [(128, None, None), (128, None, 0.9)]
    assert (found.steps, found.tokens_per_step) == (1000, 64 * 32)
    early = 0.5 * (1 - (1 / 9) ** (1 / 3))
    assert found.seconds_per_step == pytest.approx(16 * (early + (1 - early) * 0.25) + 16 * 10, rel=1e-3)
    assert found.evaluation_hours * 3600 == pytest.approx(512 * 10)


def test_a_windows_length_is_one_that_the_model_takes(probes):
    values = {"lengths": (40,), "late_lengths": (64,), "late_share": 0.95}
    estimate(replace(compression(), matching=Matching(**values)))
    assert {tokens for tokens, *_ in probes} == {40}, "not 80, which is nearer to the mean than 40"


def test_epochs_of_a_compression_are_passes_over_the_tokens(probes, sentence_corpus):
    found = estimate(compression(str(sentence_corpus), steps=None, epochs=3.0))
    tokens = int(Corpus(sentence_corpus, "train").lengths.sum())
    assert found.steps == pytest.approx(3 * tokens / (64 * 32), abs=1)


@pytest.mark.parametrize("pruned", [None, 0.9])
def test_what_is_timed_of_a_compression_is_what_it_trains(pruned, tiny_bert, pair_corpus, monkeypatch):
    """No vocabulary's logits, attention by our kernels in both models, and the pooler left dense."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    seen = []
    original = LanguageModel.forward

    def forward(self, **inputs):
        found = original(self, **inputs)
        pooler = self.model.bert.pooler.dense
        seen.append((self.model.config._attn_implementation, len(found["mlm"]), isinstance(pooler, WorkingLinear)))
        return found

    monkeypatch.setattr(LanguageModel, "forward", forward)
    found = probe(replace(compression(), model=str(tiny_bert)), 32, pruned=pruned)
    assert found.seconds_per_taught_example > 0
    assert {logits for _, logits, _ in seen} == {0}
    assert not any(masked for *_, masked in seen)
    assert [how for how, *_ in seen[:2]] == [NAME, NAME]
    assert found.masked_parameters == 2 * (4 * 32 * 32 + 2 * 32 * 64)


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
