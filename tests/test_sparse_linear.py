"""The layer that trains its non-zeros alone: its kernels beside numpy, the layer beside a masked one."""

from __future__ import annotations

import copy
import functools
import itertools

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruneonce import _native
from pruneonce.machine import SPARSE_BELOW
from pruneonce.sparsity import training_kernel
from pruneonce.sparsity.fake_quant import Rounding, Tokens, input_parameters
from pruneonce.sparsity.layers import Dense, Kept, Masked, Sparse, finish, working
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.schedules import PruningSchedule
from pruneonce.sparsity.torch_threads import torch_threads

ISAS = _native.available_isas()
pytestmark = pytest.mark.usefixtures("two_threads")
TOKENS = [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 130]
SHAPES = [(1, 1), (5, 3), (6, 97), (95, 192), (97, 193), (385, 70), (12, 800), (800, 12)]
NAN = np.float32("nan")


def sparse_matrix(generator, rows, cols, density):
    weight = generator.normal(size=(rows, cols)).astype(np.float32)
    weight[generator.random(weight.shape) >= density] = 0
    return weight


def normal(generator, *shape):
    return generator.normal(size=shape).astype(np.float32)


# ------------------------------------------------------------------------------------------------------ the kernels


def forward_and_backward(weight, bias, x, dy, isa=None, **machine):
    pointers, columns, values = reference.csr(weight)
    linear = _native.SparseLinear(pointers, columns, cols=weight.shape[1], isa=isa, **machine)
    y, dx = np.full((len(x), len(weight)), NAN), np.full(x.shape, NAN)
    dvalues, dbias = np.full(values.shape, NAN), np.full(len(weight), NAN)
    linear.forward(values, bias, x, y=y)
    linear.backward(values, x, dy, dx=dx, dvalues=dvalues, dbias=dbias)
    return y, dx, dvalues, dbias


def check_against_numpy(weight, x, dy, bias, isa, **machine):
    y, *gradients = forward_and_backward(weight, bias, x, dy, isa, **machine)
    expected = reference.multiply(weight, x.T, bias).T, *reference.linear_gradients(weight, x, dy)
    for found, wanted in zip((y, *gradients), expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=6e-6 * (10 + np.sqrt(max(*weight.shape, len(x)))))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 1.0])
def test_product_and_all_gradients_at_awkward_shapes(isa, shape, density):
    generator = np.random.default_rng(0)
    weight = sparse_matrix(generator, *shape, density)
    for tokens in TOKENS:
        x, dy = normal(generator, tokens, shape[1]), normal(generator, tokens, shape[0])
        check_against_numpy(weight, x, dy, normal(generator, shape[0]), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("l1_bytes", [32 << 10, 48 << 10, 64 << 10])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_product_and_all_gradients_for_the_tiles_of_any_machine(isa, l1_bytes, threads):
    generator = np.random.default_rng(4)
    for rows, cols in [(385, 130), (12, 1600), (800, 12)]:
        weight = sparse_matrix(generator, rows, cols, 0.1)
        x, dy = normal(generator, 70, cols), normal(generator, 70, rows)
        check_against_numpy(weight, x, dy, normal(generator, rows), isa, l1_bytes=l1_bytes, threads=threads)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 450),
    cols=st.integers(1, 450),
    tokens=st.integers(1, 140),
    density=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_product_and_all_gradients_of_any_shape(rows, cols, tokens, density, seed):
    generator = np.random.default_rng(seed)
    weight = sparse_matrix(generator, rows, cols, density)
    x, dy = normal(generator, tokens, cols), normal(generator, tokens, rows)
    check_against_numpy(weight, x, dy, normal(generator, rows), ISAS[-1])


@pytest.mark.parametrize("isa", ISAS)
def test_full_rows_and_empty_rows_in_one_matrix(isa):
    """Runs of rows with every count from none to all, so that every remainder of four is met."""
    generator = np.random.default_rng(1)
    weight = normal(generator, 230, 200)
    weight[np.arange(200)[None] >= np.arange(230)[:, None] % 201] = 0
    x, dy = normal(generator, 70, 200), normal(generator, 70, 230)
    check_against_numpy(weight, x, dy, normal(generator, 230), isa)


