"""One record per model family: what is prunable, what the names mean, and that nothing else asks which family it is."""

from __future__ import annotations

import inspect
import json
import re
from contextlib import suppress
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import init_empty_weights
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
)

import pruneonce
from pruneonce.errors import UsageError
from pruneonce.models import FAMILIES, family_of, known_shape
from pruneonce.models.bert import BERT
from pruneonce.models.distilbert import DISTILBERT
from pruneonce.models.family import ATTENTION_ROLES
from pruneonce.models.hub import config_for, load_config, load_hub_model, load_hub_tokenizer
from pruneonce.models.plan import EncoderPlan
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids

LARGE = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
SOURCE = Path(pruneonce.__file__).parent


def empty(kind, config):
    with init_empty_weights():
        return kind(config)


def prunable_weights(kind, config, family, pooler=True):
    model = empty(kind, config)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    chosen = family.prunable_linears(linears, pooler=pooler)
    return sum(linears[name].weight.numel() for name in chosen), chosen


# ------------------------------------------------------------------------------------------------- what may be pruned


@pytest.mark.parametrize(
    ("kind", "config", "family", "pooler", "weights"),
    [
        (BertForPreTraining, BertConfig(), BERT, False, 84_934_656),
        (BertForPreTraining, BertConfig(), BERT, True, 84_934_656 + 589_824),
        (BertForPreTraining, LARGE, BERT, True, 301_989_888 + 1_048_576),
        (BertForQuestionAnswering, BertConfig(), BERT, True, 84_934_656),
        (BertModel, BertConfig(), BERT, True, 84_934_656 + 589_824),
        (DistilBertForMaskedLM, DistilBertConfig(), DISTILBERT, True, 42_467_328),
        (DistilBertForSequenceClassification, DistilBertConfig(), DISTILBERT, True, 42_467_328),
    ],
)
def test_prunable_weights_are_counted_as_published(kind, config, family, pooler, weights):
    assert prunable_weights(kind, config, family, pooler)[0] == weights


def test_same_matrix_has_one_name_in_every_head_model():
    with_head = prunable_weights(BertForPreTraining, BertConfig(), BERT)[1]
    bare = prunable_weights(BertModel, BertConfig(), BERT)[1]
    assert [BERT.encoder_name(name) for name in with_head] == bare


def test_heads_are_never_prunable_however_they_are_called():
    names = ["cls.predictions.decoder", "classifier", "pre_classifier", "vocab_transform", "qa_outputs", "bert.encoder"]
    assert BERT.prunable_linears(names) == DISTILBERT.prunable_linears(names) == []


def test_only_the_weight_of_a_prunable_layer_is_a_prunable_tensor():
    layer = "bert.encoder.layer.11.output.dense"
    assert BERT.is_prunable(f"{layer}.weight")
    for other in (layer, f"{layer}.bias", f"{layer}.weight.codes", "bert.encoder.layer.x.output.dense.weight"):
        assert not BERT.is_prunable(other), other
    assert BERT.is_prunable("pooler.dense.weight")
    assert not BERT.is_prunable("pooler.dense.weight", pooler=False)


# -------------------------------------------------------------------------------------- names, beside transformers' own


