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

from pruneonce.architectures import Architecture, prunable_linears
from pruneonce.errors import PruneonceError
from pruneonce.pruning.pruner import MaskedLinear
from pruneonce.quantization_file import LARGEST_SCALE, LinearQuantization

AVERAGING = 0.01  # weight of a new step's minimum and maximum in the moving average, as published
Preset = Literal["default", "paper"]
# Layers whose output is quantised as well in the paper's configuration for BERT. The original code matched names, so
# that DistilBERT, with other names, got another scheme in silence; here both families have the same roles.
OUTPUT_QUANTIZED = (
    *("attention.self.query", "attention.self.key", "intermediate.dense"),
    *("attention.q_lin", "attention.k_lin", "ffn.lin1"),
)


def quantizable_linears(names: Iterable[str], architecture: Architecture, preset: Preset) -> list[str]:
    """Of a model's linear layers, those to quantise: what may be pruned, or in the paper's preset all."""
    return list(names) if preset == "paper" else prunable_linears(names, architecture)


# ------------------------------------------------------------------------------------------------------ the arithmetic


def weight_scale(weight: Tensor) -> Tensor:
    """[rows, columns] -> float32 [rows]: the largest magnitude of a row becomes 127; a row of zeros has scale 1."""
    scale = weight.detach().abs().amax(dim=1) / 127
    return torch.where(scale > 1e-30, scale, torch.ones_like(scale))


def whole_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """The whole numbers -127..127, as floats; ties to even."""
    return torch.clamp(torch.round(weight / scale[:, None]), -127, 127)


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


class QuantLinear(MaskedLinear):
    """A linear layer, masked or not, that rounds its weight and input. Made by changing a layer's class."""

    tokens: Tokens
    input_observer: Observer
    output_observer: Observer | None
    per_tensor: bool
    largest: float  # magnitude of the weights so far; per-tensor scales never shrink
    fixed_scale: Tensor | None  # of each row, from a file
    observing: bool  # take note of ranges
    rounding: bool

    def forward(self, input: Tensor) -> Tensor:
        weight = self.masked_weight()
        if self.observing:
            self.input_observer.see(self.tokens.of(input))
        if self.rounding:
            # float: in mixed precision the codes would be rounded twice
            input = fake_quantize(input.float(), *self.input_observer.parameters)
            rounded = whole_weight(weight, scale := self.scale(weight)) * scale[:, None]
            weight = weight + (rounded - weight).detach() if torch.is_grad_enabled() else rounded
        output = functional.linear(input, weight, self.bias)
        if self.output_observer is not None:
            if self.observing:
                self.output_observer.see(self.tokens.of(output))
            if self.rounding:
                output = fake_quantize(output.float(), *self.output_observer.parameters)
        return output

    def masked_weight(self) -> Tensor:
        """The weight with its zeros."""
        return self.weight * self.mask if "mask" in self._buffers else self.weight

    def scale(self, weight: Tensor) -> Tensor:
        """float32 [rows]"""
        if self.fixed_scale is not None:
            return self.fixed_scale
        if not self.per_tensor:
            return weight_scale(weight)
        self.largest = max(self.largest, float(weight.detach().abs().max()))
        return torch.full((weight.shape[0],), (self.largest or 127.5) / 127.5, device=weight.device)


@dataclass
class Quantizer:
    """The quantised layers of a model in training. `bake` ends it: weights are rounded, the layers plain again."""

    layers: dict[str, QuantLinear]
    hook: RemovableHandle  # tells the layers which positions are padding
    begin_step: int = 0  # optimizer steps before rounding begins; ranges are observed from the first

    def update(self, step: int) -> None:
        """Before optimizer step `step` + 1."""
        for layer in self.layers.values():
            layer.observing, layer.rounding = True, step >= self.begin_step

    def end_step(self) -> None:
        """After an optimizer step."""
        for layer in self.layers.values():
            for observer in _observers(layer):
                observer.end_step()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it: float64 [low, high, largest magnitude …] per layer."""
        return {
            name: torch.tensor(
                [
                    layer.largest,
                    *(value for each in _observers(layer) for value in (each.low, each.high, each.started)),
                ],
                dtype=torch.float64,
            )
            for name, layer in self.layers.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`."""
        for name, layer in self.layers.items():
            layer.largest, *values = state[name].tolist()
            for index, observer in enumerate(_observers(layer)):
                observer.low, observer.high = values[3 * index : 3 * index + 2]
                observer.started = bool(values[3 * index + 2])

    @torch.no_grad()
    def bake(self) -> tuple[dict[str, LinearQuantization], int]:
        """Round the weights, undo the classes; returns what was done to each layer, and how many weights became 0.

        Masks shrink by those weights: a zero of the mask stays one. PruneonceError if a weight is not finite.
        """
        found, vanished = {}, 0
        for name, layer in self.layers.items():
            weight = layer.masked_weight()
            scale = layer.scale(weight)
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
    layers, tokens = {}, Tokens()
    for name in names:
        layer = model.get_submodule(name)
        if type(layer) not in (nn.Linear, MaskedLinear):
            raise TypeError(f"{name} is a {type(layer).__name__}: only linear layers can be quantised")
        output = preset == "paper" and name.endswith(OUTPUT_QUANTIZED)
        layers[name] = _quantized(layer, name, tokens, output=output, per_tensor=preset == "paper")
    return Quantizer(layers, model.register_forward_pre_hook(tokens.note, with_kwargs=True), begin_step)