def test_what_is_not_asked_for_is_not_touched():
    generator = np.random.default_rng(2)
    weight = sparse_matrix(generator, 40, 30, 0.3)
    pointers, columns, values = reference.csr(weight)
    linear = _native.SparseLinear(pointers, columns, cols=30)
    x, dy = normal(generator, 20, 30), normal(generator, 20, 40)
    expected = reference.linear_gradients(weight, x, dy)
    for name, wanted in zip(("dx", "dvalues", "dbias"), expected, strict=True):
        out = np.full(wanted.shape, NAN, np.float32)
        linear.backward(values, x, dy, **{name: out})
        np.testing.assert_allclose(out, wanted, atol=1e-4)


def test_forward_has_the_same_bits_for_any_number_of_threads_and_gradients_for_the_same():
    generator = np.random.default_rng(3)
    weight = sparse_matrix(generator, 400, 300, 0.1)
    x, dy, bias = normal(generator, 700, 300), normal(generator, 700, 400), normal(generator, 400)
    results = []
    for threads in (1, 2, 2, 3):
        _native.set_num_threads(threads)
        results.append(forward_and_backward(weight, bias, x, dy))
    for other in results[1:]:
        assert np.array_equal(results[0][0], other[0])
        assert np.array_equal(results[0][1], other[1])
    for first, second in zip(results[1], results[2], strict=True):
        assert np.array_equal(first, second)


