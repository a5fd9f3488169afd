"""Products with the non-zeros of a matrix alone, forward and backward, in float32 on CPUs.

y = x Wᵀ + b, dx = dy W and dW = dyᵀ x at the non-zeros only (a sampled dense-dense product). What is trained is
one-dimensional, so that its gradient and Adam's moments have a tenth of the size at 90 % zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pruneonce import _native


def multiply(input: Tensor, values: Tensor, bias: Tensor | None, pattern: _native.SparseLinear) -> Tensor:
    """input: [..., in_features]; values: [non-zeros]; bias: [out_features] or None -> float32 [..., out_features].

    Differentiable in all three.
    """
    product: Tensor = _Multiply.apply(input, values, bias, pattern)
    return product


def take(weight: Tensor, places: Tensor) -> Tensor:
    """weight: any shape; places: int64 [n], each once, in the flattened weight -> [n].

    Differentiable: the gradient of what is not taken is 0.
    """
    values: Tensor = _Take.apply(weight, places)
    return values


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, places: Tensor) -> Tensor:
        ctx.places, ctx.shape = places, weight.shape
        return weight.reshape(-1).index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.new_zeros(ctx.shape.numel())
        whole.scatter_(0, ctx.places, gradient)
        return whole.view(ctx.shape), None


class _Multiply(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, input: Tensor, values: Tensor, bias: Tensor | None, pattern: _native.SparseLinear) -> Tensor:
        x = input.reshape(-1, pattern.cols).contiguous()
        y = torch.empty(len(x), pattern.rows)
        pattern.forward(_array(values), None if bias is None else _array(bias), _array(x), y=_array(y))
        ctx.save_for_backward(x, values)
        ctx.pattern, ctx.shape = pattern, input.shape
        return y.view(*input.shape[:-1], pattern.rows)

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, values = ctx.saved_tensors
        pattern = ctx.pattern
        dy = gradient.reshape(-1, pattern.rows).contiguous()
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        dvalues = torch.empty_like(values) if ctx.needs_input_grad[1] else None
        dbias = torch.empty(pattern.rows) if ctx.needs_input_grad[2] else None
        out = {"dx": dx, "dvalues": dvalues, "dbias": dbias}
        pattern.backward(
            _array(values),
            _array(x),
            _array(dy),
            **{name: _array(each) for name, each in out.items() if each is not None},
        )
        return None if dx is None else dx.view(ctx.shape), dvalues, dbias, None


def _array(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    array: np.ndarray[Any, np.dtype[np.float32]] = tensor.detach().numpy()  # shares its memory
    return array
