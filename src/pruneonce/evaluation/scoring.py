"""Score a torch model on a task's data: after fine-tuning, and for `pruneonce evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pruneonce.evaluation.packed import engine_predict, packed_task, score_predictions
from pruneonce.formats.scales_file import read_quantization
from pruneonce.models.hub import load_config
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids, tokenizer_from_text
from pruneonce.progress import Advance
from pruneonce.recipe import TaskData
from pruneonce.sparsity.cpu_training import as_served
from pruneonce.sparsity.quantizer import quantized
from pruneonce.tasks import Task
from pruneonce.tasks.recipe_data import task_of, with_labels_of, with_pooling_of
from pruneonce.train.task_model import load_task_model, torch_predict


def score(
    model: Any,
    task: Task,
    data: TaskData,
    tokenizer: Tokenizer,
    *,
    examples: Mapping[str, Sequence[Any]] | None = None,
    keep_in: Path | None = None,
    on_progress: Advance | None = None,
) -> dict[str, float]:
    """The task's metrics on its validation data; names carry a suffix where there are several splits (MNLI).

    examples: what `validation_examples` gives, where it was read before.
    keep_in: folder that `predictions.json`, the answer to every example, is written to.
    """
    predict = torch_predict(model, task, special_token_ids(tokenizer)["pad"], on_progress)
    return score_predictions(predict, task, data, tokenizer, examples=examples, keep_in=keep_in)


def score_folder(model: str | Path, data: TaskData, on_progress: Advance | None = None) -> dict[str, float]:
    """Load a fine-tuned model and `score` it, rounding as its quantisation says if it has one.

    A pruned model on a CPU answers by its non-zeros alone: several times as fast, alike but for rounding. Memory
    that is freed meanwhile then stays with the process (glibc).
    Class names of one's own task are read from the model's config.
    UsageError if the model has no head for the task, or one with other labels.
    """
    data = with_pooling_of(with_labels_of(data, lambda: _labels_in_config(model)), model)
    task = task_of(data)
    loaded, _ = load_task_model(model, task, trained=True)
    with as_served(loaded, read_quantization(model)):
        return score(loaded, task, data, load_tokenizer(model), on_progress=on_progress)


def score_packed_beside(
    file: str | Path, folder: str | Path, data: TaskData, on_progress: Advance | None = None
) -> tuple[dict[str, float], float]:
    """As `score_packed`, and the largest difference between the engine's logits and torch's of the file's folder."""
    model, task, data = packed_task(file, data)
    tokenizer = tokenizer_from_text(model.tokenizer)
    engine = engine_predict(model, task)
    reference, _ = load_task_model(folder, task, trained=True)
    torch = torch_predict(reference, task, special_token_ids(tokenizer)["pad"], on_progress)
    differences = [0.0]

    def predict(features: Sequence[Any]) -> list[np.ndarray]:
        logits = engine(features)
        differences.extend(float(np.abs(a - b).max()) for a, b in zip(logits, torch(features), strict=True))
        return logits

    with quantized(reference, read_quantization(folder) or {}):
        return score_predictions(predict, task, data, tokenizer), max(differences)


def _labels_in_config(model: str | Path) -> list[str]:
    config = load_config(model)
    return [str(config.id2label[index]) for index in range(config.num_labels)]
