"""Fake quantisation: floats rounded as the int8 engine rounds them, with gradients that look through.

Weights are symmetric whole numbers of -127 to 127 times a scale per output (or one scale per matrix, as published);
inputs are asymmetric codes of 0 to 255. A zero stays a zero. (Zafrir et al. 2019, Q8BERT; Zafrir et al. 2021, §4)
The arithmetic is pure; `Observer` and `Rounding` hold what one layer has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruneonce.errors import PruneonceError
from pruneonce.formats.scales_file import LARGEST_SCALE

AVERAGING = 0.01  # weight of a new step's minimum and maximum in the moving average, as published


def weight_scale(weight: Tensor, row_lengths: Tensor | None = None) -> Tensor:
    """[rows, columns] -> float32 [rows]: the largest magnitude of a row becomes 127; a row of zeros has scale 1.

    row_lengths: int64 [rows], if `weight` has the non-zeros alone, row by row [non-zeros].
    """
    magnitudes = weight.detach().abs()
    if row_lengths is None:
        largest = magnitudes.amax(dim=1)
    else:
        largest = torch.segment_reduce(magnitudes, "max", lengths=row_lengths, initial=0.0)
    scale = largest / 127
    return torch.where(scale > 1e-30, scale, torch.ones_like(scale))


def whole_weight(weight: Tensor, scale: Tensor, row_lengths: Tensor | None = None) -> Tensor:
    """The whole numbers -127..127, as floats; ties to even. row_lengths: as in `weight_scale`."""
    return torch.clamp(torch.round(weight / _for_weights(scale, row_lengths)), -127, 127)


def _for_weights(scale: Tensor, row_lengths: Tensor | None) -> Tensor:
    """A scale per row, in a shape that multiplies the row's weights."""
    return scale[:, None] if row_lengths is None else scale.repeat_interleave(row_lengths)


def input_parameters(low: float, high: float) -> tuple[np.float32, int]:
    """(scale, zero point) of 256 codes that cover `low` to `high` and zero exactly.

    A range of nothing but zeros, or one that was never seen, has scale 1 and zero point 0.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    if scale < 1e-30:
        return np.float32(1), 0
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def rounded_input(x: Tensor, scale: np.float32, zero_point: int) -> Tensor:
    """x as the engine sees it: clamp(round(x * (1 / scale)), -zero point, 255 - zero point) * scale, in float32."""
    codes = torch.clamp(torch.round(x * float(np.float32(1) / scale)), -zero_point, 255 - zero_point)
    return codes * float(scale)


def fake_quantize(x: Tensor, scale: np.float32, zero_point: int) -> Tensor:
    """`rounded_input` whose gradient is 1 inside the range and 0 outside (straight-through; Bengio et al. 2013)."""
    if not torch.is_grad_enabled():
        return rounded_input(x, scale, zero_point)
    inside = torch.clamp(x, -zero_point * float(scale), (255 - zero_point) * float(scale))
    return inside + (rounded_input(x, scale, zero_point) - inside).detach()


class Observer:
    """Minimum and maximum of what passes, averaged over optimizer steps.

    Not over forward passes: how a step is cut up must not matter.
    """

    def __init__(self, name: str) -> None:
        self.name = name  # of what it sees, for errors
        self.low, self.high = 0.0, 0.0
        self.started = False
        self.fixed: tuple[np.float32, int] | None = None  # parameters that came from a file
        self._pending: tuple[float, float] | None = None

    def see(self, x: Tensor) -> None:
        """Take note of a forward pass; PruneonceError if anything in it is NaN, infinite or about to be."""
        if not x.numel():
            return
        low, high = (float(value) for value in torch.aminmax(x.detach()))
        if not -LARGEST_SCALE < low <= high < LARGEST_SCALE:
            raise PruneonceError(
                f"{self.name} reaches from {low:g} to {high:g}: the model's weights are broken, or the learning rate "
                "is too high"
            )
        if self._pending is not None:
            low, high = min(low, self._pending[0]), max(high, self._pending[1])
        self._pending = low, high

    def end_step(self) -> None:
        """What was seen since the last step moves the averages; the first step sets them."""
        if self._pending is None:
            return
        low, high = self._pending
        weight = AVERAGING if self.started else 1.0
        self.low += weight * (low - self.low)
        self.high += weight * (high - self.high)
        self.started, self._pending = True, None

    @property
    def parameters(self) -> tuple[np.float32, int]:
        """(scale, zero point)"""
        return self.fixed or input_parameters(self.low, self.high)


class Tokens:
    """Which positions of the current batch are tokens: the engine never computes padding, so no range should see it."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None  # bool [batch, tokens]; None: all are

    def note(self, model: nn.Module, arguments: Any, keywords: Mapping[str, Any]) -> None:
        """Before a forward pass of the model."""
        mask = keywords.get("attention_mask")
        self.mask = None if mask is None or bool(mask.all()) else mask.bool()

    def of(self, x: Tensor) -> Tensor:
        """[batch, tokens, features] -> [real tokens, features]; anything else as it is."""
        return x[self.mask] if self.mask is not None and x.shape[:-1] == self.mask.shape else x


