"""What compressed-tensors wrote comes back bit for bit, and a file that lies is refused by its broken rule."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pruneonce.convert.from_sparse_bitmask import import_checkpoint
from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import read_json, write_json
from pruneonce.formats.sparse_bitmask import decode

LAYER = "bert.encoder.layer.0.output.dense"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def encode(dense):
    """The four tensors of `dense`, written from the description of the format."""
    present = dense != 0
    counts = present.sum(-1)
    bits = np.packbits(present.numpy(), axis=-1, bitorder="little")
    return {
        "shape": torch.tensor(dense.shape, dtype=torch.int64),
        "compressed": dense[present],
        "bitmask": torch.from_numpy(bits),
        "row_offsets": torch.cumsum(counts, 0) - counts,
    }


def compress(weights, *, whole_names, only=lambda name: True):
    tensors = {}
    for name, weight in weights.items():
        if only(name) and (whole_names or name.endswith(".weight")):
            prefix = name if whole_names else name.removesuffix(".weight")
            tensors |= {f"{prefix}.{part}": value.contiguous() for part, value in encode(weight).items()}
        else:
            tensors[name] = weight
    return tensors


def configured(section, **entries):
    sparsity = {"format": "sparse-bitmask", "global_sparsity": 0.9, "sparsity_structure": "unstructured"}
    return {section: {"sparsity_config": sparsity, **entries}}


MODERN = configured("quantization_config", quant_method="compressed-tensors", version="0.14.0", transform_config={})
OLD = configured("compression_config")


@pytest.fixture
def checkpoint(sparse_tiny_bert, tmp_path):
    """Write the folder's model in the library's layout; returns the weights that must come back."""

    def checkpoint(section=MODERN, *, whole_names=False, dtype="fp32", shards=1, change=None, only=lambda name: True):
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        for file in sparse_tiny_bert.iterdir():
            if file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
        config = (
            read_json(sparse_tiny_bert / "config.json") | {"dtype": str(DTYPES[dtype]).removeprefix("torch.")} | section
        )
        write_json(folder / "config.json", config)
        weights = {
            name: weight.to(DTYPES[dtype]) for name, weight in load_file(sparse_tiny_bert / "model.safetensors").items()
        }
        tensors = compress(weights, whole_names=whole_names, only=only)
        if change is not None:
            change(tensors)
        if shards == 1:
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            return folder, weights
        # dealt out one by one, so that the parts of every tensor are in different files
        names = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
        home = {name: names[number % shards] for number, name in enumerate(tensors)}
        for file in names:
            save_file({name: tensor for name, tensor in tensors.items() if home[name] == file}, folder / file)
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": home})
        return folder, weights

    return checkpoint


def stored(folder):
    return {name: weight for file in sorted(folder.glob("*.safetensors")) for name, weight in load_file(file).items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype, name
        assert torch.equal(found[name], weight), name


# ------------------------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("section", "whole_names"), [(MODERN, False), (MODERN, True), (OLD, True)], ids=["0.9", "0.7", "0.6"]
)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_weight_comes_back_with_its_type(checkpoint, tmp_path, dtype, section, whole_names, shards):
    source, weights = checkpoint(section, whole_names=whole_names, dtype=dtype, shards=shards)
    import_checkpoint(source, tmp_path / "out")
    assert_equal(stored(tmp_path / "out"), weights)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == DTYPES[dtype]
    assert_equal({name: weight.detach() for name, weight in model.state_dict().items() if name in weights}, weights)


def test_only_the_linear_layers_may_be_compressed(checkpoint, tmp_path):
    source, weights = checkpoint(only=lambda name: ".layer." in name and "LayerNorm" not in name)
    found = import_checkpoint(source, tmp_path / "out")
    assert_equal(stored(tmp_path / "out"), weights)
    assert found.decompressed == 12
    assert found.sparsity == pytest.approx(0.9, abs=0.01)


def test_the_folder_is_an_ordinary_one(checkpoint, sparse_tiny_bert, tmp_path, pruneonce):
    source, weights = checkpoint()
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    code, out, err = pruneonce("import", source, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert json.loads(out)["decompressed"] == sum(name.endswith(".weight") for name in weights)
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert "quantization_config" not in read_json(tmp_path / "out" / "config.json")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~current_umask()
    assert inspect_folder(tmp_path / "out").prunable == inspect_folder(sparse_tiny_bert).prunable
    packed = export_packed(tmp_path / "out", tmp_path / "m.pruneonce")
    assert packed.tensors[f"{LAYER}.weight"].to_dense().tobytes() == weights[f"{LAYER}.weight"].numpy().tobytes()
    code, out, err = pruneonce("predict", tmp_path / "m.pruneonce", "a good film")
    assert code == 0, err


def test_zeros_stored_as_they_are_lose_only_the_mark_of_the_library(checkpoint, tmp_path):
    source, weights = checkpoint(configured("quantization_config"), only=lambda name: False)
    config = read_json(source / "config.json")
    config["quantization_config"]["sparsity_config"]["format"] = "dense"
    write_json(source / "config.json", config)
    import_checkpoint(source, tmp_path / "out")
    assert_equal(stored(tmp_path / "out"), weights)


@settings(deadline=None)
@given(
    rows=st.integers(0, 5),
    columns=st.integers(0, 20),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    flat=st.booleans(),
    kind=st.sampled_from([torch.float32, torch.float16]),
    seed=st.integers(0, 99),
)
def test_any_shape_and_density_survives(rows, columns, density, flat, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (columns,) if flat else (rows, columns)
    dense = torch.randn(shape, generator=generator).to(kind) * (torch.rand(shape, generator=generator) < density)
    found = decode(**{part: value.numpy() for part, value in encode(dense).items()})
    assert found.shape == shape
    assert found.tobytes() == (dense + 0.0).numpy().tobytes()


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_whatever_one_part_holds_the_rest_is_checked_against_it(data):
    """A changed part gives a ValueError, or an array of the shape and values that it now says."""
    dense = torch.tensor([[0, 1.5, 0, 2], [0, 0, 0, 0], [3, 0, 0, 0]])
    parts = {part: value.numpy().copy() for part, value in encode(dense).items()}
    part = data.draw(st.sampled_from(sorted(parts)))
    dtype = data.draw(st.sampled_from([parts[part].dtype, np.dtype("u1"), np.dtype("i8"), np.dtype("f4")]))
    shape = data.draw(st.sampled_from([parts[part].shape, (), (0,), (1,), (2,), (3,), (4,), (3, 1), (3, 2), (1, 3)]))
    size = int(np.prod(shape))
    values = data.draw(
        st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 10, 255, -1, 2**31, 2**62]), min_size=size, max_size=size)
    )
    with np.errstate(all="ignore"):
        parts[part] = np.array(values, np.int64).astype(dtype).reshape(shape)
    try:
        found = decode(**parts)
    except ValueError:
        return
    assert list(found.shape) == parts["shape"].tolist()
    assert np.count_nonzero(found) <= len(parts["compressed"]) == np.unpackbits(parts["bitmask"]).sum()


# ------------------------------------------------------------------------------------------------- what is refused


def test_a_matrix_of_no_columns_cannot_claim_rows_that_the_file_does_not_have():
    rows = 2**31 - 1
    nothing = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match=f"row_offsets is int64 .0.; int64 .{rows}. is expected"):
        decode(
            shape=np.array([rows, 0]),
            compressed=np.zeros(0, np.float32),
            bitmask=np.zeros((rows, 0), np.uint8),
            row_offsets=nothing,
        )


def put(part, value):
    def change(tensors):
        tensors[f"{LAYER}.{part}"] = value(tensors[f"{LAYER}.{part}"])

    return change


def flip_first_bit(bitmask):
    bitmask[0, 0] ^= 1
    return bitmask


def move_a_row(offsets):
    offsets[3] += 1
    return offsets


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (put("shape", lambda shape: shape * 2**20), "bitmask is uint8 .32, 8.; uint8 .33554432, 8388608. is expected"),
        (put("shape", lambda shape: shape * 2**30), "sizes are from 0 to 2147483647"),
        (put("shape", lambda shape: -shape), "sizes are from 0 to"),
        (put("shape", lambda shape: shape[:0]), "of 1 or 2 sizes is expected"),
        (put("shape", lambda shape: torch.cat([shape, shape])), "of 1 or 2 sizes is expected"),
        (put("shape", lambda shape: shape.float()), "shape is float32"),
        (put("shape", lambda shape: shape - torch.tensor([0, 1])), "bits beyond the last column|values"),
        (put("bitmask", lambda bitmask: bitmask[:-1].clone()), "bitmask is uint8 .31, 8."),
        (put("bitmask", lambda bitmask: bitmask.view(torch.int8)), "bitmask is int8"),
        (put("bitmask", flip_first_bit), "bits for"),
        (put("bitmask", lambda bitmask: bitmask * 0 + 255), "2,048 bits for"),
        (put("compressed", lambda values: values[:-1].clone()), "bits for"),
        (put("compressed", lambda values: values[None]), "compressed has 2 dimensions"),
        (put("compressed", lambda values: values.long()), "compressed is I64; .* has F32, F16, BF16"),
        (put("row_offsets", move_a_row), "row_offsets says .* of row 3"),
        (put("row_offsets", lambda offsets: offsets[:-1].clone()), "row_offsets is int64 .31.; int64 .32. is expected"),
        (put("row_offsets", lambda offsets: offsets.int()), "row_offsets is int32"),
        (lambda tensors: tensors.pop(f"{LAYER}.row_offsets"), "but no row_offsets"),
        (lambda tensors: tensors.pop(f"{LAYER}.compressed"), "but no compressed"),
        (lambda tensors: tensors.update({f"{LAYER}.weight": torch.ones(2)}), "is in the checkpoint twice"),
        (lambda tensors: tensors.update({"x.weight_packed": torch.ones(2).int()}), "x.weight_packed is I32"),
    ],
)
def test_a_file_that_lies_is_named_with_the_rule_and_nothing_is_left(checkpoint, tmp_path, change, rule):
    source, _ = checkpoint(change=change)
    with pytest.raises(PruneonceError, match=rule) as error:
        import_checkpoint(source, tmp_path / "out")
    assert LAYER in str(error.value) or "x.weight_packed" in str(error.value)
    assert "model.safetensors" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "has no quantization_config"),
        (MODERN | OLD, "has quantization_config and compression_config"),
        ({"quantization_config": "sparse-bitmask"}, "not one of compressed-tensors"),
        (configured("quantization_config", quant_method="gptq"), "not one of compressed-tensors"),
        (configured("quantization_config", config_groups={"group_0": {"weights": {"num_bits": 8}}}), "is quantised"),
        (configured("compression_config", kv_cache_scheme={"num_bits": 8}), "is quantised"),
        ({"quantization_config": {"sparsity_config": {"format": "os:system"}}}, "'os:system'; 'sparse-bitmask' is"),
        ({"quantization_config": {"sparsity_config": {"format": "sparse-24-bitmask"}}}, "'sparse-bitmask' is expected"),
        ({"quantization_config": {"sparsity_config": {"format": ["sparse-bitmask"]}}}, "'sparse-bitmask' is expected"),
        ({"quantization_config": {"sparsity_config": None}}, "None; 'sparse-bitmask' is expected"),
    ],
)
def test_another_layout_is_refused_by_name(checkpoint, tmp_path, section, message):
    source, _ = checkpoint(section)
    with pytest.raises(UsageError, match=message):
        import_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_a_missing_shard_is_named(checkpoint, tmp_path, pruneonce):
    source, _ = checkpoint(shards=3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        import_checkpoint(source, tmp_path / "out")
    (source / "model-00002-of-00003.safetensors").unlink()
    code, _, err = pruneonce("import", source, "--out", tmp_path / "new")
    assert (code, err.count("\n")) == (1, 1)
    assert "'model-00002-of-00003.safetensors', which is not in the folder" in err
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
