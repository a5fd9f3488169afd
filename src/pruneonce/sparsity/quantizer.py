"""Fake quantisation of linear layers: floats rounded as the int8 engine rounds them, with gradients that look through.

Weights are symmetric whole numbers of -127 to 127 times a scale per output (or one scale per matrix, as published);
inputs are asymmetric codes of 0 to 255. A zero stays a zero. (Zafrir et al. 2019, Q8BERT; Zafrir et al. 2021, §4)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from pruneonce.errors import PruneonceError
from pruneonce.formats.scales_file import LARGEST_SCALE, LinearQuantization
from pruneonce.models import FAMILIES, Family
from pruneonce.sparsity.pruner import MaskedLinear
from pruneonce.sparsity.sparse_linear import SparseLinear

AVERAGING = 0.01  # weight of a new step's minimum and maximum in the moving average, as published
Preset = Literal["default", "paper"]
# Roles of the layers whose output is quantised as well in the paper's configuration for BERT. The original code matched
# names, so that DistilBERT, with other names, got another scheme in silence.
OUTPUT_QUANTIZED = ("query", "key", "up")


def quantizable_linears(names: Iterable[str], family: Family, preset: Preset) -> list[str]:
    """Of a model's linear layers, those to quantise: what may be pruned, or in the paper's preset all."""
    return list(names) if preset == "paper" else family.prunable_linears(names)


# ------------------------------------------------------------------------------------------------------ the arithmetic


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


# ---------------------------------------------------------------------------------------------------------- the layers


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
    """What rounds a layer's weight, input and perhaps output, and the ranges that it has seen."""

    def __init__(self, name: str, tokens: Tokens, *, output: bool, per_tensor: bool) -> None:
        self.tokens = tokens
        self.input_observer = Observer(f"the input of {name}")
        self.output_observer = Observer(f"the output of {name}") if output else None
        self.per_tensor = per_tensor
        self.largest = 0.0  # magnitude of the weights so far; per-tensor scales never shrink
        self.fixed_scale: Tensor | None = None  # of each row, from a file
        self.observing = self.rounding = False  # take note of ranges; round

    @property
    def observers(self) -> list[Observer]:
        return [self.input_observer, *([self.output_observer] if self.output_observer is not None else [])]

    def of_input(self, x: Tensor) -> Tensor:
        return self._passing(x, self.input_observer)

    def of_output(self, x: Tensor) -> Tensor:
        return x if self.output_observer is None else self._passing(x, self.output_observer)

    def of_weight(self, weight: Tensor, row_lengths: Tensor | None = None) -> Tensor:
        """The weight as the engine has it, with the gradient of the weight itself.

        row_lengths: as in `weight_scale`.
        """
        if not self.rounding:
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
        if self.observing:
            observer.see(self.tokens.of(x))
        # float: in mixed precision the codes would be rounded twice
        return fake_quantize(x.float(), *observer.parameters) if self.rounding else x


class SparseQuantLinear(SparseLinear):
    """A layer of non-zeros alone that rounds them and its input. Made by changing a layer's class."""

    rounds: Rounding

    def forward(self, input: Tensor) -> Tensor:
        values = self.rounds.of_weight(self.values, self.row_lengths)
        return self.rounds.of_output(self.product(self.rounds.of_input(input), values))


class QuantLinear(MaskedLinear):
    """A linear layer, masked or not, that rounds its weight and input. Made by changing a layer's class."""

    sparse_form = SparseQuantLinear
    rounds: Rounding

    def forward(self, input: Tensor) -> Tensor:
        weight = self.rounds.of_weight(self.masked_weight())
        return self.rounds.of_output(functional.linear(self.rounds.of_input(input), weight, self.bias))

    def masked_weight(self) -> Tensor:
        """The weight with its zeros."""
        return self.weight * self.mask if "mask" in self._buffers else self.weight


SparseQuantLinear.masked_form = QuantLinear


@dataclass
class Quantizer:
    """The quantised layers of a model in training. `bake` ends it: weights are rounded, the layers plain again."""

    layers: dict[str, QuantLinear | SparseQuantLinear]
    hook: RemovableHandle  # tells the layers which positions are padding
    begin_step: int = 0  # optimizer steps before rounding begins; ranges are observed from the first

    def update(self, step: int) -> None:
        """Before optimizer step `step` + 1."""
        for layer in self.layers.values():
            layer.rounds.observing, layer.rounds.rounding = True, step >= self.begin_step

    def end_step(self) -> None:
        """After an optimizer step."""
        for layer in self.layers.values():
            for observer in layer.rounds.observers:
                observer.end_step()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it: float64 [low, high, largest magnitude …] per layer."""
        return {
            name: torch.tensor(
                [
                    layer.rounds.largest,
                    *(value for each in layer.rounds.observers for value in (each.low, each.high, each.started)),
                ],
                dtype=torch.float64,
            )
            for name, layer in self.layers.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`."""
        for name, layer in self.layers.items():
            layer.rounds.largest, *values = state[name].tolist()
            for index, observer in enumerate(layer.rounds.observers):
                observer.low, observer.high = values[3 * index : 3 * index + 2]
                observer.started = bool(values[3 * index + 2])

    @torch.no_grad()
    def bake(self) -> tuple[dict[str, LinearQuantization], int]:
        """Round the weights, undo the classes; returns what was done to each layer, and how many weights became 0.

        Masks shrink by those weights: a zero of the mask stays one. Layers that were sparse must be dense again
        (`Pruner.compute_dense`). PruneonceError if a weight is not finite.
        """
        found, vanished = {}, 0
        for name, layer in self.layers.items():
            assert isinstance(layer, QuantLinear)
            weight = layer.masked_weight()
            scale = layer.rounds.scale(weight)
            if not bool(weight.isfinite().all() and (scale < LARGEST_SCALE).all()):
                raise PruneonceError(f"{name}.weight holds what is no finite number, or is about to: it has no scale")
            whole = whole_weight(weight, scale)
            vanished += int(((whole == 0) & (weight != 0)).sum())
            layer.weight.copy_(torch.where(whole != 0, whole * scale[:, None], 0.0))
            if "mask" in layer._buffers:
                layer.mask &= whole != 0
            found[name] = _quantization_of(layer, scale)
            _plain(layer)
        self.hook.remove()
        return found, vanished


