"""Knowledge distillation on logits, as pure functions; and the frozen teacher that supplies them."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.nn import functional

Model = TypeVar("Model", bound=nn.Module)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Sum over rows of T² · KL(softmax(teacher / T) ‖ softmax(student / T)); divide by the rows for the mean.

    student, teacher: logits [rows, classes], finite. Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531,
    with the T² of section 2, and Prune Once for All (arXiv:2111.05754).

    >>> z = torch.tensor([[1.0, 2.0, 3.0]])
    >>> float(distillation_loss(z, z, temperature=2.0))
    0.0
    """
    student_log = functional.log_softmax(student / temperature, dim=-1)
    teacher_log = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(student_log, teacher_log, reduction="sum", log_target=True) * temperature**2


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
