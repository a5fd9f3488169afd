"""Pre-training heads at chosen positions, beside transformers' own forward pass; heads that were not there."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

from pruneonce.errors import UsageError
from pruneonce.train.language_model import load_language_model


def batch(vocabulary, tokens=9):
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(5, vocabulary, (3, tokens), generator=generator),
        "attention_mask": (torch.arange(tokens) < torch.tensor([[tokens], [4], [7]])).long(),
        "token_type_ids": (torch.arange(tokens) > 3).long().expand(3, -1).contiguous(),
    }


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_logits_at_positions_are_the_librarys_there(family, tiny_bert, tiny_distilbert):
    folder = tiny_bert if family == "bert" else tiny_distilbert
    model, missing = load_language_model(folder)
    assert missing == []
    inputs = batch(model.config.vocab_size)
    positions = torch.tensor([26, 0, 11, 11, 3])
    theirs = (AutoModelForPreTraining if family == "bert" else AutoModelForMaskedLM).from_pretrained(folder)
    taken = inputs if family == "bert" else {n: t for n, t in inputs.items() if n != "token_type_ids"}
    with torch.no_grad():
        ours, expected = model.eval()(**inputs, positions=positions), theirs.eval()(**taken)
    logits = expected["prediction_logits" if family == "bert" else "logits"]
    torch.testing.assert_close(ours["mlm"], logits.flatten(0, 1)[positions])
    assert ("nsp" in ours) == (family == "bert")
    if family == "bert":
        torch.testing.assert_close(ours["nsp"], expected["seq_relationship_logits"])


def test_no_position_asks_for_no_logits(tiny_bert):
    model, _ = load_language_model(tiny_bert)
    found = model(**batch(model.config.vocab_size), positions=torch.zeros(0, dtype=torch.int64))
    assert found["mlm"].shape == (0, model.config.vocab_size)


@pytest.fixture
def encoder(tiny_bert, tmp_path):
    AutoModel.from_pretrained(tiny_bert).save_pretrained(tmp_path / "encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_bert / name, tmp_path / "encoder" / name)
    return tmp_path / "encoder"


def test_a_head_that_was_missing_starts_at_the_frequencies_of_the_tokens(encoder):
    vocabulary = load_language_model(encoder)[0].config.vocab_size
    counts = np.arange(vocabulary, dtype=np.int64)
    model, missing = load_language_model(encoder, token_counts=counts)
    assert all(name.startswith("cls.") for name in missing)
    assert any(name.startswith("cls.predictions.") for name in missing)
    bias = model.model.cls.predictions.bias.detach().numpy()
    np.testing.assert_allclose(np.exp(bias - bias[0]), counts + 1, rtol=1e-5)
    assert np.exp(bias).mean() == pytest.approx(1), "relative to a uniform share"
    assert torch.equal(model.model.cls.predictions.transform.dense.weight, torch.eye(32))


def test_heads_that_are_there_stay_whatever_is_counted(tiny_bert):
    counts = np.arange(1000, dtype=np.int64)
    model, missing = load_language_model(tiny_bert, token_counts=counts)
    theirs = AutoModelForPreTraining.from_pretrained(tiny_bert)
    assert missing == []
    assert torch.equal(model.model.cls.predictions.bias, theirs.cls.predictions.bias)


def test_a_family_without_the_head_is_told_which_corpus_it_takes(tiny_distilbert):
    with pytest.raises(UsageError, match="no next-sentence head: build a corpus with layout document_sentences"):
        load_language_model(tiny_distilbert, nsp=True)
