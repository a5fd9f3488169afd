"""The frozen teacher that supplies what losses are made of."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def freeze_teacher(model: Model, autocast: torch.dtype | None = None) -> Model:
    """Put a teacher in evaluation mode and take its parameters out of training.

    autocast: the lower precision that it answers in, as its student does; its logits are float32 all the same.
    """
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if autocast is not None:
        forward = model.forward

        def answer(*arguments: Any, **inputs: Any) -> Any:
            with torch.autocast(next(model.parameters()).device.type, autocast):
                return forward(*arguments, **inputs)

        model.forward = convert_outputs_to_fp32(answer)
    return model
