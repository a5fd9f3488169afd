"""What each kind of task reads, decodes and scores: numpy only, shared by training and engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pruneonce.errors import UsageError
from pruneonce.tasks.classification import ClassificationTask, Columns, discover_labels, own_task
from pruneonce.tasks.glue import GLUE
from pruneonce.tasks.question_answering import QUESTION_ANSWERING, QuestionAnsweringTask
from pruneonce.tasks.table import did_you_mean

__all__ = ["TASK_NAMES", "ClassificationTask", "QuestionAnsweringTask", "Task", "class_of", "get_task"]

Task = ClassificationTask | QuestionAnsweringTask

_OWN = ("classification", "regression")
TASK_NAMES = (*GLUE, *QUESTION_ANSWERING, *_OWN)


def class_of(name: str) -> type[ClassificationTask] | type[QuestionAnsweringTask]:
    """What the task called `name` is, before its labels are known; names that are not known count as classification."""
    return QuestionAnsweringTask if name in QUESTION_ANSWERING else ClassificationTask


def get_task(
    name: str,
    *,
    text: str = "",
    text_pair: str = "",
    label: str = "",
    labels: Sequence[str] = (),
    train_file: str | Path = "",
    stride_tokens: int | None = None,
) -> Task:
    """The task called `name`: one of GLUE's, "squad", "squad_v2", or a kind of task over the user's own files.

    text, text_pair, label: column names of own files for "classification" and "regression"; "text", no pair, and
    "label" when empty. labels: class names in the order of their ids; when empty, those found in `train_file`, sorted.
    stride_tokens: overlap of consecutive question answering windows; None: the task's own.
    """
    if name not in TASK_NAMES:
        raise UsageError(f"unknown task '{name}'{did_you_mean(name, TASK_NAMES)}; known: {', '.join(TASK_NAMES)}")
    if name not in _OWN and (text or text_pair or label or labels):
        raise UsageError(f"task '{name}' has columns and labels of its own; to name yours, use {' or '.join(_OWN)}")
    if name in QUESTION_ANSWERING:
        task = QUESTION_ANSWERING[name]
        return task if stride_tokens is None else replace(task, stride_tokens=stride_tokens)
    if name in GLUE:
        return GLUE[name]
    columns = Columns(text=text or "text", text_pair=text_pair, label=label or "label")
    if name == "regression":
        if labels:
            raise UsageError("task 'regression' predicts a number and takes no labels")
        return own_task(columns, labels=None)
    if not labels and not train_file:
        raise UsageError("task 'classification' needs its labels, or a training file to find them in")
    return own_task(columns, labels or discover_labels(train_file, columns.label))
