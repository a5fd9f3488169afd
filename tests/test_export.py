"""`export` on real model folders: what comes back, what is left out, and what is refused with nothing written."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.convert.inspect_packed import inspect_packed
from pruneonce.convert.to_packed import EMBEDDINGS, VALUES, export_packed
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.packed_file import read_packed
from pruneonce.formats.record import Provenance
from pruneonce.formats.stored_tensors import SparseMatrix

HEADS = {
    "Bert": ["ForPreTraining", "ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification", "Model"],
    "DistilBert": ["ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering", "Model"],
}
SPARSE = "bert.encoder.layer.0.intermediate.dense.weight"
WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture
def save(tiny_bert, tmp_path):
    """Save a two-layer model with 90 % zeros in its encoder as a folder."""

    def save(family="Bert", head="ForSequenceClassification", *, config=None, **options):
        names = ("dim", "n_layers", "n_heads", "hidden_dim")
        if family == "Bert":
            names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        sizes = dict(zip(names, (32, 2, 2, 64), strict=True))
        torch.manual_seed(0)
        settings = getattr(transformers, family + "Config")(vocab_size=200, **sizes, **(config or {}))
        model = getattr(transformers, family + head)(settings)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2 and ".layer." in name:
                    parameter.masked_fill_(torch.rand_like(parameter) > 0.1, 0.0)
        folder = tmp_path / "model"
        model.save_pretrained(folder, **options)
        (folder / "tokenizer.json").write_bytes((tiny_bert / "tokenizer.json").read_bytes())
        return folder

    return save


def stored_weights(folder):
    return {name: t.numpy() for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def record_masks(folder):
    """A record that promises the folder's zeros."""
    masks = {
        m.name.removeprefix("bert.").removesuffix(".weight"): m.mask_digest for m in inspect_folder(folder).matrices
    }
    Provenance(
        "finetune", {}, {}, 0, 1, {"accuracy": 0.75}, masks={name: digest for name, digest in masks.items() if digest}
    ).write(folder)


# ------------------------------------------------------------------------------------------------ what comes back


@pytest.mark.parametrize(("family", "head"), [(family, head) for family, heads in HEADS.items() for head in heads])
def test_every_weight_of_every_head_comes_back_bit_for_bit(save, tmp_path, documented_reader, family, head):
    folder, file = save(family, head), tmp_path / "m.pruneonce"
    export_packed(folder, file, embeddings="fp32")
    expected = stored_weights(folder)
    tensors = read_packed(file).tensors
    assert tensors.keys() == expected.keys()
    layers = [name for name in tensors if ".layer." in "." + name and expected[name].ndim == 2]
    assert layers
    assert all(isinstance(tensors[name], SparseMatrix) for name in layers)
    for found in ({name: tensor.to_dense() for name, tensor in tensors.items()}, documented_reader(file)[3]):
        for name, weight in expected.items():
            assert found[name].tobytes() == weight.tobytes(), name


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("embeddings", EMBEDDINGS)
def test_a_narrower_type_costs_only_its_own_tensors_their_last_bits(save, tmp_path, embeddings, values):
    folder = save()
    packed = export_packed(folder, tmp_path / "m.pruneonce", embeddings=embeddings, values=values)
    for name, weight in stored_weights(folder).items():
        kind = embeddings if "embeddings" in name and "LayerNorm" not in name else "fp32"
        if name.endswith(".weight") and (".layer." in name or "pooler" in name) and "LayerNorm" not in name:
            kind = values
        relative = {"fp32": 0, "fp16": 2**-11, "bf16": 2**-8, "int8": 0}[kind]
        step = np.abs(weight).max(-1, keepdims=True) / 254 * 1.001 if kind == "int8" else 0
        found = packed.tensors[name].to_dense()
        assert (np.abs(found - weight) <= np.abs(weight) * relative + step + (6e-8 if kind == "fp16" else 0)).all(), (
            name
        )
        assert np.array_equal(found == 0, weight == 0) or kind == "int8"


