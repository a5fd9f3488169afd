"""Every native kernel on every instruction set of this machine, against its plain numpy twin.

`native/check.cc` compares the same kernels with plain loops of its own. Both are needed: sanitizers want a program
without Python and numpy, whose memory they do not know; here are the shapes that hypothesis thinks of, and the binding.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneonce import _native
from pruneonce.formats.stored_tensors import dense, quantize_rows

ISAS = _native.available_isas()
pytestmark = pytest.mark.usefixtures("two_threads")
# around the lanes (4, 8, 16) and panels (16, 32, 64 tokens) of every instruction set
TOKENS = [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 130]
# around tiles of 96 to 384 rows and 48 to 384 columns
SHAPES = [(1, 1), (5, 3), (6, 97), (95, 192), (97, 193), (385, 70), (12, 800), (800, 12)]
L1_BYTES = [32 << 10, 48 << 10, 64 << 10]  # of current processors: what tiles follow


def activations(x, isa):
    """[features, tokens] into the kernels' layout."""
    result = _native.Activations(x.shape[0], isa=isa)
    result.load(np.ascontiguousarray(x.T, np.float32))
    return result


def array(activations):
    rows = np.full((activations.tokens, activations.features), np.nan, np.float32)
    activations.store(rows)
    return rows.T


def normal(generator, *shape):
    return generator.normal(size=shape).astype(np.float32)


def sparse(generator, rows, cols, density):
    weight = normal(generator, rows, cols)
    weight[generator.random(weight.shape) >= density] = 0
    return weight


def packed(weight, isa, **machine):
    return _native.PackedWeight(*reference.csr(weight), cols=weight.shape[1], isa=isa, **machine)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 1.0])
