"""Dropout of a model, where a recipe says something else than its config."""

from __future__ import annotations

from torch import nn


def set_dropout(model: nn.Module, probability: float | None) -> None:
    """Set every dropout layer's probability, attention's included; None leaves the checkpoint's."""
    if probability is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(getattr(module, "attention_dropout", None), float | int):  # of newer families: no layer's
            module.attention_dropout = probability  # type: ignore[assignment]
