"""The packed file: its bytes, its sizes, and every way in which a file can lie."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fuzz_format import mutate, same_model, sample_model, use
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pruneonce.convert.inspect_packed import inspect_packed
from pruneonce.errors import PruneonceError
from pruneonce.files import MAX_HEADER_BYTES
from pruneonce.formats.nonzero_codes import (
    ENCODINGS,
    MAX_RICE_TAIL,
    Positions,
    best_rice_bits,
    bitmask_bytes,
    decode_bitmask,
    decode_deltas,
    decode_rice,
    delta_bytes,
    encode_bitmask,
    encode_deltas,
    encode_rice,
    rice_bytes,
    smallest,
)
from pruneonce.formats.packed_file import PackedModel, read_packed, write_packed
from pruneonce.formats.safetensors_file import MAX_TENSORS, write_container
from pruneonce.formats.stored_tensors import (
    FLOAT_TYPES,
    INT8,
    DenseTensor,
    Int8Matrix,
    Quantization,
    SparseMatrix,
    dense,
    encode_floats,
    pack,
    pack_int8,
    quantize_rows,
)

SPEC = Path(__file__).parents[1] / "docs" / "format.md"
AWKWARD_SHAPES = [(1, 1), (1, 7), (7, 1), (1, 300), (300, 1), (3, 5), (8, 8), (17, 255), (16, 256), (33, 65)]
EXACT = {"fp32": 0.0, "fp16": 2.0**-11, "bf16": 2.0**-8}  # relative error of rounding to nearest


def random_matrix(shape, sparsity, seed=0):
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=shape).astype(np.float32)
    weight[generator.random(shape) < sparsity] = 0
    return weight


def model_of(**tensors):
    return PackedModel({"model_type": "bert"}, "{}", tensors)


@pytest.fixture
def written(tmp_path):
    """Write a model of the given tensors and read it back."""

    def write(**tensors):
        file = tmp_path / "m.pruneonce"
        write_packed(file, model_of(**tensors))
        return read_packed(file)

    return write


# What is written.


def test_golden_bytes(tmp_path):
    file = tmp_path / "m.pruneonce"
    weight = np.zeros((2, 6), np.float32)
    weight[0, 1], weight[1, 4] = 1.0, -2.0
    write_packed(file, model_of(w=pack(weight), b=dense(np.array([0.5], np.float32), "fp16")))
    header = (
        b'{"__metadata__":{"config.json":"{\\"model_type\\":\\"bert\\"}","format_version":"1",'
        b'"tensors":"{\\"w\\":{\\"encoding\\":\\"bitmask\\",\\"shape\\":[2,6]},\\"b\\":{\\"encoding\\":\\"dense\\"}}",'
        b'"tokenizer.json":"{}"},'
        b'"w.values":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"b":{"dtype":"F16","shape":[1],"data_offsets":[8,10]},'
        b'"w.bitmask":{"dtype":"U8","shape":[2],"data_offsets":[10,12]}}'
    )
    header += b" " * (-len(header) % 8)
    data = b"\x00\x00\x80\x3f" + b"\x00\x00\x00\xc0" + b"\x00\x38" + b"\x02\x04"
    assert file.read_bytes() == len(header).to_bytes(8, "little") + header + data


def test_golden_deltas():
    positions = np.array([0, 1, 257, 513, 800])
    expected = [0, 0, 255, 0, 255, 0, 255, 31]
    assert encode_deltas(positions, 1310).tolist() == [*expected, 255]  # 509 zeros at the end: one full 255
    assert encode_deltas(positions, 1055).tolist() == expected  # 254 at the end are left out
    assert encode_deltas(positions, 1056).tolist() == [*expected, 255]


@pytest.mark.parametrize("shape", AWKWARD_SHAPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.5, 0.9, 0.99, 1.0])
def test_bytes_obey_the_size_law(shape, sparsity):
    weight = random_matrix(shape, sparsity)
    positions = np.flatnonzero(weight)
    gaps = np.diff(np.concatenate([[-1], positions, [weight.size]])) - 1
    bits, deltas = -(-weight.size // 8), len(positions) + sum(gap // 255 for gap in gaps.tolist())
    assert encode_bitmask(positions, weight.size).nbytes == bits == bitmask_bytes(weight.size)
    assert encode_deltas(positions, weight.size).nbytes == deltas == delta_bytes(positions, weight.size)
    rices = {}
    for low in range(9):
        quotients = sum(gap >> low for gap in gaps[:-1].tolist()) + len(positions)
        rices[low] = -(-len(positions) * low // 8) + -(-quotients // 8)
        assert encode_rice(positions, weight.size, low).nbytes == rices[low] == rice_bytes(positions, weight.size, low)
    best = best_rice_bits(positions, weight.size)
    if weight.size > 1000:  # a handful of bytes may be one more than the best
        assert rices[best] <= 1.01 * min(rices.values()) + 1
    smallest_bytes = min(bits, deltas, rices[best])
    assert smallest(positions, weight.size).nbytes == smallest_bytes
    assert pack(weight).nbytes == min(4 * len(positions) + smallest_bytes, 4 * weight.size)


def test_golden_rice_codes():
    positions = np.array([0, 1, 10, 20])  # gaps 0, 0, 8, 9: quotients 0, 0, 2, 2 and remainders 0, 0, 0, 1 of 2 bits
    assert encode_rice(positions, 30, 2).tolist() == [0b01_00_00_00, 0b10010011]
    assert encode_rice(np.array([2]), 3, 0).tolist() == [0b100]
    assert encode_rice(np.array([], np.int64), 3, 3).tolist() == []


def test_encoding_is_the_smaller_one_and_dense_where_neither_pays():
    assert pack(random_matrix((64, 64), 0.5)).encoding == "bitmask"
    assert pack(random_matrix((64, 64), 0.9)).encoding == "rice"
    evenly = np.zeros((64, 64), np.float32)
    evenly.reshape(-1)[200::255] = 1
    assert pack(evenly).encoding == "delta"
    assert pack(random_matrix((64, 64), 0.01)).encoding == "dense"
    assert pack(random_matrix((64, 64), 0.05), "fp32").encoding == "bitmask"
    assert pack(random_matrix((64, 64), 0.05), "fp16").encoding == "dense"


def test_bert_base_positions_are_within_three_percent_of_their_entropy():
    weight = random_matrix((768, 3072), 0.9)
    kept = np.count_nonzero(weight) / weight.size
    entropy = -kept * np.log2(kept) - (1 - kept) * np.log2(1 - kept)
    assert entropy < 8 * pack(weight).positions.nbytes / weight.size < 1.03 * entropy


def test_the_safetensors_library_reads_it(tmp_path):
    file = tmp_path / "m.pruneonce"
    weight = random_matrix((16, 64), 0.9)
    write_packed(file, model_of(w=pack(weight), b=dense(weight, "bf16")))
    with safe_open(file, framework="np") as library:
        assert library.metadata()["format_version"] == "2"
        assert np.array_equal(library.get_tensor("w.values"), weight[weight != 0])
        assert sorted(library.keys()) == ["b", "w.rice", "w.values"]


# What is read back.


def quantised(weight):
    """De-quantised weights, and what they were quantised with."""
    rows = quantize_rows(weight)
    scale = np.where(rows.scale > 0, rows.scale, np.float32(1))
    weight = rows.codes * scale[:, None]
    return weight, Quantization(scale, np.array([0.03], np.float32), np.array([120], np.uint8))


def attended(weight):
    """As above, of a matrix whose product attention reads as codes."""
    weight, found = quantised(weight)
    codes = np.array([0.07], np.float32), np.array([31], np.uint8)
    return weight, Quantization(found.scale, found.input_scale, found.input_zero_point, *codes)


@pytest.mark.parametrize("shape", AWKWARD_SHAPES)
def test_quantised_weights_come_back_as_the_same_whole_numbers(written, shape):
    weight, quantization = quantised(random_matrix(shape, 0.8))
    matrix = written(w=pack_int8(weight, quantization)).tensors["w"]
    assert matrix.type == INT8
    assert matrix.to_dense().tobytes() == weight.tobytes()
    assert_csr(matrix, weight)
    assert matrix.quantization.scale.tobytes() == quantization.scale.tobytes()
    assert (matrix.quantization.input_scale, matrix.quantization.input_zero_point) == (np.float32(0.03), 120)
    assert matrix.quantization.attention_scale is None


def test_codes_for_attention_come_back_and_are_named_in_the_tensors_entry(tmp_path):
    write_packed(tmp_path / "m", model_of(w=pack_int8(*attended(random_matrix((17, 255), 0.8)))))
    found = read_packed(tmp_path / "m").tensors["w"].quantization
    assert (found.attention_scale, found.attention_zero_point) == (np.float32(0.07), 31)
    with safe_open(tmp_path / "m", framework="np") as library:
        assert json.loads(library.metadata()["tensors"])["w"]["attention"] == "int8"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, q: (w + 0.004, q), "not whole numbers"),
        (lambda w, q: (w * 2, q), "not whole numbers of -127 to 127"),
        (lambda w, q: (w, Quantization(q.scale[1:], q.input_scale, q.input_zero_point)), "need 17 scales"),
        (lambda w, q: (w, Quantization(-q.scale, q.input_scale, q.input_zero_point)), "a scale is not within"),
        (lambda w, q: (w, Quantization(q.scale, q.input_scale * np.nan, q.input_zero_point)), "NaN or infinite"),
        (
            lambda w, q: (w, replace(q, attention_scale=q.input_scale)),
            "one attention_scale and one attention_zero_point",
        ),
        (lambda w, q: (w, replace(attended(w)[1], attention_scale=q.scale)), "one attention_scale"),
        (lambda w, q: (w, replace(attended(w)[1], attention_scale=q.input_scale * 0)), "a scale is not within"),
    ],
)
def test_weights_and_scales_that_do_not_belong_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        pack_int8(*change(*quantised(random_matrix((17, 255), 0.8))))


def test_the_file_has_the_lowest_version_that_can_say_it(tmp_path):
    for tensor, version in (
        (pack(random_matrix((64, 64), 0.5)), "1"),
        (pack(random_matrix((64, 64), 0.9)), "2"),
        (pack_int8(*quantised(random_matrix((8, 8), 0.5))), "2"),
        (pack_int8(*attended(random_matrix((8, 8), 0.5))), "4"),
    ):
        write_packed(tmp_path / "m", model_of(w=tensor))
        with safe_open(tmp_path / "m", framework="np") as library:
            assert library.metadata()["format_version"] == version
        assert inspect_packed(tmp_path / "m").format_version == int(version), "not the newest that this code knows"


@pytest.mark.parametrize(
    ("data", "size", "count", "bits", "message"),
    [
        ([1], 8, 3, 3, "3 remainders of 3 bits take 2 bytes, the data has 1"),
        ([0b1000_0000, 1], 8, 1, 3, "padding bits"),
        ([0, 0b11], 8, 1, 3, "positions are those of 2 weights, there are 1"),
        ([0, 1, 0], 8, 1, 3, "last byte of the quotients is zero"),
        ([0, 0b10], 8, 1, 3, "cover more than 8 elements"),
        ([7, 0b10], 15, 1, 3, "cover more than 15 elements"),
        ([0, 0, 0, 0, 0, 0, 0, 128], 2**31 - 1, 1, 8, "cover more than 12,000 elements"),
    ],
)
def test_rice_codes_that_lie(data, size, count, bits, message):
    with pytest.raises(ValueError, match=message):
        Positions("rice", np.array(data, np.uint8), bits).check(min(size, 12000), count)


def test_a_few_rice_bytes_cannot_claim_a_huge_matrix():
    last = np.array([7], np.int64)
    for tail, positions in ((0, last[:0]), (8, last)):
        codes = Positions("rice", encode_rice(positions, 8, 3), 3)
        codes.check(tail + MAX_RICE_TAIL, len(positions))
        with pytest.raises(ValueError, match=f"cover {tail} of .*: only the last 16,777,216 may be left out"):
            codes.check(tail + MAX_RICE_TAIL + 1, len(positions))
        assert smallest(positions, tail + MAX_RICE_TAIL).encoding == "rice"
        other = smallest(positions, tail + MAX_RICE_TAIL + 1)
        assert other.encoding == "delta"
        other.check(tail + MAX_RICE_TAIL + 1, len(positions))


def test_nor_can_a_few_bytes_in_many_tensors(tmp_path):
    """Each of them may end in 16 million zeros, 64 MB as floats; hundreds of them were read matrix by matrix."""
    empty = lambda: SparseMatrix(  # noqa: E731
        (1 << 12, 1 << 12), np.zeros(0, np.float32), FLOAT_TYPES["fp32"], Positions("rice", np.zeros(0, np.uint8), 8)
    )
    write_packed(tmp_path / "few.pruneonce", model_of(**{f"m{number}": empty() for number in range(64)}))
    with pytest.raises(PruneonceError, match=r"many\.pruneonce: its matrices end in 1,090,519,040 zeros that take no"):
        write_packed(tmp_path / "many.pruneonce", model_of(**{f"m{number}": empty() for number in range(65)}))


def test_native_decoding_of_too_little_data_is_an_error_not_a_read_beyond_it():
    for data, bits in (([], 0), ([0], 3), ([0, 0], 3), ([0, 0, 0], 9)):
        with pytest.raises(ValueError, match=r"does not hold 1 positions"):
            decode_rice(np.array(data, np.uint8), 1, bits)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 700),
    sparsity=st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0]),
    kind=st.sampled_from(sorted(FLOAT_TYPES)),
    seed=st.integers(0, 2**32 - 1),
)
def test_matrices_survive_the_round_trip(tmp_path_factory, rows, columns, sparsity, kind, seed):
    weight = random_matrix((rows, columns), sparsity, seed)
    file = tmp_path_factory.mktemp("round-trip") / "m.pruneonce"
    write_packed(file, model_of(w=pack(weight, kind)))
    matrix = read_packed(file).tensors["w"]
    found = matrix.to_dense()
    assert found.dtype == np.float32
    assert np.array_equal(found != 0, weight != 0)
    assert np.all(np.abs(found - weight) <= EXACT[kind] * np.abs(weight) + 2.0**-24)
    if kind == "fp32":
        assert found.tobytes() == weight.tobytes()
    if isinstance(matrix, SparseMatrix):
        assert_csr(matrix, found)


def assert_csr(matrix, expected):
    """The CSR view against a plain loop."""
    csr = matrix.csr()
    assert (csr.row_pointers.dtype, csr.columns.dtype, csr.values.dtype) == (np.int64, np.int32, np.float32)
    for row, weights in enumerate(expected):
        begin, end = csr.row_pointers[row : row + 2]
        assert csr.columns[begin:end].tolist() == np.flatnonzero(weights).tolist()
        assert csr.values[begin:end].tolist() == weights[weights != 0].tolist()
    assert csr.row_pointers[0] == 0
    assert csr.row_pointers[-1] == len(csr.values) == len(csr.columns)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 3000), data=st.data())
def test_every_encoding_returns_the_positions(size, data):
    positions = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=50))), np.int64)
    assert decode_deltas(encode_deltas(positions, size)).tolist() == positions.tolist()
    assert decode_bitmask(encode_bitmask(positions, size), size).tolist() == positions.tolist()
    for bits in range(9):
        codes = encode_rice(positions, size, bits)
        Positions("rice", codes, bits).check(size, len(positions))
        assert decode_rice(codes, len(positions), bits).tolist() == positions.tolist()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", sorted(FLOAT_TYPES))
@pytest.mark.parametrize("shape", AWKWARD_SHAPES)
def test_the_documented_reader_reads_what_we_write(documented_reader, tmp_path, shape, kind, encoding):
    weight = random_matrix(shape, 0.8)
    positions = np.flatnonzero(weight)
    values = encode_floats(weight.reshape(-1)[positions], kind)
    coded = {
        "bitmask": Positions("bitmask", encode_bitmask(positions, weight.size)),
        "delta": Positions("delta", encode_deltas(positions, weight.size)),
        "rice": Positions("rice", encode_rice(positions, weight.size, 3), 3),
    }[encoding]
    tensors = {
        "sparse": SparseMatrix(shape, values, FLOAT_TYPES[kind], coded),
        "quantised": pack_int8(*quantised(weight)),
        "attended": pack_int8(*attended(weight)),
        "dense": dense(weight, kind),
        "int8": quantize_rows(weight),
        "scalar": dense(np.array(3.0, np.float32)),
    }
    file = tmp_path / "m.pruneonce"
    write_packed(file, PackedModel({"a": 1}, '{"é":"x"}', tensors, {"masks": {}}))
    config, tokenizer, record, found = documented_reader(file)
    ours = read_packed(file)
    assert (config, tokenizer, record) == (ours.config, ours.tokenizer, ours.provenance)
    assert found.keys() == ours.tensors.keys()
    for name, tensor in ours.tensors.items():
        assert found[name].shape == tensor.to_dense().shape
        assert found[name].tobytes() == tensor.to_dense().tobytes()


def test_empty_rows_and_an_all_zero_matrix(written):
    hollow = np.zeros((5, 300), np.float32)
    hollow[3, 299] = 7
    model = written(hollow=pack(hollow), nothing=pack(np.zeros((40, 90), np.float32)))
    assert np.array_equal(model.tensors["hollow"].to_dense(), hollow)
    assert not model.tensors["nothing"].to_dense().any()
    assert model.tensors["nothing"].csr().row_pointers.tolist() == [0] * 41
    assert_csr(model.tensors["hollow"], hollow)


def test_non_contiguous_and_read_only_input(written):
    weight = random_matrix((64, 96), 0.9)
    weight.setflags(write=False)
    model = written(turned=pack(weight.T), thinned=pack(weight[::3, ::2]), plain=dense(weight.T, "bf16"))
    assert np.array_equal(model.tensors["turned"].to_dense(), weight.T)
    assert np.array_equal(model.tensors["thinned"].to_dense(), weight[::3, ::2])
    assert model.tensors["plain"].shape == (96, 64)


def test_negative_zero_is_a_zero_in_sparse_matrices_and_survives_in_dense_ones(written):
    weight = np.zeros((16, 16), np.float32)
    weight[3, 3], weight[4, 4] = -0.0, 1.0
    model = written(sparse=pack(weight), dense=dense(weight), half=dense(weight, "fp16"))
    assert model.tensors["sparse"].values.size == 1
    assert not np.signbit(model.tensors["sparse"].to_dense()).any()
    assert np.signbit(model.tensors["dense"].to_dense()[3, 3])
    assert np.signbit(model.tensors["half"].to_dense()[3, 3])


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_underflow_keeps_a_weight_non_zero_so_that_masks_stay(kind):
    tiny = np.array([1e-45, -1e-45, 1e-30, 0.0, -0.0], np.float32)
    found = dense(tiny, kind).to_dense()
    assert (found != 0).tolist() == [True, True, True, False, False]
    assert np.signbit(found).tolist() == [False, True, False, False, True]


def test_bfloat16_rounds_as_torch_does():
    import torch

    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert np.array_equal(dense(values, "bf16").to_dense(), expected)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_overflow_is_refused_and_says_what_to_choose(kind):
    with pytest.raises(ValueError, match=r"3\.40282e\+38, is beyond .*choose fp32"):
        pack(np.array([[np.finfo(np.float32).max, 0, 0]], np.float32), kind)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_when_writing(value):
    weight = random_matrix((8, 8), 0.9)
    weight[0, 0] = value
    for store in (pack, dense, quantize_rows):
        with pytest.raises(ValueError, match=r"1 of its .* values are NaN or infinite"):
            store(weight)


def test_int8_rows_are_within_half_a_step(written):
    matrix = random_matrix((50, 30), 0.1)
    matrix[7] = 0
    matrix[8] = 1e-44  # a scale that is subnormal, and inexact
    matrix[9, 0] = 1e38
    found = written(m=quantize_rows(matrix)).tensors["m"]
    assert isinstance(found, Int8Matrix)
    error = np.abs(found.to_dense() - matrix)
    steps = np.abs(matrix).max(axis=1, keepdims=True) / 127
    assert np.all(error <= 0.5001 * steps + 1e-44)
    assert not found.to_dense()[7].any()
    assert found.codes.min() >= -127


def test_arrays_are_views_of_the_file_that_nobody_can_write_to(written):
    tensor = written(b=dense(np.ones(8, np.float32))).tensors["b"]
    with pytest.raises(ValueError, match="read-only"):
        tensor.data[0] = 2


def test_replacing_a_file_leaves_its_readers_alone(tmp_path):
    file = tmp_path / "m.pruneonce"
    write_packed(file, model_of(b=dense(np.ones(4096, np.float32))))
    first = read_packed(file)
    write_packed(file, model_of(b=dense(np.zeros(4, np.float32))))
    assert first.tensors["b"].to_dense().sum() == 4096


def test_a_model_that_breaks_a_rule_is_not_written(tmp_path):
    file = tmp_path / "m.pruneonce"
    good = model_of(b=dense(np.ones(4, np.float32)))
    write_packed(file, good)
    bad = DenseTensor(np.array([np.nan], np.float32), FLOAT_TYPES["fp32"])
    with pytest.raises(PruneonceError, match=f"^{re.escape(str(file))}: tensor x: .*NaN"):
        write_packed(file, model_of(x=bad))
    with pytest.raises(PruneonceError, match=r"under the name w\.values"):
        write_packed(file, model_of(**{"w": pack(np.zeros((99, 99), np.float32)), "w.values": dense(np.ones(1))}))
    with pytest.raises(PruneonceError, match=r"config.json cannot be written as JSON"):
        write_packed(file, PackedModel({"dropout": float("nan")}, "{}", {}))
    with pytest.raises(PruneonceError, match=r"config.json cannot be written as JSON: .*surrogates"):
        write_packed(file, PackedModel({"id2label": {"0": "\ud800"}}, "{}", {}))
    assert same_model(read_packed(file), good)
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_labels_are_in_the_order_of_their_numbers(tmp_path):
    file = tmp_path / "m.pruneonce"
    names = {str(number): f"label {number}" for number in reversed(range(12))}
    write_packed(file, PackedModel({"id2label": names}, "{}", {}))
    assert read_packed(file).labels == [f"label {number}" for number in range(12)]


# Files that lie. Each starts from a sound one with a bitmask, a delta, an int8 and a dense tensor.


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(header, data) of a sound file."""
    file = tmp_path_factory.mktemp("sound") / "m.pruneonce"
    write_packed(file, sample_model())
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