def test_sparse_and_dense_products_at_awkward_shapes(isa, shape, density):
    generator = np.random.default_rng(0)
    weight = sparse(generator, *shape, density)
    bias = normal(generator, shape[0])
    for tokens in TOKENS:
        x, residual = normal(generator, shape[1], tokens), normal(generator, shape[0], tokens)
        expected = reference.multiply(weight, x, bias, residual)
        for kernel in packed(weight, isa), _native.DenseWeight(weight, isa=isa):
            out = _native.Activations(shape[0], isa=isa)
            _native.multiply(kernel, activations(x, isa), out=out, bias=bias, residual=activations(residual, isa))
            np.testing.assert_allclose(array(out), expected, atol=2e-6 * (10 + np.sqrt(shape[1])) * 3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("nonlinearity", reference.NONLINEARITIES)
def test_nonlinearities_over_their_whole_range(isa, nonlinearity):
    x = np.concatenate([np.linspace(-12, 12, 5001), [0.0, -0.0, 1e-30, -1e-30, 80, -80, 1e4, -1e4, 3e38, -3e38]])
    x = x.astype(np.float32)[None]
    for weight in packed(np.ones((1, 1), np.float32), isa), _native.DenseWeight(np.ones((1, 1), np.float32), isa=isa):
        out = _native.Activations(1, isa=isa)
        _native.multiply(weight, activations(x, isa), out=out, nonlinearity=nonlinearity)
        with np.errstate(over="ignore"):
            expected = reference.NONLINEARITIES[nonlinearity](x.astype(float))
        np.testing.assert_allclose(array(out), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("l1_bytes", L1_BYTES)
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_products_are_right_for_the_tiles_of_any_machine(isa, l1_bytes, threads):
    generator = np.random.default_rng(7)
    machine = {"isa": isa, "l1_bytes": l1_bytes, "threads": threads}
    for rows, cols in [(385, 70), (12, 1600), (130, 800)]:
        weight, x = sparse(generator, rows, cols, 0.1), normal(generator, cols, 70)
        out = _native.Activations(rows, isa=isa)
        _native.multiply(packed(weight, **machine), activations(x, isa), out=out)
        np.testing.assert_allclose(array(out), reference.multiply(weight, x), atol=1e-4)
        codes, scale = whole_numbers(generator, rows, cols, 0.1), generator.uniform(0.5, 2, rows).astype(np.float32)
        expected = reference.multiply_int8(codes, scale, x, 0.25, 3)
        for kernel in "any", "neighbours":
            weight = int8_weight(codes, scale, 0.25, 3, kernel=kernel, **machine)
            assert np.array_equal(int8_product(weight, x, isa), expected)


@pytest.mark.parametrize("isa", ISAS)
def test_one_thread_and_another_cache_make_other_tiles_but_this_machines_are_the_default(isa):
    """Otherwise what the tests force would force nothing."""
    weight = sparse(np.random.default_rng(8), 800, 3072, 0.1)
    here = packed(weight, isa)
    machines = {(l1_bytes, threads) for l1_bytes in L1_BYTES for threads in range(1, 5)}
    sizes = {machine: packed(weight, isa, l1_bytes=machine[0], threads=machine[1]).nbytes for machine in machines}
    assert len({sizes[l1_bytes, 2] for l1_bytes in L1_BYTES}) == len(L1_BYTES)
    assert len({sizes[L1_BYTES[0], threads] for threads in range(1, 5)}) > 1
    assert here.nbytes == packed(weight, isa, l1_bytes=_native.l1_bytes(), threads=_native.num_threads()).nbytes


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"l1_bytes": 0}, "l1_bytes is 0, expected at least 1024"),
        ({"l1_bytes": 1023}, "l1_bytes is 1023, expected at least 1024"),
        ({"threads": 0}, "threads is 0, expected 1 to 1024"),
        ({"threads": 1025}, "threads is 1025, expected 1 to 1024"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(machine, message):
    with pytest.raises(ValueError, match=rf"\[PackedWeight\] {message}"):
        packed(np.ones((3, 4), np.float32), None, **machine)
    with pytest.raises(ValueError, match=rf"\[Int8Weight\] {message}"):
        int8_weight(np.ones((3, 4), np.int8), np.ones(3, np.float32), **machine)
    with pytest.raises(ValueError, match=rf"\[SparseLinear\] {message}"):
        _native.SparseLinear(np.array([0, 1]), np.zeros(1, np.int32), cols=4, **machine)


@pytest.mark.parametrize("isa", ISAS)
def test_missing_bias_and_residual_mean_zero(isa):
    generator = np.random.default_rng(1)
    weight, x = sparse(generator, 33, 65, 0.3), normal(generator, 65, 40)
    residual = normal(generator, 33, 40)
    for kernel in packed(weight, isa), _native.DenseWeight(weight, isa=isa):
        out = _native.Activations(33, isa=isa)
        _native.multiply(kernel, activations(x, isa), out=out)
        np.testing.assert_allclose(array(out), reference.multiply(weight, x), atol=1e-4)
        _native.multiply(kernel, activations(x, isa), out=out, residual=activations(residual, isa))
        np.testing.assert_allclose(array(out), reference.multiply(weight, x, None, residual), atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_a_result_has_the_same_bits_for_any_threads_and_companions(isa):
    generator = np.random.default_rng(2)
    weight, x = sparse(generator, 500, 300, 0.1), normal(generator, 300, 150)
    first, out = packed(weight, isa), _native.Activations(500, isa=isa)
    _native.multiply(first, activations(x, isa), out=out)
    expected = array(out)
    for threads in 1, 3, 5:
        _native.set_num_threads(threads)
        for kernel in first, packed(weight, isa):  # packing, too, looks at the threads
            _native.multiply(kernel, activations(x, isa), out=out)
            assert np.array_equal(array(out), expected)
            _native.multiply(kernel, activations(x[:, 64:91], isa), out=out)
            assert np.array_equal(array(out), expected[:, 64:91])


EMBED_UNDER_A_LIMIT = """
import os, resource, numpy as np
from pruneonce import _native

def limit(more):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))

def embed(features, tokens=64):
    ones, zeros = np.ones((1, features), np.float32), np.zeros(tokens, np.int64)
    where = {"positions": ones, "token_ids": zeros, "position_ids": zeros, "token_types": zeros}
    outs.setdefault(features, _native.Activations(features))
    _native.embed(ones, "fp32", out=outs[features], **where)

def check(features):
    embed(features)
    rows = np.empty((64, features), np.float32)
    outs[features].store(rows)
    assert (rows == 2).all()

outs = {}
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited as on Linux")


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@linux
def test_a_thread_that_cannot_be_started_is_done_without_and_not_asked_for_again():
    run_python(
        EMBED_UNDER_A_LIMIT
        + """
_native.set_num_threads(1024)
limit(256 << 20)
try:
    embed(64)
except MemoryError:
    pass
limit(1 << 30)
threads = sorted(os.listdir("/proc/self/task"))
assert len(threads) < 1000
check(64)
assert sorted(os.listdir("/proc/self/task")) == threads
"""
    )


@linux
def test_no_memory_on_one_of_the_threads_is_a_memory_error_and_the_next_call_is_right():
    run_python(
        EMBED_UNDER_A_LIMIT
        + """
features = 1 << 18
_native.set_num_threads(1)
check(features)  # this thread has its space now
_native.set_num_threads(4)
embed(64)
limit(8 << 20)
for _ in range(500):
    try:
        embed(features)
    except MemoryError:
        break
else:
    raise AssertionError("no thread but the first ever took a task")
limit(1 << 30)
check(features)
"""
    )


def stored(table, kind):
    """(words as stored, scale or None, what they mean as float32)."""
    if kind == "int8":
        matrix = quantize_rows(table)
        return matrix.codes, matrix.scale, matrix.to_dense()
    tensor = dense(table, kind)
    return tensor.data.view("<u2") if kind in ("fp16", "bf16") else tensor.data, None, tensor.to_dense()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("features", [1, 7, 64])
@pytest.mark.parametrize("typed", [True, False])
def test_embeddings_of_every_kind_are_the_sum_of_their_rows(isa, kind, features, typed):
    generator = np.random.default_rng(0)
    table = normal(generator, 50, features)
    table[1:4] = [[6e-8], [-6e-5], [0.0]]  # fp16's subnormal numbers
    words, scale, meant = stored(table, kind)
    positions, types = normal(generator, 90, features), normal(generator, 2, features) if typed else None
    for tokens in TOKENS:
        ids = np.concatenate([[1, 2, 3], generator.integers(0, 50, tokens)])[:tokens]
        places, kinds = generator.integers(0, 90, tokens), generator.integers(0, 2, tokens)
        out = _native.Activations(features, isa=isa)
        numbers = {"token_ids": ids, "position_ids": places, "token_types": kinds}
        _native.embed(words, kind, scale=scale, positions=positions, types=types, out=out, **numbers)
        expected = meant[ids] + positions[places] + (types[kinds] if typed else 0)
        np.testing.assert_allclose(array(out), expected.T, rtol=1e-6, atol=1e-6)


def test_every_half_precision_number_is_read_exactly():
    bits = np.arange(2**16, dtype=np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))].reshape(-1, 32)
    zeros, numbers = np.zeros((1, 32), np.float32), np.arange(len(bits))
    out = _native.Activations(32)
    none = np.zeros(len(bits), np.int64)
    _native.embed(bits, "fp16", positions=zeros, token_ids=numbers, position_ids=none, token_types=none, out=out)
    assert np.array_equal(array(out), bits.view(np.float16).astype(np.float32).T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": np.array([3])}, "token_ids must be 0 to 2, got 3"),
        ({"token_ids": np.array([-1])}, "token_ids must be 0 to 2, got -1"),
        ({"position_ids": np.array([4])}, "position_ids must be 0 to 3, got 4"),
        ({"position_ids": np.array([0, 1])}, "position_ids has 2 entries, expected 1"),
        ({"types": np.zeros((2, 5), np.float32), "token_types": np.array([2])}, "token_types must be 0 to 1, got 2"),
        ({"positions": np.zeros((4, 6), np.float32)}, "a table has 6 columns, out 5 features"),
        ({"words": np.zeros((3, 4), np.float32)}, "words has 4 columns, out 5 features"),
        ({"words": np.zeros((3, 5), np.int8)}, "words are not stored as fp32"),
        ({"type": "fp64"}, "type is 'fp64', expected fp32, fp16, bf16 or int8"),
        ({"type": "int8", "words": np.zeros((3, 5), np.int8)}, "a scale belongs to int8"),
        ({"scale": np.ones(3, np.float32)}, "a scale belongs to int8"),
        ({"type": "int8", "words": np.zeros((3, 5), np.int8), "scale": np.ones(2, np.float32)}, "scale has 2 entries"),
    ],
)
def test_embeddings_outside_their_tables_are_never_read(change, message):
    arguments = {
        "words": np.zeros((3, 5), np.float32),
        "type": "fp32",
        "positions": np.zeros((4, 5), np.float32),
        "token_ids": np.array([2]),
        "position_ids": np.array([3]),
        "token_types": np.array([0]),
    } | change
    with pytest.raises(ValueError, match=re.escape(message)):
        _native.embed(arguments.pop("words"), arguments.pop("type"), out=_native.Activations(5), **arguments)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("features", [1, 5, 64, 769])
def test_layer_norm_keeps_small_deviations_beside_a_large_mean(isa, features):
    generator = np.random.default_rng(3)
    scale, shift = normal(generator, features), normal(generator, features)
    for tokens in TOKENS:
        for offset in 0, 100:
            x = normal(generator, features, tokens) + np.float32(offset)
            states = activations(x, isa)
            _native.layer_norm(states, scale=scale, shift=shift, epsilon=1e-12)
            if features > 1:  # of one feature nothing is left but rounding
                expected = reference.layer_norm(x, scale, shift, 1e-12)
                np.testing.assert_allclose(array(states), expected, atol=1e-5 if offset == 0 else 1e-3)
            else:
                assert np.isfinite(array(states)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("heads", "head_size"), [(1, 1), (3, 7), (2, 32), (2, 64)])
@pytest.mark.parametrize("lengths", [[1], [7, 31, 100], [1, 1, 1], [33, 1, 64, 2], [130]])
def test_attention_never_looks_into_a_neighbouring_sequence(isa, heads, head_size, lengths):
    generator = np.random.default_rng(4)
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    qkv = normal(generator, 3 * heads * head_size, starts[-1])
    out = _native.Activations(heads * head_size, isa=isa)
    for threads in 1, 2, 7:
        _native.set_num_threads(threads)
        _native.attention(activations(qkv, isa), starts=starts, heads=heads, out=out)
        np.testing.assert_allclose(array(out), reference.attention(qkv, starts, heads), atol=5e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_attention_survives_huge_scores(isa):
    generator = np.random.default_rng(5)
    qkv = normal(generator, 3 * 8, 20) * 1000
    out = _native.Activations(8, isa=isa)
    _native.attention(activations(qkv, isa), starts=np.array([0, 20]), heads=1, out=out)
    np.testing.assert_allclose(array(out), reference.attention(qkv, [0, 20], 1), rtol=1e-3, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sparse_matrix(data):
    rows, cols = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 450))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    weight = sparse(generator, rows, cols, data.draw(st.floats(0, 1)))
    weight[data.draw(st.integers(0, rows - 1))] = 0
    x = normal(generator, cols, data.draw(st.integers(1, 70)))
    for isa in ISAS:
        kernel, out = packed(weight, isa), _native.Activations(rows, isa=isa)
        assert (kernel.rows, kernel.cols, kernel.nonzeros) == (rows, cols, np.count_nonzero(weight))
        _native.multiply(kernel, activations(x, isa), out=out)
        np.testing.assert_allclose(array(out), reference.multiply(weight, x), atol=5e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_shorter_content_leaves_nothing_of_the_longer_one_before(isa):
    states = _native.Activations(3, isa=isa)
    states.load(np.full((100, 3), 1e30, np.float32))
    states.load(np.ones((5, 3), np.float32))
    weight = packed(np.ones((2, 3), np.float32), isa)
    out = _native.Activations(2, isa=isa)
    for _ in range(20):  # what grew in the lanes beyond the end would overflow
        _native.multiply(weight, states, out=out)
    assert np.array_equal(array(out), np.full((2, 5), 3, np.float32))


@pytest.mark.parametrize("isa", ISAS)
def test_take_keeps_the_named_tokens(isa):
    x = np.arange(3 * 90, dtype=np.float32).reshape(3, 90)
    for kept in ([0], [89], [0, 31, 32, 64, 89], list(range(90)), []):
        states = activations(x, isa)
        states.take(np.array(kept, np.int64))
        assert np.array_equal(array(states), x[:, kept])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"row_ptr": []}, "row_ptr is empty"),
        ({"row_ptr": [1, 2, 3]}, r"row_ptr\[0\] is 1"),
        ({"row_ptr": [0, 3, 2]}, "falls from 3 to 2"),
        ({"row_ptr": [0, 1, 2]}, "ends with 2 but there are 3"),
        ({"row_ptr": [0, 1, 2**62]}, "but there are 3"),
        ({"row_ptr": [0, -(2**62), 3]}, "falls from 0"),
        ({"col": [0, 1, 1]}, "1 follows 1"),
        ({"col": [0, 2, 1]}, "1 follows 2"),
        ({"col": [0, 1, 4]}, "column 4 of 4"),
        ({"col": [-1, 1, 2]}, "-1 comes first"),
        ({"values": [1.0]}, "col has 3 entries but values has 1"),
        ({"cols": 2**40}, "more than"),
    ],
)
def test_a_lying_matrix_is_refused(change, rule):
    parts = {"row_ptr": [0, 1, 3], "col": [0, 1, 2], "values": [1.0, 2.0, 3.0], "cols": 4} | change
    with pytest.raises(ValueError, match=rule):
        _native.PackedWeight(
            np.array(parts["row_ptr"], np.int64),
            np.array(parts["col"], np.int32),
            np.array(parts["values"], np.float32),
            cols=parts["cols"],
        )


def test_wrong_shapes_are_refused_before_anything_is_computed():
    weight = _native.DenseWeight(np.ones((4, 3), np.float32))
    x, out = _native.Activations(3), _native.Activations(4)
    x.load(np.ones((5, 3), np.float32))
    cases = [
        (lambda: _native.multiply(weight, out, out=x), "x has 4 features"),
        (lambda: _native.multiply(weight, x, out=x), "out has 3 features"),
        (lambda: _native.multiply(weight, x, out=out, bias=np.ones(3, np.float32)), "bias has 3 entries"),
        (lambda: _native.multiply(weight, x, out=out, residual=x), "residual is"),
        (lambda: _native.multiply(weight, x, out=out, residual=out), "neither x nor residual"),
        (lambda: _native.multiply(weight, x, out=out, nonlinearity="tanh"), "'tanh'"),
        (lambda: x.load(np.ones((5, 4), np.float32)), "4 features, expected 3"),
        (lambda: x.store(np.ones((4, 3), np.float32)), r"expected \[5, 3\]"),
        (lambda: x.take(np.array([1, 1])), "must rise"),
        (lambda: x.take(np.array([5])), "below 5"),
        (lambda: x.take(np.array([-1])), "below 5"),
        (lambda: _native.attention(x, starts=np.array([0, 5]), heads=1, out=_native.Activations(3)), "3 to 1"),
        (lambda: _native.attention(x, starts=np.array([0, 4]), heads=1, out=_native.Activations(1)), "must rise"),
        (lambda: _native.attention(x, starts=np.array([0, 3, 3, 5]), heads=1, out=_native.Activations(1)), "must rise"),
        (lambda: _native.attention(x, starts=np.array([0, 5]), heads=0, out=_native.Activations(1)), "0 heads"),
        (
            lambda: _native.layer_norm(x, scale=np.ones(3, np.float32), shift=np.ones(2, np.float32), epsilon=0.1),
            "shift",
        ),
        (lambda: _native.set_num_threads(0), "count is 0"),
        (lambda: _native.Activations(0), "features"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    square = _native.DenseWeight(np.ones((3, 3), np.float32))
    with pytest.raises(ValueError, match="neither"):
        _native.multiply(square, x, out=x)
    with pytest.raises(TypeError):  # a converted copy would take the result with it
        x.store(np.ones((5, 3), np.float64))


@pytest.mark.skipif(len(ISAS) < 2, reason="only one instruction set here")
def test_layouts_of_two_instruction_sets_do_not_mix():
    weight = _native.DenseWeight(np.ones((3, 3), np.float32), isa=ISAS[0])
    x = activations(np.ones((3, 2)), ISAS[1])
    with pytest.raises(ValueError, match="different instruction sets"):
        _native.multiply(weight, x, out=_native.Activations(3, isa=ISAS[1]))


def chosen_isa(value):
    code = "from pruneonce import _native; print(_native.choose_isa())"
    environment = os.environ | {"PRUNEONCE_ISA": value}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("isa", ["", *ISAS])
def test_the_environment_forces_an_instruction_set(isa):
    assert chosen_isa(isa).stdout.strip() == (isa or ISAS[-1])


KNOWN_ISAS = {"avx2", "avx512", "avx512_vnni", "amx", "neon", "neon_dotprod", "neon_i8mm"}


@pytest.mark.parametrize("isa", ["mmx", *sorted(KNOWN_ISAS - set(ISAS))])
def test_an_instruction_set_that_is_not_there_is_refused_not_run(isa):
    run = chosen_isa(isa)
    assert run.returncode == 1
    assert f"'{isa}'" in run.stderr
    with pytest.raises(ValueError, match=r"available|unknown"):
        _native.Activations(1, isa=isa)


def test_threads_that_call_at_once_get_their_own_answers():
    generator = np.random.default_rng(6)
    weight = sparse(generator, 300, 200, 0.1)
    kernel = packed(weight, None)
    wrong = []

    def work(seed):
        x = normal(np.random.default_rng(seed), 200, 50)
        states, out = activations(x, None), _native.Activations(300)
        for _ in range(50):
            _native.multiply(kernel, states, out=out)
            if not np.allclose(array(out), reference.multiply(weight, x), atol=1e-4):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_child_can_compute():
    code = (
        "import os, numpy as np; from pruneonce import _native as n\n"
        "n.set_num_threads(2); w = n.DenseWeight(np.ones((400, 64), np.float32)); x = n.Activations(64)\n"
        "x.load(np.ones((200, 64), np.float32)); out = n.Activations(400); n.multiply(w, x, out=out)\n"
        "child = os.fork()\n"
        "n.multiply(w, x, out=out)\n"
        "if child == 0: os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "7"


# ------------------------------------------------------------------------------------------------------------ int8


def whole_numbers(generator, rows, cols, density, largest=127):
    weight = generator.integers(-largest, largest + 1, (rows, cols))
    weight[generator.random(weight.shape) >= density] = 0
    return weight.astype(np.int8)


def panel_bytes(isa):
    """Of one feature of a panel of codes: a byte for each lane of four vectors."""
    return 4 * (4 if isa == "scalar" else 16 if isa.startswith(("avx512", "amx")) else 8)


INT8_KERNELS = ["any", "neighbours", "dense"]
SCALES_AND_KERNELS = [(0.5, "any"), (0.25, "any"), (0.5, "neighbours"), (0.5, "dense")]  # the last two read alike


def int8_weight(weight, scale, input_scale=0.03, zero_point=120, isa=None, kernel="any", **machine):
    options = {"input_scale": input_scale, "input_zero_point": zero_point, "isa": isa}
    if kernel == "dense":
        return _native.Int8DenseWeight(weight, scale, **options)
    pointers, cols, _ = reference.csr(weight)
    options |= machine | {"fours": kernel, "cols": weight.shape[1]}
    return _native.Int8Weight(pointers, cols, weight[weight != 0], scale, **options)


def int8_product(weight, x, isa, **options):
    states, space, out = activations(x, isa), _native.Codes(isa=isa), _native.Activations(weight.rows, isa=isa)
    space.quantize(states, weight)
    _native.multiply(weight, space, out=out, **options)
    return array(out)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [*SHAPES, (20, 1600)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kernel", INT8_KERNELS)
def test_int8_sums_are_exact_at_awkward_shapes(isa, shape, density, kernel):
    generator = np.random.default_rng(0)
    weight, scale = whole_numbers(generator, *shape, density), generator.uniform(0.5, 2, shape[0]).astype(np.float32)
    bias = normal(generator, shape[0])
    for tokens in TOKENS:
        zero_point = int(generator.integers(0, 256))
        x, residual = normal(generator, shape[1], tokens) * 3, normal(generator, shape[0], tokens)
        packed_weight = int8_weight(weight, scale, 0.25, zero_point, isa, kernel)  # scaling by a power of two is exact
        expected = reference.multiply_int8(weight, scale, x, 0.25, zero_point)
        assert np.array_equal(int8_product(packed_weight, x, isa), expected)
        found = int8_product(packed_weight, x, isa, bias=bias, residual=activations(residual, isa), nonlinearity="relu")
        expected = np.maximum(expected + bias[:, None] + residual, 0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("signs", ["positive", "negative", "either", "alternating"])
@pytest.mark.parametrize("kernel", INT8_KERNELS)
def test_sums_of_two_large_products_do_not_saturate(isa, signs, kernel):
    weight = np.full((9, 500), 127, np.int8)
    if signs == "negative":
        weight[:] = -127
    elif signs == "either":
        weight[np.random.default_rng(0).random(weight.shape) < 0.5] = -127
    elif signs == "alternating":
        weight[:, ::2] = -127
    ones = np.ones(9, np.float32)
    for zero_point in 0, 128, 255:
        for extreme in -1e9, 1e9:
            x = np.full((500, 40), extreme, np.float32)
            expected = reference.multiply_int8(weight, ones, x, 1, zero_point)
            found = int8_product(int8_weight(weight, ones, 1, zero_point, isa, kernel), x, isa)
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", INT8_KERNELS)
def test_codes_round_halves_to_even_and_are_cut_at_both_ends(isa, kernel):
    identity = np.eye(1, dtype=np.int8)
    for zero_point in 0, 3, 255:
        x = [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 1e30, -1e30, np.inf, -np.inf, 0.49999997, 254.5, 255.5, -254.5, -0.0]
        x = np.array([x], np.float32)
        weight = int8_weight(identity, np.ones(1, np.float32), 1, zero_point, isa, kernel)
        expected = np.rint(x.astype(float)).clip(-zero_point, 255 - zero_point)
        assert np.array_equal(int8_product(weight, x, isa), expected)
    not_a_number = np.array([[np.nan, 1.0]], np.float32)
    assert int8_product(weight, not_a_number, isa).tolist() == [[-255.0, 0.0]]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 900),
    tokens=st.integers(1, 40),
    density=st.sampled_from([0.02, 0.1, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_int8_products_are_the_same_on_every_instruction_set(rows, cols, tokens, density, seed):
    generator = np.random.default_rng(seed)
    weight, scale = whole_numbers(generator, rows, cols, density), generator.uniform(0.5, 2, rows).astype(np.float32)
    x = normal(generator, cols, tokens) * 4
    kinds = [(isa, kernel) for isa in ISAS for kernel in INT8_KERNELS]
    results = [int8_product(int8_weight(weight, scale, isa=isa, kernel=kernel), x, isa) for isa, kernel in kinds]
    for result in results:
        assert np.array_equal(result, results[0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", INT8_KERNELS)
@pytest.mark.parametrize("next_kernel", INT8_KERNELS)
@pytest.mark.parametrize("rows", [1, 6, 97, 500])
def test_codes_made_without_floats_are_those_made_of_them(isa, kernel, next_kernel, rows):
    generator = np.random.default_rng(3)
    weight, bias = whole_numbers(generator, rows, 70, 0.3), normal(generator, rows)
    first = int8_weight(weight, generator.uniform(0.01, 0.02, rows).astype(np.float32), isa=isa, kernel=kernel)
    following = whole_numbers(generator, 20, rows, 0.5)
    second = int8_weight(following, np.ones(20, np.float32), 0.02, 9, isa, next_kernel)
    for tokens in TOKENS:
        x = activations(normal(generator, 70, tokens), isa)
        codes, between, direct = (_native.Codes(isa=isa) for _ in range(3))
        floats = _native.Activations(rows, isa=isa)
        codes.quantize(x, first)
        _native.multiply(first, codes, out=floats, bias=bias, nonlinearity="gelu")
        between.quantize(floats, second)
        _native.multiply_to_codes(first, codes, out=direct, next=second, bias=bias, nonlinearity="gelu")
        results = []
        for each in between, direct:
            out = _native.Activations(20, isa=isa)
            _native.multiply(second, each, out=out)
            results.append(array(out))
        assert np.array_equal(*results)


ATTENTION_SHAPES = pytest.mark.parametrize(("heads", "head_size"), [(1, 1), (3, 7), (2, 32), (2, 64), (1, 100)])
ATTENTION_LENGTHS = pytest.mark.parametrize("lengths", [[1], [7, 31, 100], [1, 1, 1], [33, 1, 64, 2], [130], [300]])
CODES = np.array([0.035, 0.04, 0.03], np.float32), np.array([120, 140, 131], np.uint8)  # of queries, keys and values


def int8_attention(qkv, starts, heads, isa, scales=CODES[0], zero_points=CODES[1]):
    out = _native.Activations(len(qkv) // 3, isa=isa)
    _native.int8_attention(
        activations(qkv, isa), starts=starts, heads=heads, scales=scales, zero_points=zero_points, out=out
    )
    return array(out)


@pytest.mark.parametrize("isa", ISAS)
@ATTENTION_SHAPES
@ATTENTION_LENGTHS
def test_int8_attention_is_that_of_whole_numbers_within_each_sequence(isa, heads, head_size, lengths):
    generator = np.random.default_rng(4)
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    qkv = normal(generator, 3 * heads * head_size, starts[-1])
    expected = reference.int8_attention(qkv, starts, heads, *CODES)
    found = int8_attention(qkv, starts, heads, isa)
    # Where 255 times a probability lies between two codes, float32 may take the other one.
    np.testing.assert_allclose(found, expected, atol=CODES[0][2])
    assert np.median(np.abs(found - expected)) < 1e-6
    assert np.abs(found - reference.attention(qkv, starts, heads)).max() < 0.15, "near that of floats"


@pytest.mark.parametrize("isa", ISAS)
@ATTENTION_SHAPES
def test_int8_attention_has_the_same_bits_for_any_threads_and_company(isa, heads, head_size):
    generator = np.random.default_rng(5)
    lengths = [7, 31, 100, 1, 64]
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    qkv = normal(generator, 3 * heads * head_size, starts[-1])
    expected = int8_attention(qkv, starts, heads, isa)
    for threads in 1, 2, 7:
        _native.set_num_threads(threads)
        assert np.array_equal(int8_attention(qkv, starts, heads, isa), expected)
        for begin, end in pairwise(starts):
            alone = int8_attention(qkv[:, begin:end], np.array([0, end - begin]), heads, isa)
            assert np.array_equal(alone, expected[:, begin:end])


@ATTENTION_SHAPES
@ATTENTION_LENGTHS
def test_int8_attention_is_the_same_wherever_there_are_fused_multiply_adds(heads, head_size, lengths):
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    qkv = normal(np.random.default_rng(6), 3 * heads * head_size, starts[-1]) * 2
    results = [int8_attention(qkv, starts, heads, isa) for isa in ISAS if isa != "scalar"]
    for result in results:
        assert np.array_equal(result, results[0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("signs", ["equal", "alternating"])
@pytest.mark.parametrize("zero_point", [0, 128, 255])
def test_int8_attention_of_the_largest_codes_does_not_saturate(isa, signs, zero_point):
    """All scores are as large as they can be, and all weights alike: sums of 16 bits would overflow."""
    qkv = np.full((3 * 64, 200), 1e9, np.float32)
    qkv[:, ::3] = -1e9
    if signs == "alternating":
        qkv[::2] *= -1
    starts, scales = np.array([0, 150, 200]), np.array([1e-4, 1e-4, 1], np.float32)
    points = np.full(3, zero_point, np.uint8)
    found = int8_attention(qkv, starts, 1, isa, scales, points)
    np.testing.assert_allclose(found, reference.int8_attention(qkv, starts, 1, scales, points), rtol=1e-6, atol=1e-4)


def test_int8_attention_without_numbers_or_sums_that_fit_is_refused():
    x, starts = activations(np.ones((6, 5)), None), np.array([0, 5])
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.uint8)

    def attend(x=x, starts=starts, scales=ones, zero_points=zeros, heads=1, features=2):
        out = _native.Activations(features)
        _native.int8_attention(x, starts=starts, heads=heads, scales=scales, zero_points=zero_points, out=out)

    attend()
    long = activations(np.ones((3, 65_537)), None)
    for changes, message in (
        ({"features": 3}, "3 to 1"),
        ({"starts": np.array([0, 4])}, "starts must rise"),
        ({"heads": 0}, "0 heads"),
        ({"scales": ones[1:]}, "scales has 2 entries, expected 3"),
        ({"zero_points": zeros[1:]}, "zero_points has 2 entries, expected 3"),
        ({"scales": -ones}, r"scales\[0\] must be a positive number"),
        ({"scales": ones * np.nan}, r"scales\[0\] must be a positive number"),
        ({"scales": ones * np.float32(1e30)}, "the scales of queries and keys are too large"),
        ({"x": long, "features": 1, "starts": np.array([0, 65_537])}, "sequence 0 has 65537 tokens: sums could"),
    ):
        with pytest.raises(ValueError, match=message):
            attend(**changes)


def test_codes_for_another_weight_are_refused():
    square = np.ones((4, 4), np.int8)
    weights = [
        int8_weight(square, np.ones(4, np.float32), scale, kernel=kernel) for scale, kernel in SCALES_AND_KERNELS
    ]
    codes, out = _native.Codes(), _native.Activations(4)
    codes.quantize(activations(np.ones((4, 2)), None), weights[0])
    for other in weights[1:]:
        with pytest.raises(ValueError, match="x was quantised for another weight"):
            _native.multiply(other, codes, out=out)
        with pytest.raises(ValueError, match="x was quantised for another weight"):
            _native.multiply_to_codes(other, codes, out=_native.Codes(), next=weights[0])
    wide = int8_weight(np.ones((4, 5), np.int8), np.ones(4, np.float32))
    with pytest.raises(ValueError, match="next has 5 columns, the weight gives 4 features"):
        _native.multiply_to_codes(weights[0], codes, out=_native.Codes(), next=wide)
    with pytest.raises(ValueError, match="out must not be x"):
        _native.multiply_to_codes(weights[0], codes, out=codes, next=weights[0])


def test_two_large_neighbours_of_one_sign_are_split_only_where_they_would_overflow():
    for isa in ISAS:
        small = int8_weight(np.full((5, 8), 64, np.int8), np.ones(5, np.float32), isa=isa, kernel="neighbours")
        large = int8_weight(np.full((5, 8), 65, np.int8), np.ones(5, np.float32), isa=isa, kernel="neighbours")
        assert small.stored == 40
        assert large.stored == (80 if isa in ("avx2", "avx512", "neon") else 40)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("l1_bytes", L1_BYTES)
def test_zeros_that_fill_fours_are_few(isa, l1_bytes):
    """At 90 % zeros nearly every weight finds a partner of the other sign: in a tile, which follows the cache."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(384, 768))
    weight[np.abs(weight) < 1.645] = 0
    codes = np.rint(weight / np.abs(weight).max(axis=1, keepdims=True) * 127).astype(np.int8)
    kernel = int8_weight(codes, np.ones(384, np.float32), isa=isa, l1_bytes=l1_bytes)
    assert kernel.nonzeros == np.count_nonzero(codes)
    whole_rows = l1_bytes >= 768 * panel_bytes(isa)
    assert kernel.stored < (1.07 if whole_rows else 1.11) * kernel.nonzeros


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": np.ones(2, np.float32)}, "scale has 2 entries, expected 3"),
        ({"scale": np.array([1, -1, 1], np.float32)}, r"scale\[1\] must be a positive number"),
        ({"scale": np.array([1, np.nan, 1], np.float32)}, r"scale\[1\] must be a positive number"),
        ({"input_scale": 0.0}, "input_scale must be a positive number"),
        ({"input_scale": np.inf}, "input_scale must be a positive number"),
        ({"zero_point": 256}, "input_zero_point must be 0 to 255"),
        ({"zero_point": -1}, "input_zero_point must be 0 to 255"),
        ({"weight": np.full((3, 70_000), 127, np.int8)}, "row 0 is so long that its sums could overflow"),
    ],
)
@pytest.mark.parametrize("kernel", INT8_KERNELS)
def test_quantisation_that_means_nothing_is_refused(change, message, kernel):
    arguments = {"weight": np.ones((3, 4), np.int8), "scale": np.ones(3, np.float32)} | change
    with pytest.raises(ValueError, match=message):
        int8_weight(**arguments, kernel=kernel)