def head_class(family, head):
    return getattr(transformers, type(config_for(family, {})).__name__.removesuffix("Config") + head)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_name_of_a_family_is_one_in_transformers_models(family):
    config = config_for(family, {family.config.layers: 1})
    model = empty(head_class(family, "ForMaskedLM"), config)
    encoder = getattr(model, family.base)
    layer = attrgetter(f"{family.layers}.0")(encoder)
    names = [getattr(family.layer, each.name) for each in fields(family.layer) if each.name != "attention_norm"]
    names += [] if family.encoder_plan(config.to_dict()).norm_placement == "pre" else [family.layer.attention_norm]
    tables = [getattr(family.embeddings, each.name) for each in fields(family.embeddings) if each.name != "prefix"]
    masked_lm, before = family.heads.masked_lm, family.heads.transform
    transform = [] if before is None else [before.dense, before.norm]
    spans = []
    if family.heads.spans is not None:
        spans = [(empty(head_class(family, "ForQuestionAnswering"), config), [family.heads.spans, *transform])]
    for root, paths in (
        (layer, names),
        (encoder, tables),
        (model, [masked_lm.dense, masked_lm.norm, masked_lm.decoder, *masked_lm.biases, *masked_lm.modules]),
        (empty(head_class(family, "ForTokenClassification"), config), [family.heads.tokens, *transform]),
        (
            empty(head_class(family, "ForSequenceClassification"), config),
            [family.heads.sequence.dense, family.heads.sequence.norm, family.heads.sequence.out],
        ),
        *spans,
    ):
        for path in filter(None, paths):
            attrgetter(path)(root)  # AttributeError: there is none
    linears = {name for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linears == {
        name for name in linears if family.role_of(f"{family.base}.{family.layers}.0.{name}") is not None
    }


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_inputs_and_next_sentences_are_those_that_transformers_models_have(family):
    model = empty(head_class(family, "Model"), config_for(family, {family.config.layers: 1}))
    accepted = inspect.signature(type(model).forward).parameters
    assert "token_type_ids" in accepted or not family.token_types
    assert (family.pooler is not None) == hasattr(model, "pooler")
    assert (family.heads.next_sentence is not None) == hasattr(
        transformers, head_class(family, "Model").__name__.replace("Model", "ForNextSentencePrediction")
    )


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_plan_has_the_sizes_and_epsilon_of_transformers_model(family):
    keys = family.config
    values = {keys.layers: 2, keys.hidden_size: 24, keys.heads: 3, keys.intermediate_size: 40, keys.max_positions: 70}
    config = config_for(family, values)
    plan, model = family.encoder_plan(config.to_dict()), empty(head_class(family, "Model"), config)
    layers = attrgetter(family.layers)(model)
    norms = {module.eps for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}
    assert (plan.layers, plan.hidden_size, plan.heads) == (len(layers), 24, 3)
    assert plan.max_tokens == 70 - (plan.first_position or 0)
    assert norms == {plan.norm_epsilon}
    widening = [attrgetter(name)(layers[0]).out_features for name in family.layer.widening]
    assert sum(widening) == (80 if plan.gated else 40)


def test_an_epsilon_that_distilberts_config_names_is_not_used_as_transformers_does_not():
    assert DISTILBERT.encoder_plan(DistilBertConfig().to_dict() | {"layer_norm_eps": 1e-3}).norm_epsilon == 1e-12


# ------------------------------------------------------------------------------------------------ what can be computed


def test_every_choice_of_a_plan_is_looked_at_by_the_engine():
    """A field that is added to the plan must not be passed over: its default is all there was before."""
    sizes = {"layers", "hidden_size", "heads", "nonlinearity", "norm_epsilon", "max_tokens", "first_position"}
    files = ("encoder.py", "model.py", "heads.py", "tensors.py")
    source = "".join((SOURCE / "run" / file).read_text(encoding="utf-8") for file in files)
    for field in fields(EncoderPlan):
        assert field.name in sizes or f"plan.{field.name}" in source, field.name


# ------------------------------------------------------------------------------------ which family, which shape, tokens


def test_unknown_family_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'distilbert'"):
        family_of("distillbert")


@pytest.mark.parametrize("model_type", [None, ["bert"], 3, "x" * 10_000, "a\x1b[2Jb"])
def test_a_model_type_that_is_no_name_is_one_short_line(model_type):
    with pytest.raises(UsageError, match="is not supported") as caught:
        family_of(model_type)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_a_published_shape_is_known_by_the_longest_name_in_a_path():
    found = {path: known_shape(path) for path in ("distilbert-base-uncased", "runs/bert-large/teacher", "gpt2")}
    assert found["distilbert-base-uncased"] == (DISTILBERT, DISTILBERT.shapes[0])
    family, shape = found["runs/bert-large/teacher"]
    config = config_for(family, family.config_of(shape))
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (24, 1024, 16)
    assert config.intermediate_size == 4096
    assert found["gpt2"] is None


def test_special_tokens_are_those_of_the_family_whose_vocabulary_it_is(tiny_bert, monkeypatch):
    tokenizer = load_tokenizer(tiny_bert)
    assert special_token_ids(tokenizer) == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    renamed = replace(BERT.special_tokens, pad="the", mask="of")
    monkeypatch.setattr("pruneonce.models.tokenizer.FAMILIES", {"other": replace(BERT, special_tokens=renamed)})
    assert special_token_ids(tokenizer) == {"pad": 5, "unk": 1, "cls": 2, "sep": 3, "mask": 7}
    lacking = replace(BERT.special_tokens, mask="<mask>")
    monkeypatch.setattr("pruneonce.models.tokenizer.FAMILIES", {"other": replace(BERT, special_tokens=lacking)})
    with pytest.raises(UsageError, match="no <mask>: a vocabulary of other is expected"):
        special_token_ids(tokenizer)


# ---------------------------------------------------------------------------------------------- folders with their code


@pytest.fixture
def armed(tiny_bert, tmp_path, monkeypatch):
    """A folder whose config asks for its own code, and a person who says yes to everything."""

    def arm(model_type):
        folder = tmp_path / "armed"
        folder.mkdir()
        for file in tiny_bert.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        ran = tmp_path / "ran"
        (folder / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
        config = json.loads((folder / "config.json").read_text()) | {"model_type": model_type}
        config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForMaskedLM": "theirs.Model"}
        (folder / "config.json").write_text(json.dumps(config))
        tokens = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "TheirsTokenizer"}
        tokens["auto_map"] = {"AutoTokenizer": ["theirs.Model", None]}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(
            "builtins.input", lambda *_: pytest.fail("transformers asks whether to run a folder's code")
        )
        return folder, ran

    return arm


def test_a_folder_of_an_unknown_family_is_refused_before_transformers_asks_for_its_code(armed):
    folder, ran = armed("theirs")
    for load in (load_config, lambda path: load_hub_model("AutoModelForMaskedLM", path)):
        with pytest.raises(UsageError, match="model type 'theirs' is not supported"):
            load(folder)
    assert not ran.exists()


def test_code_of_a_folder_of_a_known_family_is_never_run(armed):
    folder, ran = armed("bert")
    assert type(load_config(folder)) is BertConfig
    assert type(load_hub_model("AutoModelForMaskedLM", folder)).__name__ == "BertForMaskedLM"
    with suppress(UsageError):
        load_hub_tokenizer(folder)
    assert not ran.exists()


def test_a_config_without_a_model_type_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="has no model_type"):
        load_config(tmp_path)


