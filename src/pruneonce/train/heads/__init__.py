"""What training knows of a kind of task: its head, labels and losses. A new kind is a file here and a row of `HEADS`.

What needs no torch (reading, features, scores) is in `pruneonce.tasks`, under the same name of the kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from pruneonce.tasks import EmbeddingTask, Task
from pruneonce.train.heads.classification import Classification
from pruneonce.train.heads.embedding import Embedding
from pruneonce.train.heads.question_answering import QuestionAnswering
from pruneonce.train.heads.ranking import Ranking
from pruneonce.train.heads.regression import Regression

__all__ = ["HEADS", "Head", "head_of"]


class Head(Protocol):
    """One kind of task. Stateless: what it computes follows from its arguments."""

    kind: str  # `kind` of its tasks
    loader: str  # transformers' class that puts this head on a body

    @property
    def answer_columns(self) -> int | None:
        """An answer as it is stored has this many numbers per row; None: as many as the model has features."""

    def outputs(self, task: Task) -> tuple[str, ...] | None:
        """Names of the head's outputs; None where the task has no say in them."""

    def settings(self, outputs: Sequence[str]) -> dict[str, Any]:
        """What the loader is given for a head with these outputs."""

    def config_entries(self) -> dict[str, Any]:
        """What the config of a model with this head says besides, for whoever uses it."""

    def sequences(self, features: Sequence[Any]) -> Sequence[Any]:
        """What the model reads, a row of a batch each: the features themselves, or the parts that they have.

        A batch of features of several parts has `sizes`, int64 [features]: how many rows each takes.
        """

    def labels(self, features: Sequence[Any]) -> dict[str, Tensor]:
        """Entries of a batch of features that `hard_loss` reads."""

    def random_labels(self, random: np.random.Generator, rows: int, tokens: int, classes: int) -> dict[str, np.ndarray]:
        """As `labels`, drawn at random for `rows` sequences of `tokens`: for measuring time."""

    def logits(self, output: Any, batch: dict[str, Any]) -> Tensor:
        """Logits [batch, …] of transformers' output; whatever is padding must not count in either loss."""

    def hard_loss(self, logits: Tensor, batch: dict[str, Any]) -> Tensor:
        """Loss on the labels, summed over the examples."""

    def soft_loss(self, logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Divergence from the teacher's logits, summed over the examples."""

    def answer(self, logits: np.ndarray, feature: Any) -> np.ndarray:
        """Logits of one feature without padding, as tasks score and files keep them: float32 [rows(, columns)]."""

    def collated(self, answers: Sequence[np.ndarray], width: int) -> Tensor:
        """`answer`s of a batch padded to `width` tokens -> what `logits` gave."""


_ALL: tuple[Head, ...] = (Classification(), Regression(), QuestionAnswering(), Embedding(), Ranking())
HEADS: dict[str, Head] = {head.kind: head for head in _ALL}


def head_of(task: Task) -> Head:
    """The head of the task's kind; that of vectors pools as the task says."""
    return Embedding(task.pooling) if isinstance(task, EmbeddingTask) else HEADS[task.kind]