@pytest.fixture
def refused(tmp_path):
    """Assert that a file of these bytes is refused with a message that names the file and matches."""

    def check(raw, message):
        file = tmp_path / "lie.pruneonce"
        file.write_bytes(raw)
        with pytest.raises(PruneonceError, match=message) as caught:
            read_packed(file)
        text = str(caught.value)
        assert text.startswith(f"{file}: ")
        assert text.isprintable()

    return check


def with_header(header, data):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data


def changed(header, name, **fields):
    return {**header, name: {**header[name], **fields}}


def with_metadata(header, **texts):
    metadata = {**header["__metadata__"], **texts}
    return {**header, "__metadata__": {key: text for key, text in metadata.items() if text is not None}}


def with_entry(header, name, entry):
    return with_metadata(header, tensors=json.dumps({**json.loads(header["__metadata__"]["tensors"]), name: entry}))


def patched(header, data, name, offset, byte):
    """Data with one byte of tensor `name` replaced."""
    begin, end = header[name]["data_offsets"]
    at = begin + offset if offset >= 0 else end + offset
    return data[:at] + bytes([byte]) + data[at + 1 :]


def test_the_sound_file_is_sound(sound, tmp_path):
    file = tmp_path / "m.pruneonce"
    file.write_bytes(with_header(*sound))
    assert same_model(read_packed(file), sample_model())


