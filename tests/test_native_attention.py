"""Attention in training by our kernels: beside torch's, on every instruction set; and within transformers' models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from pruneonce import _native
from pruneonce.sparsity.cpu_training import CpuTraining
from pruneonce.sparsity.in_place import prune_
from pruneonce.sparsity.native_attention import NAME, NativeAttention, _Attend, _attention

ISAS = _native.available_isas()
pytestmark = pytest.mark.usefixtures("two_threads")


def by_torch(q, k, v, lengths, scale):
    real = (torch.arange(q.shape[1]) < lengths[:, None])[:, None, None, :]
    heads = (each.transpose(1, 2) for each in (q, k, v))
    return functional.scaled_dot_product_attention(*heads, attn_mask=real, scale=scale).transpose(1, 2)


def check(shape, lengths, isa, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v, dout = (torch.randn(shape, generator=generator) for _ in range(4))
    lengths = torch.as_tensor(lengths)
    real = (torch.arange(shape[1]) < lengths[:, None])[:, :, None, None]
    scale = 0.7 / shape[3] ** 0.5
    exact = [each.double().requires_grad_() for each in (q, k, v)]
    wanted = by_torch(*exact, lengths, scale) * real
    gradients = torch.autograd.grad(wanted, exact, dout.double())
    found = [torch.full(shape, float("nan")) for _ in range(4)]
    arrays = [each.numpy() for each in (q, k, v)]
    _native.attend(*arrays, lengths.numpy(), scale=scale, out=found[0].numpy(), isa=isa)
    names = dict(zip(("dq", "dk", "dv"), (each.numpy() for each in found[1:]), strict=True))
    _native.attend_backward(*arrays, lengths.numpy(), scale=scale, dout=dout.numpy(), isa=isa, **names)
    for ours, theirs in zip(found, (wanted, *gradients), strict=True):
        torch.testing.assert_close(ours.double(), theirs.detach(), atol=2e-5, rtol=1e-4)
        assert torch.all(ours[~real.expand(shape)] == 0), "padding must be 0, not what was there"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 130])
@pytest.mark.parametrize("head_size", [16, 32, 48, 64])
def test_attention_and_gradients_at_awkward_lengths(isa, tokens, head_size):
    check((3, tokens, 2, head_size), [tokens, 1, (tokens + 1) // 2], isa)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), tokens=st.integers(1, 90), seed=st.integers(0, 99))
def test_attention_and_gradients_for_any_lengths(data, tokens, seed):
    lengths = data.draw(st.lists(st.integers(1, tokens), min_size=1, max_size=4))
    check((len(lengths), tokens, data.draw(st.integers(1, 3)), 16), lengths, ISAS[-1], seed)


@pytest.mark.parametrize("isa", ISAS)
def test_padding_is_never_read(isa):
    """NaN there would spread through a mask that multiplies or adds."""
    shape, lengths = (2, 40, 2, 16), np.array([40, 7])
    generator = torch.Generator().manual_seed(1)
    q, k, v, dout = (torch.randn(shape, generator=generator) for _ in range(4))
    results = []
    for filler in (0.0, float("nan")):
        for each in (q, k, v, dout):
            each[1, 7:] = filler
        found = [np.full(shape, 7.0, np.float32) for _ in range(4)]
        arrays = [each.numpy() for each in (q, k, v)]
        _native.attend(*arrays, lengths, scale=0.25, out=found[0], isa=isa)
        _native.attend_backward(
            *arrays, lengths, scale=0.25, dout=dout.numpy(), dq=found[1], dk=found[2], dv=found[3], isa=isa
        )
        results.append(found)
    for clean, filled in zip(*results, strict=True):
        assert np.array_equal(clean, filled)


def test_scores_far_apart_do_not_overflow():
    q = torch.tensor([0.0, 300.0, -300.0]).reshape(1, 3, 1, 1).expand(1, 3, 1, 16).contiguous()
    out = _Attend.apply(q, q, q, torch.tensor([3]), 1.0)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out[0, 1], q[0, 1])


def test_wrong_arrays_are_refused_by_name():
    q = np.ones((2, 5, 1, 16), np.float32)
    lengths = np.array([5, 5])
    for message, arguments in {
        "a head has 8 features, expected a multiple of 16": (q[..., :8].copy(), q, q, lengths),
        "3 lengths for 2 sequences": (q, q, q, np.array([5, 5, 5])),
        "lengths must be 1 to 5, got 6": (q, q, q, np.array([5, 6])),
        "lengths must be 1 to 5, got 0": (q, q, q, np.array([0, 5])),
        "k has another shape than q": (q, q[:, :4].copy(), q, lengths),
    }.items():
        with pytest.raises(ValueError, match=message):
            _native.attend(*arguments, scale=1.0, out=q.copy())


# -------------------------------------------------------------------------------------- within transformers' models


def loss_and_gradients(model, batch):
    model.zero_grad()
    output = model(**batch)
    loss = output.loss
    loss.backward()
    return loss.detach(), {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def batch_of(mask):
    generator = torch.Generator().manual_seed(2)
    return {"input_ids": torch.randint(5, 60, mask.shape, generator=generator), "attention_mask": mask.to(torch.int64)}


PADDED_AT_THE_END = torch.arange(24) < torch.tensor([24, 9, 1])[:, None]


@pytest.mark.parametrize("mask", [torch.ones(3, 24, dtype=torch.bool), PADDED_AT_THE_END], ids=["full", "padded"])
@pytest.mark.parametrize("family", ["tiny_bert", "tiny_distilbert"])
def test_loss_and_every_gradient_are_those_of_torchs_attention(mask, family, request, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(request.getfixturevalue(family)).eval()
    batch = batch_of(mask) | {"labels": torch.tensor([0, 1, 1])}
    expected_loss, expected = loss_and_gradients(model, batch)
    calls = []
    original = _native.attend
    monkeypatch.setattr(_native, "attend", lambda *args, **options: calls.append(1) or original(*args, **options))
    attention = NativeAttention(model)
    attention.switch(True)
    loss, gradients = loss_and_gradients(model, batch)
    assert len(calls) == 2, "one call per layer"
    torch.testing.assert_close(loss, expected_loss)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-3, msg=name)
    attention.switch(False)
    loss_and_gradients(model, batch)
    assert len(calls) == 2


def test_spans_of_padded_questions_get_the_same_gradients(tiny_bert):
    model = AutoModelForQuestionAnswering.from_pretrained(tiny_bert).eval()
    batch = batch_of(PADDED_AT_THE_END)
    results, attention = [], NativeAttention(model)
    for native in (False, True):
        attention.switch(native)
        model.zero_grad()
        output = model(**batch)
        logits = output.start_logits.masked_fill(~PADDED_AT_THE_END, -1e4)
        functional.cross_entropy(logits, torch.tensor([3, 8, 0])).backward()
        results.append({name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None})
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("reason", ["holes in the mask", "an empty sequence", "dropout", "double", "odd heads"])
def test_what_the_kernels_do_not_fit_is_left_to_torch(reason, tiny_bert, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval()
    mask = PADDED_AT_THE_END.clone()
    if reason == "holes in the mask":
        mask[0, 3] = False
    elif reason == "an empty sequence":
        mask[2] = False
    elif reason == "dropout":
        model.train()
    elif reason == "double":
        model.double()
    elif reason == "odd heads":
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=8)
        model = BertForSequenceClassification(config).eval()
    batch = batch_of(mask)
    torch.manual_seed(0)
    expected = model(**batch).logits
    NativeAttention(model).switch(True)
    monkeypatch.setattr(_native, "attend", lambda *args, **options: pytest.fail("called"))
    torch.manual_seed(0)
    torch.testing.assert_close(model(**batch).logits, expected)


def test_the_implementation_that_was_there_comes_back(tiny_bert):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, attn_implementation="eager")
    attributes, attention = set(vars(model)), NativeAttention(model)
    for native in (False, True, True, False, False):
        attention.switch(native)
        assert (model.config._attn_implementation == NAME) == native
    assert model.config._attn_implementation == "eager"
    assert set(vars(model)) == attributes, "nothing is left on somebody's model"


def test_a_saved_folder_does_not_show_it(tiny_bert, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    NativeAttention(model).switch(True)
    model.save_pretrained(tmp_path)
    assert NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


# --------------------------------------------------------------------------------------------------------- bfloat16


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_distilbert"])
def test_in_bfloat16_values_and_gradients_are_those_of_float32_within_its_rounding(family, request, monkeypatch):
    """Beside torch's attention in float32; nearer to it than torch's own in bfloat16 is, or about as near."""
    model = AutoModelForSequenceClassification.from_pretrained(request.getfixturevalue(family)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)  # so that attention is not the mean of all tokens
    batch = batch_of(PADDED_AT_THE_END) | {"labels": torch.tensor([0, 1, 1])}
    calls = []
    original = _native.attend
    monkeypatch.setattr(_native, "attend", lambda *args, **options: calls.append(1) or original(*args, **options))
    attention = NativeAttention(model)

    def found(native, autocast):
        attention.switch(native)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return loss_and_gradients(model, batch)

    exact, theirs, ours = found(False, False), found(False, True), found(True, True)
    assert len(calls) == 2, "one call per layer"
    torch.testing.assert_close(ours[0].float(), exact[0], atol=0.02, rtol=0.02)
    assert ours[1].keys() == exact[1].keys()
    largest = max(float(gradient.norm()) for gradient in exact[1].values())
    for name, gradient in exact[1].items():
        if float(gradient.norm()) < 1e-3 * largest:
            continue  # keys' biases: 0 but for rounding
        error, rival = (float((each[1][name] - gradient).norm() / gradient.norm()) for each in (ours, theirs))
        assert error < max(0.03, 1.5 * rival), name
    attention.switch(False)


def test_what_comes_in_bfloat16_leaves_in_bfloat16_and_is_rounded_once():
    """The kernels' float32 answer to the rounded inputs, rounded; gradients alike."""
    generator = torch.Generator().manual_seed(3)
    shape = (2, 3, 20, 16)  # sequences, heads, tokens, head size
    q, k, v = (torch.randn(shape, generator=generator).bfloat16().requires_grad_() for _ in range(3))
    lengths, dout = torch.tensor([20, 7]), torch.randn(2, 20, 3, 16, generator=generator).bfloat16()
    out, _ = _attention(torch.nn.Identity(), q, k, v, lengths, scaling=0.25)
    gradients = torch.autograd.grad(out, (q, k, v), dout)
    plain = [each.detach().float().transpose(1, 2).requires_grad_() for each in (q, k, v)]
    expected = _Attend.apply(*plain, lengths, 0.25)
    expected_gradients = torch.autograd.grad(expected, plain, dout.float())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected.bfloat16())
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, wanted.transpose(1, 2).bfloat16())


