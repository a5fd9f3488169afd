"""Mutates packed files: a few in tests/test_format.py, many in `make campaign`.

A mutated file must be refused with PruneonceError, or read as a model whose every array can be used.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from pruneonce.formats.nonzero_codes import Positions, encode_bitmask, encode_deltas
from pruneonce.formats.packed_file import PackedModel
from pruneonce.formats.stored_tensors import (
    FLOAT_TYPES,
    Quantization,
    SparseMatrix,
    dense,
    pack,
    pack_int8,
    quantize_rows,
)
from pruneonce.models.sentence import EmbeddingPlan, Projection

NUMBERS = [-1, 0, 1, 2, 254, 255, 256, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64, 10**30, 0.5, True, None, "7", [], {}]


def sample_model() -> PackedModel:
    """A small model with every encoding."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(9, 11)).astype(np.float32)
    weight[generator.random(weight.shape) < 0.7] = 0
    weight[0, 0], weight[-1, -1] = 0, 0
    positions = np.flatnonzero(weight)
    values = weight.reshape(-1)[positions]
    bits = SparseMatrix(
        (9, 11), values, FLOAT_TYPES["fp32"], Positions("bitmask", encode_bitmask(positions, weight.size))
    )
    gaps = SparseMatrix((9, 11), values, FLOAT_TYPES["fp32"], Positions("delta", encode_deltas(positions, weight.size)))
    wide = np.zeros((6, 700), np.float32)
    wide[1::2, 250::75] = generator.normal(size=(3, 6))
    whole = (generator.integers(-127, 128, (9, 70)) * (generator.random((9, 70)) < 0.2)).astype(np.float32)
    quantization = Quantization(np.ones(9, np.float32), np.array([0.1], np.float32), np.array([7], np.uint8))
    attended = replace(quantization, attention_scale=np.ones(1, np.float32), attention_zero_point=np.ones(1, np.uint8))
    return PackedModel(
        {"model_type": "bert", "id2label": {"0": "no", "1": "yes"}},
        '{"version":"1.0"}',
        {
            "bits": bits,
            "gaps": gaps,
            "rice": pack(wide, "bf16"),
            "quantised": pack_int8(whole, quantization),
            "attended": pack_int8(whole, attended),
            "bytes": quantize_rows(weight),
            "plain": dense(weight[0], "fp16"),
            "bias": dense(weight[:, 3]),
        },
        {"format_version": 1, "masks": {}},
        EmbeddingPlan(("mean", "cls"), (Projection("2_Dense", "tanh"),), max_tokens=9, prompts={"query": "q: "}),
    )


def mutate(raw: bytes, generator: np.random.Generator) -> bytes:
    """A file with one to three mutations of its bytes or, as a liar would, of its header or of its arrays alone."""
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        choice = generator.random()
        if choice < 0.08:
            raw = raw[: generator.integers(len(raw) + 1)]
        elif choice < 0.16:
            raw = flip_bits(raw, generator)
        elif choice < 0.24:
            raw = _copy_slice(raw, generator)
        elif choice < 0.5:
            begin = 8 + int.from_bytes(raw[:8], "little")
            raw = raw[:begin] + flip_bits(raw[begin:], generator)
        else:
            raw = _lie(raw, generator)
    return raw


def use(model: PackedModel) -> None:
    """Touch all that native code would."""
    assert model.labels is not None
    for tensor in model.tensors.values():
        found = tensor.to_dense()
        assert found.shape == tensor.shape
        if not isinstance(tensor, SparseMatrix):
            continue
        csr, (rows, columns) = tensor.csr(), tensor.shape
        assert csr.row_pointers.shape == (rows + 1,)
        assert csr.row_pointers[0] == 0
        assert csr.row_pointers[-1] == len(csr.columns) == len(csr.values)
        assert (np.diff(csr.row_pointers) >= 0).all()
        assert not len(csr.columns) or 0 <= csr.columns.min() <= csr.columns.max() < columns
        assert np.count_nonzero(found) == len(csr.values)


def same_model(model: PackedModel, other: PackedModel) -> bool:
    """Equal in everything, floats by their bits."""
    if (model.config, model.tokenizer, model.provenance) != (other.config, other.tokenizer, other.provenance):
        return False
    if list(model.tensors) != list(other.tensors):
        return False
    pairs = zip(model.tensors.values(), other.tensors.values(), strict=True)
    return all(
        one.encoding == two.encoding and one.to_dense().tobytes() == two.to_dense().tobytes() for one, two in pairs
    )


def flip_bits(raw: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(raw)
    for _ in range(generator.integers(1, 9) if raw else 0):
        changed[generator.integers(len(raw))] ^= 1 << generator.integers(8)
    return bytes(changed)


def _copy_slice(raw: bytes, generator: np.random.Generator) -> bytes:
    """Overwrite, or insert, one slice of the file with another."""
    begin, end, at = sorted(generator.integers(len(raw) + 1, size=3))
    return raw[:at] + raw[begin:end] + raw[at + (end - begin) * int(generator.integers(2)) :]


def _lie(raw: bytes, generator: np.random.Generator) -> bytes:
    """Change a value somewhere in the header, or in the JSON inside its metadata, and keep the lengths consistent."""
    length = int.from_bytes(raw[:8], "little")
    try:
        header = json.loads(raw[8 : 8 + length])
        inner = generator.random() < 0.6
        names = list(header["__metadata__"])
        name = "tensors" if generator.random() < 0.6 else names[generator.integers(len(names))]
        target = json.loads(header["__metadata__"][name]) if inner else header
        change_something(target, generator)
        if inner:
            header["__metadata__"][name] = json.dumps(target)
    except (ValueError, KeyError, TypeError, RecursionError):
        return flip_bits(raw, generator)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :]


def change_something(value: Any, generator: np.random.Generator) -> None:
    """Somewhere in parsed JSON, another number or value, or one key less."""
    while isinstance(value, dict | list) and value:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[generator.integers(len(keys))]
        if isinstance(value[key], dict | list) and value[key] and generator.random() < 0.9:
            value = value[key]
        elif isinstance(value, dict) and generator.random() < 0.2:
            del value[key]
            return
        elif isinstance(value[key], int) and generator.random() < 0.5:
            value[key] += int(generator.integers(-9, 10))
            return
        else:
            value[key] = NUMBERS[generator.integers(len(NUMBERS))]
            return
