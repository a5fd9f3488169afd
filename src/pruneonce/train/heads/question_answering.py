"""A span per window: its start and its end count half each, in both losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pruneonce.tasks import Task
from pruneonce.train.distillation import distillation_loss

# Finite, so that 0 x (log p - log q) is 0 and not NaN; e to this power is 0 in fp32.
NOT_A_POSITION = -1e4


class QuestionAnswering:
    """Logits [batch, 2, tokens] (start, end); padding is no candidate: `NOT_A_POSITION` for student and teacher."""

    kind = "question_answering"
    loader = "AutoModelForQuestionAnswering"
    answer_columns = 2

    def outputs(self, task: Task) -> None:
        return None

    def settings(self, outputs: Sequence[str]) -> dict[str, Any]:
        return {}

    def config_entries(self) -> dict[str, Any]:
        return {}

    def sequences(self, features: Sequence[Any]) -> Sequence[Any]:
        return features

    def labels(self, features: Sequence[Any]) -> dict[str, Tensor]:
        return {
            "start": torch.tensor([feature.start_position for feature in features]),
            "end": torch.tensor([feature.end_position for feature in features]),
        }

    def random_labels(self, random: np.random.Generator, rows: int, tokens: int, classes: int) -> dict[str, np.ndarray]:
        return {name: random.integers(0, tokens, rows) for name in ("start", "end")}

    def logits(self, output: Any, batch: dict[str, Any]) -> Tensor:
        spans = torch.stack([output.start_logits, output.end_logits], dim=1)
        return spans.masked_fill(batch["attention_mask"][:, None, :] == 0, NOT_A_POSITION)

    def hard_loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        start, end = logits.unbind(dim=1)
        both = functional.cross_entropy(start, batch["start"], reduction="sum")
        return (both + functional.cross_entropy(end, batch["end"], reduction="sum")) / 2

    def soft_loss(self, logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
        return distillation_loss(logits.flatten(0, 1), taught.flatten(0, 1), temperature) / 2

    def answer(self, logits: np.ndarray, feature: Any) -> np.ndarray:
        return logits[:, : len(feature.input_ids)].T

    def collated(self, answers: Sequence[np.ndarray], width: int) -> Tensor:
        padded = np.full((len(answers), 2, width), NOT_A_POSITION, dtype=np.float32)
        for row, each in enumerate(answers):
            padded[row, :, : len(each)] = each.T
        return torch.from_numpy(padded)
