"""A linear layer that keeps, multiplies and trains its non-zeros alone, on CPUs.

y = x Wᵀ + b, dx = dy W and dW = dyᵀ x at the non-zeros only (a sampled dense-dense product). The parameter is
one-dimensional, so that its gradient and Adam's moments have a tenth of the size at 90 % zeros.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pruneonce import _native

# Density below which the float32 kernels are plainly faster: dense layers do five times the arithmetic.
SPARSE_BELOW = 0.2


class SparseLinear(nn.Linear):
    """`nn.Linear` whose zeros are not there; made from a layer in place by `make_sparse`, undone by `make_dense`.

    values: float32 parameter [non-zeros], row by row. State dicts have the dense `weight`, as those of any linear
    layer.
    """

    values: nn.Parameter
    pattern: _native.SparseLinear
    columns: np.ndarray[Any, np.dtype[np.uint16]]  # [non-zeros]; the kernels take no more columns than that counts
    row_pointers: np.ndarray[Any, np.dtype[np.int64]]  # [rows + 1]
    masked_form: ClassVar[type[nn.Linear] | None] = None  # of a subclass: what it is with a dense weight and a mask

    def forward(self, input: Tensor) -> Tensor:
        return self.product(input, self.values)

    def product(self, input: Tensor, values: Tensor) -> Tensor:
        """What the layer computes with other values at the same places, [non-zeros]; differentiable in both."""
        return multiply(input, values, self.bias, self.pattern)

    @property
    def row_lengths(self) -> Tensor:
        """Non-zeros of each row: int64 [out_features]."""
        return torch.from_numpy(np.diff(self.row_pointers))

    @property
    def places(self) -> Tensor:
        """Places of the non-zeros in the flattened matrix: int64 [non-zeros]."""
        rows = np.repeat(np.arange(self.out_features, dtype=np.int64), np.diff(self.row_pointers))
        return torch.from_numpy(rows * self.in_features + self.columns)

    @property
    def pattern_bytes(self) -> int:
        """What says where the non-zeros are, for the kernels and for state dicts."""
        return int(self.pattern.nbytes + self.columns.nbytes + self.row_pointers.nbytes)

    @property
    def mask(self) -> Tensor:
        """Which weights are there: bool [out_features, in_features], made anew."""
        mask = torch.zeros(self.out_features * self.in_features, dtype=torch.bool)
        mask[self.places] = True
        return mask.view(self.out_features, self.in_features)

    def dense_weight(self) -> Tensor:
        """float32 [out_features, in_features], made anew."""
        weight = torch.zeros(self.out_features * self.in_features)
        weight[self.places] = self.values.detach()
        return weight.view(self.out_features, self.in_features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, nonzeros={self.values.numel()}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}values"]
        destination[f"{prefix}weight"] = self.dense_weight()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        state = dict(state_dict)
        if (weight := state.pop(f"{prefix}weight", None)) is not None:
            state[f"{prefix}values"] = weight.reshape(-1)[self.places]
        super()._load_from_state_dict(state, prefix, *arguments)


def make_sparse(layer: nn.Linear, mask: Tensor, form: type[SparseLinear] = SparseLinear) -> None:
    """Turn a float32 layer on the CPU into a `SparseLinear`, in place. mask: bool, shape of the weight, True = kept."""
    pointers, columns = _places(mask)
    values = layer.weight.detach()[mask]
    bias = layer._parameters.pop("bias")
    del layer._parameters["weight"]
    layer.__class__ = form
    assert isinstance(layer, SparseLinear)
    layer.columns, layer.row_pointers = columns.astype(np.uint16), pointers
    layer.pattern = _native.SparseLinear(pointers, columns, cols=layer.in_features)
    layer.values = nn.Parameter(values)
    layer.register_parameter("bias", bias)  # after the values, as in nn.Linear: the optimizer's order


def make_dense(layer: nn.Linear, form: type[nn.Linear] = nn.Linear) -> None:
    """Turn a `SparseLinear` back into a layer with its dense weight, in place; a plain one unless `form` says so."""
    assert isinstance(layer, SparseLinear)
    weight = layer.dense_weight()
    bias = layer._parameters.pop("bias")
    del layer._parameters["values"], layer.pattern, layer.columns, layer.row_pointers
    layer.__class__ = form  # type: ignore[assignment]
    layer.register_parameter("weight", nn.Parameter(weight))
    layer.register_parameter("bias", bias)


class KeptWeights:
    """The kept weights of a dense matrix whose mask is still to change: they alone are multiplied.

    mask: bool [out_features, in_features], on the CPU.
    """

    def __init__(self, mask: Tensor) -> None:
        pointers, columns = _places(mask)
        self._pattern = _native.SparseLinear(pointers, columns, cols=mask.shape[1])
        self._flat = mask.flatten().nonzero().squeeze(1)

    def product(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As `linear(input, weight * mask, bias)`; the gradient of masked weights is 0."""
        values: Tensor = _Take.apply(weight, self._flat)
        return multiply(input, values, bias, self._pattern)


def multiply(input: Tensor, values: Tensor, bias: Tensor | None, pattern: _native.SparseLinear) -> Tensor:
    """input: [..., in_features]; values: [non-zeros]; bias: [out_features] or None -> float32 [..., out_features].

    Differentiable in all three.
    """
    product: Tensor = _Multiply.apply(input, values, bias, pattern)
    return product


def _places(mask: Tensor) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int32]]]:
    """(row pointers [rows + 1], columns [non-zeros]) of a bool matrix."""
    rows, columns = np.nonzero(mask.numpy())
    pointers = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(mask)), out=pointers[1:])
    return pointers, columns.astype(np.int32)


class _Take(torch.autograd.Function):
    """weight: any shape; places: int64 [n], each once, in the flattened weight -> [n]."""

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