class Rounding:
    """A layer's fake quantiser: rounds its weight, input and perhaps output, and keeps the ranges that it has seen."""

    def __init__(
        self, name: str, tokens: Tokens, *, output: bool, per_tensor: bool, for_attention: bool = False
    ) -> None:
        """output: rounds its output too; for_attention: since attention reads its codes."""
        self.tokens = tokens
        self.for_attention = for_attention
        self.input_observer = Observer(f"the input of {name}")
        self.output_observer = Observer(f"the output of {name}") if output or for_attention else None
        self.per_tensor = per_tensor
        self.largest = 0.0  # magnitude of the weights so far; per-tensor scales never shrink
        self.fixed_scale: Tensor | None = None  # of each row, from a file
        self.observes = self.rounds = False  # take note of ranges; round

    @property
    def observers(self) -> list[Observer]:
        return [self.input_observer, *([self.output_observer] if self.output_observer is not None else [])]

    def set(self, *, observes: bool, rounds: bool) -> None:
        """Whether forward passes are taken note of, and rounded."""
        self.observes, self.rounds = observes, rounds

    def state(self) -> Tensor:
        """float64 [largest magnitude, (low, high, started) of each observer …]"""
        seen = (value for each in self.observers for value in (each.low, each.high, each.started))
        return torch.tensor([self.largest, *seen], dtype=torch.float64)

    def load_state(self, state: Tensor) -> None:
        """Restore `state()`."""
        self.largest, *values = state.tolist()
        for index, observer in enumerate(self.observers):
            observer.low, observer.high = values[3 * index : 3 * index + 2]
            observer.started = bool(values[3 * index + 2])

    def of_input(self, x: Tensor) -> Tensor:
        return self._passing(x, self.input_observer)

    def of_output(self, x: Tensor) -> Tensor:
        return x if self.output_observer is None else self._passing(x, self.output_observer)

    def of_weight(self, weight: Tensor, row_lengths: Tensor | None = None) -> Tensor:
        """The weight as the engine has it, with the gradient of the weight itself.

        row_lengths: as in `weight_scale`.
        """
        if not self.rounds:
            return weight
        scale = self.scale(weight, row_lengths)
        rounded = whole_weight(weight, scale, row_lengths) * _for_weights(scale, row_lengths)
        return weight + (rounded - weight).detach() if torch.is_grad_enabled() else rounded

    def scale(self, weight: Tensor, row_lengths: Tensor | None = None) -> Tensor:
        """float32 [rows]"""
        if self.fixed_scale is not None:
            return self.fixed_scale
        if not self.per_tensor:
            return weight_scale(weight, row_lengths)
        self.largest = max(self.largest, float(weight.detach().abs().max()) if weight.numel() else 0.0)
        rows = len(weight) if row_lengths is None else len(row_lengths)
        return torch.full((rows,), (self.largest or 127.5) / 127.5, device=weight.device)

    def _passing(self, x: Tensor, observer: Observer) -> Tensor:
        if self.observes:
            observer.see(self.tokens.of(x))
        # float: in mixed precision the codes would be rounded twice
        return fake_quantize(x.float(), *observer.parameters) if self.rounds else x