def test_newer_version_is_refused_with_both_numbers(sound, refused):
    header, data = sound
    refused(with_header(with_metadata(header, format_version="7"), data), "format version 7, .* up to 4: upgrade")


@pytest.mark.parametrize("version", ["0", "-1", "1.0", "", "one", "²", "9" * 5000])
def test_version_that_is_no_number(sound, refused, version):
    header, data = sound
    refused(
        with_header(with_metadata(header, format_version=version), data),
        "format version .*, this pruneonce reads up to 4",
    )


def test_plain_safetensors_file_is_no_packed_model(refused, tmp_path):
    file = tmp_path / "model.safetensors"
    write_container(file, {"w": ("F32", np.ones(3, np.float32))}, {"format": "pt"})
    refused(file.read_bytes(), "not a packed model.*pruneonce export")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"1234567", "7 bytes are too few"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "at most 16,777,216"),
        (b"\xff" * 16, "at most 16,777,216"),
        ((100).to_bytes(8, "little") + b"{}", "the header claims 100 bytes, the file has 10"),
        ((0).to_bytes(8, "little"), "does not begin with '{'"),
        (with_header(b" {}", b""), "does not begin with '{'"),
        (with_header(b"{nonsense", b""), "not valid JSON"),
        (with_header(b'{"a":"\xff"}', b""), "utf-8"),
        (with_header(b'{"a":' * 100_000, b""), "nested too deeply|not valid JSON"),
        (with_header(b'{"a":{},"a":{}}', b""), "'a' occurs twice"),
        (with_header(b'{"a":NaN}', b""), "NaN is not JSON"),
        (with_header(b'{"a":' + b"9" * 5000 + b"}", b""), "not valid JSON|must give dtype"),
        (with_header({"__metadata__": {"a": 1}}, b""), "strings to strings"),
        (with_header({"__metadata__": []}, b""), "strings to strings"),
        (with_header(b'{"__metadata__":{"a":"\\ud800"}}', b""), "not valid Unicode"),
        (with_header({"\x1b[2J": {}}, b""), "a tensor is called"),
        (with_header({"": {}}, b""), "a tensor is called"),
        (with_header({f"t{number}": {} for number in range(MAX_TENSORS + 1)}, b""), "at most 65,536 are allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_container(refused, raw, message):
    refused(raw, message)


def test_truncated_at_every_length(sound, tmp_path):
    raw = with_header(*sound)
    file = tmp_path / "cut.pruneonce"
    for length in {*range(0, len(raw), 37), *range(len(raw) - 40, len(raw))}:
        file.write_bytes(raw[:length])
        with pytest.raises(PruneonceError):
            read_packed(file)


def test_bytes_after_the_end(sound, refused):
    header, data = sound
    refused(with_header(header, data + b"PK\x03\x04"), "4 bytes at the end belong to no tensor")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "F8_E5M2"}, "dtype 'F8_E5M2' is not one of"),
        ({"dtype": ["F32"]}, "dtype .* is not one of"),
        ({"shape": [-1]}, "a shape is"),
        ({"shape": [1.0]}, "a shape is"),
        ({"shape": [True]}, "a shape is"),
        ({"shape": [2**31]}, "a shape is"),
        ({"shape": [1] * 9}, "a shape is"),
        ({"shape": "11"}, "a shape is"),
        ({"shape": [2**31 - 1, 2**31 - 1, 2**31 - 1]}, "too large"),
        ({"shape": [0, 2**31 - 1, 2**31 - 1]}, "too large"),
        ({"shape": [3]}, "does not have"),
        ({"data_offsets": [0]}, "two integers"),
        ({"data_offsets": [0, "8"]}, "two integers"),
        ({"data_offsets": [-8, 0]}, "outside"),
        ({"data_offsets": [8, 0]}, "outside"),
        ({"data_offsets": [0, 2**63]}, "outside"),
        ({"data_offsets": [10**40, 10**41]}, "outside"),
        ({"extra": 1}, "and nothing else"),
    ],
)
def test_lying_container_entry_names_the_tensor(sound, refused, fields, message):
    header, data = sound
    refused(with_header(changed(header, "bits.values", **fields), data), f"tensor bits.values: .*{message}")


