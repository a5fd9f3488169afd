"""A model with its pre-training heads, computing vocabulary logits only where a loss reads them."""

from __future__ import annotations

import math
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruneonce.errors import UsageError
from pruneonce.models import Family, family_of
from pruneonce.models.hub import load_config, load_hub_model, require_whole_encoder


class LanguageModel(nn.Module):
    """Wraps a Hugging Face pre-training model (`.model`) without changing it.

    The 30k-word projection of BERT costs more than a small encoder, and the library's own forward computes it for
    every position. This one takes the positions it is needed at.
    """

    def __init__(self, model: Any, *, nsp: bool) -> None:
        super().__init__()
        self.model = model
        self.family: Family = family_of(model.config.model_type)
        self.nsp = nsp

    @property
    def config(self) -> Any:
        return self.model.config

    def forward(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        positions: Tensor,
        hidden_states: bool = False,
    ) -> dict[str, Any]:
        """Logits of both heads.

        input_ids, attention_mask, token_type_ids: int64 [batch, tokens]; positions: int64 [n], flat indices into
        batch x tokens. Returns `mlm` [n, vocabulary] and, for models with next-sentence prediction, `nsp` [batch, 2];
        with hidden_states also those: of the embeddings and of every layer, [batch, tokens, size] each.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: given[name] for name in self.family.inputs}
        more = {"output_hidden_states": True} if hidden_states else {}
        output = getattr(self.model, self.family.base)(**inputs, **more)
        hidden = output.last_hidden_state.flatten(0, 1)[positions]
        logits: dict[str, Any] = {"mlm": self._mlm_head(hidden)}
        if self.nsp:
            assert self.family.heads.next_sentence is not None
            logits["nsp"] = attrgetter(self.family.heads.next_sentence)(self.model)(output.pooler_output)
        if hidden_states:
            logits["hidden_states"] = output.hidden_states
        return logits

    def _mlm_head(self, hidden: Tensor) -> Tensor:
        for module in self.family.heads.masked_lm.modules:
            hidden = attrgetter(module)(self.model)(hidden)
        return hidden


def load_language_model(
    path: str | Path, *, nsp: bool | None = None, token_counts: np.ndarray | None = None
) -> tuple[LanguageModel, list[str]]:
    """Load a checkpoint with its pre-training heads; returns it with the names of parameters it did not have.

    nsp: train next-sentence prediction too; by default as the family was pre-trained (BERT yes, DistilBERT no).
    token_counts: int64 [vocabulary], how often each token occurs in the training text. A missing masked-LM head
    starts as the identity with the tied decoder, and its bias at the log frequency of each token, so that the first
    steps need not learn which words are common. UsageError for an unknown path or family, and for a checkpoint whose
    encoder is not all there.
    """
    config = load_config(path)
    family = family_of(config.model_type)
    if nsp is None:
        nsp = family.corpus_layout == "segment_pair_nsp"
    if nsp and family.heads.next_sentence is None:
        raise UsageError(
            f"{family.model_type} has no next-sentence head: build a corpus with layout document_sentences"
        )
    model, info = load_hub_model(pretraining_class(nsp=nsp), path, dtype=torch.float32, output_loading_info=True)
    require_whole_encoder(path, family, info)
    missing = sorted(info["missing_keys"])
    language_model = LanguageModel(model, nsp=nsp)
    if any(map(family.heads.masked_lm.has, missing)):
        _initialise_mlm_head(language_model, token_counts)
    return language_model, missing


def pretraining_class(*, nsp: bool) -> str:
    """transformers' class of a model with its pre-training heads."""
    return "AutoModelForPreTraining" if nsp else "AutoModelForMaskedLM"


def _initialise_mlm_head(language_model: LanguageModel, token_counts: np.ndarray | None) -> None:
    head = language_model.family.heads.masked_lm
    transform, norm, bias = (attrgetter(name)(language_model.model) for name in (head.dense, head.norm, head.biases[0]))
    with torch.no_grad():
        nn.init.eye_(transform.weight)
        nn.init.ones_(norm.weight)
        for shift in (transform.bias, norm.bias, bias):
            if shift is not None:
                nn.init.zeros_(shift)
        if token_counts is not None and bias is not None:
            bias.copy_(torch.from_numpy(_log_frequencies(token_counts)))


def _log_frequencies(counts: np.ndarray) -> np.ndarray:
    """Log of each token's share of the text with one occurrence added to each, relative to a uniform share."""
    smoothed = counts.astype(np.float64) + 1.0
    return (np.log(smoothed / smoothed.sum()) + math.log(smoothed.size)).astype(np.float32)
