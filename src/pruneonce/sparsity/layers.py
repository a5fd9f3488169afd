"""A linear layer at work: which of its weights are multiplied, and whether they are rounded.

A layer's class changes once when work on it begins and once when that ends. Between, it has two slots: what computes
it (`form`), and a fake quantiser (`rounding`) or None. Either may be set without the other.

               working(layer)                            finish(layer)
    nn.Linear ----------------> WorkingLinear, in a form ---------------> nn.Linear
                                Dense    all weights
                                Masked   weight * mask
                                Kept     of the weight, what the mask keeps; the rest lives on
                                Sparse   has no other weights than those: the parameter is `values`

Any form may follow any other (`take_form`). State dicts have the dense `weight` in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneonce import _native
from pruneonce.formats.stored_tensors import nonzero_places
from pruneonce.sparsity.fake_quant import Rounding
from pruneonce.sparsity.sparse_product import multiply, take


class Form(Protocol):
    """How a layer computes. Forms are values: another mask is another form."""

    parameter: ClassVar[str]  # name of what is trained: "weight" [out_features, in_features], or "values" [non-zeros]

    @property
    def mask(self) -> Tensor | None:
        """Which weights are there: bool [out_features, in_features]; None: all."""

    @property
    def row_lengths(self) -> Tensor | None:
        """Weights of each row that are multiplied, int64 [out_features], if they are listed; None: a matrix is."""

    def multiplied(self, parameter: Tensor) -> Tensor:
        """Of the parameter, what is multiplied: [out_features, in_features], or [non-zeros]; differentiable."""

    def product(self, input: Tensor, multiplied: Tensor, bias: Tensor | None) -> Tensor:
        """[..., in_features] -> [..., out_features]; differentiable in all three."""

    def of_dense(self, weight: Tensor) -> Tensor:
        """The parameter for a weight [out_features, in_features]."""

    def dense(self, parameter: Tensor) -> Tensor:
        """Inverse of `of_dense`; weights that are not there are 0."""


class Dense:
    """All weights, as in `nn.Linear`."""

    parameter: ClassVar[str] = "weight"
    mask: Tensor | None = None
    row_lengths: Tensor | None = None

    def multiplied(self, parameter: Tensor) -> Tensor:
        return parameter

    def product(self, input: Tensor, multiplied: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(input, multiplied, bias)

    def of_dense(self, weight: Tensor) -> Tensor:
        return weight

    def dense(self, parameter: Tensor) -> Tensor:
        return parameter


class Masked(Dense):
    """The weight times its mask, bool [out_features, in_features]; the gradient of masked weights is 0."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def multiplied(self, parameter: Tensor) -> Tensor:
        return parameter * self.mask


