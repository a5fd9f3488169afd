"""Losses on hidden states: beside formulas written out, split steps, killed runs, teachers of another shape."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_objectives import KEYS, SPECIAL, FakeCorpus, features, hub_inputs, tiny
from tiny_stages import finetune_values, kill, prune_values, run
from transformers import AutoConfig, AutoModel, BertForPreTraining, BertForQuestionAnswering, BertModel

import pruneonce
from pruneonce.errors import UsageError
from pruneonce.formats.record import read_provenance
from pruneonce.recipe import Distillation
from pruneonce.stages import setup
from pruneonce.tasks import ClassificationTask, EmbeddingTask, QuestionAnsweringTask, RankingTask
from pruneonce.train.batching import ExampleKey
from pruneonce.train.encoder_model import EncoderModel, load_encoder_model
from pruneonce.train.heads import HEADS
from pruneonce.train.language_model import LanguageModel
from pruneonce.train.losses import HiddenStatesLoss
from pruneonce.train.objectives import HiddenStatesObjective, PretrainingObjective, TaskObjective
from pruneonce.train.teacher import Teacher
from pruneonce.train.teacher_answers import FILE_NAME
from pruneonce.train.trainer import checkpoints_folder

HIDDEN_ALONE = {"hard_weight": 0.0, "kd_weight": 0.0, "hidden_weight": 1.0}


def bodies():
    return [EncoderModel(tiny(BertModel, seed=seed, layers=3)) for seed in (0, 1)]


def relative_error(student, teacher, batch, layers):
    """Written out with numpy, token by token: mean over layers of Σ‖h_s - h_t‖² / Σ‖h_t‖²."""
    with torch.no_grad():
        ours, theirs = (
            model(**hub_inputs(batch), output_hidden_states=True).hidden_states for model in (student, teacher)
        )
    errors = []
    for layer in layers:
        above, below = 0.0, 0.0
        for row, size in enumerate(batch["attention_mask"].sum(1).tolist()):
            for token in range(size):
                wanted = theirs[layer][row, token].double().numpy()
                above += float(((ours[layer][row, token].double().numpy() - wanted) ** 2).sum())
                below += float((wanted**2).sum())
        errors.append(above / below)
    return float(np.mean(errors))


@pytest.fixture
def plain():
    """Student, and the objective that matches its teacher on plain text."""
    student, teacher = bodies()
    return student, HiddenStatesObjective(FakeCorpus(), SPECIAL["pad"], Teacher(teacher))


def loss_of(objective, model, keys=KEYS):
    batch = objective.taught(objective.collate(keys))
    return objective.loss(model, batch, objective.counts(batch))


@pytest.mark.parametrize("layers", [(), (3,), (0, 2)])
def test_hidden_loss_is_the_formula_written_out_for_any_subset_of_layers(plain, layers):
    student, objective = plain
    objective = replace(objective, layers=layers, weight=0.7)
    teacher, batch = objective.teacher.model.model, objective.collate(KEYS)
    expected = relative_error(student.model, teacher, batch, layers or (1, 2, 3))
    assert float(loss_of(objective, student).detach()) == pytest.approx(0.7 * expected, rel=1e-5)


def test_hidden_loss_of_a_step_does_not_depend_on_how_its_batch_is_split(plain):
    """The parts differ in their norms: means of the parts' own ratios would be another number."""
    student, objective = plain
    whole = loss_of(objective, student)
    parts = [objective.taught(objective.collate(KEYS[begin::3])) for begin in range(3)]
    totals = sum(objective.counts(part) for part in parts)
    split = sum(objective.loss(student, part, totals) for part in parts)
    assert torch.allclose(split, whole, rtol=1e-5)
    own = sum(objective.loss(student, part, objective.counts(part)) for part in parts) / 3
    assert not torch.allclose(own, whole, rtol=1e-5)


