"""What removing a weight does to the hidden states: a curvature of the loss that matches them, in two factors a layer.

A loss that compares a model's states with a teacher's has, near the teacher, the Hessian JᵀJ of its residuals. Its
diagonal at a weight w_ij is the mean over tokens of x_j² δ_i², where x is the layer's input and δ what a probe sends
back to its output: random signs at every state, so that squares add up in the mean and all else cancels (Hutchinson
1990). The mean of a product is taken as the product of means, as in K-FAC (Martens & Grosse 2015,
https://arxiv.org/abs/1503.05671), which leaves two vectors per layer, and little noise after some thousand tokens. A
weight is then worth w² times that (optimal brain damage, LeCun et al. 1989); with x alone it would be Wanda (Sun et
al. 2023, https://arxiv.org/abs/2306.11695). Such scores compare weights of different matrices too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruneonce.errors import UsageError


class Sensitivity:
    """|w| x the root mean squares of its input and of what reaches its output; a criterion (`criteria.Criterion`).

    It has to be measured first: within `watching`, forward and backward passes of probes. It keeps the last measure.
    """

    def __init__(self) -> None:
        self._inputs: dict[str, Tensor] = {}  # mean squares: float32 [in_features]
        self._outputs: dict[str, Tensor] = {}  # float32 [out_features]

    @contextlib.contextmanager
    def watching(self, layers: Mapping[str, nn.Linear]) -> Iterator[None]:
        """Within it passes through the layers are measured; what was known before is forgotten."""
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        rows: dict[str, int] = {}

        def watch(name: str, layer: nn.Linear) -> Any:
            def after_forward(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
                if not output.requires_grad:
                    return
                x = arguments[0].detach().reshape(-1, layer.in_features).float()
                inputs[name] = inputs.get(name, 0) + x.square().sum(0)
                rows[name] = rows.get(name, 0) + len(x)
                output.register_hook(after_backward)

            def after_backward(gradient: Tensor) -> None:
                sent = gradient.detach().reshape(-1, layer.out_features).float()
                outputs[name] = outputs.get(name, 0) + sent.square().sum(0)

            return layer.register_forward_hook(after_forward)

        hooks = [watch(name, layer) for name, layer in layers.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self._inputs = {name: each / rows[name] for name, each in inputs.items()}
        self._outputs = {name: each / rows[name] for name, each in outputs.items()}

    def observe(self, layers: Mapping[str, nn.Linear]) -> None:
        """The gradients of training are those of what is left of the loss: they say little of its curvature."""

    def scores(self, name: str, weight: Tensor) -> Tensor:
        """UsageError for a layer that was not measured."""
        if name not in self._outputs:
            raise UsageError(
                f'{name} has not been measured: the criterion "sensitivity" needs passes of probes before masks are '
                "made, which `pruneonce compress` does; in a loop of your own, within `pruner.criterion.watching`"
            )
        known = torch.outer(self._outputs[name].sqrt(), self._inputs[name].sqrt())
        return weight.detach().abs() * known.to(weight.device)

    def state(self) -> dict[str, Tensor]:
        found = {f"{name}.in": each.cpu() for name, each in self._inputs.items()}
        return found | {f"{name}.out": each.cpu() for name, each in self._outputs.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._inputs = {key.removesuffix(".in"): each for key, each in state.items() if key.endswith(".in")}
        self._outputs = {key.removesuffix(".out"): each for key, each in state.items() if key.endswith(".out")}


@torch.no_grad()
def probe_of(states: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Random signs for each of the states, scaled to count alike: what a backward pass starts from.

    states: float [real tokens, size] each. The scale is 1 / the root of the summed squares, as the loss divides by
    those (`train.losses.HiddenStatesLoss`).
    """
    signs = []
    for state in states:
        random = torch.randint(0, 2, state.shape, generator=generator).to(state.device, torch.float32) * 2 - 1
        signs.append(random / state.float().square().sum().sqrt().clamp(min=torch.finfo(torch.float32).tiny))
    return signs