def test_config_labels_tokenizer_and_record_travel_along(save, tmp_path):
    folder, file = save(config={"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}), tmp_path / "m"
    record_masks(folder)
    export_packed(folder, file)
    (folder / "config.json").unlink()
    packed = read_packed(file)
    assert packed.labels == ["no", "yes"]
    assert packed.config["hidden_size"] == 32
    assert packed.provenance["metrics"] == {"accuracy": 0.75}
    assert len(packed.provenance["masks"]) == 13
    assert json.loads(packed.tokenizer)["model"]["vocab"]["[CLS]"] == 2
    assert inspect_packed(file).lock_intact is True


def test_sharded_weights_are_one_model(save, tmp_path):
    folder = save(max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    packed = export_packed(folder, tmp_path / "m", embeddings="fp32")
    weights = stored_weights(folder)
    assert packed.tensors.keys() == weights.keys()
    assert packed.tensors[SPARSE].to_dense().tobytes() == weights[SPARSE].tobytes()


def test_a_decoder_of_its_own_is_kept_and_a_tied_one_is_not(save, tmp_path):
    decoder = "cls.predictions.decoder.weight"
    assert decoder not in export_packed(save(head="ForMaskedLM"), tmp_path / "tied").tensors
    folder = save(head="ForMaskedLM")
    change_weights(folder, lambda weights: weights.update({decoder: weights[WORDS].clone()}))
    assert decoder not in export_packed(folder, tmp_path / "stored twice").tensors
    change_weights(folder, lambda weights: weights.update({decoder: weights[WORDS] + 1}))
    assert decoder in export_packed(folder, tmp_path / "own").tensors


def test_names_of_old_checkpoints_become_the_present_ones(save, tmp_path):
    folder = save()

    def age(weights):
        weights["bert.embeddings.position_ids"] = torch.arange(64)[None]
        for name in [name for name in weights if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            weights[old] = weights.pop(name)

    names = stored_weights(folder).keys()
    change_weights(folder, age)
    assert export_packed(folder, tmp_path / "m").tensors.keys() == names


def test_half_precision_checkpoints_are_read_exactly(save, tmp_path):
    folder = save()
    change_weights(folder, lambda weights: weights.update({SPARSE: weights[SPARSE].bfloat16()}))
    found = export_packed(folder, tmp_path / "m").tensors[SPARSE].to_dense()
    expected = load_file(folder / "model.safetensors")[SPARSE].float().numpy()
    assert found.tobytes() == expected.tobytes()


# ------------------------------------------------------------------------------------------------ what is refused


def put_nan(weights):
    weights[SPARSE][weights[SPARSE] != 0] = float("nan")


def put_integers(weights):
    weights["bert.pooler.dense.bias"] = weights["bert.pooler.dense.bias"].long()


def revive(weights):
    weights[SPARSE][weights[SPARSE] == 0] = 1e-3


def add_a_second_name(weights):
    weights["bert.embeddings.LayerNorm.gamma"] = torch.ones(32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put_nan, f"tensor {SPARSE}: .*finite"),
        (put_integers, "tensor bert.pooler.dense.bias is I64; F32"),
        (revive, r"the zeros of encoder\.layer\.0\.intermediate\.dense\.weight are not the recorded ones"),
        (add_a_second_name, "bert.embeddings.LayerNorm.weight is in two"),
    ],
)
def test_a_broken_model_is_named_and_the_old_file_stays(save, tmp_path, change, message):
    folder, file = save(), tmp_path / "m.pruneonce"
    record_masks(folder)
    file.write_bytes(b"the last good one")
    change_weights(folder, change)
    with pytest.raises(PruneonceError, match=message):
        export_packed(folder, file)
    assert file.read_bytes() == b"the last good one"
    assert {path.name for path in tmp_path.iterdir()} == {"model", "m.pruneonce"}


def test_wrong_options_and_places_are_refused_before_any_work(save, tmp_path):
    folder = save()
    for options in ({"embeddings": "int4"}, {"values": "int8"}):
        with pytest.raises(UsageError, match="expected one of fp32, fp16, bf16"):
            export_packed(folder, tmp_path / "m", **options)
    with pytest.raises(UsageError, match="is a folder: the name of a file is expected"):
        export_packed(folder, tmp_path)
    with pytest.raises(PruneonceError, match="could not be written"):
        export_packed(folder, folder / "config.json" / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no model\.safetensors"):
        export_packed(folder, tmp_path / "m")


# ------------------------------------------------------------------------------------------------ the command line


def test_export_and_inspect_say_where_every_byte_goes(pruneonce, save, tmp_path):
    folder, file = save(), tmp_path / "m.pruneonce"
    record_masks(folder)
    code, out, _ = pruneonce("export", folder, "--to", "packed", "--out", file, "--embeddings", "int8", "--json")
    assert code == 0
    report = json.loads(out)
    assert sum(report["bytes_by_kind"].values()) == report["bytes"] == file.stat().st_size
    assert report["ratio"] == report["dense_bytes"] / report["bytes"] > 1
    code, out, _ = pruneonce("inspect", file, "--json")
    assert json.loads(out) == report
    matrix = next(tensor for tensor in report["tensors"] if tensor["name"] == SPARSE)
    folder_matrix = next(matrix for matrix in inspect_folder(folder).matrices if matrix.name == SPARSE)
    assert matrix["sparsity"] == pytest.approx(folder_matrix.sparsity)
    assert matrix["mask_digest"] == folder_matrix.mask_digest
    code, out, _ = pruneonce("inspect", file)
    assert code == 0
    assert SPARSE in out
    assert "the zeros are the recorded ones" in out


def test_export_to_an_unknown_kind_is_wrong_usage(pruneonce, save, tmp_path):
    code, _, err = pruneonce("export", save(), "--to", "gguf", "--out", tmp_path / "m")
    assert code == 2
    assert "--to cannot be 'gguf'" in err


def test_labels_and_stages_cannot_write_to_the_terminal(pruneonce, save, tmp_path):
    hostile = "\x1b[2J\x9b31m\x07\r\n[/b]é\u202e\u2066\u200f\u061c"
    folder, file = save(config={"id2label": {0: hostile, 1: hostile}}), tmp_path / "m.pruneonce"
    record_masks(folder)
    record = json.loads((folder / "pruneonce.json").read_text())
    (folder / "pruneonce.json").write_text(json.dumps(record | {"stage": hostile}))
    export_packed(folder, file)
    shown = r"\u001b[2J\u009b31m\u0007\u000d\u000a[/b]é\u202e\u2066\u200f\u061c"
    for command in (["inspect", folder], ["inspect", file], ["predict", file, "a"]):
        code, out, _ = pruneonce(*command)
        assert code == 0
        assert shown in out
    for command in (["inspect", folder, "--json"], ["inspect", file, "--json"], ["predict", file, "a", "--json"]):
        code, out, _ = pruneonce(*command)
        assert code == 0
        assert out.replace("\n", "").isprintable()
        answer = json.loads(out)
        assert hostile in (answer.get("stage"), answer.get("answer", {}).get("label"))


def test_half_a_character_in_a_config_or_record_is_one_line(pruneonce, save, tmp_path):
    folder = save()
    record_masks(folder)
    record = json.loads((folder / "pruneonce.json").read_text())
    (folder / "pruneonce.json").write_text(json.dumps(record | {"stage": "\ud800"}))
    code, out, _ = pruneonce("inspect", folder)
    assert code == 0
    assert r"stage \ud800;" in out
    code, _, err = pruneonce("export", folder, "--to", "packed", "--out", tmp_path / "m")
    assert code == 1
    assert "pruneonce.json cannot be written as JSON" in err
    assert err.count("\n") == 1


def test_export_never_imports_torch(save, tmp_path):
    code = (
        "import sys; from pruneonce.convert.to_packed import export_packed; export_packed(*sys.argv[1:]); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(save()), str(tmp_path / "m")], check=True)