def test_gradient_of_the_hidden_loss_reaches_the_student_alone_and_neither_head_nor_pooler(plain):
    student, objective = plain
    loss_of(objective, student).backward()
    without = {name for name, parameter in student.model.named_parameters() if parameter.grad is None}
    assert without == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    headed = EncoderModel(tiny(BertForPreTraining))
    frozen = {name for name, parameter in headed.model.named_parameters() if not parameter.requires_grad}
    assert frozen, "heads take no part"
    assert all(name.startswith(("cls.", "bert.pooler.")) for name in frozen)


def test_plain_text_is_left_as_it_is_and_the_same_weights_have_no_error(plain):
    objective = plain[1]
    batch = objective.collate(KEYS)
    for row, key in enumerate(KEYS):
        ids = objective.corpus[key.example].input_ids
        assert np.array_equal(batch["input_ids"][row, : len(ids)].numpy(), ids)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert float(loss_of(objective, objective.teacher.model)) == 0.0


def test_hidden_states_beside_masked_words_are_one_more_term():
    teacher = LanguageModel(tiny(BertForPreTraining, seed=1), nsp=True)
    student = LanguageModel(tiny(BertForPreTraining), nsp=True)
    given = Distillation(hard_weight=0.3, kd_weight=0.5, hidden_weight=2.0)
    objective = PretrainingObjective(FakeCorpus(), SPECIAL, 7, True, teacher=Teacher(teacher), distillation=given)
    without = replace(objective, distillation=replace(given, hidden_weight=0.0))
    batch = objective.collate(KEYS)
    error = relative_error(student.model.bert, teacher.model.bert, batch, [1])
    expected = loss_of(without, student) + 2.0 * error
    assert torch.allclose(loss_of(objective, student), expected, rtol=1e-5)


def test_hidden_states_of_a_task_model_are_one_more_term_and_padding_takes_no_part():
    teacher, student = tiny(BertForQuestionAnswering, seed=1), tiny(BertForQuestionAnswering)
    given = Distillation(hidden_weight=2.0)
    objective = TaskObjective(
        features(8, 40), HEADS["question_answering"], 0, True, teacher=Teacher(teacher), distillation=given
    )
    keys = [ExampleKey(0, 0, 0), ExampleKey(1, 0, 0)]
    without = replace(objective, distillation=replace(given, hidden_weight=0.0))
    error = relative_error(student.bert, teacher.bert, objective.collate(keys), [1])
    expected = loss_of(without, student, keys) + 2.0 * error
    assert torch.allclose(loss_of(objective, student, keys), expected, rtol=1e-5)


def test_hidden_states_come_first_and_alone_where_a_recipe_says_so():
    teacher, student = tiny(BertForQuestionAnswering, seed=1), tiny(BertForQuestionAnswering)
    given = Distillation(hidden_weight=2.0, hidden_first=0.5)
    objective = TaskObjective(
        features(8, 40), HEADS["question_answering"], 0, True, Teacher(teacher), given, hidden_steps=3
    )
    first, then = ([ExampleKey(0, step, 0), ExampleKey(1, step, 0)] for step in (2, 3))
    alone = 2.0 * relative_error(student.bert, teacher.bert, objective.collate(first), [1])
    assert loss_of(objective, student, first).item() == pytest.approx(alone, rel=1e-5)
    everything = loss_of(replace(objective, hidden_steps=0), student, then)
    assert torch.equal(loss_of(objective, student, then), everything)
    assert everything > alone


