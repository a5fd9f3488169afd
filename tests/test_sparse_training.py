"""Fine-tuning by the non-zeros alone: the same as dense and masked, killed and resumed, on two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_stages import STEPS, finetune_values, kill, prune_values, run
from transformers import AutoConfig, BertLMHeadModel

import pruneonce
from pruneonce import _native
from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.errors import UsageError
from pruneonce.formats.record import read_provenance
from pruneonce.sparsity.layers import Sparse, WorkingLinear
from pruneonce.train import trainer as training


def values_of(model, data, kernel, **training_values):
    values = finetune_values(model, data, kernel=kernel, **training_values)
    if "steps" in training_values:
        del values["training"]["epochs"]
    return values | {"lock": "require"}


def losses(folder):
    return [entry["loss"] for entry in json.loads((folder / "training_log.json").read_text())]


@pytest.mark.slow
def test_a_hundred_steps_are_those_of_the_masked_dense_layers(sparse_bert, reviews, tmp_path):
    for kernel in ("dense", "sparse"):
        values = values_of(sparse_bert, reviews, kernel, steps=100, log_steps=1, learning_rate=1e-3, weight_decay=0.1)
        run("finetune", values, tmp_path / kernel)
    np.testing.assert_allclose(losses(tmp_path / "sparse"), losses(tmp_path / "dense"), rtol=1e-3, atol=1e-4)
    weights = [load_file(tmp_path / kernel / "model.safetensors") for kernel in ("dense", "sparse")]
    assert weights[0].keys() == weights[1].keys()
    for name, dense in weights[0].items():
        assert torch.equal(dense == 0, weights[1][name] == 0), name
        torch.testing.assert_close(weights[1][name], dense, atol=2e-3, rtol=2e-3, msg=name)
    records = [read_provenance(tmp_path / kernel) for kernel in ("dense", "sparse")]
    assert records[0].masks == records[1].masks
    assert inspect_folder(tmp_path / "sparse").lock_intact


@pytest.mark.slow
def test_two_threads_of_kernels_train_as_one_does(sparse_bert, reviews, tmp_path, monkeypatch):
    """Everywhere else in these tests torch has one thread, and the kernels as many as torch."""
    seen, original = set(), training.StageTrainer.training_step

    def step(self, *arguments, **options):
        seen.add(_native.num_threads())
        return original(self, *arguments, **options)

    monkeypatch.setattr(training.StageTrainer, "training_step", step)
    values = values_of(sparse_bert, reviews, "sparse", steps=STEPS, log_steps=1, learning_rate=1e-3)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            run("finetune", values, tmp_path / str(threads))
    finally:
        torch.set_num_threads(before)
    assert seen == {1, 2}
    np.testing.assert_allclose(losses(tmp_path / "2"), losses(tmp_path / "1"), rtol=1e-5)
    assert read_provenance(tmp_path / "2").masks == read_provenance(tmp_path / "1").masks


@pytest.mark.slow
def test_pruning_computes_what_it_keeps_and_prunes_as_masked_dense_layers_do(
    tiny_bert,
    pair_corpus,
    tmp_path,
    monkeypatch,
):
    used, original = {"dense": [], "sparse": []}, training.StageTrainer.training_step

    def step(self, *arguments, **options):
        model = self.run.hub_model
        used[self.run.training.kernel].append((self.run.pruner.computes_sparse, model.config._attn_implementation))
        return original(self, *arguments, **options)

    monkeypatch.setattr(training.StageTrainer, "training_step", step)
    for kernel in used:
        values = prune_values(tiny_bert, pair_corpus, kernel=kernel, steps=20, log_steps=1, dropout=0.0)
        run("prune", values, tmp_path / kernel)
    assert {each for each, _ in used["dense"]} == {False}
    assert used["sparse"][0] == (False, "sdpa")
    assert used["sparse"][-1] == (True, "pruneonce")
    np.testing.assert_allclose(losses(tmp_path / "sparse"), losses(tmp_path / "dense"), rtol=1e-3)
    weights = [load_file(tmp_path / kernel / "model.safetensors") for kernel in used]
    for name, dense in weights[0].items():
        # Where two magnitudes are nearly equal, rounding may decide which one stays.
        assert float(((dense == 0) == (weights[1][name] == 0)).float().mean()) > 0.995, name
    assert inspect_folder(tmp_path / "sparse").prunable.zeros == inspect_folder(tmp_path / "dense").prunable.zeros
    config = json.loads((tmp_path / "sparse" / "config.json").read_text())
    assert "pruneonce" not in json.dumps(config)


def test_every_locked_layer_is_sparse_while_it_trains(sparse_bert, reviews, tmp_path, monkeypatch):
    seen = []
    original = training.StageTrainer.create_optimizer

    def look(self, *arguments):
        optimizer = original(self, *arguments)
        layers = [each for each in self.run.hub_model.modules() if type(getattr(each, "form", None)) is Sparse]
        parameters = {id(each) for group in optimizer.param_groups for each in group["params"]}
        decayed = {id(each) for group in optimizer.param_groups if group["weight_decay"] for each in group["params"]}
        seen.append((len(layers), all(id(layer.values) in parameters & decayed for layer in layers)))
        return optimizer

    monkeypatch.setattr(training.StageTrainer, "create_optimizer", look)
    run("finetune", values_of(sparse_bert, reviews, "sparse", steps=2, weight_decay=0.1), tmp_path / "out")
    assert seen == [(13, True)]


@pytest.mark.slow
def test_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(sparse_bert, reviews, tmp_path):
    values = values_of(sparse_bert, reviews, "sparse", steps=STEPS, checkpoint_steps=4, dropout=0.1, micro_batch_size=4)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run("finetune", values, straight, keep_checkpoints=True)
    kill("finetune", values, killed, "step 7")
    # Another machine, or another minute, might measure otherwise: the checkpoint decides.
    values["training"]["kernel"] = "dense"
    run("finetune", values, killed, keep_checkpoints=True)
    assert (killed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    last = f"checkpoints/checkpoint-{STEPS}"
    for file in ("model.safetensors", "pruner.safetensors"):
        assert (killed / last / file).read_bytes() == (straight / last / file).read_bytes()
    ours, theirs = (torch.load(folder / last / "optimizer.pt", weights_only=True) for folder in (killed, straight))
    for index, moments in theirs["state"].items():
        assert all(torch.equal(ours["state"][index][name], value) for name, value in moments.items())


@pytest.mark.slow
def test_checkpoints_are_plain_models_and_hold_no_moments_of_zeros(sparse_bert, reviews, tmp_path):
    from transformers import AutoModelForSequenceClassification

    for kernel in ("dense", "sparse"):
        values = values_of(sparse_bert, reviews, kernel, steps=2)
        run("finetune", values, tmp_path / kernel, keep_checkpoints=True)
    dense, sparse = (tmp_path / kernel / "checkpoints" / "checkpoint-2" for kernel in ("dense", "sparse"))
    model, info = AutoModelForSequenceClassification.from_pretrained(sparse, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert float((model.bert.pooler.dense.weight == 0).float().mean()) == pytest.approx(0.9, abs=0.01)

    def elements(folder):
        state = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
        return sum(moments["exp_avg"].numel() for moments in state.values())

    zeros = sum(matrix.zeros for matrix in inspect_folder(sparse_bert).matrices if matrix.prunable)
    assert elements(dense) - elements(sparse) == zeros


@pytest.mark.slow
def test_two_processes_train_like_one_with_the_doubled_batch(sparse_bert, reviews, tmp_path):
    values = values_of(sparse_bert, reviews, "sparse", steps=STEPS, log_steps=1)
    run("finetune", values, tmp_path / "one")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model = "{sparse_bert}"\n[task]\nname = "classification"\ntrain = "{reviews}"\nvalidation = "{reviews}"\n'
        "max_tokens = 32\n[training]\n"
        + "\n".join(f"{key} = {json.dumps(value)}" for key, value in values["training"].items())
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "pruneonce.cli", "finetune", str(recipe), "--out", str(tmp_path / "two"), "--kernel", "sparse"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    assert read_provenance(tmp_path / "two").masks == read_provenance(tmp_path / "one").masks


def test_kernel_for_zeros_without_zeros_is_one_line(tiny_bert, reviews, tmp_path, pruneonce):
    with pytest.raises(UsageError, match=r'kernel = "sparse" is for training with zeros'):
        run("finetune", finetune_values(tiny_bert, reviews, kernel="sparse"), tmp_path / "out")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('model = "m"\n[task]\nname = "sst2"\n[training]\nlearning_rate = 1e-4\nsteps = 1\n')
    code, _, error = pruneonce("finetune", recipe, "--kernel", "fast")
    assert code == 2
    assert "'training.kernel' must be one of 'auto', 'dense', 'sparse', got 'fast'" in error


# ------------------------------------------------------------------------------------------- a loop of one's own


def loop(model, batches, lr=1e-3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
    losses = []
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "input_ids": torch.randint(5, 60, (4, 12), generator=generator),
            "attention_mask": (torch.arange(12) < torch.tensor([12, 5, 9, 1])[:, None]).long(),
            "labels": torch.tensor([0, 1, 1, 0]),
        }
        for _ in range(20)
    ]


def load(folder):
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()  # without dropout


def test_a_loop_of_ones_own_trains_like_masks_and_leaves_an_ordinary_model(sparse_bert, batches, tmp_path):
    models, curves = [], []
    for kernel in ("dense", "sparse"):
        model = load(sparse_bert)
        zeros = {name: each == 0 for name, each in model.state_dict().items() if name.endswith("dense.weight")}
        with pruneonce.sparse_training(model, kernel) as pruner:
            assert pruner.computes_sparse == (kernel == "sparse")
            curves.append(loop(model, batches))
            model.save_pretrained(tmp_path / kernel)  # within, too
        assert all(type(module) is not WorkingLinear for module in model.modules())
        assert all(torch.equal(each == 0, zeros[name]) for name, each in model.state_dict().items() if name in zeros)
        models.append(model.state_dict())
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-3)
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, atol=1e-3, rtol=1e-3, msg=name)
        torch.testing.assert_close(load_file(tmp_path / "sparse" / "model.safetensors")[name], models[1][name])
    assert loop(model, batches[:1], lr=0.0), "the model can still be trained"


def test_a_loop_that_fails_leaves_an_ordinary_model_too(sparse_bert, batches):
    model = load(sparse_bert)
    expected = model(**batches[0]).logits.detach()
    with pytest.raises(RuntimeError, match="out of batches"), pruneonce.sparse_training(model, "sparse"):
        raise RuntimeError("out of batches")
    assert all(type(module) is not WorkingLinear for module in model.modules())
    torch.testing.assert_close(model(**batches[0]).logits, expected)


def test_an_optimizer_made_before_is_refused_at_its_first_step_and_has_stepped_nothing(
    sparse_bert,
    batches,
):
    model = load(sparse_bert)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def steps():
        with pruneonce.sparse_training(model, "sparse"):
            model(**batches[0]).loss.backward()
            optimizer.step()

    with pytest.raises(UsageError, match=r"an optimizer holds bert.*weight, .* make the optimizer within") as caught:
        steps()
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert loop(model, batches[:1]), "outside nothing is refused"


@pytest.mark.parametrize(
    "reason", ["none at all", "made within", "masks alone", "of the head alone", "of another model"]
)
def test_optimizers_that_train_what_they_hold_are_let_be(reason, sparse_bert, batches):
    model = load(sparse_bert)
    other = torch.nn.Linear(2, 2)
    held = {"masks alone": model.parameters(), "of the head alone": model.classifier.parameters()}
    optimizer = torch.optim.SGD(held.get(reason, other.parameters()), lr=0.1)
    with pruneonce.sparse_training(model, "dense" if reason == "masks alone" else "sparse"):
        if reason == "made within":
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(**batches[0]).loss.backward()
        other(torch.ones(1, 2)).sum().backward()
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        assert len(gradients) > 20
        if reason != "none":
            optimizer.step()


def test_attention_follows_whatever_the_pruner_is_told(sparse_bert):
    model = load(sparse_bert)
    with pruneonce.sparse_training(model, "sparse") as pruner:
        seen = [model.config._attn_implementation]
        state = pruner.state()
        pruner.compute_dense()
        seen.append(model.config._attn_implementation)
        pruner.load_state(state)
        seen.append(model.config._attn_implementation)
    assert [*seen, model.config._attn_implementation] == ["pruneonce", "sdpa", "pruneonce", "sdpa"]


def test_a_decoder_sees_nothing_of_what_comes_after(sparse_bert):
    config = AutoConfig.from_pretrained(sparse_bert, is_decoder=True)
    model = BertLMHeadModel.from_pretrained(sparse_bert, config=config).eval()
    ids = torch.arange(5, 17)[None]
    with torch.no_grad(), pruneonce.sparse_training(model, "sparse") as pruner:
        assert pruner.computes_sparse
        whole, begun = (model(tokens, use_cache=False).logits for tokens in (ids, ids[:, :6]))
    torch.testing.assert_close(whole[:, :6], begun)


def test_a_model_in_bfloat16_stays_as_it_is_or_is_refused(sparse_bert, batches):
    model = load(sparse_bert).to(torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pruneonce.sparse_training(model) as pruner:
        assert not pruner.computes_sparse
        model(**batches[0]).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with (
        pytest.raises(UsageError, match=r'kernel "sparse" computes in float32, .* does not'),
        pruneonce.sparse_training(model, "sparse"),
    ):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_zeros_is_refused(tiny_bert):
    with (
        pytest.raises(UsageError, match="no zeros to lock"),
        pruneonce.sparse_training(load(tiny_bert)),
    ):
        pass
