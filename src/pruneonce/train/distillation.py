"""How far a student's logits are from its teacher's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


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
