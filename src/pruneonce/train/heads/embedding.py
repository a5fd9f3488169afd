"""A vector per text: those of a pair are to be alike, those of others not, or all of them as a teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pruneonce.models.sentence import Pooling
from pruneonce.tasks import Task

SCALE = 20.0  # of cosines as logits, the inverse of a temperature of 0.05: sentence-transformers' default


class Embedding:
    """Logits [batch, texts, size]: the pooled states of each text of an example."""

    kind = "embedding"
    loader = "AutoModel"
    answer_columns = None

    def __init__(self, pooling: Sequence[Pooling] = ("mean",)) -> None:
        self.pooling = tuple(pooling)

    def outputs(self, task: Task) -> None:
        return None

    def settings(self, outputs: Sequence[str]) -> dict[str, Any]:
        return {}

    def config_entries(self) -> dict[str, Any]:
        return {}

    def sequences(self, features: Sequence[Any]) -> Sequence[Any]:
        return [each for feature in features for each in feature.sequences]

    def labels(self, features: Sequence[Any]) -> dict[str, Tensor]:
        if features[0].label is None:
            return {}
        return {"labels": torch.tensor([feature.label for feature in features], dtype=torch.float32)}

    def random_labels(self, random: np.random.Generator, rows: int, tokens: int, classes: int) -> dict[str, np.ndarray]:
        return {"labels": random.random(rows, dtype=np.float32)}

    def logits(self, output: Any, batch: dict[str, Any]) -> Tensor:
        vectors = pooled(output.last_hidden_state, batch["attention_mask"], self.pooling)
        return vectors.unflatten(0, (len(batch["sizes"]), -1))

    def hard_loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        """Graded pairs: squared error of the cosine. Else the cross-entropy of a text's own second text among all
        second and third texts of the batch (Henderson et al. 2017, arXiv 1705.00652, section 4.4); what reads the same
        as its own is no rival of it."""
        unit = functional.normalize(logits.float(), dim=-1)
        if "labels" in batch:
            return functional.mse_loss((unit[:, 0] * unit[:, 1]).sum(-1), batch["labels"], reduction="sum")
        examples, texts = unit.shape[:2]
        candidates = unit[:, 1:].transpose(0, 1).flatten(0, 1)  # all second texts, then all third ones
        tokens = batch["input_ids"].unflatten(0, (examples, texts))[:, 1:].transpose(0, 1).flatten(0, 1)
        same = (tokens[:examples, None] == tokens[None]).all(-1)
        same[:, :examples].fill_diagonal_(False)
        scores = (SCALE * unit[:, 0] @ candidates.T).masked_fill(same, float("-inf"))
        return functional.cross_entropy(scores, torch.arange(examples, device=scores.device), reduction="sum")

    def soft_loss(self, logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Squared distance of unit vectors, 2 (1 - cosine), as a mean over an example's texts."""
        ours, theirs = (functional.normalize(each.float(), dim=-1) for each in (logits, taught))
        return (ours - theirs).square().sum(-1).mean(-1).sum()

    def answer(self, logits: np.ndarray, feature: Any) -> np.ndarray:
        return logits

    def collated(self, answers: Sequence[np.ndarray], width: int) -> Tensor:
        return torch.from_numpy(np.stack(answers))


def pooled(states: Tensor, attention_mask: Tensor, modes: Sequence[Pooling]) -> Tensor:
    """float [sequences, tokens, size] -> [sequences, modes x size], as `run.sentence.pooled`; padding is at the end."""
    mask = attention_mask[..., None].to(states.dtype)
    tokens = mask.sum(1)
    parts = []
    for mode in modes:
        if mode == "cls":
            parts.append(states[:, 0])
        elif mode == "lasttoken":
            parts.append(states[torch.arange(len(states), device=states.device), attention_mask.sum(1) - 1])
        elif mode == "max":
            parts.append(states.masked_fill(mask == 0, float("-inf")).amax(1))
        elif mode == "weightedmean":
            weights = mask * torch.arange(1, states.shape[1] + 1, device=states.device)[None, :, None]
            parts.append((states * weights).sum(1) / weights.sum(1))
        else:
            parts.append((states * mask).sum(1) / (tokens if mode == "mean" else tokens.sqrt()))
    return torch.cat(parts, dim=-1)
