"""Pruning while fine-tuning: exact sparsity, one-shot masks, killed runs, old records, TensorBoard."""

from __future__ import annotations

import functools
import importlib.util
import json

import pytest
import tiny_stages
import torch
from safetensors.torch import load_file

from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.errors import UsageError
from pruneonce.evaluation.predictions import read_predictions
from pruneonce.formats.record import read_provenance
from pruneonce.recipe import Pruning, Training
from pruneonce.sparsity.masks import magnitude_mask
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.schedules import schedule_of
from pruneonce.stages.pruning import learning_rate_factor

run = functools.partial(tiny_stages.run, "finetune")


def values(model, reviews, *, pruning, training=None, **changes):
    return {
        "model": str(model),
        "task": {"name": "classification", "train": str(reviews), "validation": str(reviews), "max_tokens": 32},
        "training": {"steps": 12, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_steps": 4, **(training or {})},
        "pruning": pruning,
        **changes,
    }


@pytest.mark.slow
def test_killed_pruning_on_a_task_ends_bit_for_bit_like_an_uninterrupted_one(tiny_bert, reviews, tmp_path):
    settings = values(tiny_bert, reviews, pruning={"sparsity": 0.8, "frequency_steps": 2})
    record = run(settings, tmp_path / "straight")
    tiny_stages.kill("finetune", settings, tmp_path / "killed", "step 7")
    again = run(settings, tmp_path / "killed")
    straight, killed = (tmp_path / name / "model.safetensors" for name in ("straight", "killed"))
    assert straight.read_bytes() == killed.read_bytes()
    assert again.masks == record.masks
    assert again.metrics == record.metrics
    for matrix in inspect_folder(tmp_path / "killed").matrices:
        if matrix.prunable:
            assert matrix.zeros == int(0.8 * matrix.size)
    assert read_predictions(tmp_path / "killed") == read_predictions(tmp_path / "straight")
    task, splits = read_predictions(tmp_path / "straight")
    assert (task, len(splits[""])) == ("classification", 200)
    assert {name: splits[""].metric(name) for name in record.metrics} == pytest.approx(record.metrics)


def test_one_shot_prunes_the_weights_it_was_given_and_then_locks_them(tiny_bert, reviews, tmp_path):
    run(values(tiny_bert, reviews, pruning={"sparsity": 0.7, "schedule": "one-shot"}), tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_bert, tmp_path / "out"))
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    assert torch.equal(after[name] != 0, magnitude_mask(before[name], 0.7))
    log = json.loads((tmp_path / "out" / "training_log.json").read_text())
    assert {round(entry["sparsity"], 3) for entry in log} == {round(log[0]["sparsity"], 3)}


def test_one_shot_never_touches_the_masks_again():
    schedule = schedule_of(Pruning(sparsity=0.9, schedule="one-shot"), steps=100)
    assert [step for step in range(-1, 100) if schedule.updates_masks_at(step)] == [0]
    assert schedule.sparsity_at(0) == 0.9
    factor = learning_rate_factor(Training(1e-3, steps=100, warmup_ratio=0.1), 100, Pruning(schedule="one-shot"))
    plain = learning_rate_factor(Training(1e-3, steps=100, warmup_ratio=0.1), 100)
    assert [factor(step) for step in range(100)] == [plain(step) for step in range(100)]


def test_initial_sparsity_is_there_from_the_first_step(tiny_bert):
    schedule = schedule_of(Pruning(sparsity=0.9, initial_sparsity=0.7), steps=100)
    assert schedule.sparsity_at(0) == pytest.approx(0.7)
    assert schedule.sparsity_at(50) == 0.9
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(10, 10)})
    pruner = Pruner(model, ["a"], schedule)
    assert pruner.update(0)
    assert pruner.sparsity() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruning": {"sparsity": 0.5, "initial_sparsity": 0.7}}, "must be from 0 to pruning.sparsity"),
        ({"pruning": {}, "lock": "require"}, "choose one"),
        ({"pruning": {"schedule": "often"}}, "must be one of 'cubic', 'one-shot'"),
        ({"pruning": {"end_step": 12}}, "the last mask needs training"),
    ],
)
def test_pruning_that_cannot_be_is_one_line(tiny_bert, reviews, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        run(values(tiny_bert, reviews, **{"pruning": {}, **changes}), tmp_path / "out")


def test_run_of_an_older_version_is_recognised_and_not_run_again(tiny_bert, reviews, tmp_path):
    """Its record lacks the keys that are new since: they are at their defaults."""
    settings = values(tiny_bert, reviews, pruning=False, training={"steps": 2})
    run(settings, tmp_path / "out")
    file = tmp_path / "out" / "pruneonce.json"
    record = json.loads(file.read_text())
    del record["recipe"]["pruning"]
    file.write_text(json.dumps(record))
    written = file.stat().st_mtime_ns
    run(settings, tmp_path / "out")
    assert file.stat().st_mtime_ns == written
    with pytest.raises(UsageError, match="holds a finished run of other inputs"):
        run(values(tiny_bert, reviews, pruning={}, training={"steps": 2}), tmp_path / "out")


def test_runs_with_other_seeds_are_scored_on_the_same_drawn_examples(tiny_bert, reviews, tmp_path):
    digests = set()
    for seed in (1, 2):
        settings = values(tiny_bert, reviews, pruning=False, training={"steps": 1}, seed=seed)
        settings["task"] = settings["task"] | {"validation_examples": 10}
        run(settings, tmp_path / str(seed))
        digests.add(read_predictions(tmp_path / str(seed))[1][""].examples)
    assert len(digests) == 1


def test_tensorboard_writes_events_or_says_what_to_install(tiny_bert, reviews, tmp_path):
    settings = values(tiny_bert, reviews, pruning=False, training={"steps": 2, "tensorboard": True, "log_steps": 1})
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(UsageError, match=r"pruneonce\[tensorboard\]"):
            run(settings, tmp_path / "out")
        return
    run(settings, tmp_path / "out")
    assert list((tmp_path / "out" / "tensorboard").glob("events.*"))
    assert read_provenance(tmp_path / "out") is not None
