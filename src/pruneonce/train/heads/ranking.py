"""A logit per pair of a query and a text: cross-entropy with the label, and the order of a list as a teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from pruneonce.tasks import Task
from pruneonce.train.distillation import distillation_loss
from pruneonce.train.heads.classification import named_outputs

# Finite, so that 0 x (log p - log q) is 0 and not NaN; e to this power is 0 in fp32.
NOT_A_TEXT = -1e4


class Ranking:
    """Logits [batch, longest list]; places after the end of a list are `NOT_A_TEXT`."""

    kind = "ranking"
    loader = "AutoModelForSequenceClassification"
    answer_columns = 1

    def outputs(self, task: Task) -> tuple[str, ...]:
        return ("score",)

    def settings(self, outputs: Sequence[str]) -> dict[str, Any]:
        return named_outputs(outputs)

    def config_entries(self) -> dict[str, Any]:
        """What sentence-transformers' CrossEncoder, and our export, know a reranker by."""
        return {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}

    def sequences(self, features: Sequence[Any]) -> Sequence[Any]:
        return [each for feature in features for each in feature.sequences]

    def labels(self, features: Sequence[Any]) -> dict[str, Tensor]:
        return {"labels": pad_sequence([torch.tensor(each.label, dtype=torch.float32) for each in features], True)}

    def random_labels(self, random: np.random.Generator, rows: int, tokens: int, classes: int) -> dict[str, np.ndarray]:
        return {"labels": random.random((rows, 1), dtype=np.float32)}

    def logits(self, output: Any, batch: dict[str, Any]) -> Tensor:
        lists = output.logits[:, 0].split(batch["sizes"].tolist())
        return pad_sequence(list(lists), batch_first=True, padding_value=NOT_A_TEXT)

    def hard_loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        """Binary cross-entropy as a mean over a list (Nogueira & Cho 2019, arXiv 1901.04085, equation 1)."""
        there = _there(logits)
        each = functional.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="none")
        return (torch.where(there, each, 0).sum(1) / there.sum(1)).sum()

    def soft_loss(self, logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Lists: divergence of the softmax over their texts (ListNet, Cao et al. 2007). One text: squared error."""
        listwise = distillation_loss(logits, taught, temperature)
        single = _there(taught).sum(1) == 1
        return listwise + functional.mse_loss(logits[single, 0], taught[single, 0], reduction="sum")

    def answer(self, logits: np.ndarray, feature: Any) -> np.ndarray:
        return logits[: len(feature.sequences)]

    def collated(self, answers: Sequence[np.ndarray], width: int) -> Tensor:
        return pad_sequence([torch.from_numpy(each) for each in answers], batch_first=True, padding_value=NOT_A_TEXT)


def _there(logits: Tensor) -> Tensor:
    """Places that hold a text."""
    return logits > NOT_A_TEXT / 2
