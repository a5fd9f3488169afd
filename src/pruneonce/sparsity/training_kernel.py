"""Which layers with zeros train faster by their non-zeros alone: plainly, or as measured for each shape and density."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pruneonce.machine import SPARSE_BELOW
from pruneonce.sparsity.layers import Sparse, WorkingLinear, working

MEASURED_TOKENS = 512
MEASURED_RUNS = 3


def few_left(density: float) -> bool:
    """Whether so few weights are left that in float32 their kernels are plainly faster than dense ones."""
    return density < SPARSE_BELOW


def layers_faster_sparse(
    layers: Mapping[str, WorkingLinear], autocast: torch.dtype | None = None, density: float | None = None
) -> list[str]:
    """Names of the layers whose forward and backward pass take less time in the form `Sparse` than as they are.

    autocast: the lower precision that the dense rival would compute in, if any. density: share of weights that masks
    will leave; None: what they leave now. Float32 layers of a density below SPARSE_BELOW are not measured, so that the
    usual run computes alike whenever it is started; what a measurement decides may be decided otherwise the next time.
    """
    faster: dict[tuple[int, int, int], bool] = {}
    names = []
    for name, layer in layers.items():
        share = float(layer.mask.float().mean()) if density is None else density
        if autocast is None and few_left(share):
            names.append(name)
            continue
        key = (*layer.weight.shape, round(20 * share))
        if key not in faster:
            mask = layer.mask if density is None else _random_mask(layer, density)
            faster[key] = _seconds(_sparse(layer, mask), autocast) < _seconds(layer, autocast)
        if faster[key]:
            names.append(name)
    return names


def _random_mask(layer: WorkingLinear, density: float) -> Tensor:
    return torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) < density


def _sparse(layer: WorkingLinear, mask: Tensor) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.load_state_dict(copy.deepcopy(layer.state_dict()))
    working(plain).take_form(Sparse(mask))
    return plain


def _seconds(layer: nn.Linear, autocast: torch.dtype | None) -> float:
    x = torch.ones(MEASURED_TOKENS, layer.in_features, requires_grad=True)
    return min(_time(layer, x, autocast) for _ in range(1 + MEASURED_RUNS))


def _time(layer: nn.Linear, x: Tensor, autocast: torch.dtype | None) -> float:
    context = torch.autocast("cpu", autocast) if autocast is not None else contextlib.nullcontext()
    begun = time.perf_counter()
    with context:
        y = layer(x)
    trained = [each for each in layer.parameters() if each.requires_grad]
    torch.autograd.grad(y, [x, *trained], torch.ones_like(y))
    return time.perf_counter() - begun
