"""Attention of a transformers model by our kernels, forward and backward, in float32 on CPUs.

What autocast hands over in bfloat16 is computed in float32 and rounded: torch's own backward pass in bfloat16 takes
several times as long.

It is an attention implementation like "sdpa", and hands over to that where the kernels do not fit: dropout within
attention, other number types, masks that are not padding at the end, windows that are shorter than the texts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pruneonce import _native
from pruneonce.sparsity import rounded_attention

NAME = "pruneonce"
HEAD_SIZE_MULTIPLE = 16  # of the kernels


class NativeAttention:
    """Lets a transformers model attend by our kernels, and as it did before; its folder will not show it.

    A decoder stays as it is: every token of ours sees all of its sequence. So does a family whose attention is code of
    its own in transformers, with more in it than ours has.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._can = model._can_set_attn_implementation() and not getattr(model.config, "is_decoder", False)
        self._before: str | None = None  # the implementation to go back to; None: it is in use

    def switch(self, native: bool) -> None:
        """By our kernels, or as before. A model that attends in 8 bits keeps to that."""
        now = self._model.config._attn_implementation
        if now == rounded_attention.NAME:
            return
        if native and now != NAME and self._can:
            self._before = now
            self._model.set_attn_implementation(NAME)
        elif not native and self._before is not None:
            self._model.set_attn_implementation(self._before)
            self._before = None


def _lengths_or_mask(*arguments: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """What `_attention` gets as its mask: int64 [sequences], the real tokens of each; or torch's mask."""
    if (
        attention_mask is not None
        and attention_mask.dim() == 2
        and options.get("q_length") == attention_mask.shape[1]
        and not _is_windowed(attention_mask.shape[1], options.get("local_size"))
    ):
        real = attention_mask.to(torch.bool)
        lengths = real.sum(dim=1)
        if bool(lengths.min() > 0) and torch.equal(real, _real_tokens(lengths, real.shape[1])):
            return lengths
    return sdpa_mask(*arguments, attention_mask=attention_mask, **options)


def _is_windowed(tokens: int, window: int | None) -> bool:
    """Whether some tokens do not see all others: a window goes so many tokens to either side."""
    return window is not None and tokens > window + 1


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
    lengths_or_none = attention_mask is None or attention_mask.dim() == 1
    dtype = query.dtype
    fits = dtype in (torch.float32, torch.bfloat16)
    fits = fits and all(each.dtype == dtype and each.device.type == "cpu" for each in (query, key, value))
    fits = fits and query.shape == key.shape == value.shape and query.shape[-1] % HEAD_SIZE_MULTIPLE == 0
    if lengths_or_none and fits and dropout == 0.0 and scaling is not None:
        lengths = attention_mask
        if lengths is None:
            lengths = torch.full((query.shape[0],), query.shape[2])
        q, k, v = (each.transpose(1, 2).float() for each in (query, key, value))
        return _Attend.apply(q, k, v, lengths, scaling).to(dtype), None
    if attention_mask is not None and attention_mask.dim() == 1:
        attention_mask = _real_tokens(attention_mask, key.shape[2])[:, None, None, :]
    forward: Callable[..., tuple[Tensor, None]] = sdpa_attention_forward
    return forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options)


def _real_tokens(lengths: Tensor, tokens: int) -> Tensor:
    """bool [sequences, tokens]: the first of each sequence."""
    return torch.arange(tokens, device=lengths.device) < lengths[:, None]


class _Attend(torch.autograd.Function):
    """softmax(q kᵀ · scale) v. q, k, v and the result: [sequences, tokens, heads, head size]; padding gives 0."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float) -> Tensor:
        q, k, v = (each.contiguous() for each in (q, k, v))
        out = torch.empty_like(q)
        _native.attend(q.numpy(), k.numpy(), v.numpy(), lengths.numpy(), scale=scale, out=out.numpy())
        ctx.save_for_backward(q, k, v, lengths)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, lengths = (each.numpy() for each in ctx.saved_tensors)
        dq, dk, dv = (torch.empty(q.shape) for _ in range(3))
        dout = gradient.contiguous()
        _native.attend_backward(
            q,
            k,
            v,
            lengths,
            scale=ctx.scale,
            dout=dout.numpy(),
            dq=dq.numpy(),
            dk=dk.numpy(),
            dv=dv.numpy(),
        )
        return dq, dk, dv, None, None


# For the whole process, and once: a name that no model uses until it is switched to.
AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _lengths_or_mask)
