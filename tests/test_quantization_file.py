"""`quantization.safetensors`: what is written comes back; truncated and lying files are refused in one line."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from pruneonce.errors import PruneonceError
from pruneonce.formats.scales_file import FILE_NAME, LinearQuantization, read_quantization, write_quantization


def layer(rows=3, *, output=False, attention=False):
    scales = np.linspace(0.5, 1.0, rows, dtype="f4")
    parts = [np.array([0.25], "f4"), np.array([7], "u1")]
    return LinearQuantization(scales, *parts, *(parts if output else [None] * 2), *(parts if attention else []))


def tensors_of(module="encoder.layer"):
    parts = layer()
    names = ("weight_scale", "input_scale", "input_zero_point")
    return {f"{module}.{name}": getattr(parts, name) for name in names}


def test_what_is_written_comes_back(tmp_path):
    layers = {"a.b": layer(), "c": layer(5, output=True), "d": layer(attention=True)}
    write_quantization(tmp_path, layers)
    found = read_quantization(tmp_path)
    assert found.keys() == layers.keys()
    for name, expected in layers.items():
        for part, value in vars(expected).items():
            other = getattr(found[name], part)
            assert (other is None) == (value is None)
            assert value is None or (np.array_equal(other, value) and other.dtype == value.dtype)


def test_the_file_has_the_lowest_version_that_can_say_it(tmp_path):
    for kind, version in (({}, "1"), ({"output": True}, "1"), ({"attention": True}, "2")):
        write_quantization(tmp_path, {"a": layer(), "b": layer(**kind)})
        with safe_open(tmp_path / FILE_NAME, framework="np") as file:
            assert file.metadata()["format_version"] == version


def test_a_folder_without_the_file_is_not_quantised(tmp_path):
    assert read_quantization(tmp_path) is None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    write_quantization(tmp_path, {"a": layer()})
    file = tmp_path / FILE_NAME
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(PruneonceError, match=f"{FILE_NAME} is not a safetensors file"):
        read_quantization(tmp_path)


@pytest.mark.parametrize("version", ["3", "1.0", "", None])
def test_another_version_is_refused_with_both(tmp_path, version):
    save_file(tensors_of(), tmp_path / FILE_NAME, metadata=None if version is None else {"format_version": version})
    with pytest.raises(PruneonceError, match=r"(no )?format version.*, this pruneonce reads up to 2"):
        read_quantization(tmp_path)


def negative(tensors):
    tensors["encoder.layer.weight_scale"][1] = -1


def zero(tensors):
    tensors["encoder.layer.input_scale"][0] = 0


def nan(tensors):
    tensors["encoder.layer.weight_scale"][2] = np.nan


def infinite(tensors):
    tensors["encoder.layer.input_scale"][0] = np.inf


def too_many(tensors):
    tensors["encoder.layer.input_scale"] = np.ones(2, "f4")


def signed(tensors):
    tensors["encoder.layer.input_zero_point"] = np.zeros(1, "i1")


def double(tensors):
    tensors["encoder.layer.weight_scale"] = np.ones(3)


def matrix(tensors):
    tensors["encoder.layer.weight_scale"] = np.ones((3, 1), "f4")


def half_an_output(tensors):
    tensors["encoder.layer.output_scale"] = np.ones(1, "f4")


def half_of_attention(tensors):
    tensors["encoder.layer.attention_zero_point"] = np.ones(1, "u1")


def two_outputs(tensors):
    for kind in ("output", "attention"):
        tensors[f"encoder.layer.{kind}_scale"] = np.ones(1, "f4")
        tensors[f"encoder.layer.{kind}_zero_point"] = np.ones(1, "u1")


def missing(tensors):
    del tensors["encoder.layer.input_scale"]


def unknown(tensors):
    tensors["encoder.layer.bias"] = np.ones(3, "f4")


def nameless(tensors):
    tensors["weight_scale"] = np.ones(3, "f4")


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (negative, "weight_scale holds what is no positive number"),
        (zero, "input_scale holds what is no positive number"),
        (nan, "weight_scale holds"),
        (infinite, "input_scale holds"),
        (too_many, r"input_scale is float32 of shape \(2,\)"),
        (signed, "input_zero_point is int8"),
        (double, "weight_scale is float64"),
        (matrix, r"weight_scale is float32 of shape \(3, 1\)"),
        (half_an_output, "belong together"),
        (half_of_attention, "attention_scale and attention_zero_point belong together"),
        (two_outputs, "an output is rounded once"),
        (missing, "encoder.layer has input_zero_point, weight_scale; weight_scale, input_scale"),
        (unknown, "encoder.layer has bias"),
        (nameless, "has weight_scale; "),
    ],
)
def test_a_lying_file_is_refused_with_its_module(tmp_path, lie, message):
    tensors = tensors_of()
    lie(tensors)
    save_file(tensors, tmp_path / FILE_NAME, metadata={"format_version": "1"})
    with pytest.raises(PruneonceError, match=message) as caught:
        read_quantization(tmp_path)
    assert FILE_NAME in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_type_that_numpy_lacks_is_refused(tmp_path):
    tensors = {name: torch.from_numpy(value) for name, value in tensors_of().items()}
    tensors["encoder.layer.weight_scale"] = tensors["encoder.layer.weight_scale"].bfloat16()
    save_torch_file(tensors, tmp_path / FILE_NAME, metadata={"format_version": "1"})
    with pytest.raises(PruneonceError, match=FILE_NAME):
        read_quantization(tmp_path)


def test_a_header_that_claims_more_than_the_file_is_refused(tmp_path):
    header = {"a.weight_scale": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(header).encode()
    (tmp_path / FILE_NAME).write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(PruneonceError, match="is not a safetensors file"):
        read_quantization(tmp_path)


def test_nonsense_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="no positive number"):
        write_quantization(tmp_path, {"a": LinearQuantization(np.zeros(2, "f4"), np.ones(1, "f4"), np.zeros(1, "u1"))})
    assert not (tmp_path / FILE_NAME).exists()