def quantize_layers(
    model: nn.Module, names: Iterable[str], *, preset: Preset = "default", begin_step: int = 0
) -> Quantizer:
    """Turn linear layers (plain or masked) into `QuantLinear`s that neither observe nor round yet."""
    layers: dict[str, QuantLinear | SparseQuantLinear] = {}
    tokens = Tokens()
    for name in names:
        layer = model.get_submodule(name)
        if type(layer) not in (nn.Linear, MaskedLinear):
            raise TypeError(f"{name} is a {type(layer).__name__}: only linear layers can be quantised")
        roles = {family.role_of(name) for family in FAMILIES.values()}
        output = preset == "paper" and not roles.isdisjoint(OUTPUT_QUANTIZED)
        layers[name] = _quantized(layer, Rounding(name, tokens, output=output, per_tensor=preset == "paper"))
    return Quantizer(layers, model.register_forward_pre_hook(tokens.note, with_kwargs=True), begin_step)


@contextlib.contextmanager
def observing(quantizer: Quantizer) -> Iterator[None]:
    """Within, forward passes only set the ranges: to the least and greatest values of all of them."""
    for layer in quantizer.layers.values():
        layer.rounds.observing, layer.rounds.rounding = True, False
    try:
        yield
    finally:
        quantizer.end_step()
        for layer in quantizer.layers.values():
            layer.rounds.observing = False


@contextlib.contextmanager
def quantized(model: nn.Module, layers: Mapping[str, LinearQuantization]) -> Iterator[None]:
    """Within, the named layers of a float model, plain or of non-zeros alone, round as they do in the int8 engine.

    Their weights stay as they are. PruneonceError if a layer is missing or its scales are not those of its rows.
    """
    changed = []
    try:
        for name, quantization in layers.items():
            layer = _linear(model, name, quantization)
            changed.append(_quantized(layer, _fixed(name, quantization, next(layer.parameters()).device)))
        yield
    finally:
        for layer in changed:
            _plain(layer)


def _linear(model: nn.Module, name: str, quantization: LinearQuantization) -> nn.Linear:
    try:
        layer = model.get_submodule(name)
    except AttributeError as error:
        raise PruneonceError(f"the quantised layer {name} is not in the model") from error
    fits = isinstance(layer, nn.Linear) and quantization.weight_scale.shape == (layer.out_features,)
    if not fits or type(layer) not in (nn.Linear, MaskedLinear, SparseLinear):
        raise PruneonceError(f"{name}: {quantization.weight_scale.size} scales do not fit the layer {layer}")
    assert isinstance(layer, nn.Linear)
    return layer


def _fixed(name: str, quantization: LinearQuantization, device: torch.device) -> Rounding:
    """Everything as a file says."""
    rounds = Rounding(name, Tokens(), output=quantization.output_scale is not None, per_tensor=False)
    rounds.fixed_scale = torch.from_numpy(quantization.weight_scale.copy()).to(device)
    for observer, scale, zero_point in (
        (rounds.input_observer, quantization.input_scale, quantization.input_zero_point),
        (rounds.output_observer, quantization.output_scale, quantization.output_zero_point),
    ):
        if observer is not None and scale is not None and zero_point is not None:
            observer.fixed = np.float32(scale[0]), int(zero_point[0])
    rounds.rounding = True
    return rounds


def _quantized(layer: nn.Module, rounds: Rounding) -> QuantLinear | SparseQuantLinear:
    layer.__class__ = SparseQuantLinear if isinstance(layer, SparseLinear) else QuantLinear
    assert isinstance(layer, (QuantLinear, SparseQuantLinear))
    layer.rounds = rounds
    return layer


def _plain(layer: QuantLinear | SparseQuantLinear) -> None:
    del layer.rounds
    if isinstance(layer, SparseQuantLinear):
        layer.__class__ = SparseLinear  # type: ignore[assignment]
    else:
        layer.__class__ = MaskedLinear if "mask" in layer._buffers else nn.Linear  # type: ignore[assignment]


def _quantization_of(layer: QuantLinear, scale: Tensor) -> LinearQuantization:
    parts: list[Any] = [scale.cpu().numpy().astype(np.float32)]
    for observer in layer.rounds.observers:
        input_scale, zero_point = observer.parameters
        parts += [np.array([input_scale], np.float32), np.array([zero_point], np.uint8)]
    return LinearQuantization(*parts)