def test_half_precision_is_left_to_torch(monkeypatch):
    q = torch.randn(1, 2, 5, 16).half()
    monkeypatch.setattr(_native, "attend", lambda *args, **options: pytest.fail("called"))
    out, _ = _attention(torch.nn.Identity(), q, q, q, None, scaling=0.25)
    assert out.dtype == torch.float16


# ------------------------------------------------------------------------------------------------ from the first step


@pytest.mark.parametrize(("attention", "dense"), [("always", NAME), ("sparse", "sdpa")])
def test_attention_is_ours_from_the_first_step_or_beside_sparse_layers_and_then_as_before(
    attention, dense, tiny_bert, monkeypatch
):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    pruner = prune_(model, 0.9, steps=10)
    before = model.config._attn_implementation
    assert before == "sdpa"
    with CpuTraining(model, pruner, "sparse", attention=attention):
        assert model.config._attn_implementation == dense, "nothing is pruned yet"
        pruner.update(0)
        assert model.config._attn_implementation == dense
        pruner.update(8)
        assert pruner.computes_sparse
        assert model.config._attn_implementation == NAME
        pruner.compute_dense()
        assert model.config._attn_implementation == dense
    assert model.config._attn_implementation == before
    with CpuTraining(model, pruner, "dense", attention=attention):
        assert model.config._attn_implementation == dense, "whatever the kernel of the layers is"
    assert model.config._attn_implementation == before


def test_without_masks_there_is_attention_of_ours_all_the_same_if_it_is_asked_for(tiny_bert, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    with CpuTraining(model, None, attention="always"):
        assert model.config._attn_implementation == NAME
    assert model.config._attn_implementation == "sdpa"


def test_beside_an_accelerator_attention_stays_torchs(tiny_bert, monkeypatch):
    """Tensors are there: our kernels would not be called, and lengths would have to be made masks again."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    with CpuTraining(model, prune_(model, 0.9, steps=10), attention="always"):
        assert model.config._attn_implementation == "sdpa"
