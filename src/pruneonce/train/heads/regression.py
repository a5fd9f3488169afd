"""A number per text: squared error from the label, and from the teacher, for one output has no distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pruneonce.tasks import Task
from pruneonce.train.heads.classification import named_outputs


class Regression:
    """Logits [batch, 1]."""

    kind = "regression"
    loader = "AutoModelForSequenceClassification"
    answer_columns = 1

    def outputs(self, task: Task) -> tuple[str, ...]:
        return ("score",)

    def settings(self, outputs: Sequence[str]) -> dict[str, Any]:
        return named_outputs(outputs) | {"problem_type": "regression"}

    def config_entries(self) -> dict[str, Any]:
        return {}

    def sequences(self, features: Sequence[Any]) -> Sequence[Any]:
        return features

    def labels(self, features: Sequence[Any]) -> dict[str, Tensor]:
        return {"labels": torch.tensor([feature.label for feature in features], dtype=torch.float32)}

    def random_labels(self, random: np.random.Generator, rows: int, tokens: int, classes: int) -> dict[str, np.ndarray]:
        return {"labels": random.random(rows, dtype=np.float32)}

    def logits(self, output: Any, batch: dict[str, Any]) -> Tensor:
        logits: Tensor = output.logits
        return logits

    def hard_loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        return functional.mse_loss(logits[:, 0], batch["labels"], reduction="sum")

    def soft_loss(self, logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
        return functional.mse_loss(logits, taught, reduction="sum")

    def answer(self, logits: np.ndarray, feature: Any) -> np.ndarray:
        return logits

    def collated(self, answers: Sequence[np.ndarray], width: int) -> Tensor:
        return torch.from_numpy(np.stack(answers))
