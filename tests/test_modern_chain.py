"""ModernBERT and NomicBERT rounded, exported and trained: what other families have not is not lost on the way."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import tiny_stages
import torch
import transformers
from conftest import save_sparse, save_tokenizer
from test_quantize import values

from pruneonce import _native, compress
from pruneonce.compression import comparison, plan
from pruneonce.compression import run as compression_run
from pruneonce.convert.inspect_packed import inspect_packed
from pruneonce.convert.to_onnx import export_onnx
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import UsageError
from pruneonce.models.hub import load_hub_model
from pruneonce.run.model import load_model
from pruneonce.run.pipelines import pipeline
from pruneonce.sparsity.native_attention import NativeAttention
from pruneonce.train.dropout import set_dropout
from pruneonce.train.encoder_model import load_encoder_model
from pruneonce.train.language_model import load_language_model

FAMILIES = ["ModernBert", "NomicBert"]
MATRICES = {"ModernBert": 4, "NomicBert": 7}  # of a layer, as the model has them
LAYERS = 3


def save_tiny(family, folder, head="ForMaskedLM", **changes):
    """A random model in a folder with a tokenizer; of ModernBERT's layers the second and third see 4 tokens around."""
    config = {
        "vocab_size": save_tokenizer(folder),
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
    }
    if family == "ModernBert":
        special = {"pad": 0, "bos": 2, "cls": 2, "eos": 3, "sep": 3}
        config |= {"local_attention": 8} | {f"{name}_token_id": number for name, number in special.items()}
    torch.manual_seed(0)
    model = getattr(transformers, family + head)(
        getattr(transformers, family + "Config")(**config, num_labels=2, **changes)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.dim() == 2 else parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folders = {}

    def tiny(family):
        if family not in folders:
            folders[family] = save_tiny(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return tiny


@pytest.fixture(scope="module")
def rounded(reviews, tmp_path_factory):
    """An int8 folder of a family, nine tenths of its matrices zeros, rounded without training."""
    made = {}

    def rounded(family):
        if family not in made:
            root = tmp_path_factory.mktemp(f"{family}-int8")
            dense = save_tiny(family, root / "dense", "ForSequenceClassification")
            sparse = save_sparse(dense, "AutoModelForSequenceClassification", root / "sparse")
            recipe = values(sparse, reviews, "ptq") | {
                "task": values(sparse, reviews)["task"] | {"labels": ["no", "yes"]}
            }
            tiny_stages.run("quantize", recipe, root / "int8")
            made[family] = root / "int8"
        return made[family]

    return rounded


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_int8_encoder_has_the_same_bits_in_any_company_and_wherever_multiply_adds_are_fused(
    family, rounded, tmp_path
):
    export_packed(rounded(family), tmp_path / "m.pruneonce")
    generator = np.random.default_rng(0)
    ids = [generator.integers(5, 90, length) for length in (40, 3, 17, 60, 1, 33)]
    answers = []
    for isa in _native.available_isas():
        model = load_model(tmp_path / "m.pruneonce", isa=isa)
        together = model.hidden_states(ids)
        for each, states in zip(ids, together, strict=True):
            assert np.array_equal(model.hidden_states([each])[0], states), isa
        if isa != "scalar":
            answers.append(np.concatenate(together))
    for answer in answers:
        assert np.array_equal(answer, answers[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_what_the_stages_wrote_with_nothing_missing(family, rounded):
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        rounded(family), output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(model).__name__ == f"{family}ForSequenceClassification"


HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "Model": "AutoModel",
}
CASES = [
    *(
        (family, head, {})
        for family in FAMILIES
        for head in HEADS
        if (family, head) != ("NomicBert", "ForQuestionAnswering")
    ),
    ("ModernBert", "ForSequenceClassification", {"classifier_pooling": "mean"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "head", "changes"), CASES)
def test_an_onnx_file_answers_as_transformers_does_with_its_own_masks(family, head, changes, tmp_path):
    folder, file = save_tiny(family, tmp_path / "model", head, **changes), tmp_path / "m.onnx"
    written = export_onnx(folder, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    model = getattr(transformers, HEADS[head]).from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(0)
    for lengths in ((40,), (33, 3, 20)):
        shape = (len(lengths), max(lengths))
        real = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
        feed = {"input_ids": torch.randint(5, 90, shape, generator=generator) * real, "attention_mask": real}
        if family == "NomicBert":
            feed["token_type_ids"] = torch.randint(0, 2, shape, generator=generator)
        with torch.no_grad():
            expected = model(**feed)
        found = session.run(None, {name: each.numpy() for name, each in feed.items()})
        for name, array in zip(written.outputs, found, strict=True):
            theirs = expected[name].numpy()
            kept = real.bool().numpy() if theirs.shape[:2] == shape else ...
            np.testing.assert_allclose(array[kept], theirs[kept], atol=2e-5)


# ----------------------------------------------------------------------------------------------- attention in training


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [4, 5, 6, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_our_attention_in_training_sees_a_window_where_the_model_has_one(family, tokens, padded, tiny):
    """Five tokens: all of them are within a window of four. Beyond it torch attends, in layers that have one."""
    model = load_encoder_model(tiny(family))
    lengths = torch.tensor([tokens, 3 if padded else tokens])
    batch = {
        "input_ids": torch.randint(5, 90, (2, tokens), generator=torch.Generator().manual_seed(0)),
        "attention_mask": (torch.arange(tokens) < lengths[:, None]).long(),
        "token_type_ids": torch.zeros(2, tokens, dtype=torch.long),
    }
    real = batch["attention_mask"].bool()

    def states_and_gradient():
        model.zero_grad()
        states = model(**batch)[-1][real]
        states.square().sum().backward()
        return states.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    attention = NativeAttention(model.model)
    before = states_and_gradient()
    attention.switch(native=True)
    after = states_and_gradient()
    attention.switch(native=False)
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------- pipelines


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_filled_as_transformers_fills_them(family, tiny, tmp_path):
    folder = tiny(family)
    export_packed(folder, tmp_path / "m.pruneonce", embeddings="fp32")
    text = "the film was [MASK] in the city"
    theirs = transformers.pipeline("fill-mask", model=str(folder), device="cpu")(text)
    ours = pipeline("fill-mask", tmp_path / "m.pruneonce")(text)
    assert [each["token"] for each in ours] == [each["token"] for each in theirs]
    np.testing.assert_allclose([each["score"] for each in ours], [each["score"] for each in theirs], atol=1e-5)


def test_a_question_for_nomicbert_is_refused_in_one_line(tiny):
    with pytest.raises(UsageError, match="no head for question answering of nomic_bert") as caught:
        load_hub_model("AutoModelForQuestionAnswering", tiny("NomicBert"))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- plain text alone


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compress_prunes_packs_and_compares_a_model_whose_tokens_see_windows(family, articles, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "TOKENS_PER_STEP", 256)
    monkeypatch.setattr(compression_run, "fastest_precision", lambda: "fp32")
    monkeypatch.setattr(comparison, "TEXTS", 24)
    model = save_tiny(family, tmp_path / "model", "ForSequenceClassification")
    texts = articles.parent / "documents.jsonl"
    report = compress(model, [texts], out=tmp_path / "out", steps=6, speed=False, int8=True)
    assert report.sparsity == pytest.approx(0.9, abs=1e-3)
    assert 0 < report.hidden_error < 2
    for figures in report.figures.values():
        assert all(np.isfinite(value) for value in figures.values())
    for file in ("model.pruneonce", "model-int8.pruneonce"):
        assert inspect_packed(tmp_path / "out" / file).lock_intact


@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_line_inspects_exports_and_answers(family, pruneonce, tmp_path):
    model, file = save_tiny(family, tmp_path / "model", "ForSequenceClassification"), tmp_path / "m.pruneonce"
    code, out, _ = pruneonce("inspect", model, "--json")
    assert code == 0
    assert sum(matrix["prunable"] for matrix in json.loads(out)["matrices"]) >= MATRICES[family] * LAYERS
    assert pruneonce("export", model, "--to", "packed", "--out", file)[0] == 0
    code, out, error = pruneonce("predict", file, "the film was good")
    assert code == 0, error
    assert "LABEL_" in out


def test_a_bare_modernbert_gets_a_head_for_masks_that_has_no_biases_to_set(tmp_path):
    save_tiny("ModernBert", tmp_path, "Model")
    counts = np.arange(transformers.AutoConfig.from_pretrained(tmp_path).vocab_size)
    model, missing = load_language_model(tmp_path, token_counts=counts)
    assert {"head.dense.weight", "decoder.bias"} <= set(missing)
    assert model.model.head.dense.bias is None
    assert torch.equal(model.model.head.dense.weight, torch.eye(32))
    assert torch.equal(model.model.decoder.bias.argsort(), torch.from_numpy(counts))
    found = model(
        input_ids=torch.tensor([[5, 6, 7]]),
        attention_mask=torch.ones(1, 3, dtype=torch.long),
        token_type_ids=torch.zeros(1, 3, dtype=torch.long),
        positions=torch.tensor([1]),
    )
    assert found["mlm"].shape == (1, len(counts))


def test_a_recipes_dropout_reaches_attention_where_it_is_no_layer(tiny):
    model = transformers.AutoModelForMaskedLM.from_pretrained(tiny("NomicBert"), attention_probs_dropout_prob=0.3)
    attention = [module for module in model.modules() if hasattr(module, "attention_dropout")]
    assert {module.attention_dropout for module in attention} == {0.3}
    set_dropout(model, 0.0)
    assert {module.attention_dropout for module in attention} == {0.0}