def test_int8_rows_and_codes_are_checked():
    ones = np.ones(1, np.float32)
    with pytest.raises(ValueError, match=r"\[Int8Weight\] row 0 has column 9 of 4"):
        _native.Int8Weight(
            np.array([0, 1]),
            np.array([9], np.int32),
            np.ones(1, np.int8),
            ones,
            cols=4,
            input_scale=1,
            input_zero_point=0,
        )
    kernel, space = int8_weight(np.ones((3, 4), np.int8), np.ones(3, np.float32)), _native.Codes()
    space.quantize(activations(np.ones((5, 2)), None), kernel)
    with pytest.raises(ValueError, match="x has 5 features, the weight expects 4"):
        _native.multiply(kernel, space, out=_native.Activations(3))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", INT8_KERNELS)
def test_int8_results_do_not_depend_on_threads_or_companions(isa, kernel):
    generator = np.random.default_rng(2)
    weight, x = whole_numbers(generator, 500, 300, 0.1), normal(generator, 300, 150)
    scale = generator.uniform(0.5, 2, 500).astype(np.float32)
    expected = int8_product(int8_weight(weight, scale, isa=isa, kernel=kernel), x, isa)
    for threads in 1, 3, 5:
        _native.set_num_threads(threads)
        packed_weight = int8_weight(weight, scale, isa=isa, kernel=kernel)
        assert np.array_equal(int8_product(packed_weight, x, isa), expected)
        assert np.array_equal(int8_product(packed_weight, x[:, 64:91], isa), expected[:, 64:91])
