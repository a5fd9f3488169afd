"""What training knows of a kind of task: its head, labels and losses. A new kind is a file here and a row of `HEADS`.

What needs no torch (reading, features, scores) is in `pruneonce.tasks`, under the same name of the kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from pruneonce.tasks import Task
from pruneonce.train.heads.classification import Classification
from pruneonce.train.heads.question_answering import QuestionAnswering
from pruneonce.train.heads.regression import Regression

__all__ = ["HEADS", "Head", "head_of"]


class Head(Protocol):
    """One kind of task. Stateless: what it computes follows from its arguments."""

    kind: str  # `kind` of its tasks
    loader: str  # transformers' class that puts this head on a body
    answer_columns: int  # an answer as it is stored has this many numbers per row

    def outputs(self, task: Task) -> tuple[str, ...] | None:
        """Names of the head's outputs; None where the task has no say in them."""

    def settings(self, outputs: Sequence[str]) -> dict[str, Any]:
        """What the loader is given for a head with these outputs."""

    def labels(self, features: Sequence[Any]) -> dict[str, Tensor]:
        """Entries of a batch of features that `hard_loss` reads."""

    def random_labels(self, random: np.random.Generator, rows: int, tokens: int, classes: int) -> dict[str, np.ndarray]:
        """As `labels`, drawn at random for `rows` sequences of `tokens`: for measuring time."""

    def logits(self, output: Any, attention_mask: Tensor) -> Tensor:
        """Logits [batch, …] of transformers' output; whatever is padding must not count in either loss."""

    def hard_loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        """Loss on the labels, summed over the examples."""

    def soft_loss(self, logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Divergence from the teacher's logits, summed over the examples."""

    def answer(self, logits: np.ndarray, tokens: int) -> np.ndarray:
        """Logits of one example without padding, as tasks score and files keep them: float32 [rows(, columns)]."""

    def collated(self, answers: Sequence[np.ndarray], width: int) -> Tensor:
        """`answer`s of a batch padded to `width` tokens -> what `logits` gave."""


HEADS: dict[str, Head] = {head.kind: head for head in (Classification(), Regression(), QuestionAnswering())}


def head_of(task: Task) -> Head:
    """The head of the task's kind."""
    return HEADS[task.kind]