def test_overlap_and_hole(sound, refused):
    header, data = sound
    (begin, end), (shape,) = header["rice.values"]["data_offsets"], header["rice.values"]["shape"]
    inside = changed(header, "rice.values", data_offsets=[begin - 4, end - 4])
    refused(with_header(inside, data), "overlaps the tensor before it")
    shorter = changed(header, "rice.values", data_offsets=[begin + 2, end], shape=[shape - 1])
    refused(with_header(shorter, data), "tensor rice.values: its data leaves a hole")


def test_misaligned_tensor(sound, refused):
    header, data = sound
    encoded = json.dumps(header).encode()
    encoded += b" " * (1 - len(encoded) % 4)
    raw = len(encoded).to_bytes(8, "little") + encoded + data
    refused(raw, "it begins at byte .*, not at a multiple of 4")


@pytest.mark.parametrize("key", ["config.json", "tokenizer.json", "tensors"])
def test_metadata_key_missing_or_no_object(sound, refused, key):
    header, data = sound
    refused(with_header(with_metadata(header, **{key: None}), data), f"no {key}")
    refused(with_header(with_metadata(header, **{key: "[]"}), data), f"{key} is not a JSON object")
    refused(with_header(with_metadata(header, **{key: '{"a":1,"a":2}'}), data), f"{key} is not valid JSON: .*twice")
    refused(with_header(with_metadata(header, **{key: '{"a":' + "[" * 200_000}), data), f"{key} is n")


