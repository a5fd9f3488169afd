"""What each kind of task reads, decodes and scores: numpy only, shared by training and engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pruneonce.errors import UsageError
from pruneonce.models.sentence import POOLINGS
from pruneonce.tasks.classification import ClassificationTask, Columns, discover_labels, own_task
from pruneonce.tasks.embedding import EmbeddingTask
from pruneonce.tasks.glue import GLUE
from pruneonce.tasks.question_answering import QUESTION_ANSWERING, QuestionAnsweringTask
from pruneonce.tasks.ranking import RankingTask
from pruneonce.tasks.table import did_you_mean

__all__ = [
    "TASK_NAMES",
    "ClassificationTask",
    "EmbeddingTask",
    "QuestionAnsweringTask",
    "RankingTask",
    "Task",
    "class_of",
    "get_task",
]

Task = ClassificationTask | QuestionAnsweringTask | EmbeddingTask | RankingTask

_OWN = ("classification", "regression", "embedding", "ranking")
TASK_NAMES = (*GLUE, *QUESTION_ANSWERING, *_OWN)


def class_of(
    name: str,
) -> type[ClassificationTask] | type[QuestionAnsweringTask] | type[EmbeddingTask] | type[RankingTask]:
    """What the task called `name` is, before its labels are known; names that are not known count as classification."""
    if name in QUESTION_ANSWERING:
        return QuestionAnsweringTask
    return {"embedding": EmbeddingTask, "ranking": RankingTask}.get(name, ClassificationTask)


def get_task(
    name: str,
    *,
    text: str = "",
    text_pair: str = "",
    label: str = "",
    labels: Sequence[str] = (),
    train_file: str | Path = "",
    stride_tokens: int | None = None,
    negative: str = "",
    label_max: float | None = None,
    pooling: Sequence[str] = (),
) -> Task:
    """The task called `name`: one of GLUE's, "squad", "squad_v2", or a kind of task over the user's own files.

    text, text_pair, label: column names of own files for "classification" and "regression"; "text", no pair, and
    "label" when empty. labels: class names in the order of their ids; when empty, those found in `train_file`, sorted.
    stride_tokens: overlap of consecutive question answering windows; None: the task's own. For "embedding" and
    "ranking": label_max, the largest label there is (1), negative, the column of texts that do not belong to the
    first, and pooling, of a text's states; both read two texts by default, and "embedding" no labels.
    """
    if name not in TASK_NAMES:
        raise UsageError(f"unknown task '{name}'{did_you_mean(name, TASK_NAMES)}; known: {', '.join(TASK_NAMES)}")
    if name not in _OWN and (text or text_pair or label or labels or negative or label_max is not None or pooling):
        raise UsageError(f"task '{name}' has columns and labels of its own; to name yours, use {' or '.join(_OWN)}")
    if name in QUESTION_ANSWERING:
        task = QUESTION_ANSWERING[name]
        return task if stride_tokens is None else replace(task, stride_tokens=stride_tokens)
    if name in GLUE:
        return GLUE[name]
    if name in ("embedding", "ranking"):
        return _sentence_task(name, text, text_pair, label, labels, negative, label_max, pooling)
    if negative or label_max is not None or pooling:
        raise UsageError(f"task '{name}' has neither negative nor label_max nor pooling: embedding and ranking have")
    columns = Columns(text=text or "text", text_pair=text_pair, label=label or "label")
    if name == "regression":
        if labels:
            raise UsageError("task 'regression' predicts a number and takes no labels")
        return own_task(columns, labels=None)
    if not labels and not train_file:
        raise UsageError("task 'classification' needs its labels, or a training file to find them in")
    return own_task(columns, labels or discover_labels(train_file, columns.label))


def _sentence_task(
    name: str,
    text: str,
    text_pair: str,
    label: str,
    labels: Sequence[str],
    negative: str,
    label_max: float | None,
    pooling: Sequence[str],
) -> EmbeddingTask | RankingTask:
    if labels:
        raise UsageError(f"task '{name}' has numbers as labels, and no classes: drop task.labels")
    if label_max is not None and not label_max > 0:
        raise UsageError(f"task.label_max must be above 0, got {label_max}")
    named: dict[str, Any] = {"text": text or "text", "text_pair": text_pair or "text_pair"}
    named["label_max"] = 1.0 if label_max is None else label_max
    if name == "ranking":
        if negative or pooling:
            raise UsageError("task 'ranking' has neither negative nor pooling: its texts have labels")
        return RankingTask(**named, label=label or "label")
    if label and negative:
        raise UsageError("task.label grades pairs, task.negative makes triplets: choose one")
    if unknown := [mode for mode in pooling if mode not in POOLINGS]:
        raise UsageError(f"task.pooling: '{unknown[0]}' is not one of {', '.join(POOLINGS)}")
    return EmbeddingTask(**named, negative=negative, label=label, pooling=cast(Any, tuple(pooling) or ("mean",)))