# ------------------------------------------------------------------------------------------- nobody else knows a family


def test_nothing_outside_of_models_asks_which_family_it_has():
    """A family must be one file: code that compares with one family's name would have to be found for the next."""
    records = "|".join(name.upper() for name in FAMILIES)
    classes = "|".join(type(config_for(family, {})).__name__.removesuffix("Config") for family in FAMILIES.values())
    named = re.compile(
        rf"""model_type["')\]]*\s*(==|!=|in\b|not\ in\b)       # a comparison of names
        |["']({"|".join(FAMILIES)})["']                       # a name
        |(\bis|\bnot|==|!=|\bimport)\ ({records})\b           # a record
        |\b({classes})(Config|Model|For[A-Z])                 # a class of transformers""",
        re.VERBOSE,
    )
    for line in (
        'if config.model_type == "other":',
        "return family is not BERT",
        "from transformers import DistilBertConfig",
        'FAMILIES["bert"]',
        'if config["model_type"] in known:',
    ):
        assert named.search(line), line
    found = [
        f"{file.relative_to(SOURCE)}:{number}: {line.strip()}"
        for file in sorted(SOURCE.rglob("*.py"))
        if not file.is_relative_to(SOURCE / "models")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if named.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_linear_layer_of_attention_has_its_role(family):
    prefix = f"{family.base}.{family.layers}.3."
    names = {role: getattr(family.layer, role) for role in ATTENTION_ROLES if getattr(family.layer, role) is not None}
    assert [family.role_of(prefix + name) for name in names.values()] == list(names)
    assert {"attention_output"} < names.keys()
    assert family.role_of(prefix + family.layer.output_norm) is None
    assert family.part_of(prefix + family.layer.output_norm + ".weight") == "encoder"
    assert family.part_of(f"{family.base}.{family.embeddings.norm}.weight") == "embeddings"
    assert family.part_of("classifier.weight") == "heads"