@contextlib.contextmanager
def observing(quantizer: Quantizer) -> Iterator[None]:
    """Within, forward passes only set the ranges: to the least and greatest values of all of them."""
    for layer in quantizer.layers.values():
        layer.observing, layer.rounding = True, False
    try:
        yield
    finally:
        quantizer.end_step()
        for layer in quantizer.layers.values():
            layer.observing = False


@contextlib.contextmanager
def quantized(model: nn.Module, layers: Mapping[str, LinearQuantization]) -> Iterator[None]:
    """Within, the named layers of a float model round as they do in the int8 engine. Their weights stay as they are.

    PruneonceError if a layer is missing or its scales are not those of its rows.
    """
    changed = []
    try:
        for name, quantization in layers.items():
            layer = _linear(model, name, quantization)
            changed.append(_quantized(layer, name, Tokens(), output=False, per_tensor=False))
            _fix(changed[-1], quantization)
        yield
    finally:
        for layer in changed:
            _plain(layer)


def _linear(model: nn.Module, name: str, quantization: LinearQuantization) -> nn.Module:
    try:
        layer = model.get_submodule(name)
    except AttributeError as error:
        raise PruneonceError(f"the quantised layer {name} is not in the model") from error
    if type(layer) is not nn.Linear or quantization.weight_scale.shape != (layer.out_features,):
        raise PruneonceError(f"{name}: {quantization.weight_scale.size} scales do not fit the layer {layer}")
    return layer


def _fix(layer: QuantLinear, quantization: LinearQuantization) -> None:
    """Everything as a file says."""
    layer.fixed_scale = torch.from_numpy(quantization.weight_scale.copy()).to(layer.weight.device)
    layer.input_observer.fixed = np.float32(quantization.input_scale[0]), int(quantization.input_zero_point[0])
    if quantization.output_scale is not None and quantization.output_zero_point is not None:
        layer.output_observer = Observer("")
        layer.output_observer.fixed = np.float32(quantization.output_scale[0]), int(quantization.output_zero_point[0])
    layer.rounding = True


def _quantized(layer: nn.Module, name: str, tokens: Tokens, *, output: bool, per_tensor: bool) -> QuantLinear:
    layer.__class__ = QuantLinear
    assert isinstance(layer, QuantLinear)
    layer.tokens = tokens
    layer.input_observer = Observer(f"the input of {name}")
    layer.output_observer = Observer(f"the output of {name}") if output else None
    layer.per_tensor, layer.largest, layer.fixed_scale = per_tensor, 0.0, None
    layer.observing = layer.rounding = False
    return layer


def _plain(layer: QuantLinear) -> None:
    for name in QuantLinear.__annotations__:
        layer.__dict__.pop(name, None)
    layer.__class__ = MaskedLinear if "mask" in layer._buffers else nn.Linear  # type: ignore[assignment]


def _observers(layer: QuantLinear) -> list[Observer]:
    return [layer.input_observer, *([layer.output_observer] if layer.output_observer is not None else [])]


def _quantization_of(layer: QuantLinear, scale: Tensor) -> LinearQuantization:
    parts: list[Any] = [scale.cpu().numpy().astype(np.float32)]
    for observer in _observers(layer):
        input_scale, zero_point = observer.parameters
        parts += [np.array([input_scale], np.float32), np.array([zero_point], np.uint8)]
    return LinearQuantization(*parts)
