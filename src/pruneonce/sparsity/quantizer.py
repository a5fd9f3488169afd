"""Quantising a model's linear layers while it trains, after it, or as a file says: who rounds, and when.

The layers take a `Rounding` beside their form, masked or not (`layers`, `fake_quant`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.scales_file import LARGEST_SCALE, LinearQuantization
from pruneonce.models import FAMILIES, Family, encoder_plan_of, family_of
from pruneonce.recipe import AttentionNumbers
from pruneonce.sparsity.fake_quant import Rounding, Tokens, whole_weight
from pruneonce.sparsity.layers import Masked, WorkingLinear, finish, linear_names, working
from pruneonce.sparsity.rounded_attention import RoundedAttention

Preset = Literal["default", "paper"]
# Roles of the layers whose output is quantised as well in the paper's configuration for BERT. The original code matched
# names, so that DistilBERT, with other names, got another scheme in silence.
OUTPUT_QUANTIZED = ("query", "key", "up")


def quantizable_linears(names: Iterable[str], family: Family, preset: Preset) -> list[str]:
    """Of a model's linear layers, those to quantise: what may be pruned, or in the paper's preset all."""
    return list(names) if preset == "paper" else family.prunable_linears(names)


@dataclass
class Quantizer:
    """The quantised layers of a model in training. `bake` ends it: weights are rounded, once and for all."""

    layers: dict[str, WorkingLinear]
    hook: RemovableHandle  # tells the layers which positions are padding
    begin_step: int = 0  # optimizer steps before rounding begins; ranges are observed from the first
    attention: RoundedAttention | None = None  # which rounds when the layers do; None: it stays as it is

    def update(self, step: int) -> None:
        """Before optimizer step `step` + 1."""
        for layer in self.layers.values():
            _rounding_of(layer).set(observes=True, rounds=step >= self.begin_step)
        if self.attention is not None:
            self.attention.switch(step >= self.begin_step)

    def end_step(self) -> None:
        """After an optimizer step."""
        for layer in self.layers.values():
            for observer in _rounding_of(layer).observers:
                observer.end_step()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it: float64 [low, high, largest magnitude …] per layer."""
        return {name: _rounding_of(layer).state() for name, layer in self.layers.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`."""
        for name, layer in self.layers.items():
            _rounding_of(layer).load_state(state[name])

    @torch.no_grad()
    def bake(self) -> tuple[dict[str, LinearQuantization], int]:
        """Round the weights, and stop; returns what was done to each layer, and how many weights became 0.

        Masks shrink by those weights: a zero of the mask stays one. Layers that have their non-zeros alone must be
        dense again (`Pruner.compute_dense`). PruneonceError if a weight is not finite.
        """
        found, vanished = {}, 0
        for name, layer in self.layers.items():
            assert not layer.computes_sparse
            weight = layer.form.multiplied(layer.weight)
            scale = _rounding_of(layer).scale(weight)
            if not bool(weight.isfinite().all() and (scale < LARGEST_SCALE).all()):
                raise PruneonceError(f"{name}.weight holds what is no finite number, or is about to: it has no scale")
            whole = whole_weight(weight, scale)
            vanished += int(((whole == 0) & (weight != 0)).sum())
            layer.weight.copy_(torch.where(whole != 0, whole * scale[:, None], 0.0))
            if isinstance(layer.form, Masked):
                layer.take_form(Masked(layer.form.mask & (whole != 0)))
            found[name] = _quantization_of(_rounding_of(layer), scale)
        self.remove()
        return found, vanished

    def remove(self) -> None:
        """Round no more: the layers are what they were before, with the weights that they have now."""
        for layer in self.layers.values():
            layer.rounding = None
            finish(layer)
        self.layers = {}
        self.hook.remove()
        if self.attention is not None:
            self.attention.switch(False)


def quantize_layers(
    model: nn.Module,
    names: Iterable[str],
    *,
    preset: Preset = "default",
    begin_step: int = 0,
    attention: AttentionNumbers = "fp32",
) -> Quantizer:
    """Give linear layers (plain or masked) a fake quantiser that neither observes nor rounds yet.

    attention: in 8 bits too, by the rounded outputs of queries, keys and values; UsageError if the engine does not.
    """
    names = list(names)
    rounded = None
    attended: frozenset[str] = frozenset()
    if attention == "int8":
        rounded, attended = RoundedAttention(model), read_by_attention(model)
        if left_out := attended - set(names):
            raise UsageError(f'attention = "int8" reads {min(left_out)}, which is not to be quantised: name it too')
    layers: dict[str, WorkingLinear] = {}
    tokens = Tokens()
    for name in names:
        layer = model.get_submodule(name)
        if not _may_round(layer):
            raise TypeError(f"{name} is a {type(layer).__name__}: only linear layers can be quantised, and once")
        roles = {family.role_of(name) for family in FAMILIES.values()}
        output = preset == "paper" and not roles.isdisjoint(OUTPUT_QUANTIZED)
        layers[name] = working(layer)
        layers[name].rounding = Rounding(
            name, tokens, output=output, per_tensor=preset == "paper", for_attention=name in attended
        )
    return Quantizer(layers, model.register_forward_pre_hook(tokens.note, with_kwargs=True), begin_step, rounded)


def require_int8_attention(config: Any) -> None:
    """UsageError for a transformers config whose attention the engine computes in fp32 alone."""
    if not encoder_plan_of(config.to_dict(), config.model_type).plain_attention:
        raise UsageError(
            f'attention = "int8" is not computed for {config.model_type}: only where every token sees all others, and '
            "positions take no part in the scores"
        )


def read_by_attention(model: Any) -> frozenset[str]:
    """The linear layers of a transformers model that give queries, keys and values; UsageError as below."""
    require_int8_attention(model.config)
    family = family_of(model.config.model_type)
    return frozenset(name for name in linear_names(model) if family.role_of(name) in ("query", "key", "value"))


def _rounding_of(layer: WorkingLinear) -> Rounding:
    """The fake quantiser of a layer that has one."""
    assert layer.rounding is not None
    return layer.rounding


@contextlib.contextmanager
def observing(quantizer: Quantizer) -> Iterator[None]:
    """Within, forward passes only set the ranges: to the least and greatest values of all of them."""
    for layer in quantizer.layers.values():
        _rounding_of(layer).set(observes=True, rounds=False)
    try:
        yield
    finally:
        quantizer.end_step()
        for layer in quantizer.layers.values():
            _rounding_of(layer).set(observes=False, rounds=False)


@contextlib.contextmanager
def quantized(model: nn.Module, layers: Mapping[str, LinearQuantization]) -> Iterator[None]:
    """Within, the named layers of a float model, in any form, round as they do in the int8 engine.

    Their weights stay as they are. PruneonceError if a layer is missing or its scales are not those of its rows.
    """
    changed: list[WorkingLinear] = []
    attention: RoundedAttention | None = None
    try:
        for name, quantization in layers.items():
            layer = working(_linear(model, name, quantization))
            layer.rounding = _fixed(name, quantization, layer.trained.device)
            changed.append(layer)
        if for_attention := {name for name, each in layers.items() if each.attention_scale is not None}:
            if for_attention != read_by_attention(model):
                raise PruneonceError(
                    "attention_scale is that of queries, keys and values: all of a model's, and no other's"
                )
            attention = RoundedAttention(model)
            attention.switch(True)
        yield
    finally:
        if attention is not None:
            attention.switch(False)
        for layer in changed:
            layer.rounding = None
            finish(layer)


def _may_round(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return type(layer) is nn.Linear or (isinstance(layer, WorkingLinear) and layer.rounding is None)


def _linear(model: nn.Module, name: str, quantization: LinearQuantization) -> nn.Linear:
    try:
        layer = model.get_submodule(name)
    except AttributeError as error:
        raise PruneonceError(f"the quantised layer {name} is not in the model") from error
    if not _may_round(layer) or quantization.weight_scale.shape != (layer.out_features,):
        raise PruneonceError(f"{name}: {quantization.weight_scale.size} scales do not fit the layer {layer}")
    return layer


def _fixed(name: str, quantization: LinearQuantization, device: torch.device) -> Rounding:
    """Everything as a file says."""
    rounding = Rounding(
        name,
        Tokens(),
        output=quantization.output_scale is not None,
        per_tensor=False,
        for_attention=quantization.attention_scale is not None,
    )
    rounding.fixed_scale = torch.from_numpy(quantization.weight_scale.copy()).to(device)
    for observer, scale, zero_point in (
        (rounding.input_observer, quantization.input_scale, quantization.input_zero_point),
        (rounding.output_observer, quantization.output_scale, quantization.output_zero_point),
        (rounding.output_observer, quantization.attention_scale, quantization.attention_zero_point),
    ):
        if observer is not None and scale is not None and zero_point is not None:
            observer.fixed = np.float32(scale[0]), int(zero_point[0])
    rounding.set(observes=False, rounds=True)
    return rounding


def _quantization_of(rounding: Rounding, scale: Tensor) -> LinearQuantization:
    parts: dict[str, Any] = {}
    for kind, observer in zip(
        ("input", "attention" if rounding.for_attention else "output"), rounding.observers, strict=False
    ):
        one_scale, zero_point = observer.parameters
        parts[f"{kind}_scale"] = np.array([one_scale], np.float32)
        parts[f"{kind}_zero_point"] = np.array([zero_point], np.uint8)
    return LinearQuantization(scale.cpu().numpy().astype(np.float32), **parts)
