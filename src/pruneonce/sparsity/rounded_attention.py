"""Attention of a transformers model as the int8 engine computes it, with gradients that look through the rounding.

Queries, keys and values come rounded to 8 bits from their layers (`fake_quant`); here a key's weight becomes a whole
number of 255ths of the query's largest. It is an attention implementation like "sdpa".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from pruneonce.errors import UsageError

NAME = "pruneonce_int8"


class RoundedAttention:
    """Lets a transformers model attend in 8 bits, and as it did before; its folder will not show it.

    UsageError for a model whose attention cannot be replaced.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before = model.config._attn_implementation
        if not model._can_set_attn_implementation():
            raise UsageError(
                f'attention = "int8" is not computed for {model.config.model_type}, whose attention is code of its own'
            )

    def switch(self, rounds: bool) -> None:
        """In 8 bits, or as it was when this was made."""
        if rounds != (self._model.config._attn_implementation == NAME):
            self._model.set_attn_implementation(NAME if rounds else self._before)


def rounded_weights(scores: Tensor) -> Tensor:
    """[..., keys] -> weights that add up to 1: codes of 0 to 255, round(255 · e^(score - the largest)), over their sum.

    The gradient is that of the softmax (straight-through).
    """
    with torch.no_grad():
        codes = torch.round(255 * torch.exp(scores - scores.amax(dim=-1, keepdim=True)))
        rounded = codes / codes.sum(dim=-1, keepdim=True)
    if not torch.is_grad_enabled():
        return rounded
    smooth = torch.softmax(scores, dim=-1)
    return smooth + (rounded - smooth).detach()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query, key, value: [sequences, heads, tokens, head size] -> [sequences, tokens, heads, head size]."""
    with torch.autocast(query.device.type, enabled=False):  # a lower precision would round what is rounded already
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, float("-inf"))
        weights = functional.dropout(rounded_weights(scores), dropout, module.training)
        return (weights @ value).transpose(1, 2).contiguous(), None


# For the whole process, and once: a name that no model uses until it is switched to.
AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