@pytest.mark.parametrize("key", ["config.json", "tokenizer.json", "tensors", "pruneonce.json"])
@pytest.mark.parametrize("text", ['{"id2label":{"0":"\\ud800"}}', '{"\\uDFFF":1}', '{"a":"\\udc00\\ud800"}'])
def test_half_a_character_in_the_metadata(sound, refused, key, text):
    header, data = sound
    refused(with_header(with_metadata(header, **{key: text}), data), f"{key} is not valid Unicode")


def test_escaped_characters_beyond_16_bits_are_read(tmp_path, sound):
    header, data = sound
    file = tmp_path / "m.pruneonce"
    config = json.dumps({"id2label": {"0": "\U0001f600", "1": "\\ud800"}})  # a whole pair; a backslash and letters
    file.write_bytes(with_header(with_metadata(header, **{"config.json": config}), data))
    assert read_packed(file).labels == ["\U0001f600", "\\ud800"]


def test_unknown_metadata_key(sound, refused):
    header, data = sound
    refused(with_header(with_metadata(header, plugin="evil.py:run"), data), "the metadata key 'plugin' is not one")


@pytest.mark.parametrize("labels", [{"0": "a", "2": "b"}, {"0": 1}, ["a"], {"00": "a"}])
def test_labels_without_order(sound, refused, labels):
    header, data = sound
    refused(with_header(with_metadata(header, **{"config.json": json.dumps({"id2label": labels})}), data), "id2label")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"encoding": "csr", "shape": [1, 1]}, "encoding 'csr' is not one of dense, int8, bitmask, delta"),
        ({"encoding": "evil.py:run"}, "is not one of"),
        ({"encoding": ["bitmask"]}, "is not one of"),
        ("bitmask", "is not one of"),
        ({"encoding": "bitmask"}, "attribute shape"),
        ({"encoding": "bitmask", "shape": [9, 11], "x": 1}, "attribute shape"),
        ({"encoding": "dense", "shape": [9, 11]}, "has no attributes"),
        ({"encoding": "dense", "attention": "int8"}, "has no attributes"),
        ({"encoding": "bitmask", "shape": [9, 11], "attention": "fp32"}, "attention is 'fp32', 'int8' is expected"),
        ({"encoding": "bitmask", "shape": [9, 11], "attention": "int8"}, "bits.values: its dtype must be I8"),
        ({"encoding": "bitmask", "shape": [99]}, "two sizes"),
        ({"encoding": "bitmask", "shape": [9, -11]}, "two sizes"),
        ({"encoding": "bitmask", "shape": [9, 2**40]}, "two sizes"),
        ({"encoding": "bitmask", "shape": [2**31 - 1, 2**31 - 1]}, "2,147,483,647 elements"),
        ({"encoding": "bitmask", "shape": [0, 0]}, "elements"),
        ({"encoding": "bitmask", "shape": [9, 12]}, "a bitmask of 108 elements has 14 bytes"),
        ({"encoding": "delta", "shape": [9, 11]}, "bits.delta is in the metadata's list, but not in the file"),
        ({"encoding": "dense"}, "bits is in the metadata's list, but not in the file"),
    ],
)
def test_lying_metadata_entry_names_the_tensor(sound, refused, entry, message):
    header, data = sound
    refused(with_header(with_entry(header, "bits", entry), data), f"tensor bits.*{message}|tensor {message}")