class Kept(Masked):
    """As `Masked`, but what the mask keeps is multiplied alone, in float32 on CPUs."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask)
        pointers, columns = nonzero_places(mask.numpy())
        self.row_lengths = torch.from_numpy(np.diff(pointers))
        self._pattern = _native.SparseLinear(pointers, columns, cols=mask.shape[1])
        self._places = mask.flatten().nonzero().squeeze(1)

    def multiplied(self, parameter: Tensor) -> Tensor:
        return take(parameter, self._places)

    def product(self, input: Tensor, multiplied: Tensor, bias: Tensor | None) -> Tensor:
        return multiply(input, multiplied, bias, self._pattern)


class Sparse:
    """The non-zeros alone, kept, multiplied and trained, row by row, in float32 on CPUs."""

    parameter: ClassVar[str] = "values"

    def __init__(self, mask: Tensor) -> None:
        self._rows, self._columns = mask.shape
        self._row_pointers, columns = nonzero_places(mask.numpy())
        self._column_of = columns.astype(np.uint16)  # the kernels take no more columns than that counts
        self._pattern = _native.SparseLinear(self._row_pointers, columns, cols=self._columns)

    @property
    def row_lengths(self) -> Tensor:
        return torch.from_numpy(np.diff(self._row_pointers))

    @property
    def places(self) -> Tensor:
        """Places of the non-zeros in the flattened matrix: int64 [non-zeros]."""
        rows = np.repeat(np.arange(self._rows, dtype=np.int64), np.diff(self._row_pointers))
        return torch.from_numpy(rows * self._columns + self._column_of)

    @property
    def pattern_bytes(self) -> int:
        """What says where the non-zeros are, for the kernels and for state dicts."""
        return int(self._pattern.nbytes + self._column_of.nbytes + self._row_pointers.nbytes)

    @property
    def mask(self) -> Tensor:
        """Made anew each time."""
        mask = torch.zeros(self._rows * self._columns, dtype=torch.bool)
        mask[self.places] = True
        return mask.view(self._rows, self._columns)

    def multiplied(self, parameter: Tensor) -> Tensor:
        return parameter

    def product(self, input: Tensor, multiplied: Tensor, bias: Tensor | None) -> Tensor:
        return multiply(input, multiplied, bias, self._pattern)

    def of_dense(self, weight: Tensor) -> Tensor:
        return weight.reshape(-1)[self.places]

    def dense(self, parameter: Tensor) -> Tensor:
        weight = torch.zeros(self._rows * self._columns)
        weight[self.places] = parameter
        return weight.view(self._rows, self._columns)


class WorkingLinear(nn.Linear):
    """`nn.Linear` in a form, that rounds or does not; made in place by `working`, undone by `finish`."""

    form: Form
    rounding: Rounding | None

    def forward(self, input: Tensor) -> Tensor:
        multiplied = self.form.multiplied(self.trained)
        if self.rounding is None:
            return self.form.product(input, multiplied, self.bias)
        multiplied = self.rounding.of_weight(multiplied, self.form.row_lengths)
        return self.rounding.of_output(self.form.product(self.rounding.of_input(input), multiplied, self.bias))

    @property
    def trained(self) -> Tensor:
        """The parameter: the weight, or the values of its non-zeros."""
        parameter: Tensor = getattr(self, self.form.parameter)
        return parameter

    @property
    def mask(self) -> Tensor:
        """Which weights are there: bool [out_features, in_features]."""
        mask = self.form.mask
        return torch.ones_like(self.trained, dtype=torch.bool) if mask is None else mask

    @property
    def kept(self) -> int:
        """How many weights are there."""
        return self.trained.numel() if isinstance(self.form, Sparse) else int(self.mask.sum())

    @property
    def computes_sparse(self) -> bool:
        """Whether it multiplies its non-zeros alone."""
        return isinstance(self.form, (Kept, Sparse))

    def take_form(self, form: Form) -> None:
        """Compute in another form from now on.

        Where its parameter has another name it is another object, at the old one's place: optimizers that held that
        train nothing. What the form does not keep is lost.
        """
        before, self.form = self.form, form
        if form.parameter == before.parameter:
            return
        parameter, bias = self._parameters.pop(before.parameter), self._parameters.pop("bias")
        assert parameter is not None
        changed = form.of_dense(before.dense(parameter.detach()))
        self.register_parameter(form.parameter, nn.Parameter(changed, requires_grad=parameter.requires_grad))
        self.register_parameter("bias", bias)  # after it, as in nn.Linear: the optimizer's order

    @torch.no_grad()
    def bake(self) -> None:
        """Write the zeros into the weight, and go on with all of it."""
        mask = self.mask
        self.take_form(Dense())
        # A kept weight that trained to exactly 0 would read back as pruned: it becomes the least normal number.
        self.weight[mask & (self.weight == 0)] = torch.finfo(self.weight.dtype).tiny
        self.weight[~mask] = 0.0

    def extra_repr(self) -> str:
        rounding = "" if self.rounding is None else ", rounds"
        return f"{super().extra_repr()}, form={type(self.form).__name__}{rounding}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WorkingLinear:
        if type(self.form) is Masked:
            self.form = Masked(fn(self.form.mask))  # to another device
        super()._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.form.parameter != "weight":
            destination[f"{prefix}weight"] = self.form.dense(destination.pop(f"{prefix}{self.form.parameter}").detach())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        state = dict(state_dict)
        if (weight := state.pop(f"{prefix}weight", None)) is not None:
            state[f"{prefix}{self.form.parameter}"] = self.form.of_dense(weight)
        super()._load_from_state_dict(state, prefix, *arguments)


def working(layer: nn.Linear) -> WorkingLinear:
    """The layer, whose class is changed unless it was before: it computes what it did."""
    if not isinstance(layer, WorkingLinear):
        layer.__class__ = WorkingLinear
        assert isinstance(layer, WorkingLinear)
        layer.form, layer.rounding = Dense(), None
    return layer


def finish(layer: WorkingLinear) -> None:
    """Make the layer a plain one again, once it has no mask and nothing rounds it."""
    if type(layer.form) is Dense and layer.rounding is None:
        del layer.form, layer.rounding
        layer.__class__ = nn.Linear  # type: ignore[assignment]


def linear_names(model: nn.Module) -> list[str]:
    """Names of a model's linear layers, in its order."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
