"""Fake quantisation against plain numpy, what it does to zeros and gradients, and numbers that should not occur."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pruneonce.errors import PruneonceError
from pruneonce.formats.scales_file import LinearQuantization
from pruneonce.models import FAMILIES
from pruneonce.models.bert import BERT
from pruneonce.models.distilbert import DISTILBERT
from pruneonce.sparsity.fake_quant import (
    Observer,
    fake_quantize,
    input_parameters,
    rounded_input,
    weight_scale,
    whole_weight,
)
from pruneonce.sparsity.layers import Dense, Masked, Sparse
from pruneonce.sparsity.masks import magnitude_mask
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.quantizer import observing, quantizable_linears, quantize_layers, quantized

magnitudes = st.floats(2.0**-30, 2.0**20, width=32)
limits = st.one_of(st.just(0.0), magnitudes)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 4))


def sparse(model):
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(magnitude_mask(layer.weight, 0.75))
    return model


def calibrated(model, x, **options):
    quantizer = quantize_layers(model, ["0", "2"], **options)
    with observing(quantizer):
        model(x)
    return quantizer


def linear_twin(x, weight, bias, quantization):
    """As an integer engine computes a layer: codes, whole weights, an exact sum, one product and the bias."""
    scale, zero_point = quantization.input_scale[0], int(quantization.input_zero_point[0])
    codes = np.clip(np.rint(x * (np.float32(1) / scale)) + np.float32(zero_point), 0, 255).astype(np.int64)
    whole = np.rint(weight / quantization.weight_scale[:, None]).astype(np.int64)
    sums = (codes - zero_point) @ whole.T
    return sums * (quantization.weight_scale.astype(np.float64) * scale) + bias


# ------------------------------------------------------------------------------------------------- the arithmetic


@given(low=limits, high=limits)
def test_every_range_has_a_positive_scale_and_an_exact_zero_and_reaches_its_ends(low, high):
    scale, zero_point = input_parameters(-low, high)
    assert scale > 0
    assert 0 <= zero_point <= 255
    x = torch.tensor([-low, 0.0, high])
    rounded = rounded_input(x, scale, zero_point)
    assert rounded[1] == 0
    assert ((rounded - x).abs() <= scale * 0.501).all()


@given(low=limits, high=limits, seed=st.integers(0, 2**31))
def test_rounding_inputs_is_codes_of_0_to_255_times_the_scale_and_rounding_again_changes_nothing(low, high, seed):
    scale, zero_point = input_parameters(-low, high)
    x = (np.random.default_rng(seed).normal(size=50) * (low + high + 1)).astype(np.float32)
    codes = np.clip(np.rint(x * (np.float32(1) / scale)) + np.float32(zero_point), 0, 255)
    rounded = rounded_input(torch.from_numpy(x), scale, zero_point)
    np.testing.assert_array_equal(rounded.numpy(), (codes - zero_point).astype(np.float32) * scale)
    assert torch.equal(rounded_input(rounded, scale, zero_point), rounded)


@given(seed=st.integers(0, 2**31), exponent=st.integers(-25, 25))
def test_weights_are_whole_numbers_up_to_127_and_zero_stays_zero(seed, exponent):
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy((rng.normal(size=(5, 9)) * (rng.random((5, 9)) < 0.4) * 10.0**exponent).astype("f4"))
    whole = whole_weight(weight, weight_scale(weight))
    assert (whole[weight == 0] == 0).all()
    for row, numbers in zip(weight, whole, strict=True):
        assert numbers.abs().max() == (127 if row.any() else 0), "the whole range is used"
    assert torch.equal(whole, whole.round())


def test_a_channel_of_zeros_has_a_scale_and_stays_zero():
    weight = torch.zeros(2, 4)
    weight[1] = 1e-38  # its scale would be too small to invert
    scale = weight_scale(weight)
    assert scale.tolist() == [1.0, 1.0]
    assert not whole_weight(weight, scale).any()


def test_gradient_passes_inside_the_range_and_stops_outside():
    scale, zero_point = input_parameters(-1.0, 2.0)
    x = torch.tensor([-5.0, -0.9, 0.1, 1.9, 7.0], requires_grad=True)
    fake_quantize(x, scale, zero_point).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_layers_compute_what_integers_would(model, preset):
    sparse(model)
    torch.manual_seed(1)
    x = torch.randn(20, 12) * 3
    quantizer = calibrated(model, x, preset=preset)
    found, _ = quantizer.bake()
    for index in (0, 2):
        layer, quantization = model[index], found[str(index)]
        inputs = torch.randn(50, layer.in_features) * 4  # beyond what was seen: clipped
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        expected = linear_twin(inputs.numpy(), weight, bias, quantization)
        with quantized(model, {str(index): quantization}), torch.no_grad():
            np.testing.assert_allclose(layer(inputs).numpy(), expected, rtol=1e-5, atol=1e-5)
            assert type(layer.form) is Dense
            assert layer.rounding is not None
        assert type(layer) is nn.Linear
        assert len(set(quantization.weight_scale)) == 1 or preset == "default"


def test_what_is_trained_is_what_is_saved(model):
    x = torch.randn(20, 12)
    quantizer = calibrated(sparse(model), x)
    quantizer.update(0)
    with torch.no_grad():
        trained = model(x)
    with observing(quantizer):
        pass  # the second look changed no range
    found, _ = quantizer.bake()
    with quantized(model, found), torch.no_grad():
        torch.testing.assert_close(model(x), trained)
    with torch.no_grad():
        assert not torch.equal(model(x), trained), "the float model does not round its activations"


# -------------------------------------------------------------------------------------------- zeros and training


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_zeros_stay_zeros_through_adamw_and_rounding(model, preset):
    sparse(model)
    zeros = [model[index].weight == 0 for index in (0, 2)]
    pruner = Pruner(model, ["0", "2"])
    quantizer = calibrated(model, torch.randn(20, 12), preset=preset)
    before = model[0].weight.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(20):
        quantizer.update(step)
        optimizer.zero_grad()
        model(torch.randn(5, 12)).square().sum().backward()
        optimizer.step()
        quantizer.end_step()
    found, vanished = quantizer.bake()
    assert all(type(model[index].form) is Masked and model[index].rounding is None for index in (0, 2))
    pruner.bake()
    for index, expected in zip((0, 2), zeros, strict=True):
        weight = model[index].weight.detach()
        assert (weight[expected] == 0).all()
        assert not torch.signbit(weight[weight == 0]).any()
        whole = weight.numpy() / found[str(index)].weight_scale[:, None]
        np.testing.assert_allclose(whole, np.rint(whole), atol=1e-4)
    assert sum(int((model[index].weight == 0).sum()) for index in (0, 2)) == vanished + sum(
        map(int, map(torch.sum, zeros))
    )
    assert not torch.equal(before, model[0].weight), "what is not zero trains"
    assert [type(layer) for layer in model] == [nn.Linear, nn.GELU, nn.Linear]
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_non_zeros_alone_round_and_train_as_the_masked_layers_do(model, preset):
    """One row and one whole layer but for a weight are zeros: segments of length 0 have a scale too."""
    sparse(model)
    with torch.no_grad():
        model[0].weight[3] = 0
        model[2].weight.view(-1)[1:] = 0
        model[2].weight[0, 0] = 0.5
    x = torch.randn(20, 12)
    twins = []
    for kernel in ("masked", "sparse"):
        twin = copy.deepcopy(model)
        pruner = Pruner(twin, ["0", "2"])
        quantizer = calibrated(twin, x, preset=preset, begin_step=1)
        if kernel == "sparse":
            pruner.compute_sparse(["0", "2"])
            assert [type(twin[index].form) for index in (0, 2)] == [Sparse] * 2
        optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.1)
        losses = []
        for step in range(8):
            quantizer.update(step)
            optimizer.zero_grad()
            loss = twin(x[step : step + 9]).square().sum()
            loss.backward()
            losses.append(float(loss.detach()))
            optimizer.step()
            quantizer.end_step()
        state = quantizer.state()
        pruner.compute_dense()
        assert [type(twin[index].form) for index in (0, 2)] == [Masked] * 2
        found, vanished = quantizer.bake()
        pruner.bake()
        twins.append((losses, state, twin.state_dict(), found, vanished))
    (losses, state, weights, found, vanished), sparse_twin = twins
    np.testing.assert_allclose(sparse_twin[0], losses, rtol=1e-4)
    for name, value in state.items():
        torch.testing.assert_close(sparse_twin[1][name], value, rtol=1e-5, atol=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(sparse_twin[2][name], value, rtol=1e-4, atol=1e-5)
    for name, layer in found.items():
        np.testing.assert_allclose(sparse_twin[3][name].weight_scale, layer.weight_scale, rtol=1e-4)
    assert sparse_twin[4] == vanished


def test_quantised_non_zeros_answer_as_the_dense_model_does_and_come_back(model):
    found, _ = calibrated(sparse(model), torch.randn(20, 12)).bake()
    x = torch.randn(9, 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        with quantized(model, found):
            expected = model(x)
        pruner = Pruner(model, ["0", "2"])
        pruner.compute_sparse(["0", "2"])
        with quantized(model, found):
            assert all(type(model[index].form) is Sparse and model[index].rounding for index in (0, 2))
            torch.testing.assert_close(model(x), expected)
        assert not torch.equal(model(x), expected), "outside nothing is rounded"
    pruner.bake()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("first", ["rounding", "mask"])
def test_whichever_of_mask_and_rounding_comes_first_the_model_answers_the_same_and_ends_plain(model, first):
    x = torch.randn(20, 12)
    twin = copy.deepcopy(sparse(model))
    quantizer, pruner = calibrated(twin, x), Pruner(twin, ["0", "2"])
    quantizer.update(0)
    with torch.no_grad():
        expected = twin(x)
    if first == "rounding":
        quantizer = calibrated(model, x)
    pruner = Pruner(model, ["0", "2"])
    if first == "mask":
        quantizer = calibrated(model, x)
    pruner.compute_sparse(["0"])
    quantizer.update(0)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    pruner.compute_dense()
    if first == "mask":
        pruner.bake()
        quantizer.bake()
    else:
        quantizer.bake()
        pruner.bake()
    assert [type(layer) for layer in model] == [nn.Linear, nn.GELU, nn.Linear]
    assert set(vars(model[0])) == set(vars(nn.Linear(1, 1)))


def test_a_layer_rounds_once(model):
    quantize_layers(model, ["0"])
    with pytest.raises(TypeError, match="0 is a WorkingLinear: only linear layers can be quantised, and once"):
        quantize_layers(model, ["0"])


def test_weights_that_round_to_zero_are_counted_and_leave_the_mask(model):
    with torch.no_grad():
        model[0].weight[0] = torch.tensor([1.0, 1e-4, 0.0] + [0.5] * 9)
    pruner = Pruner(model, ["0"])
    _, vanished = calibrated(model, torch.randn(3, 12)).bake()
    assert not model[0].mask[0, 1:3].any()
    pruner.bake()
    assert model[0].weight[0, 1] == 0, "and not the least normal number, which stands for a kept weight"
    assert vanished >= 1


def test_rounding_begins_when_the_recipe_says_and_ranges_are_seen_before(model):
    x = torch.randn(20, 12)
    plain = model(x)
    quantizer = calibrated(model, x, begin_step=2)
    for step, rounds in enumerate((False, False, True)):
        quantizer.update(step)
        assert torch.equal(model(x), plain) is not rounds
        quantizer.end_step()


def test_the_largest_weight_of_a_per_tensor_scale_never_shrinks(model):
    quantizer = calibrated(model, torch.randn(20, 12), preset="paper")
    quantizer.update(0)
    model(torch.randn(3, 12))
    largest = float(model[0].weight.detach().abs().max())
    with torch.no_grad():
        model[0].weight.mul_(0.5)
    found, _ = quantizer.bake()
    assert found["0"].weight_scale[0] == pytest.approx(largest / 127.5)


def test_ranges_follow_by_a_hundredth_per_step_however_a_step_is_cut_up():
    whole, parts = Observer("x"), Observer("x")
    torch.manual_seed(0)
    for _ in range(5):
        x = torch.randn(8, 3)
        whole.see(x)
        for part in x.split(3):
            parts.see(part)
        before = whole.low, whole.high
        whole.end_step()
        parts.end_step()
    assert (parts.low, parts.high) == (whole.low, whole.high)
    assert whole.high == pytest.approx(before[1] + 0.01 * (float(x.max()) - before[1]))
    whole.end_step()
    assert (parts.low, parts.high) == (whole.low, whole.high), "a step that saw nothing changes nothing"


def test_state_restores_ranges_exactly(model):
    x = torch.randn(20, 12)
    first = calibrated(model, x, preset="paper")
    first.update(0)
    model(x * 2)
    first.end_step()
    state = first.state()
    twin = nn.Sequential(nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 4))
    twin.load_state_dict(model.state_dict())
    second = quantize_layers(twin, ["0", "2"], preset="paper")
    second.load_state(state)
    for quantizer in (first, second):
        quantizer.update(1)
    assert torch.equal(model(x), twin(x))
    assert all(torch.equal(value, second.state()[name]) for name, value in first.state().items())


def test_padding_takes_no_part_in_the_ranges():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, attention_mask=None):
            return self.layer(x)

    model = Padded()
    quantizer = quantize_layers(model, ["layer"])
    x = torch.ones(2, 4, 3)
    x[1, 2:] = 100.0
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with observing(quantizer):
        model(x, attention_mask=mask)
    assert model.layer.rounding.input_observer.high == 1.0
    with observing(quantizer):
        model(x, attention_mask=torch.ones(2, 4))
    assert model.layer.rounding.input_observer.high > 1.0


# ------------------------------------------------------------------------------------------- which layers, and names


def test_the_papers_preset_takes_all_linears_and_the_same_roles_in_both_families():
    bert = ["bert.encoder.layer.0.attention.self.query", "bert.pooler.dense", "classifier"]
    assert quantizable_linears(bert, BERT, "paper") == bert
    assert quantizable_linears(bert, BERT, "default") == bert[:2]
    distilbert = ["distilbert.transformer.layer.0.attention.q_lin", "pre_classifier", "classifier"]
    assert quantizable_linears(distilbert, DISTILBERT, "default") == distilbert[:1]
    for family in FAMILIES.values():
        if family.layer.query is None or family.layer.up is None:
            continue  # stacked matrices, which the paper's models have not
        layer = f"{family.base}.{family.layers}.1."
        roles = ("query", "key", "value", "attention_output", "up", "down")
        linears = [layer + getattr(family.layer, role) for role in roles]
        model = nn.ModuleDict()
        for name in linears:
            parent = model
            for part in name.split(".")[:-1]:
                if part not in parent:
                    parent[part] = nn.ModuleDict()
                parent = parent[part]
            parent[name.rpartition(".")[2]] = nn.Linear(4, 4)
        quantizer = quantize_layers(model, linears, preset="paper")
        outputs = [name for name, each in quantizer.layers.items() if each.rounding.output_observer is not None]
        assert outputs == [linears[0], linears[1], linears[4]], family.model_type


def test_only_linear_layers_and_layers_that_exist_are_quantised(model):
    with pytest.raises(TypeError, match="GELU"):
        quantize_layers(model, ["1"])
    layer = LinearQuantization(np.ones(8, "f4"), np.ones(1, "f4"), np.zeros(1, "u1"))
    with pytest.raises(PruneonceError, match="quantised layer 7 is not in the model"), quantized(model, {"7": layer}):
        pytest.fail("it has three layers")
    with pytest.raises(PruneonceError, match="8 scales do not fit"), quantized(model, {"0": layer, "2": layer}):
        pytest.fail("one of the two fits, both do not")
    assert [type(each) for each in model] == [nn.Linear, nn.GELU, nn.Linear], "a refused file leaves the model plain"


# ----------------------------------------------------------------------------------------- numbers that do not occur


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_activations_that_are_not_finite_name_the_layer(model, value):
    x = torch.zeros(3, 12)
    x[1, 2] = value
    with pytest.raises(PruneonceError, match="the input of 0 reaches from"):
        calibrated(model, x)


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_are_not_finite_name_the_layer(model, value, preset):
    quantizer = calibrated(model, torch.randn(3, 12), preset=preset)
    with torch.no_grad():
        model[2].weight[0, 0] = value
    with pytest.raises(PruneonceError, match=r"2\.weight holds what is no finite number"):
        quantizer.bake()


@pytest.mark.parametrize("constant", [0.0, 3.0, -3.0])
def test_a_constant_activation_is_kept_exactly_and_what_was_never_seen_is_clipped(model, constant):
    quantizer = calibrated(model, torch.full((5, 12), constant))
    found, _ = quantizer.bake()
    scale, zero_point = found["0"].input_scale[0], int(found["0"].input_zero_point[0])
    assert rounded_input(torch.tensor(constant), scale, zero_point) == pytest.approx(constant)
    if constant:
        beyond = rounded_input(torch.tensor([-100.0, 100.0]), scale, zero_point)
        assert beyond.tolist() == pytest.approx([min(constant, 0.0), max(constant, 0.0)])


def test_a_layer_that_saw_nothing_has_a_scale(model):
    quantizer = quantize_layers(model, ["0"])
    with observing(quantizer):
        model(torch.empty(0, 12))
    found, _ = quantizer.bake()
    found["0"].check()
    assert (found["0"].input_scale[0], found["0"].input_zero_point[0]) == (1, 0)
