"""A model in memory: pruned, locked, quantised and exported by calls, in a loop of one's own and in a Trainer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import pruneonce as package
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.sparsity.layers import WorkingLinear
from pruneonce.train.callbacks import PRUNER_FILE, PruneCallback

STEPS = 10


@pytest.fixture
def model(tiny_bert):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "input_ids": torch.randint(5, 40, (4, 12), generator=generator),
            "attention_mask": torch.tensor([[1] * 12] * 3 + [[1] * 8 + [0] * 4]),
            "labels": torch.tensor([0, 1, 0, 1]),
        }
        for _ in range(STEPS)
    ]


def prunable(model):
    return {
        name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name != "classifier"
    }


def zeros(model):
    return {name: float((layer.weight == 0).float().mean()) for name, layer in prunable(model).items()}


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# ------------------------------------------------------------------------------------------------ a loop of one's own


def test_zeros_grow_in_a_loop_while_an_optimizer_made_before_trains(model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = package.prune_(model, 0.75, steps=STEPS)
    before, seen = weights(model), []
    for step, batch in enumerate(batches):
        pruner.update(step)
        seen.append(pruner.sparsity())
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    pruner.bake()
    assert seen[0] < seen[2] < seen[5] == pytest.approx(0.75, abs=0.001)
    assert all(share == pytest.approx(0.75, abs=0.001) for share in zeros(model).values())
    assert not any(isinstance(layer, WorkingLinear) for layer in model.modules())
    assert all(not torch.equal(before[f"{name}.weight"], layer.weight) for name, layer in prunable(model).items())


def test_without_steps_all_zeros_come_at_once_and_no_training_moves_them(model, batches):
    pruner = package.prune_(model, 0.5, pattern="1x4")
    digests = pruner.digests()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for step, batch in enumerate(batches):
        assert not pruner.update(step), "locked masks are not recomputed"
        model(**batch).loss.backward()
        optimizer.step()
    assert pruner.digests() == digests
    pruner.bake()
    assert all(share == 0.5 for share in zeros(model).values())


def test_locking_keeps_the_zeros_that_a_model_has(model, batches):
    package.prune_(model, 0.8).bake()
    before = zeros(model)
    pruner = package.lock_(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for batch in batches:
        model(**batch).loss.backward()
        optimizer.step()
    pruner.bake()
    assert zeros(model) == before


def test_a_dense_model_has_nothing_to_lock(model):
    with pytest.raises(UsageError, match=r"no zeros to lock .* prune it first"):
        package.lock_(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.5}, "sparsity must be between 0 and 1"),
        ({"names": ["no.such"]}, "'no.such' is no linear layer"),
        ({"names": ["bert.embeddings"]}, "'bert.embeddings' is no linear layer"),
        ({"steps": 0}, "must be below training.steps"),
        ({"pattern": "1x4", "names": ["odd"]}, 'pattern "1x4": odd.weight of .* = "unstructured"'),
    ],
)
def test_what_cannot_be_pruned_is_refused_and_the_model_left_alone(model, arguments, message):
    model.odd = nn.Linear(7, 3)
    with pytest.raises(UsageError, match=message):
        package.prune_(model, **arguments)
    assert not any(isinstance(layer, WorkingLinear) for layer in model.modules())


def test_a_model_of_no_family_is_pruned_by_names_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(UsageError, match=r"no config\.model_type.*names="):
        package.prune_(model)
    package.prune_(model, 0.5, names=["0"]).bake()
    assert float((model[0].weight == 0).float().mean()) == 0.5
    assert not (model[2].weight == 0).any()


# --------------------------------------------------------------------------------------------------- quantise, export


def test_what_is_exported_from_memory_answers_as_the_model_does(model, batches, tiny_bert, tmp_path):
    package.prune_(model, 0.75).bake()
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    package.export(model.eval(), tmp_path / "float.pruneonce", tokenizer, embeddings="fp32")
    texts = ["the city was old", "a good film"]
    logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.detach().softmax(-1).numpy()
    answers = package.pipeline("text-classification", tmp_path / "float.pruneonce")(texts)
    np.testing.assert_allclose([each["score"] for each in answers], logits.max(axis=1), atol=1e-5)


def test_quantised_weights_are_whole_numbers_and_the_file_is_int8(model, batches, tiny_bert, tmp_path):
    package.prune_(model, 0.75).bake()
    before, training = zeros(model), model.train().training
    scales = package.quantize_(model, batches[:3])
    assert model.training == training
    assert scales.keys() == prunable(model).keys()
    for name, layer in prunable(model).items():
        whole = layer.weight / torch.from_numpy(scales[name].weight_scale)[:, None]
        torch.testing.assert_close(whole, whole.round(), atol=1e-3, rtol=0)
        assert float((layer.weight == 0).float().mean()) >= before[name]
    package.export(model, tmp_path / "m.pruneonce", AutoTokenizer.from_pretrained(tiny_bert), scales)
    report = package.inspect(tmp_path / "m.pruneonce")
    assert "int8" in str(report)


def test_calibration_without_a_batch_is_refused_and_the_model_left_alone(model):
    before = weights(model)
    with pytest.raises(UsageError, match="at least one batch"):
        package.quantize_(model, [])
    assert not any(isinstance(layer, WorkingLinear) for layer in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_still_has_its_masks_is_not_exported(model, tiny_bert, tmp_path):
    package.prune_(model, 0.5)
    with pytest.raises(UsageError, match=r"still has its mask: call bake\(\)"):
        package.export(model, tmp_path / "m.pruneonce", AutoTokenizer.from_pretrained(tiny_bert))
    with pytest.raises(UsageError, match="needs the model's tokenizer"):
        package.export(model, tmp_path / "m.pruneonce")
    with pytest.raises(UsageError, match="which has its own tokenizer"):
        package.export(tiny_bert, tmp_path / "m.pruneonce", AutoTokenizer.from_pretrained(tiny_bert))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------- a Trainer


def trainer_for(model, batches, out, callback, **arguments):
    rows = [{name: value[row] for name, value in batch.items()} for batch in batches for row in range(4)]
    settings = TrainingArguments(
        output_dir=str(out),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        save_strategy="steps",
        save_steps=3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        **arguments,
    )
    return Trainer(model=model, args=settings, train_dataset=rows, callbacks=[callback])


def test_a_trainer_prunes_and_its_checkpoints_are_sparse(model, batches, tmp_path):
    pruner = package.prune_(model, 0.75, steps=STEPS)
    trainer_for(model, batches, tmp_path, PruneCallback(pruner)).train()
    assert all(share == pytest.approx(0.75, abs=0.001) for share in zeros(model).values())
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-9")
    assert all(share == pytest.approx(0.75, abs=0.001) for share in zeros(loaded).values())
    assert not any(isinstance(layer, WorkingLinear) for layer in model.modules())


def test_a_trainer_that_was_stopped_goes_on_bit_for_bit(tiny_bert, batches, tmp_path):
    def fresh():
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)

    whole = fresh()
    trainer_for(whole, batches, tmp_path / "whole", PruneCallback(package.prune_(whole, 0.75, steps=STEPS))).train()
    resumed = fresh()
    callback = PruneCallback(package.prune_(resumed, 0.75, steps=STEPS), tmp_path / "whole" / "checkpoint-3")
    trainer = trainer_for(resumed, batches, tmp_path / "resumed", callback)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_a_checkpoint_without_the_pruners_state_is_refused(model, batches, tmp_path):
    pruner = package.prune_(model, 0.75, steps=STEPS)
    trainer_for(model, batches, tmp_path, PruneCallback(pruner)).train()
    (tmp_path / "checkpoint-3" / PRUNER_FILE).unlink()
    pruner = package.prune_(model, 0.75, steps=STEPS)
    callback = PruneCallback(pruner, tmp_path / "checkpoint-3")
    with pytest.raises(PruneonceError, match=f"checkpoint-3 has no {PRUNER_FILE}"):
        trainer_for(model, batches, tmp_path, callback).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_an_optimizer_of_another_model_is_an_error_before_the_first_step(model, tiny_bert, batches, tmp_path):
    pruner = package.prune_(model, 0.75, steps=STEPS)
    other = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    trainer = trainer_for(model, batches, tmp_path, PruneCallback(pruner))
    trainer.optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3)
    with pytest.raises(UsageError, match=r"the optimizer does not hold bert\.encoder\..*make it anew"):
        trainer.train()