def test_metadata_entry_with_an_unprintable_name(sound, refused):
    header, data = sound
    refused(with_header(with_entry(header, "\x1b[2J", {"encoding": "dense"}), data), "no name of a tensor")


def test_tensor_that_is_part_of_nothing_or_of_two(sound, refused):
    header, data = sound
    listed = json.loads(header["__metadata__"]["tensors"])
    del listed["bits"]
    refused(with_header(with_metadata(header, tensors=json.dumps(listed)), data), "not part of anything")
    refused(with_header(with_entry(header, "bytes.scale", {"encoding": "dense"}), data), "part of two tensors")


def test_wrong_dtype_for_its_part(sound, refused):
    header, data = sound
    refused(
        with_header(changed(header, "bits.bitmask", dtype="I8"), data), "bits.bitmask: its dtype must be U8, not I8"
    )
    refused(with_header(changed(header, "bits.values", dtype="I32"), data), "must be F32 or F16 or BF16 or I8, not I32")


def test_bitmask_with_a_bit_too_many_or_padding(sound, refused):
    header, data = sound
    begin = header["bits.bitmask"]["data_offsets"][0]
    refused(
        with_header(header, patched(header, data, "bits.bitmask", 0, data[begin] ^ 1)), "tensor bits: the positions"
    )
    refused(with_header(header, patched(header, data, "bits.bitmask", -1, 0x80)), "tensor bits: .*padding")


