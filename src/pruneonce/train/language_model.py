"""A BERT or DistilBERT with its pre-training heads, computing vocabulary logits only where a loss reads them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining
from transformers.utils import logging as transformers_logging

from pruneonce.errors import UsageError
from pruneonce.models.family import Architecture, architecture_of


class LanguageModel(nn.Module):
    """Wraps a Hugging Face pre-training model (`.model`) without changing it.

    The 30k-word projection of BERT costs more than a small encoder, and the library's own forward computes it for
    every position. This one takes the positions it is needed at.
    """

    def __init__(self, model: Any, *, nsp: bool) -> None:
        super().__init__()
        self.model = model
        self.architecture: Architecture = architecture_of(model.config.model_type)
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
        encoder = getattr(self.model, self.architecture.base)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.architecture.model_type == "bert":
            inputs["token_type_ids"] = token_type_ids
        output = encoder(**inputs, **({"output_hidden_states": True} if hidden_states else {}))
        hidden = output.last_hidden_state.flatten(0, 1)[positions]
        logits: dict[str, Any] = {"mlm": self._mlm_head(hidden)}
        if self.nsp:
            logits["nsp"] = self.model.cls.seq_relationship(output.pooler_output)
        if hidden_states:
            logits["hidden_states"] = output.hidden_states
        return logits

    def _mlm_head(self, hidden: Tensor) -> Tensor:
        if self.architecture.model_type == "bert":
            return self.model.cls.predictions(hidden)
        model = self.model
        return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


def load_language_model(
    path: str | Path, *, nsp: bool | None = None, token_counts: np.ndarray | None = None
) -> tuple[LanguageModel, list[str]]:
    """Load a checkpoint with its pre-training heads; returns it with the names of parameters it did not have.

    nsp: train next-sentence prediction too; by default as the family was pre-trained (BERT yes, DistilBERT no).
    token_counts: int64 [vocabulary], how often each token occurs in the training text. A missing masked-LM head
    starts as the identity with the tied decoder, and its bias at the log frequency of each token, so that the first
    steps need not learn which words are common. Raises UsageError for an unknown path or family.
    """
    config = load_config(path)
    family = architecture_of(config.model_type)
    if nsp is None:
        nsp = family.corpus_layout == "segment_pair_nsp"
    if nsp and family.pooler is None:
        raise UsageError(
            f"{family.model_type} has no next-sentence head: build a corpus with layout document_sentences"
        )
    loader = AutoModelForPreTraining if nsp else AutoModelForMaskedLM
    model, info = loader.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    language_model = LanguageModel(model, nsp=nsp)
    if any(name.startswith(family.mlm_head) for name in missing):
        _initialise_mlm_head(language_model, token_counts)
    return language_model, missing


def quiet_transformers() -> None:
    """For commands: no loading bars or reports of missing heads from transformers; we say ourselves what matters."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_config(path: str | Path) -> Any:
    """A checkpoint's config; a folder or Hub id that holds none is a UsageError."""
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"'{path}' is not a model folder or Hub id that can be loaded: {reason}") from error


def _initialise_mlm_head(language_model: LanguageModel, token_counts: np.ndarray | None) -> None:
    model = language_model.model
    if language_model.architecture.model_type == "bert":
        transform, norm, bias = (
            model.cls.predictions.transform.dense,
            model.cls.predictions.transform.LayerNorm,
            model.cls.predictions.bias,
        )
    else:
        transform, norm, bias = model.vocab_transform, model.vocab_layer_norm, model.vocab_projector.bias
    with torch.no_grad():
        nn.init.eye_(transform.weight)
        nn.init.zeros_(transform.bias)
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
        nn.init.zeros_(bias)
        if token_counts is not None:
            bias.copy_(torch.from_numpy(_log_frequencies(token_counts)))


def _log_frequencies(counts: np.ndarray) -> np.ndarray:
    """Log of each token's share of the text with one occurrence added to each, relative to a uniform share."""
    smoothed = counts.astype(np.float64) + 1.0
    return (np.log(smoothed / smoothed.sum()) + math.log(smoothed.size)).astype(np.float32)
