"""Score a torch model on a task's data: after fine-tuning, and for `pruneonce evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pruneonce.evaluate import evaluate_task
from pruneonce.language_model import load_config
from pruneonce.progress import Advance
from pruneonce.recipe import TaskData
from pruneonce.task_data import max_tokens_of, sample, task_of, validation_sources
from pruneonce.task_model import load_task_model, torch_predict
from pruneonce.tasks import Task
from pruneonce.tokenization import load_tokenizer, special_token_ids


def score(
    model: Any, task: Task, data: TaskData, tokenizer: Tokenizer, *, seed: int = 42, on_progress: Advance | None = None
) -> dict[str, float]:
    """The task's metrics on its validation data; names carry a suffix where there are several splits (MNLI)."""
    predict = torch_predict(model, task, special_token_ids(tokenizer)["pad"], on_progress)
    metrics: dict[str, float] = {}
    for suffix, source in validation_sources(data, task).items():
        examples = sample(task.read(source), data.validation_examples, seed)
        features = task.features(examples, tokenizer, max_tokens_of(data))
        scores = evaluate_task(task, examples, features, predict)
        metrics |= {f"{name}{suffix}": value for name, value in scores.items()}
    return metrics


def score_folder(model: str | Path, data: TaskData, on_progress: Advance | None = None) -> dict[str, float]:
    """Load a fine-tuned model and `score` it. Class names of one's own task are read from the model's config.

    UsageError if the model has no head for the task, or one with other labels.
    """
    if data.name == "classification" and not data.labels:
        config = load_config(model)
        data = replace(data, labels=tuple(str(config.id2label[index]) for index in range(config.num_labels)))
    task = task_of(data)
    loaded, _ = load_task_model(model, task, trained=True)
    return score(loaded, task, data, load_tokenizer(model), on_progress=on_progress)