def test_deltas_beyond_or_short_of_the_matrix(sound, refused):
    header, data = sound
    # 950 zeros come first: three bytes of 255, then 185. One weight too many, then one too few.
    for place, byte in ((0, 200), (3, 255)):
        raw = with_header(header, patched(header, data, "gaps.delta", place, byte))
        refused(raw, "tensor gaps: the (deltas|positions)")
    shape = json.loads(header["__metadata__"]["tensors"])["gaps"]["shape"]
    longer = {"encoding": "delta", "shape": [shape[0] + 255, shape[1]]}
    refused(with_header(with_entry(header, "gaps", longer), data), "tensor gaps: the deltas cover .* of")
    huge = {"encoding": "delta", "shape": [2**15, 2**15]}
    refused(with_header(with_entry(header, "gaps", huge), data), "tensor gaps: the deltas cover .* of 1,073,741,824")


def test_stored_zero_nan_and_infinity(sound, refused):
    header, data = sound
    begin = header["bits.values"]["data_offsets"][0]
    for pattern, message in [
        (b"\x00\x00\x00\x00", "a stored value is zero"),
        (b"\x00\x00\x00\x80", "a stored value is zero"),
        (b"\x00\x00\xc0\x7f", "NaN or infinite"),
        (b"\x00\x00\x80\xff", "NaN or infinite"),
    ]:
        refused(with_header(header, data[:begin] + pattern + data[begin + 4 :]), f"tensor bits: .*{message}")
    begin = header["plain"]["data_offsets"][0]
    refused(with_header(header, data[:begin] + b"\x00\x7c" + data[begin + 2 :]), "tensor plain: .*NaN or infinite")


