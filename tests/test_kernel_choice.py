"""Which kernel a matrix gets, and that every choice computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from pruneonce import _native
from pruneonce.formats.stored_tensors import Quantization, dense, pack, pack_int8
from pruneonce.run import weights as kernel_choice
from pruneonce.run.weights import weight_of


@pytest.fixture(autouse=True)
def nothing_measured_before(monkeypatch):
    monkeypatch.setattr(kernel_choice, "_chosen", {})


def whole_weights(density, block=1, rows=64, columns=256):
    """float32 [rows, columns]: whole numbers of 1 to 100, in blocks of neighbours, and zeros."""
    generator = np.random.default_rng(0)
    kept = np.repeat(generator.random((rows, columns // block)) < density, block, axis=1)
    return np.where(kept, generator.integers(1, 101, (rows, columns)), 0).astype(np.float32)


def quantized(weight, input_scale=0.1):
    scale = np.ones(len(weight), np.float32)
    return pack_int8(weight, Quantization(scale, np.array([input_scale], np.float32), np.array([7], np.uint8)))


def prefer(monkeypatch, name):
    """Let a measurement of several kernels prefer one of them."""
    kind = {
        "any": lambda weight: isinstance(weight, _native.Int8Weight) and weight.stored < 64 * 256,
        "neighbours": lambda weight: isinstance(weight, _native.Int8Weight),
        "dense": lambda weight: isinstance(weight, _native.Int8DenseWeight | _native.DenseWeight),
    }[name]
    seen = []

    def seconds(weight):
        seen.append(weight)
        return 0.0 if kind(weight) else 1.0

    monkeypatch.setattr(kernel_choice, "_seconds", seconds)
    return seen


def test_few_scattered_weights_are_not_measured_at_all(monkeypatch):
    seen = prefer(monkeypatch, "dense")
    assert isinstance(weight_of([quantized(whole_weights(0.1))], isa="scalar"), _native.Int8Weight)
    assert isinstance(weight_of([pack(whole_weights(0.1))]), _native.PackedWeight)
    assert not seen


@pytest.mark.skipif("amx" not in _native.available_isas(), reason="this processor multiplies no tiles")
def test_where_tiles_multiply_dense_codes_the_fewest_weights_are_measured_too(monkeypatch):
    prefer(monkeypatch, "dense")
    assert isinstance(weight_of([quantized(whole_weights(0.02))], isa="amx"), _native.Int8DenseWeight)
    assert isinstance(weight_of([quantized(whole_weights(0.02))], isa="amx", kernels="sparse"), _native.Int8Weight)
    assert isinstance(weight_of([pack(whole_weights(0.1))], isa="amx"), _native.PackedWeight)


def test_a_dense_layer_gets_dense_code_where_that_is_faster(monkeypatch):
    prefer(monkeypatch, "dense")
    assert isinstance(weight_of([quantized(whole_weights(0.9))]), _native.Int8DenseWeight)
    assert isinstance(weight_of([pack(whole_weights(0.9))]), _native.DenseWeight)


def test_blocks_are_tried_and_a_shape_is_measured_once(monkeypatch):
    seen = prefer(monkeypatch, "neighbours")
    for _ in range(2):
        weight = weight_of([quantized(whole_weights(0.1, block=4))], isa="scalar")
        assert weight.nonzeros == np.count_nonzero(whole_weights(0.1, block=4))
    assert len(seen) == 2  # any and neighbours, once each
    weight_of([quantized(whole_weights(0.5, block=4))], isa="scalar")
    assert len(seen) == 5  # another density, and dense too


def test_matrices_with_other_codes_of_one_input_are_refused():
    with pytest.raises(ValueError, match="must all be quantised, with one input scale"):
        weight_of([quantized(whole_weights(0.1)), quantized(whole_weights(0.1), input_scale=0.2)])
    with pytest.raises(ValueError, match="must all be quantised, with one input scale"):
        weight_of([quantized(whole_weights(0.1)), pack(whole_weights(0.1))])


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("density", [0.1, 0.5])
def test_whatever_is_chosen_the_sums_are_the_same(monkeypatch, isa, block, density):
    weight = whole_weights(density, block)
    x = np.random.default_rng(1).normal(size=(40, 256)).astype(np.float32)
    results = []
    for name in "any", "neighbours", "dense":
        monkeypatch.setattr(kernel_choice, "_chosen", {})
        prefer(monkeypatch, name)
        chosen = weight_of([quantized(weight)], isa)
        states, codes, out = (
            _native.Activations(256, isa=isa),
            _native.Codes(isa=isa),
            _native.Activations(64, isa=isa),
        )
        states.load(x)
        codes.quantize(states, chosen)
        _native.multiply(chosen, codes, out=out)
        rows = np.empty((40, 64), np.float32)
        out.store(rows)
        results.append(rows)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_a_pinned_choice_is_never_measured_where_numbers_depend_on_it(monkeypatch):
    seen = prefer(monkeypatch, "dense")
    few, many = pack(whole_weights(0.1)), pack(whole_weights(0.9))
    assert isinstance(weight_of([few], kernels="dense"), _native.DenseWeight)
    assert isinstance(weight_of([many], kernels="sparse"), _native.PackedWeight)
    assert isinstance(weight_of([few, many], kernels="sparse"), _native.PackedWeight)
    assert isinstance(weight_of([dense(whole_weights(0.9))], kernels="sparse"), _native.DenseWeight)
    assert isinstance(weight_of([quantized(whole_weights(0.1))], kernels="dense"), _native.Int8DenseWeight)
    assert not seen
    assert isinstance(weight_of([quantized(whole_weights(0.9, block=4))], kernels="sparse"), _native.Int8Weight)
