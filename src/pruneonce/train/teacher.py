"""The frozen model that a student learns from."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import convert_to_fp32
from torch import nn


class Teacher(nn.Module):
    """Answers as `model` does, always in evaluation mode, and is never trained; the model's forward is its own.

    autocast: the lower precision that it answers in, as its student does; its logits are float32 all the same. The
    model's parameters take no gradients from now on.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model, self._autocast = model, autocast
        self.eval()
        self.requires_grad_(False)

    @property
    def config(self) -> Any:
        return self.model.config

    def train(self, mode: bool = True) -> Teacher:
        """Does not take part: a teacher has no dropout."""
        super().train(False)
        return self

    def forward(self, *arguments: Any, **inputs: Any) -> Any:
        if self._autocast is None:
            return self.model(*arguments, **inputs)
        with torch.autocast(next(self.model.parameters()).device.type, self._autocast):
            return convert_to_fp32(self.model(*arguments, **inputs))
