"""A class per text: cross-entropy, and the divergence of its distribution from the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pruneonce.tasks import Task
from pruneonce.train.distillation import distillation_loss


class Classification:
    """Logits [batch, labels]."""

    kind = "classification"
    loader = "AutoModelForSequenceClassification"
    answer_columns = 1

    def outputs(self, task: Task) -> tuple[str, ...]:
        return task.labels or ()

    def settings(self, outputs: Sequence[str]) -> dict[str, Any]:
        return named_outputs(outputs) | {"problem_type": "single_label_classification"}

    def config_entries(self) -> dict[str, Any]:
        return {}

    def sequences(self, features: Sequence[Any]) -> Sequence[Any]:
        return features

    def labels(self, features: Sequence[Any]) -> dict[str, Tensor]:
        return {"labels": torch.tensor([feature.label for feature in features], dtype=torch.int64)}

    def random_labels(self, random: np.random.Generator, rows: int, tokens: int, classes: int) -> dict[str, np.ndarray]:
        return {"labels": random.integers(0, classes, rows)}

    def logits(self, output: Any, batch: dict[str, Any]) -> Tensor:
        logits: Tensor = output.logits
        return logits

    def hard_loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        return functional.cross_entropy(logits, batch["labels"], reduction="sum")

    def soft_loss(self, logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
        return distillation_loss(logits, taught, temperature)

    def answer(self, logits: np.ndarray, feature: Any) -> np.ndarray:
        return logits

    def collated(self, answers: Sequence[np.ndarray], width: int) -> Tensor:
        return torch.from_numpy(np.stack(answers))


def named_outputs(outputs: Sequence[str]) -> dict[str, Any]:
    """Settings of a sequence classification head of transformers whose outputs have these names."""
    return {
        "num_labels": len(outputs),
        "id2label": dict(enumerate(outputs)),
        "label2id": {label: index for index, label in enumerate(outputs)},
        "ignore_mismatched_sizes": True,
    }
