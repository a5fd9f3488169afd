"""Model folders: what identifies them, what is measured of them, and that half a model never shows."""

from __future__ import annotations

import errno
import json
import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.model_folder import (
    folder_digest,
    mask_digest_of_array,
    read_matrices,
    require_folder,
    save_model_folder,
)
from pruneonce.models.hub import load_hub_model
from pruneonce.models.tokenizer import load_tokenizer

MATRIX = "bert.encoder.layer.0.output.dense.weight"


@pytest.fixture
def folder(sparse_tiny_bert, tmp_path):
    return shutil.copytree(sparse_tiny_bert, tmp_path / "model")


def test_a_digest_tells_every_file_that_a_model_is_made_of_and_no_other(folder):
    before = folder_digest(folder)
    (folder / "README.md").write_text("a card")
    (folder / "pruneonce.json").write_text("{}")
    assert folder_digest(folder) == before
    assert folder_digest(str(folder)) == before
    seen = {before}
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        seen.add(folder_digest(folder))
    (folder / "vocab.txt").write_text("[PAD]\n")
    assert len(seen | {folder_digest(folder)}) == 6
    assert folder_digest("bert-base-uncased") == "hub:bert-base-uncased"


def test_weights_under_another_name_are_another_model(folder):
    before = folder_digest(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    assert folder_digest(folder) != before


def test_what_a_folder_lacks_is_named(folder, tmp_path):
    assert require_folder(str(folder)) == folder
    with pytest.raises(UsageError, match="'nowhere' is not a folder"):
        require_folder("nowhere")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with pytest.raises(UsageError, match=r"has no model\.safetensors"):
        require_folder(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert require_folder(folder) == folder
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match=r"has no config\.json"):
        require_folder(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_negative_zero_is_a_zero_in_every_type(folder, dtype):
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    zeros = weights[MATRIX] == 0
    weights[MATRIX][zeros] = -0.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = {matrix.name: matrix for matrix in read_matrices(folder)}
    assert found.keys() == weights.keys()
    matrix = found[MATRIX]
    assert (matrix.prunable, matrix.zeros, matrix.size) == (True, int(zeros.sum()), zeros.numel())
    assert matrix.bytes == zeros.numel() * dtype.itemsize
    assert matrix.mask_digest == mask_digest_of_array(~zeros.numpy())
    assert not found["bert.embeddings.word_embeddings.weight"].mask_digest


@given(st_numpy.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 9))))
def test_masks_have_one_digest_if_they_have_the_same_zeros_in_the_same_shape(mask):
    assert mask_digest_of_array(mask) == mask_digest_of_array(np.where(mask, np.float32(-2.5), np.float32(-0.0)))
    other = mask.copy()
    other[0, 0] ^= True
    assert mask_digest_of_array(mask) != mask_digest_of_array(other)
    if mask.shape[0] != mask.shape[1]:
        assert mask_digest_of_array(mask) != mask_digest_of_array(mask.reshape(mask.shape[::-1]))


def test_a_disk_that_is_full_leaves_the_old_model_whole_and_nothing_else(folder, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(staging):
        (staging / "config.json").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(PruneonceError, match="No space left"):
        save_model_folder(model, folder, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_disk_that_is_full_when_the_tokenizer_is_written_is_one_line_too(folder, monkeypatch):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), load_tokenizer(folder)
    full = types.SimpleNamespace(save=lambda path: tokenizer.save("/dev/full"))
    monkeypatch.setattr("pruneonce.formats.model_folder.load_tokenizer", lambda folder: full)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(PruneonceError, match="No space left") as caught:
        save_model_folder(model, folder, folder)
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_tokenizer_that_would_cut_texts_is_saved_without_that(folder, tmp_path):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    save_model_folder(AutoModelForSequenceClassification.from_pretrained(folder), folder, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer.json").read_text())["truncation"] is None
    saved, weights = (load_file(each / "model.safetensors") for each in (tmp_path / "saved", folder))
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], weights[name]) for name in weights)


@pytest.mark.parametrize("absolute", [False, True])
def test_an_index_cannot_have_weights_of_elsewhere_loaded(folder, tmp_path, absolute):
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    where = str(tmp_path / "elsewhere.safetensors") if absolute else "../elsewhere.safetensors"
    weight_map = dict.fromkeys(load_file(tmp_path / "elsewhere.safetensors"), where)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with pytest.raises(PruneonceError, match=r"index\.json names the file .*without a folder is expected$"):
        load_hub_model("AutoModelForSequenceClassification", folder)
    index.write_text("[]")
    with pytest.raises(PruneonceError, match="is not an index of weights"):
        load_hub_model("AutoModelForSequenceClassification", folder)


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_a_saved_model_can_be_read_by_whom_the_umask_lets(folder, tmp_path, umask):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    before = os.umask(umask)
    try:
        save_model_folder(model, folder, tmp_path / "saved")
    finally:
        os.umask(before)
    found = {file.name: oct(file.stat().st_mode & 0o777) for file in (tmp_path / "saved").iterdir()}
    assert "model.safetensors" in found
    assert set(found.values()) == {oct(0o666 & ~umask)}, found


@pytest.mark.parametrize("kept", ["", "tokenizer_config.json"])
def test_a_folder_without_a_vocabulary_is_refused_by_whoever_reads_texts(folder, reviews, tmp_path, pruneonce, kept):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if name != kept:
            (folder / name).unlink(missing_ok=True)
    recipe = tmp_path / "task.toml"
    recipe.write_text(
        f'stage = "finetune"\nmodel = "{folder}"\n[task]\nname = "classification"\ntrain = "{reviews}"\n'
        f'validation = "{reviews}"\n[training]\nsteps = 2\nbatch_size = 4\nlearning_rate = 1e-3\n'
    )
    commands = [
        ["export", folder, "--out", tmp_path / "m.pruneonce"],
        ["export", folder, "--to", "onnx", "--out", tmp_path / "m.onnx"],
        ["finetune", recipe, "--out", tmp_path / "run"],
        ["evaluate", folder, "--task", "classification", "--data", reviews],
    ]
    for command in commands:
        code, _, err = pruneonce(*command)
        assert (code, err.count("error:")) == (2, 1), (command, err)
        assert f"{folder} has no tokenizer files: copy tokenizer.json there" in err, (command, err)
    assert not (tmp_path / "m.pruneonce").exists()
    assert not (tmp_path / "m.onnx").exists()
