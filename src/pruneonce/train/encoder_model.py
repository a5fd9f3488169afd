"""A model's body alone, for losses on its hidden states: whatever head it has is kept, and takes no part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pruneonce.errors import UsageError
from pruneonce.models import Family, family_of
from pruneonce.models.hub import load_config, load_hub_model


class EncoderModel(nn.Module):
    """Wraps a Hugging Face model (`.model`), bare or with a head, and gives the hidden states of its body.

    Head and pooler, which no hidden state depends on, are taken out of training.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.family: Family = family_of(model.config.model_type)
        body = {id(parameter) for parameter in self.body.parameters()}
        for name, parameter in model.named_parameters():
            pooler = self.family.encoder_name(name).startswith(f"{self.family.pooler}.")
            if pooler or id(parameter) not in body:
                parameter.requires_grad_(False)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def body(self) -> Any:
        """The encoder, which is the model itself if it is bare."""
        return getattr(self.model, self.family.base, self.model)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, whole: bool = False) -> Any:
        """Hidden states of the embeddings and of every layer: float [batch, tokens, size] each.

        input_ids, attention_mask, token_type_ids: int64 [batch, tokens]. whole: transformers' output of the model with
        its head instead, which has them as `hidden_states`.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs = {name: given[name] for name in self.family.inputs}
        if whole:
            return self.model(**inputs, output_hidden_states=True)
        return self.body(**inputs, output_hidden_states=True).hidden_states


def load_encoder_model(path: str | Path) -> EncoderModel:
    """Load a checkpoint of a known family, with the head that its config names or none.

    UsageError for an unknown path or family, and for a checkpoint whose body is not all there.
    """
    config = load_config(path)
    # A config is untrusted: it chooses among transformers' classes for its own family, and nothing else.
    named = str((config.architectures or [""])[0])
    fits = getattr(getattr(transformers, named, None), "config_class", None) is type(config)
    model, info = load_hub_model(named if fits else "AutoModel", path, dtype=torch.float32, output_loading_info=True)
    wrapped = EncoderModel(model)
    body = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if missing := sorted(body & set(info["missing_keys"])):
        raise UsageError(f"{path} cannot be taken hidden states of: it has no {missing[0]}")
    return wrapped
