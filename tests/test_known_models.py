"""What is said of a folder before any work is done: the page of known models, `inspect`, `export`, and bad folders."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
from family_models import save_family_model
from safetensors.numpy import load_file, save_file

from pruneonce.convert.runnable import obstacle_of
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import UsageError
from pruneonce.models import FAMILIES, encoder_plan_of, family_of
from pruneonce.models.bert import BERT
from pruneonce.models.electra import ELECTRA
from pruneonce.models.hub import config_for
from pruneonce.models.mpnet import MPNET
from pruneonce.models.roberta import ROBERTA
from pruneonce.models.unsupported import NOT_COMPUTED
from pruneonce.run.model import load_model

ROOT = Path(__file__).parents[1]
CONFIGS = [json.loads(file.read_text()) for file in sorted((ROOT / "tests" / "encoder_configs").glob("*.json"))]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


def test_the_page_says_what_the_code_does():
    made = runpy.run_path(str(ROOT / "docs" / "make_models.py"))
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    head, mark, _ = text.partition(made["MARK"])
    assert mark
    assert text == made["page"](head), "run `make docs`"
    for family in FAMILIES:
        assert f"`{family}`" in head, family


def test_thirty_models_and_every_family_are_known_each_with_a_source():
    assert len(CONFIGS) >= 30
    assert {each["config"]["model_type"] for each in CONFIGS} >= set(FAMILIES)
    assert all(each["source"].startswith("https://huggingface.co/") for each in CONFIGS)


@pytest.mark.parametrize("model", CONFIGS, ids=lambda each: each["name"].replace("/", "--"))
def test_a_plan_of_a_published_config_has_the_sizes_of_transformers(model):
    config = model["config"]
    if config["model_type"] not in FAMILIES or config.get("position_embedding_type", "absolute") != "absolute":
        return
    plan, family = encoder_plan_of(config, model["name"]), family_of(config["model_type"])
    theirs = config_for(family, {key: value for key, value in config.items() if key != "model_type"})
    assert plan.hidden_size == theirs.hidden_size
    assert plan.layers == theirs.num_hidden_layers
    assert plan.heads == theirs.num_attention_heads


@pytest.mark.parametrize("model_type", NOT_COMPUTED)
def test_a_family_that_is_not_computed_names_the_nearest_that_is(model_type):
    assert model_type not in FAMILIES
    with pytest.raises(UsageError) as caught:
        family_of(model_type)
    (nearest,) = re.findall(r"the nearest that is: '([\w-]+)'$", str(caught.value))
    assert nearest in FAMILIES
    assert len(str(caught.value)) < 160


# ------------------------------------------------------------------------------------------------------ a bad folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder that runs."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    save_family_model(ROBERTA, "ForSequenceClassification", folder)
    assert obstacle_of(folder, ROBERTA) is None
    return folder


def change_config(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def cut_words(folder):
    weights = load_file(folder / "model.safetensors")
    name = "roberta.embeddings.word_embeddings.weight"
    save_file(weights | {name: weights[name][:40]}, folder / "model.safetensors")


def without_words(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["roberta.embeddings.word_embeddings.weight"]
    save_file(weights, folder / "model.safetensors")


def replaced(name, change):
    def write(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return write


BROKEN = {
    "a family that we do not know": (change_config(model_type="deberta-v2"), "the nearest that is: 'roberta'"),
    "a family misspelt": (change_config(model_type="robertta"), "Did you mean 'roberta'"),
    "a choice that is not computed": (change_config(hidden_act="mish"), "hidden_act 'mish' is not one of"),
    "relative positions": (change_config(position_embedding_type="relative_key"), "absolute positions"),
    "a decoder": (change_config(is_decoder=True), "only encoders"),
    "a head that is none of ours": (change_config(architectures=["RobertaForMultipleChoice"]), "MultipleChoice"),
    "a tokenizer of another model": (cut_words, "its table of words 40 rows: they are of two models"),
    "a head that is not there": (
        change_config(architectures=["RobertaForMaskedLM"]),
        r"have no lm_head\.dense\.weight",
    ),
    "no table of words": (without_words, r"its weights have no embeddings\.word_embeddings\.weight"),
    "a tokenizer that is none": (replaced("tokenizer.json", lambda _: b"{}"), r"tokenizer\.json"),
    "weights that are a pointer": (replaced("model.safetensors", lambda _: POINTER), "git lfs pull"),
    "weights that are cut off": (replaced("model.safetensors", lambda data: data[:-9]), "cut off|outside"),
    "half a header": (replaced("model.safetensors", lambda data: data[:100]), "cut off"),
    "weights that are a web page": (replaced("model.safetensors", lambda _: b"<!DOCTYPE html><p>404"), "header claims"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_folder_is_one_line_in_every_command_and_nothing_is_written(sound, tmp_path, pruneonce, case):
    change, message = BROKEN[case]
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    change(folder)
    before = sorted(tmp_path.rglob("*"))
    for kind in ("packed", "onnx"):
        code, _, error = pruneonce("export", folder, "--out", tmp_path / "out", "--to", kind)
        assert code != 0
        assert re.search(message, error), error
        assert len(error.strip().splitlines()) == 1
    code, shown, error = pruneonce("inspect", folder)
    assert re.search(message, " ".join((shown + error).split())), (shown, error)
    assert sorted(tmp_path.rglob("*")) == before


def test_inspect_says_whether_the_engine_runs_a_folder_before_it_is_exported(sound, pruneonce):
    code, shown, _ = pruneonce("inspect", sound)
    assert code == 0
    assert "in the engine it runs" in shown
    code, shown, _ = pruneonce("inspect", sound, "--json")
    assert json.loads(shown)["obstacle"] is None


def test_a_pair_of_texts_for_a_model_of_single_ones_is_named(tmp_path, pruneonce):
    from pruneonce.run.pipelines import pipeline

    save_family_model(ROBERTA, "Model", tmp_path / "model")
    export_packed(tmp_path / "model", tmp_path / "m.pruneonce")
    with pytest.raises(UsageError, match="text 1 is a pair: embeddings are of single texts"):
        pipeline("embeddings", tmp_path / "m.pruneonce")(["one", ("one", "two")])


def test_a_published_discriminator_gives_states_and_its_own_head_is_not_made_up(tmp_path):
    import transformers

    folder = tmp_path / "model"
    model = save_family_model(ELECTRA, "Model", folder)
    transformers.ElectraForPreTraining(model.config).save_pretrained(folder)
    export_packed(folder, tmp_path / "m.pruneonce")
    assert load_model(tmp_path / "m.pruneonce").task == "feature-extraction"
    save_family_model(BERT, "ForMaskedLM", folder / "bert")
    config = json.loads((folder / "bert" / "config.json").read_text())
    assert BERT.task_of(config | {"architectures": ["BertForPreTraining"]}) == "fill-mask"


def test_vectors_of_a_folder_that_names_the_head_it_was_pretrained_with(tmp_path):
    """As all-mpnet-base-v2 does: its config promises a head for masked words that its weights have not."""
    folder = tmp_path / "model"
    save_family_model(MPNET, "Model", folder)
    change_config(architectures=["MPNetForMaskedLM"])(folder)
    assert "its weights have no lm_head.dense.weight" in obstacle_of(folder, MPNET)
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    listed.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 48, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert obstacle_of(folder, MPNET) is None
    export_packed(folder, tmp_path / "m.pruneonce")
    assert load_model(tmp_path / "m.pruneonce").use == "embeddings"
