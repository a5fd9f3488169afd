"""The one stateful part of pruning: masks on a model's linear layers, recomputed on schedule or locked.

Latent weights live on while masks are still being recomputed, as in the original: a pruned weight keeps its value,
its gradient is exactly zero, but weight decay and leftover Adam momentum still move it, and it may return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneonce.errors import PruneonceError
from pruneonce.sparsity.masks import (
    block_magnitude_mask,
    magnitude_mask,
    mask_digest,
    nonzero_mask,
    pack_mask,
    unpack_mask,
)
from pruneonce.sparsity.schedules import PruningSchedule
from pruneonce.sparsity.sparse_linear import SPARSE_BELOW, KeptWeights, SparseLinear, make_dense, make_sparse

Pattern = Literal["unstructured", "1x4"]
MASKS: dict[Pattern, Callable[[Tensor, float], Tensor]] = {
    "unstructured": magnitude_mask,
    "1x4": block_magnitude_mask,
}


class MaskedLinear(nn.Linear):
    """`nn.Linear` that multiplies by `weight * mask`. Same parameters, same names; made by changing a layer's class."""

    mask: Tensor  # bool, shape of weight; a buffer that is not part of the state dict
    kept: KeptWeights | None = None  # to multiply no others, while the mask is still to change
    sparse_form: ClassVar[type[SparseLinear]] = (
        SparseLinear  # what it is when its mask is locked and zeros are not kept
    )

    def forward(self, input: Tensor) -> Tensor:
        if self.kept is not None:
            return self.kept.product(input, self.weight, self.bias)
        return functional.linear(input, self.weight * self.mask, self.bias)