def test_int8_code_out_of_range_and_bad_scale(sound, refused):
    header, data = sound
    refused(with_header(header, patched(header, data, "bytes.codes", 0, 0x80)), "tensor bytes: a code is -128")
    begin = header["bytes.scale"]["data_offsets"][0]
    for scale, message in (
        (-1.0, "a scale is not within"),
        (3e36, "a scale is not within"),
        (np.inf, "NaN or infinite"),
    ):
        raw = data[:begin] + np.float32(scale).tobytes() + data[begin + 4 :]
        refused(with_header(header, raw), f"tensor bytes: .*{message}")
    one_row = changed(header, "bytes.codes", shape=[1, int(np.prod(header["bytes.codes"]["shape"]))])
    refused(with_header(one_row, data), "tensor bytes: .*one scale per row")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent", Path("/dev/zero")):
        with pytest.raises(PruneonceError, match=re.escape(str(path))):
            read_packed(path)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_mutated_file_is_refused_or_sound(tmp_path_factory, sound, seed):
    """Whatever is read must be usable: native code will trust it. `make campaign` runs for longer."""
    mutated = mutate(with_header(*sound), np.random.default_rng(seed))
    file = tmp_path_factory.getbasetemp() / "mutated.pruneonce"
    file.unlink(missing_ok=True)  # not rewritten in place: an older mapping of it may still be alive
    file.write_bytes(mutated)
    with contextlib.suppress(PruneonceError):
        use(read_packed(file))
