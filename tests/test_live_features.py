"""Heads whose rows have lost all their weights: attention leaves them out, and answers stay what they were."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import pruneonce
from pruneonce import _native
from pruneonce.convert.to_packed import export_packed
from pruneonce.formats.scales_file import write_quantization
from pruneonce.formats.stored_tensors import Quantization, dense, pack, pack_int8
from pruneonce.run.live_features import live_features
from pruneonce.run.model import load_model
from pruneonce.run.weights import weight_of

ISAS = _native.available_isas()
FAMILIES = ["Bert", "DistilBert", "MPNet"]


def with_features(generator, heads, head_size, tokens, scored, mixed):
    """qkv whose keys and values are the same for all tokens, but for the first features of each head."""
    qkv = generator.normal(size=(3, heads, head_size, tokens)).astype(np.float32)
    for head in range(heads):
        for part, live in ((1, scored), (2, mixed)):
            qkv[part, head, live[head] :] = generator.normal(size=(head_size - live[head], 1))
    return qkv.reshape(-1, tokens)


def attend(qkv, starts, heads, isa, call, **options):
    x, out = _native.Activations(len(qkv), isa=isa), _native.Activations(len(qkv) // 3, isa=isa)
    x.load(np.ascontiguousarray(qkv.T))
    call(x, starts=starts, heads=heads, out=out, **options)
    found = np.empty((qkv.shape[1], len(qkv) // 3), np.float32)
    out.store(found)
    return found.T


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("lengths", [[1], [7, 31, 100], [33, 1, 64, 2], [130]])
@pytest.mark.parametrize(
    ("head_size", "scored", "mixed"),
    [(7, [7, 0, 3], [0, 7, 2]), (64, [64, 17, 0], [5, 0, 64]), (32, [0, 0, 0], [0, 0, 0]), (32, [16, 1, 31], [32] * 3)],
)
def test_features_that_are_the_same_for_all_tokens_change_no_answer(isa, lengths, head_size, scored, mixed):
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    qkv = with_features(np.random.default_rng(0), 3, head_size, starts[-1], scored, mixed)
    live = {"scored": np.array(scored), "mixed": np.array(mixed)}
    for threads in 1, 3:
        _native.set_num_threads(threads)
        found = attend(qkv, starts, 3, isa, _native.attention, **live)
        np.testing.assert_allclose(found, reference.attention(qkv, starts, 3), atol=5e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scored", [[7, 0, 3], [4, 8, 1]])
def test_whole_numbers_of_a_key_that_never_changes_may_be_left_out(isa, scored):
    starts = np.cumsum([0, 9, 70], dtype=np.int64)
    qkv = with_features(np.random.default_rng(1), 3, 8, starts[-1], scored, [8, 8, 8])
    codes = {"scales": np.array([0.02, 0.03, 0.025], np.float32), "zero_points": np.array([120, 131, 128], np.uint8)}
    found = attend(qkv, starts, 3, isa, _native.int8_attention, scored=np.array(scored), **codes)
    whole = attend(qkv, starts, 3, isa, _native.int8_attention, **codes)
    np.testing.assert_allclose(found, whole, atol=0.02)  # a probability between two codes
    assert np.mean(np.isclose(found, whole, atol=1e-6)) > 0.95


@pytest.mark.parametrize("call", [_native.attention, _native.int8_attention])
@pytest.mark.parametrize(
    ("counts", "message"), [([1, 2], "scored has 2 entries, expected 3"), ([1, 2, 5], "0 to the 4"), ([0, -1, 2], "-1")]
)
def test_counts_that_no_head_has_are_refused(call, counts, message):
    codes = {"scales": np.ones(3, np.float32), "zero_points": np.zeros(3, np.uint8)}
    with pytest.raises(ValueError, match=message):
        attend(
            np.zeros((36, 5), np.float32),
            np.array([0, 5]),
            3,
            ISAS[0],
            call,
            scored=np.array(counts),
            **(codes if call is _native.int8_attention else {}),
        )


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["float", "int8", "dense"]),
    move=st.sampled_from(["rows", "columns", "both"]),
)
def test_a_matrix_in_another_order_multiplies_as_itself(rows, columns, seed, kind, move):
    generator = np.random.default_rng(seed)
    whole = np.where(generator.random((2 * rows, columns)) < 0.3, generator.integers(-9, 10, (2 * rows, columns)), 0)
    parts = np.split(whole.astype(np.float32), 2)
    scale = generator.uniform(0.5, 2, (2, rows)).astype(np.float32)
    if kind == "int8":
        codes = np.array([0.5], np.float32), np.array([7], np.uint8)
        tensors = [pack_int8(part * s[:, None], Quantization(s, *codes)) for part, s in zip(parts, scale, strict=True)]
    else:
        tensors = [pack(part) if kind == "float" else dense(part) for part in parts]
    row_order = generator.permutation(2 * rows) if move != "columns" else None
    column_order = generator.permutation(columns) if move != "rows" else None
    x = generator.integers(-3, 4, (5, columns)).astype(np.float32)

    def product(weight, x):
        states, out = _native.Activations(columns, isa=weight.isa), _native.Activations(2 * rows, isa=weight.isa)
        states.load(np.ascontiguousarray(x))
        if kind == "int8":
            space = _native.Codes(isa=weight.isa)
            space.quantize(states, weight)
            states = space
        _native.multiply(weight, states, out=out)
        found = np.empty((5, 2 * rows), np.float32)
        out.store(found)
        return found

    moved = weight_of(tensors, rows=row_order, columns=column_order)
    found = product(moved, x if column_order is None else x[:, column_order])
    expected = product(weight_of(tensors), x)
    np.testing.assert_array_equal(found, expected if row_order is None else expected[:, row_order])


def test_a_model_without_empty_rows_keeps_its_order():
    full = np.ones((6, 6), np.float32)
    assert live_features(dense(full), pack(full), 2) is None
    empty = full.copy()
    empty[[0, 4]] = 0
    live = live_features(pack(empty), dense(full), 2)
    assert live.scored.tolist() == [2, 2]
    assert live.mixed.tolist() == [3, 3]
    assert live.score_order.tolist() == [1, 2, 0, 3, 5, 4]
    assert live.value_order.tolist() == list(range(6))


def model_of(family):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=500, max_position_embeddings=66)
    width = {"dim": 48, "n_heads": 3, "hidden_dim": 96, "n_layers": 2}
    if family != "DistilBert":
        width = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96, "num_hidden_layers": 2}
    config.update(width)
    model = getattr(transformers, f"{family}Model")(config).eval()
    names = ("q_lin", "query", ".q.", "k_lin", "key", ".k.", "v_lin", "value", ".v.")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif "layer" in name:
                parameter.mul_((torch.rand_like(parameter) < 0.2) * 8)
            if parameter.dim() == 2 and any(part in name for part in names):
                parameter[torch.rand(len(parameter)) < 0.5] = 0
        # A whole head of one layer, and one that has lost nothing.
        matrices = [(name, parameter) for name, parameter in model.named_parameters() if parameter.dim() == 2]
        keys = next(matrix for name, matrix in matrices if any(part in name for part in ("k_lin", "key", ".k.")))
        keys[:16] = 0
        keys[16:32] = torch.randn(16, 48) * 0.3
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("numbers", ["fp32", "int8", "int8 attention"])
def test_answers_of_a_model_that_has_lost_rows_are_those_of_transformers(family, numbers, tiny_bert, tmp_path):
    model = model_of(family)
    ids = [np.random.default_rng(length).integers(5, 500, length) for length in (7, 33, 60)]
    inputs = [{"input_ids": torch.tensor(each)[None]} for each in ids]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tiny_bert / "tokenizer.json"))
    scales = None
    if numbers != "fp32":
        if family == "MPNet" and numbers == "int8 attention":
            pytest.skip("its positions are in the scores: attention stays in floats")
        attention = "int8" if numbers == "int8 attention" else "fp32"
        scales = pruneonce.quantize_(model, inputs, attention=attention)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    if scales is not None:
        write_quantization(tmp_path, scales)
    export_packed(tmp_path, tmp_path / "m.pruneonce", embeddings="fp32")
    for isa in ISAS:
        engine = load_model(tmp_path / "m.pruneonce", isa=isa)
        assert all(layer.live is not None for layer in engine.encoder.layers)
        outputs = engine(ids)
        for each, output in zip(inputs, outputs, strict=True):
            if numbers != "fp32":
                continue
            with torch.no_grad():
                expected = model(**each).last_hidden_state[0].numpy()
            np.testing.assert_allclose(output, expected, atol=2e-5)
        whole_heads = load_whole(tmp_path / "m.pruneonce", isa)(ids)
        for output, whole in zip(outputs, whole_heads, strict=True):
            np.testing.assert_allclose(output, whole, atol=2e-5 if numbers == "fp32" else 0.05)
            assert np.mean(np.isclose(output, whole, atol=2e-5)) > 0.98


def load_whole(file, isa):
    """The same model with all features of its heads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pruneonce.run.tensors.live_features", lambda *_: None)
        return load_model(file, isa=isa)
