import numpy as np
import pytest
import torch
from torch import nn

from pruneonce.train.distillation import distillation_loss
from pruneonce.train.teacher import Teacher


def divergence_reference(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T² · KL(teacher ‖ student) summed over rows, written out."""

    def softmax(logits):
        shifted = np.exp(logits / temperature - (logits / temperature).max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    p, q = softmax(teacher), softmax(student)
    return float(temperature**2 * (p * np.log(p / q)).sum())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.5])
def test_loss_is_the_written_out_formula(temperature):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(7, 11)), rng.normal(size=(7, 11))
    loss = distillation_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert float(loss) == pytest.approx(divergence_reference(student, teacher, temperature), rel=1e-9)


def test_gradient_is_checked_and_reaches_the_student_only():
    student = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, teacher, 2.0), student)


def test_positions_far_below_the_others_take_no_part():
    """How padding leaves the QA distributions: both sides get the same very low logit."""
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    cut = torch.full((4, 3), -1e4)
    padded = distillation_loss(torch.cat([student, cut], 1), torch.cat([teacher, cut], 1), 2.0)
    assert torch.allclose(padded, distillation_loss(student, teacher, 2.0), rtol=1e-6)


def test_a_teacher_has_no_trainable_parameter_and_no_dropout_whatever_its_student_is_told():
    teacher = Teacher(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    student = nn.ModuleDict({"teacher": teacher}).train()
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert not any(module.training for module in teacher.modules())


def test_a_teacher_in_lower_precision_computes_in_it_and_answers_in_float32_and_its_model_is_as_it_was():
    model = nn.Sequential(nn.Linear(2, 2))
    teacher, within = Teacher(model, torch.bfloat16), []
    model[0].register_forward_hook(lambda module, inputs, output: within.append(output.dtype))
    assert teacher(torch.ones(1, 2)).dtype == torch.float32
    assert model(torch.ones(1, 2)).dtype == torch.float32
    assert within == [torch.bfloat16, torch.float32]
    assert "forward" not in vars(model)
