"""The teacher answers each example once: the same training as asking it in every step, killed and resumed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_stages import finetune_values, kill, run

from pruneonce.errors import PruneonceError
from pruneonce.recipe import Distillation
from pruneonce.stages import setup
from pruneonce.train.batching import ExampleKey
from pruneonce.train.heads import head_of
from pruneonce.train.objectives import TaskObjective
from pruneonce.train.task_model import torch_predict
from pruneonce.train.teacher import Teacher
from pruneonce.train.teacher_answers import FILE_NAME, answers_pay, teacher_answers
from pruneonce.train.trainer import checkpoints_folder

LENGTHS = (5, 9, 3, 17, 8, 1)


@pytest.fixture(params=["classification", "question_answering"])
def task(request):
    return SimpleNamespace(kind=request.param, labels=("a", "b", "c"))


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return [
        SimpleNamespace(
            input_ids=list(rng.integers(5, 60, size)),
            token_type_ids=[0] * size,
            label=1,
            start_position=0,
            end_position=size - 1,
        )
        for size in LENGTHS
    ]


def model_for(task, folder, seed):
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    torch.manual_seed(seed)
    if task.kind == "question_answering":
        return AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()


def test_loss_with_answers_given_before_is_that_with_the_teacher_asked(tiny_bert, task, features, tmp_path):
    teacher, student = model_for(task, tiny_bert, 1), model_for(task, tiny_bert, 2)
    taught = teacher_answers(teacher, task, features, 0, tmp_path)
    losses = []
    for extra in ({"teacher": teacher}, {"stored": taught}):
        objective = TaskObjective(features, head_of(task), 0, True, distillation=Distillation("t", 0.3, 0.7), **extra)
        batch = objective.collate([ExampleKey(0, 0, index) for index in (3, 0, 5, 2)])
        losses.append(objective.loss(student, batch, objective.counts(batch)))
    assert float(losses[0].detach()) > 0
    torch.testing.assert_close(losses[1], losses[0])


def test_answers_are_read_back_with_the_same_bits_and_the_teacher_not_asked_again(tiny_bert, task, features, tmp_path):
    first = teacher_answers(model_for(task, tiny_bert, 1), task, features, 0, tmp_path)["logits"]
    again = teacher_answers(None, task, features, 0, tmp_path)["logits"]
    assert [each.shape for each in again] == [each.shape for each in first]
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))


def test_answers_in_lower_precision_are_float32_and_near(tiny_bert, task, features, tmp_path):
    teacher = model_for(task, tiny_bert, 1)
    exact = torch_predict(teacher, task, 0)(features)
    answers = teacher_answers(Teacher(teacher, torch.bfloat16), task, features, 0, tmp_path)["logits"]
    assert any((near != wanted).any() for near, wanted in zip(answers, exact, strict=True))
    for near, wanted in zip(answers, exact, strict=True):
        assert near.dtype == np.float32
        np.testing.assert_allclose(near, wanted, atol=0.1)


@pytest.mark.parametrize("damage", ["cut", "another number of examples", "not there at all inside"])
def test_damaged_answers_are_one_line_that_says_what_to_do(tiny_bert, features, tmp_path, damage):
    task = SimpleNamespace(kind="classification", labels=("a", "b", "c"))
    teacher_answers(model_for(task, tiny_bert, 1), task, features, 0, tmp_path)
    file = tmp_path / FILE_NAME
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "another number of examples":
        features = features[:-1]
    else:
        from safetensors.numpy import save_file

        save_file({"logits": np.ones(3, np.float32)}, file)
    with pytest.raises(PruneonceError, match=r"does not hold the teacher's answers .*delete it") as caught:
        teacher_answers(None, task, features, 0, tmp_path)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def distilled(sparse_bert, tiny_bert, reviews, tmp_path_factory):
    """Recipe values of a run that passes three times over its examples."""
    folder = tmp_path_factory.mktemp("task-teacher")
    run("finetune", finetune_values(tiny_bert, reviews, epochs=1), folder / "dense")
    values = finetune_values(sparse_bert, reviews, epochs=3, log_steps=1, checkpoint_steps=4)
    return values | {"distillation": {"teacher": str(folder / "dense")}}


def losses_of(folder):
    return [entry["loss"] for entry in json.loads((folder / "training_log.json").read_text())]


@pytest.mark.slow
def test_training_is_the_same_as_with_the_teacher_asked_in_every_step(distilled, tmp_path, monkeypatch):
    asked = []
    original = setup.teacher_answers
    monkeypatch.setattr(setup, "teacher_answers", lambda *args, **kwargs: asked.append(1) or original(*args, **kwargs))
    run("finetune", distilled, tmp_path / "once")
    monkeypatch.setattr(setup, "answers_pay", lambda *sizes: False)
    run("finetune", distilled, tmp_path / "always")
    assert asked == [1]
    np.testing.assert_allclose(losses_of(tmp_path / "once"), losses_of(tmp_path / "always"), rtol=1e-4)
    assert not list(tmp_path.glob(f"**/{FILE_NAME}")), "a finished folder must not keep them"


@pytest.mark.slow
def test_killed_distillation_ends_bit_for_bit_like_an_uninterrupted_one(distilled, tmp_path, monkeypatch):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run("finetune", distilled, straight)
    kill("finetune", distilled, killed, "step 7")
    assert (checkpoints_folder(killed) / FILE_NAME).is_file()
    run("finetune", distilled, killed)
    assert losses_of(killed) == losses_of(straight)
    assert (killed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_less_than_a_pass_asks_the_teacher_only_what_is_used():
    assert not answers_pay(examples_trained=100, examples=100)
    if not torch.accelerator.is_available():
        assert answers_pay(examples_trained=200, examples=100)
