"""From a recipe's [task] section to a task and its examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce.errors import UsageError
from pruneonce.formats.sentence_folder import read_sentence_folder
from pruneonce.models.sentence import EmbeddingPlan
from pruneonce.recipe import TaskData
from pruneonce.tasks import Task, class_of, get_task

VALIDATION_SEED = 42  # draws task.validation_examples; not the run's seed, so that runs are scored on the same examples
OWN_TASKS = (
    "classification",
    "regression",
    "question_answering",
    "embedding",
    "ranking",
)  # without data on the Hub


def task_of(data: TaskData) -> Task:
    """The task a recipe's [task] section describes."""
    return get_task(
        data.name,
        text=data.text,
        text_pair=data.text_pair,
        label=data.label,
        labels=data.labels,
        train_file=data.train,
        stride_tokens=data.stride_tokens,
        negative=data.negative,
        label_max=data.label_max,
        pooling=data.pooling,
    )


def train_source(data: TaskData) -> str:
    """The training file, or the name of the Hub's split."""
    if not data.train and data.name in OWN_TASKS:
        raise UsageError(f"task '{data.name}' is over your own files: set task.train")
    return data.train or "train"


def validation_sources(data: TaskData, task: Task) -> dict[str, str]:
    """Suffix of the metric names -> where the examples are. MNLI's two Hub splits are reported side by side."""
    if data.validation:
        return {"": data.validation}
    if data.train or data.name in OWN_TASKS:
        raise UsageError(f"task '{data.name}' over your own files has no examples to score on: set task.validation")
    if len(task.dev_splits) == 1:
        return {"": task.dev_splits[0]}
    return {f"_{split.removeprefix('validation_')}": split for split in task.dev_splits}


def validation_examples(data: TaskData, task: Task) -> dict[str, list[Any]]:
    """Suffix of the metric names -> the examples to score on."""
    return {
        suffix: sample(task.read(source), data.validation_examples, VALIDATION_SEED)
        for suffix, source in validation_sources(data, task).items()
    }


def max_tokens_of(data: TaskData) -> int:
    """Longest example or window, in tokens: by default as published for tasks of its kind."""
    return data.max_tokens or class_of(data.name).usual_tokens


def recorded_tokens(record: Any) -> int | None:
    """Longest example or window of the run that a record (`pruneonce.json`) tells of; None if it tells of none.

    record: anyone's. A number of 4 (a token beside [CLS] and [SEP] twice) or more is a length, all else is not.
    """
    recipe = record.get("recipe") if isinstance(record, dict) else None
    task = recipe.get("task") if isinstance(recipe, dict) else None
    if not isinstance(task, dict):
        return None
    tokens = task.get("max_tokens")
    if tokens is None:
        tokens = class_of(str(task.get("name"))).usual_tokens
    return tokens if type(tokens) is int and tokens >= 4 else None


def with_length_of(data: TaskData, record: Any) -> TaskData:
    """The data with the length that a model was trained for, where it says none."""
    if data.max_tokens is not None:
        return data
    return replace(data, max_tokens=recorded_tokens(record))


def with_labels_of(data: TaskData, labels: Callable[[], Sequence[str]]) -> TaskData:
    """The data with a model's labels where a task of one's own does not name its classes."""
    if data.name != "classification" or data.labels:
        return data
    return replace(data, labels=tuple(labels()))


def with_pooling_of(data: TaskData, model: str | Path) -> TaskData:
    """The data with the pooling that a model folder of sentence-transformers says, where the task says none.

    UsageError for a folder whose vectors go through more than pooling, which training would leave out.
    """
    if data.name != "embedding" or not Path(model, "config.json").is_file():
        return data
    found = read_sentence_folder(Path(model))
    if found is None or not isinstance(found.plan, EmbeddingPlan):
        return data
    if found.plan.projections:
        raise UsageError(f"{model} projects its vectors ({found.plan.projections[0].name}), which is not trained here")
    return data if data.pooling else replace(data, pooling=found.plan.pooling)


def sample(examples: Sequence[Any], count: int | None, seed: int) -> list[Any]:
    """`count` of the examples, drawn with `seed`, in their order; all of them if there are not more."""
    if count is None or count >= len(examples):
        return list(examples)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(examples))[:count])
    return [examples[index] for index in chosen]
