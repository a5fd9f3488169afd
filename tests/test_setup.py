"""What a stage begins with: every input is read once, and what may differ between a run and its continuation exists."""

from __future__ import annotations

import dataclasses
import typing

import pytest
import torch
from tiny_stages import finetune_values

from pruneonce.recipe import STAGES, Training, parse_recipe
from pruneonce.stages import StageOptions, setup
from pruneonce.stages.lifecycle import INCIDENTAL_KEYS
from pruneonce.stages.setup import build, open_inputs
from pruneonce.tasks import ClassificationTask
from pruneonce.train.dropout import set_dropout


def fields_of(section):
    """Dotted names of the fields of a recipe's dataclass, and of its sections."""
    for name, hint in typing.get_type_hints(section).items():
        yield name
        for option in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(option):
                yield from (f"{name}.{inner}" for inner in fields_of(option))


def test_every_key_that_may_change_names_a_field():
    """One that names none makes all older runs "other" without a word."""
    known = {field for recipe in STAGES.values() for field in fields_of(recipe)}
    assert set(INCIDENTAL_KEYS) <= known


@pytest.mark.parametrize("method", ["qat", "ptq"])
def test_a_quantised_run_reads_its_training_file_and_its_tokenizer_once(
    sparse_tiny_bert, reviews, tmp_path, monkeypatch, method
):
    read, tokenizers = [], []
    read_file, load_tokenizer = ClassificationTask.read, setup.load_tokenizer

    def counted(task, source, *, training=False):
        read.append((str(source), training))
        return read_file(task, source, training=training)

    monkeypatch.setattr(ClassificationTask, "read", counted)
    monkeypatch.setattr(setup, "load_tokenizer", lambda path: tokenizers.append(path) or load_tokenizer(path))
    values = finetune_values(sparse_tiny_bert, reviews, epochs=1)
    values |= {"method": method, "calibration_examples": 20, "lock": "require"}
    values["task"]["labels"] = ["no", "yes"]
    if method == "ptq":
        del values["training"]
    inputs = open_inputs("quantize", parse_recipe(values, "quantize"))
    work = build(inputs, StageOptions(tmp_path / "out"))
    assert work.quantizer is not None
    assert work.pruner is not None
    assert sorted(read) == [(str(reviews), False), (str(reviews), True)], "once to score on, once to train on"
    assert tokenizers == [str(sparse_tiny_bert)]


def test_steps_are_counted_by_the_examples_unless_they_are_given():
    assert Training(1e-3, steps=7).total_steps(1000) == 7
    assert Training(1e-3, epochs=1.5, batch_size=8).total_steps(100) == 19
    assert Training(1e-3, epochs=0.001, batch_size=8).total_steps(100) == 1


def test_dropout_is_set_everywhere_or_left_alone():
    model = torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Sequential(torch.nn.Dropout(0.2)))
    set_dropout(model, None)
    assert [model[0].p, model[1][0].p] == [0.3, 0.2]
    set_dropout(model, 0.0)
    assert [model[0].p, model[1][0].p] == [0.0, 0.0]