class Pruner:
    """Masks for the named linear layers of `model`.

    With a schedule, `update(step)` recomputes them by magnitude in a pattern; without one they are locked at
    construction to the zeros that the weights have. `compute_sparse` lets layers compute their non-zeros alone.
    `bake()` ends it: zeros are written into the weights and the layers are plain again.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        schedule: PruningSchedule | None = None,
        pattern: Pattern = "unstructured",
    ) -> None:
        self.schedule, self.pattern = schedule, pattern
        self._later_sparse: set[str] = set()  # layers that compute their kept weights alone once those are few
        masked = {name: _mask_layer(model.get_submodule(name)) for name in names}
        if schedule is None:
            for layer in masked.values():
                layer.mask.copy_(nonzero_mask(layer.weight))
        self.layers: dict[str, MaskedLinear | SparseLinear] = {**masked}

    def update(self, step: int) -> bool:
        """Recompute the masks if the schedule asks for it after `step` optimizer steps; True if it did."""
        if self.schedule is None or not self.schedule.updates_masks_at(step):
            return False
        sparsity, mask_of = self.schedule.sparsity_at(step), MASKS[self.pattern]
        for name, layer in self.layers.items():
            assert isinstance(layer, MaskedLinear)
            try:
                layer.mask.copy_(mask_of(layer.weight, sparsity))
            except ValueError as error:
                raise PruneonceError(f"{name}.weight at step {step}: {error}. Lower the learning rate.") from error
            self._choose_kept(name, layer)
        return True

    def sparsity(self) -> float:
        """Fraction of masked weights over all pruned matrices."""
        size = sum(layer.out_features * layer.in_features for layer in self.layers.values())
        kept = sum(_kept(layer) for layer in self.layers.values())
        return 1 - kept / size if size else 0.0

    def digests(self) -> dict[str, str]:
        """Mask digest of every layer, by module name."""
        return {name: mask_digest(layer.mask) for name, layer in self.layers.items()}

    def compute_sparse(self, names: Iterable[str]) -> None:
        """These layers multiply their non-zeros alone, on CPUs.

        With locked masks they also keep and train no other weights, from now on. With a schedule they do it from the
        update on that leaves less than SPARSE_BELOW of them, and keep the latent weights.
        """
        for name in names:
            layer = self.layers[name]
            if not isinstance(layer, MaskedLinear):
                continue
            if self.schedule is not None:
                self._later_sparse.add(name)
                self._choose_kept(name, layer)
            else:
                mask = layer.mask
                _forget_mask(layer)
                make_sparse(layer, mask, layer.sparse_form)

    def _choose_kept(self, name: str, layer: MaskedLinear) -> None:
        few = name in self._later_sparse and int(layer.mask.sum()) < SPARSE_BELOW * layer.mask.numel()
        layer.kept = KeptWeights(layer.mask) if few else None

    @property
    def computes_sparse(self) -> bool:
        """True if any layer multiplies its non-zeros alone."""
        return any(
            isinstance(layer, SparseLinear) or (isinstance(layer, MaskedLinear) and layer.kept is not None)
            for layer in self.layers.values()
        )

    def compute_dense(self) -> None:
        """Undo `compute_sparse`; the parameters of layers that kept their non-zeros alone are new objects."""
        self._later_sparse.clear()
        for layer in self.layers.values():
            if isinstance(layer, SparseLinear):
                mask = layer.mask
                make_dense(layer, layer.masked_form or MaskedLinear)
                _add_mask(layer).copy_(mask)
            else:
                layer.kept = None

    def masked_state(self, state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """`state` with the masks multiplied in: what a reader of the model should see. Other tensors are shared."""
        masked = dict(state)
        for name, layer in self.layers.items():
            if isinstance(layer, MaskedLinear):  # the state of others has their zeros
                # Not a product: -w * 0 would leave -0.0, which sign-sensitive readers tell from 0.
                masked[f"{prefix}{name}.weight"] = layer.weight.detach().masked_fill(~layer.mask, 0.0)
        return masked

    def state(self) -> dict[str, Tensor]:
        """What `masked_state` loses: packed masks, how layers compute, and with a schedule the latent values behind the
        zeros (1-D, row-major); those of locked masks are 0."""
        state = {}
        for name, layer in self.layers.items():
            bits = np.frombuffer(pack_mask(layer.mask), dtype=np.uint8)
            state[f"{name}.mask"] = torch.from_numpy(bits.copy())
            state[f"{name}.sparse"] = torch.tensor(isinstance(layer, SparseLinear) or name in self._later_sparse)
            if self.schedule is not None and isinstance(layer, MaskedLinear):
                state[f"{name}.latent"] = layer.weight.detach()[~layer.mask].cpu()
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()` over weights that `masked_state` was loaded into: bit for bit what they were.

        Layers then compute as they did: the optimizer's moments have the shapes of their parameters.
        """
        self.compute_dense()
        for name, layer in self.layers.items():
            assert isinstance(layer, MaskedLinear)
            mask = unpack_mask(state[f"{name}.mask"], layer.weight.shape)
            layer.mask.copy_(mask)
            with torch.no_grad():
                latent = state.get(f"{name}.latent")
                layer.weight[~layer.mask] = 0.0 if latent is None else latent.to(layer.weight)
        self.compute_sparse(name for name in self.layers if bool(state.get(f"{name}.sparse", False)))

    def bake(self) -> None:
        """Write the zeros into the weights and turn every layer back into a plain `nn.Linear`."""
        self.compute_dense()
        for layer in self.layers.values():
            assert isinstance(layer, MaskedLinear)
            with torch.no_grad():
                # A kept weight that trained to exactly 0 would read back as pruned: it becomes the least normal number.
                layer.weight[layer.mask & (layer.weight == 0)] = torch.finfo(layer.weight.dtype).tiny
                layer.weight[~layer.mask] = 0.0
            _forget_mask(layer)
            layer.__class__ = nn.Linear  # type: ignore[assignment]


def _kept(layer: MaskedLinear | SparseLinear) -> int:
    return layer.values.numel() if isinstance(layer, SparseLinear) else int(layer.mask.sum())


def _mask_layer(layer: nn.Module) -> MaskedLinear:
    if type(layer) is not nn.Linear:
        raise TypeError(f"only plain nn.Linear layers can be masked, got {type(layer).__name__}")
    _add_mask(layer)
    layer.__class__ = MaskedLinear
    assert isinstance(layer, MaskedLinear)
    return layer


def _add_mask(layer: nn.Linear) -> Tensor:
    mask = torch.ones_like(layer.weight, dtype=torch.bool)
    layer.register_buffer("mask", mask, persistent=False)
    return mask


def _forget_mask(layer: MaskedLinear) -> None:
    del layer._buffers["mask"]
    layer._non_persistent_buffers_set.discard("mask")
    layer.__dict__.pop("kept", None)