def test_a_layer_of_zeros_in_the_teacher_gives_a_finite_loss():
    from pruneonce.train.losses import Answer, Totals

    term = HiddenStatesLoss(1.0)
    zeros = Answer({}, (torch.zeros(3, 4),))
    totals = Totals.named(term.norms(zeros), ())
    assert float(term(zeros, zeros, {}, totals)) == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hard_weight": 0.0, "kd_weight": 0.0}, "nor all 0"),
        ({"hidden_weight": -1.0}, "must not be negative"),
        ({"hidden_weight": 1.0, "hidden_first": 1.0}, "at least 0 and below 1"),
        ({"hidden_first": 0.5}, "hidden_first says when labels and logits join"),
        ({**HIDDEN_ALONE, "hidden_first": 0.5}, "hidden_first says when labels and logits join"),
        ({"hidden_layers": (1, 1)}, "different numbers from 0"),
        ({"hidden_layers": (-1,)}, "different numbers from 0"),
    ],
)
def test_weights_and_layers_that_make_no_loss_are_one_line(values, message):
    with pytest.raises(UsageError, match=message):
        Distillation(**values)


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def body(tiny_bert, tmp_path_factory):
    """The tiny BERT without heads."""
    folder = tmp_path_factory.mktemp("body")
    AutoModel.from_pretrained(tiny_bert).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_bert / name).read_bytes())
    return folder


def hidden_values(model, corpus, **training):
    values = prune_values(model, corpus, kernel="dense", **training)
    return values | {"distillation": dict(HIDDEN_ALONE), "pruning": {"pooler": False}}


def losses_of(folder):
    return [entry["loss"] for entry in json.loads((folder / "training_log.json").read_text())]