def test_wrong_arrays_are_refused_by_name():
    linear = _native.SparseLinear(*reference.csr(np.eye(3, 4, dtype=np.float32))[:2], cols=4)
    values, x, y = np.ones(3, np.float32), np.ones((2, 4), np.float32), np.ones((2, 3), np.float32)
    for message, call in {
        r"\[forward\] values has 2 entries, expected 3": lambda: linear.forward(values[:2], None, x, y=y),
        r"\[forward\] x is \[2, 3\], expected \[2, 4\]": lambda: linear.forward(values, None, y, y=y),
        r"\[forward\] y is \[2, 4\], expected \[2, 3\]": lambda: linear.forward(values, None, x, y=x),
        r"\[forward\] bias has 4 entries, expected 3": lambda: linear.forward(values, np.ones(4, np.float32), x, y=y),
        r"\[backward\] dy is \[2, 4\], expected \[2, 3\]": lambda: linear.backward(values, x, x),
        r"\[backward\] dx is \[2, 3\], expected \[2, 4\]": lambda: linear.backward(values, x, y, dx=y),
        r"\[backward\] dvalues has 4 entries": lambda: linear.backward(values, x, y, dvalues=np.ones(4, np.float32)),
        r"\[SparseLinear\] row 0 has column 7 of 4": lambda: _native.SparseLinear(
            np.array([0, 1]), np.array([7], np.int32), cols=4
        ),
        r"\[SparseLinear\] 70000 columns, expected at most 65536": lambda: _native.SparseLinear(
            np.array([0, 0]), np.array([], np.int32), cols=70_000
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError):
        linear.forward(values.astype(float), None, x, y=y)  # would be converted, and y written into a copy


# -------------------------------------------------------------------------------------------------------- the layer


def pair(density=0.2, inputs=24, outputs=20, bias=True, seed=0):
    """The same layer twice: masked, and its non-zeros alone."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(outputs, inputs) < density)
    masked, sparse = model, copy.deepcopy(model)
    pruners = Pruner(masked, ["0"]), Pruner(sparse, ["0"])
    pruners[1].compute_sparse(["0"])
    assert type(masked[0].form) is Masked
    assert type(sparse[0].form) is Sparse
    return masked, sparse, pruners[1]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
def test_layer_and_gradients_agree_with_the_masked_layer(bias, shape):
    masked, sparse, _ = pair(bias=bias)
    x = torch.randn(*shape, 24)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [model(each) for model, each in zip((masked, sparse), inputs, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    gradient = torch.zeros(20 * 24)
    gradient[sparse[0].form.places] = sparse[0].values.grad
    torch.testing.assert_close(gradient.view(20, 24), masked[0].weight.grad)
    if bias:
        torch.testing.assert_close(sparse[0].bias.grad, masked[0].bias.grad)


@pytest.mark.filterwarnings("ignore:Input #:UserWarning")  # float32 is what the kernels have; the steps below are wide
def test_gradients_agree_with_finite_differences():
    _, sparse, _ = pair(inputs=9, outputs=7)
    values, bias = (each.detach().requires_grad_() for each in (sparse[0].values, sparse[0].bias))

    def product(x, values, bias):
        return torch.func.functional_call(sparse, {"0.values": values, "0.bias": bias}, (x,))

    x = torch.randn(6, 9, requires_grad=True)
    # The product is linear in each argument, so that a wide step has no error of its own.
    assert torch.autograd.gradcheck(product, (x, values, bias), eps=0.5, atol=1e-4, rtol=1e-4)


def test_a_second_derivative_is_refused_rather_than_wrong():
    _, sparse, _ = pair()
    x = torch.randn(3, 24, requires_grad=True)
    (gradient,) = torch.autograd.grad(sparse(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_inputs_that_are_views_and_gradients_that_are_expanded():
    masked, sparse, _ = pair()
    x = torch.randn(24, 10).t()
    torch.testing.assert_close(sparse(x), masked(x))
    sparse(x).sum().backward()  # the gradient of a sum has stride 0
    masked(x).sum().backward()
    torch.testing.assert_close(sparse[0].bias.grad, masked[0].bias.grad)


def test_lower_precision_around_the_layer_leaves_it_in_float32():
    masked, sparse, _ = pair()
    x = torch.randn(8, 24)
    with torch.autocast("cpu", torch.bfloat16):
        y = sparse(x.to(torch.bfloat16))
        assert y.dtype == torch.float32
        (y.square().sum()).backward()
    assert sparse[0].values.grad.dtype == torch.float32
    torch.testing.assert_close(y, masked(x), atol=0.05, rtol=0.05)


def test_state_dict_is_that_of_a_linear_layer_and_loads_back():
    masked, sparse, _ = pair()
    state = sparse.state_dict()
    assert sorted(state) == ["0.bias", "0.weight"]
    torch.testing.assert_close(state["0.weight"], masked[0].weight * masked[0].mask)
    changed = {name: 2 * value for name, value in state.items()}
    sparse.load_state_dict(changed)
    torch.testing.assert_close(sparse.state_dict(), changed)
    nn.Sequential(nn.Linear(24, 20)).load_state_dict(state)


def test_adam_moments_and_gradients_have_the_size_of_the_non_zeros():
    _, sparse, _ = pair(density=0.1)
    optimizer = torch.optim.AdamW(sparse.parameters(), lr=0.1)
    sparse(torch.randn(4, 24)).sum().backward()
    optimizer.step()
    kept = sparse[0].values.numel()
    assert kept == int((sparse.state_dict()["0.weight"] != 0).sum()) < 20 * 24 / 5
    assert {each.numel() for each in optimizer.state[sparse[0].values].values()} == {1, kept}


def test_dense_again_means_plain_and_baked_folders_show_nothing_of_it():
    _, sparse, pruner = pair()
    pattern = sparse.state_dict()["0.weight"] != 0
    with torch.no_grad():
        sparse[0].values[:3] = 0.0  # a kept weight that trained to 0 must not read back as pruned
    pruner.bake()
    assert type(sparse[0]) is nn.Linear
    assert list(dict(sparse.named_parameters())) == ["0.weight", "0.bias"]
    assert torch.equal(sparse[0].weight != 0, pattern)
    assert not sparse[0]._buffers


def test_round_trip_through_sparse_keeps_every_bit_and_the_order_of_parameters():
    torch.manual_seed(0)
    layer = nn.Linear(30, 20)
    mask = torch.rand(20, 30) < 0.3
    before = layer.weight.detach() * mask
    working(layer).take_form(Sparse(mask))
    assert [name for name, _ in layer.named_parameters()] == ["values", "bias"]
    layer.take_form(Dense())
    finish(layer)
    assert type(layer) is nn.Linear
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert torch.equal(layer.weight, before)


def test_what_does_not_train_does_not_begin_to_in_another_form():
    layer = nn.Linear(8, 8).requires_grad_(False)
    working(layer).take_form(Sparse(torch.eye(8, dtype=torch.bool)))
    assert not layer.values.requires_grad
    layer.take_form(Dense())
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("rounds", [False, True])
def test_every_form_may_follow_every_other_and_computes_the_same(rounds):
    torch.manual_seed(0)
    layer, mask = working(nn.Linear(24, 20)), torch.rand(20, 24) < 0.3
    with torch.no_grad():
        layer.weight.mul_(mask)
    if rounds:
        layer.rounding = Rounding("it", Tokens(), output=True, per_tensor=False)
        layer.rounding.input_observer.fixed = layer.rounding.output_observer.fixed = input_parameters(-3.0, 3.0)
        layer.rounding.set(observes=False, rounds=True)
    x, weight = torch.randn(5, 24), layer.weight.detach().clone()
    forms = {"dense": Dense, **{form.__name__: functools.partial(form, mask) for form in (Masked, Kept, Sparse)}}
    expected = layer(x).detach()
    for before, after in itertools.permutations(forms, 2):
        for name in (before, after):
            layer.take_form(forms[name]())
            torch.testing.assert_close(layer(x), expected, msg=f"{before} -> {after}")
            assert list(layer.state_dict()) in (["weight", "bias"], ["bias", "weight"])
            assert [name for name, _ in layer.named_parameters()][1] == "bias", "the optimizer's order"
            assert torch.equal(layer.state_dict()["weight"], weight)


SCHEDULE = PruningSchedule(0.9, begin_step=0, end_step=16, policy_begin_step=0, policy_end_step=12, frequency_steps=2)


def pruned_in_training(kernel, steps=20, stop_at=None):
    """(outputs of every step, gradients, model, pruner) of a layer that is pruned while it trains."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 20))
    pruner = Pruner(model, ["0"], SCHEDULE)
    if kernel == "sparse":
        pruner.compute_sparse(["0"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    seen = []
    for step in range(steps):
        pruner.update(step)
        optimizer.zero_grad()
        x = torch.randn(7, 24, requires_grad=True)
        y = model(x)
        y.square().sum().backward()
        seen.append((pruner.computes_sparse, y.detach(), x.grad, model[0].weight.grad.clone(), model[0].mask.clone()))
        optimizer.step()
        if step == stop_at:
            break
    return seen, model, pruner


def test_a_layer_that_is_being_pruned_computes_what_it_keeps_once_that_is_little():
    """Its masks are still to change: latent weights live on, and some come back."""
    (dense, model, _), (sparse, twin, pruner) = (pruned_in_training(kernel) for kernel in ("dense", "sparse"))
    shares = [float(mask.float().mean()) for *_, mask in sparse]
    assert [used for used, *_ in sparse] == [share < SPARSE_BELOW for share in shares]
    assert not any(used for used, *_ in dense)
    masks = [mask for used, *_, mask in sparse if used]
    assert any(bool((later & ~earlier).any()) for earlier, later in itertools.pairwise(masks)), "none came back"
    for (_, *expected), (_, *found) in zip(dense, sparse, strict=True):
        for a, b in zip(expected[:-1], found[:-1], strict=True):
            torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)
        assert torch.equal(expected[-1], found[-1])
        assert not found[2][~found[-1]].any(), "a pruned weight has no gradient"
    torch.testing.assert_close(twin[0].weight, model[0].weight, atol=1e-5, rtol=1e-4)
    assert float(twin[0].weight.detach()[~twin[0].mask].abs().min()) > 0
    pruner.bake()
    assert type(twin[0]) is nn.Linear
    assert set(vars(twin[0])) == set(vars(nn.Linear(1, 1)))
    assert int((twin[0].weight == 0).sum()) == int(0.9 * 480)


def test_a_restored_pruner_goes_on_with_the_kernel_it_had():
    seen, model, pruner = pruned_in_training("sparse", stop_at=14)
    assert seen[-1][0]
    state, weights = pruner.state(), pruner.masked_state(model.state_dict())
    fresh = nn.Sequential(nn.Linear(24, 20))
    other = Pruner(fresh, ["0"], SCHEDULE)
    fresh.load_state_dict(weights)
    other.load_state(state)
    x = torch.randn(5, 24)
    assert other.computes_sparse
    assert torch.equal(fresh(x), model(x))
    assert torch.equal(fresh[0].weight, model[0].weight)
    other.compute_dense()
    assert not other.computes_sparse
    other.load_state(pruned_in_training("dense", stop_at=14)[2].state())
    assert not other.computes_sparse


def test_pruner_state_restores_values_and_kernel():
    _, sparse, pruner = pair()
    state, weights = pruner.state(), pruner.masked_state(sparse.state_dict())
    fresh = nn.Sequential(nn.Linear(24, 20))
    other = Pruner(fresh, ["0"])
    fresh.load_state_dict(weights)
    other.load_state(state)
    assert type(fresh[0].form) is Sparse
    assert torch.equal(fresh[0].values, sparse[0].values)
    assert other.digests() == pruner.digests()
    assert other.sparsity() == pruner.sparsity()


# ------------------------------------------------------------------------------------------- the choice, the threads


def test_each_shape_and_density_is_measured_once_and_the_faster_kernel_taken(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 16))
    with torch.no_grad():
        for index in (0, 1, 2):
            model[index].weight[:, 4:] = 0
    layers = Pruner(model, map(str, range(4))).layers
    timed = []

    def seconds(layer, autocast):
        timed.append(type(layer.form))
        dense = type(layer.form) is Masked
        return 2.0 if dense and float(layer.mask.float().mean()) < 0.6 else 1.0 if dense else 1.5

    monkeypatch.setattr(training_kernel, "_seconds", seconds)
    assert training_kernel.layers_faster_sparse(layers) == ["0", "1", "2"]
    assert timed == [Sparse, Masked] * 3
    assert all(type(layer.form) is Masked for layer in model)


def test_what_is_plain_is_not_measured_so_that_runs_compute_alike(monkeypatch):
    masked, _, _ = pair(density=0.1)
    monkeypatch.setattr(training_kernel, "_seconds", lambda layer, autocast: pytest.fail("measured"))
    assert training_kernel.layers_faster_sparse({"0": masked[0]}) == ["0"]


def test_a_plain_layer_does_not_decide_for_a_denser_one_of_its_shape(monkeypatch):
    model = nn.Sequential(nn.Linear(200, 10), nn.Linear(200, 10))
    with torch.no_grad():
        for layer, kept in zip(model, (39, 41), strict=True):  # 19.5 % and 20.5 %
            layer.weight[:, kept:] = 0
    monkeypatch.setattr(training_kernel, "_seconds", lambda layer, autocast: float(type(layer.form) is Sparse))
    assert training_kernel.layers_faster_sparse(Pruner(model, ["0", "1"]).layers) == ["0"]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_measuring_leaves_the_model_as_it_was(autocast):
    masked, _, _ = pair(density=0.5)
    before = copy.deepcopy(masked.state_dict())
    chosen = training_kernel.layers_faster_sparse({"0": masked[0]}, autocast)
    assert set(chosen) <= {"0"}
    torch.testing.assert_close(masked.state_dict(), before, atol=0, rtol=0)
    assert masked[0].weight.grad is None


def test_borrowed_threads_compute_the_same_and_are_given_back():
    generator = np.random.default_rng(5)
    weight = sparse_matrix(generator, 400, 300, 0.1)
    x, dy, bias = normal(generator, 300, 300), normal(generator, 300, 400), normal(generator, 400)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        own = forward_and_backward(weight, bias, x, dy)
        _native.set_num_threads(5)
        with torch_threads():
            assert _native.num_threads() == 2
            torch.ones(512, 512) @ torch.ones(512, 512)  # torch's own work in turn with ours
            borrowed = forward_and_backward(weight, bias, x, dy)
        assert _native.num_threads() == 5
        _native.set_num_threads(2)
        again = forward_and_backward(weight, bias, x, dy)
    finally:
        torch.set_num_threads(before)
    for first, second, third in zip(own, borrowed, again, strict=True):
        assert np.array_equal(first, second)
        assert np.array_equal(first, third)
