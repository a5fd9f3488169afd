"""The one stateful part of pruning: masks on a model's linear layers, recomputed on schedule or locked.

Latent weights live on while masks are still being recomputed, as in the original: a pruned weight keeps its value,
its gradient is exactly zero, but weight decay and leftover Adam momentum still move it, and it may return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneonce.errors import PruneonceError
from pruneonce.pruning.masks import (
    block_magnitude_mask,
    magnitude_mask,
    mask_digest,
    nonzero_mask,
    pack_mask,
    unpack_mask,
)
from pruneonce.pruning.schedules import PruningSchedule

Pattern = Literal["unstructured", "1x4"]
MASKS: dict[Pattern, Callable[[Tensor, float], Tensor]] = {
    "unstructured": magnitude_mask,
    "1x4": block_magnitude_mask,
}


class MaskedLinear(nn.Linear):
    """`nn.Linear` that multiplies by `weight * mask`. Same parameters, same names; made by changing a layer's class."""

    mask: Tensor  # bool, shape of weight; a buffer that is not part of the state dict

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight * self.mask, self.bias)


class Pruner:
    """Masks for the named linear layers of `model`.

    With a schedule, `update(step)` recomputes them by magnitude in a pattern; without one they are locked at
    construction to the zeros that the weights have. `bake()` ends it: zeros are written into the weights and the layers
    are plain again.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        schedule: PruningSchedule | None = None,
        pattern: Pattern = "unstructured",
    ) -> None:
        self.schedule, self.pattern = schedule, pattern
        self.layers: dict[str, MaskedLinear] = {name: _mask_layer(model.get_submodule(name)) for name in names}
        if schedule is None:
            for layer in self.layers.values():
                layer.mask.copy_(nonzero_mask(layer.weight))

    def update(self, step: int) -> bool:
        """Recompute the masks if the schedule asks for it after `step` optimizer steps; True if it did."""
        if self.schedule is None or not self.schedule.updates_masks_at(step):
            return False
        sparsity, mask_of = self.schedule.sparsity_at(step), MASKS[self.pattern]
        for name, layer in self.layers.items():
            try:
                layer.mask.copy_(mask_of(layer.weight, sparsity))
            except ValueError as error:
                raise PruneonceError(f"{name}.weight at step {step}: {error}. Lower the learning rate.") from error
        return True

    def sparsity(self) -> float:
        """Fraction of masked weights over all pruned matrices."""
        size = sum(layer.mask.numel() for layer in self.layers.values())
        kept = sum(int(layer.mask.sum()) for layer in self.layers.values())
        return 1 - kept / size if size else 0.0

    def digests(self) -> dict[str, str]:
        """Mask digest of every layer, by module name."""
        return {name: mask_digest(layer.mask) for name, layer in self.layers.items()}

    def masked_state(self, state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """`state` with the masks multiplied in: what a reader of the model should see. Other tensors are shared."""
        masked = dict(state)
        for name, layer in self.layers.items():
            masked[f"{prefix}{name}.weight"] = layer.weight.detach() * layer.mask
        return masked

    def state(self) -> dict[str, Tensor]:
        """What `masked_state` loses: packed masks, and the latent values behind the zeros (1-D, row-major)."""
        state = {}
        for name, layer in self.layers.items():
            bits = np.frombuffer(pack_mask(layer.mask), dtype=np.uint8)
            state[f"{name}.mask"] = torch.from_numpy(bits.copy())
            state[f"{name}.latent"] = layer.weight.detach()[~layer.mask].cpu()
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()` over weights that `masked_state` was loaded into: bit for bit what they were."""
        for name, layer in self.layers.items():
            mask = unpack_mask(state[f"{name}.mask"], layer.weight.shape)
            layer.mask.copy_(mask)
            with torch.no_grad():
                layer.weight[~layer.mask] = state[f"{name}.latent"].to(layer.weight)

    def bake(self) -> None:
        """Write the zeros into the weights and turn every layer back into a plain `nn.Linear`."""
        for layer in self.layers.values():
            with torch.no_grad():
                # A kept weight that trained to exactly 0 would read back as pruned: it becomes the least normal number.
                layer.weight[layer.mask & (layer.weight == 0)] = torch.finfo(layer.weight.dtype).tiny
                # Not a product: -w * 0 would leave -0.0, which sign-sensitive readers tell from 0.
                layer.weight[~layer.mask] = 0.0
            del layer._buffers["mask"]
            layer._non_persistent_buffers_set.discard("mask")
            layer.__class__ = nn.Linear  # type: ignore[assignment]


def _mask_layer(layer: nn.Module) -> MaskedLinear:
    if type(layer) is not nn.Linear:
        raise TypeError(f"only plain nn.Linear layers can be masked, got {type(layer).__name__}")
    layer.register_buffer("mask", torch.ones_like(layer.weight, dtype=torch.bool), persistent=False)
    layer.__class__ = MaskedLinear
    assert isinstance(layer, MaskedLinear)
    return layer