@pytest.mark.slow
def test_a_bare_body_is_pruned_by_matching_itself_and_resumes_bit_for_bit(body, pair_corpus, tmp_path):
    values = hidden_values(body, pair_corpus, micro_batch_size=4, log_steps=1)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    record = run("prune", values, straight)
    assert set(record.metrics) == {"hidden_error", "hidden_error_1", "hidden_error_2"}
    assert record.metrics["hidden_error"] == pytest.approx(
        (record.metrics["hidden_error_1"] + record.metrics["hidden_error_2"]) / 2
    )
    assert set(load_file(straight / "model.safetensors")) == set(load_file(body / "model.safetensors"))
    assert record.sparsity == pytest.approx(dict.fromkeys(record.sparsity, 0.9), abs=0.01)
    kill("prune", values, killed, "step 7")
    run("prune", values, killed)
    assert (killed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert losses_of(killed) == losses_of(straight)
    whole = run("prune", hidden_values(body, pair_corpus, log_steps=1, dropout=0.0), tmp_path / "whole")
    parts = hidden_values(body, pair_corpus, log_steps=1, dropout=0.0, micro_batch_size=3)
    split = run("prune", parts, tmp_path / "parts")
    np.testing.assert_allclose(losses_of(tmp_path / "parts"), losses_of(tmp_path / "whole"), rtol=1e-3)
    assert split.metrics["hidden_error"] == pytest.approx(whole.metrics["hidden_error"], rel=1e-2)


def test_the_head_that_a_model_has_is_kept_as_it_was(tiny_bert, pair_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(LanguageModel, "forward", None)  # no vocabulary is projected on
    run("prune", hidden_values(tiny_bert, pair_corpus), tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_bert, tmp_path / "out"))
    for name in before:
        if name.startswith("cls.") and "decoder" not in name:
            assert torch.equal(after[name], before[name]), name
    assert read_provenance(tmp_path / "out").recipe["distillation"]["hidden_weight"] == 1.0


def test_teachers_of_another_shape_and_layers_without_a_loss_are_one_line_before_training(body, pair_corpus, tmp_path):
    config = AutoConfig.from_pretrained(body)
    config.num_hidden_layers = 1
    AutoModel.from_config(config).save_pretrained(tmp_path / "other")
    values = hidden_values(body, pair_corpus)
    for changes, message in (
        ({"distillation": HIDDEN_ALONE | {"teacher": str(tmp_path / "other")}}, "has 1 layers of 32 .* the model 2"),
        ({"distillation": HIDDEN_ALONE | {"hidden_layers": [1]}}, "ends at layer 1 of 2"),
        ({"distillation": HIDDEN_ALONE | {"hidden_layers": [3]}}, "names layer 3, the model has 2"),
        ({"pruning": {"pooler": True}}, r"reaches pooler\.dense: set pruning\.pooler = false"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            run("prune", values | changes, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "out").glob("checkpoints"))


@pytest.fixture(scope="module")
def taught_values(sparse_bert, tiny_bert, reviews, tmp_path_factory):
    """Recipe values of fine-tuning towards hidden states and logits, three times over the examples."""
    folder = tmp_path_factory.mktemp("task-teacher")
    run("finetune", finetune_values(tiny_bert, reviews, epochs=1), folder / "dense")
    values = finetune_values(sparse_bert, reviews, epochs=3, log_steps=1, kernel="dense")
    return values | {"distillation": {"teacher": str(folder / "dense"), "hidden_weight": 1.0}}


@pytest.mark.slow
def test_hidden_states_are_kept_where_they_fit_and_else_asked_for_with_the_reason(
    taught_values, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda *_: False)
    kept = []
    original = setup.teacher_answers
    monkeypatch.setattr(
        setup, "teacher_answers", lambda *args, **kwargs: kept.append(original(*args, **kwargs)) or kept[-1]
    )
    run("finetune", taught_values, tmp_path / "kept")
    assert len(kept) == 1
    assert set(kept[0]) == {"logits", "hidden_states"}
    monkeypatch.setattr("pruneonce.train.teacher_answers.HIDDEN_BYTES_KEPT", 1000)
    with caplog.at_level(logging.WARNING):
        run("finetune", taught_values, tmp_path / "asked")
    assert len(kept) == 1
    assert "the teacher is asked in every step: its hidden states" in caplog.text
    np.testing.assert_allclose(losses_of(tmp_path / "asked"), losses_of(tmp_path / "kept"), rtol=1e-3)


@pytest.mark.slow
def test_killed_matching_of_a_task_teacher_goes_on_with_the_same_answers(taught_values, tmp_path):
    values = taught_values | {"training": taught_values["training"] | {"checkpoint_steps": 4}}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run("finetune", values, straight)
    kill("finetune", values, killed, "step 7")
    if not torch.accelerator.is_available():
        assert (checkpoints_folder(killed) / FILE_NAME).is_file()
    run("finetune", values, killed)
    assert (killed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_hidden_states_alone_do_not_leave_a_new_head_untrained(taught_values, tmp_path):
    values = taught_values | {"distillation": taught_values["distillation"] | HIDDEN_ALONE}
    with pytest.raises(UsageError, match="hidden states alone train none"):
        run("finetune", values, tmp_path / "out")


def test_a_checkpoint_without_its_body_is_no_teacher(body, tmp_path):
    from safetensors.torch import save_file

    tensors = load_file(body / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    broken = tmp_path / "broken"
    broken.mkdir()
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    (broken / "config.json").write_bytes((body / "config.json").read_bytes())
    with pytest.raises(UsageError, match=r"it has no encoder\.layer\.1\.output\.dense\.weight"):
        load_encoder_model(broken)


def test_config_that_names_no_class_of_its_family_is_read_as_a_bare_body(body, tmp_path):
    for architectures in (["os"], ["GPT2LMHeadModel"], None):
        folder = tmp_path / str(architectures)
        folder.mkdir()
        config = json.loads((body / "config.json").read_text()) | {"architectures": architectures}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes((body / "model.safetensors").read_bytes())
        assert type(load_encoder_model(folder).model) is BertModel


def test_every_kind_of_task_has_a_head_and_no_code_compares_a_kind():
    assert set(HEADS) == {
        *(ClassificationTask("", labels, (), ()).kind for labels in (None, ("a",))),
        *(task.kind for task in (QuestionAnsweringTask, EmbeddingTask, RankingTask)),
    }
    compared = re.compile(rf"""kind\b *(==|!=|in) *[("'{{\[]+({"|".join(HEADS)})["']""")
    assert compared.search('if task.kind == "regression":')
    for file in Path(pruneonce.__file__).parent.rglob("*.py"):
        assert not compared.search(file.read_text(encoding="utf-8")), file
