"""Score whatever answers a task's examples, and so a packed file in the engine: no torch, as a server has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pruneonce.errors import UsageError
from pruneonce.evaluation.predictions import Split, make_split, write_predictions
from pruneonce.models.tokenizer import tokenizer_from_text
from pruneonce.progress import Advance
from pruneonce.recipe import TaskData
from pruneonce.run.model import Model, load_model
from pruneonce.tasks import ClassificationTask, EmbeddingTask, RankingTask, Task, class_of
from pruneonce.tasks.embedding import EmbeddingFeature
from pruneonce.tasks.recipe_data import max_tokens_of, task_of, validation_examples, with_labels_of, with_length_of

Predict = Callable[[Sequence[Any]], list[np.ndarray]]

EVALUATION_BATCH = 16  # examples per forward pass; of similar length, so that little padding is computed


def score_packed(file: str | Path, data: TaskData, on_progress: Advance | None = None) -> dict[str, float]:
    """Load a packed file into the engine and score its answers as those of the folder it came from.

    UsageError if the model has no head for the task, or one with other labels.
    """
    model, task, data = packed_task(file, data)
    return score_predictions(engine_predict(model, task, on_progress), task, data, tokenizer_from_text(model.tokenizer))


def score_predictions(
    predict: Predict,
    task: Task,
    data: TaskData,
    tokenizer: Tokenizer,
    *,
    examples: Mapping[str, Sequence[Any]] | None = None,
    keep_in: Path | None = None,
) -> dict[str, float]:
    """The metrics of whatever `predict` answers to the task's validation data.

    examples: what `validation_examples` gives, where it was read before.
    keep_in: folder that `predictions.json`, the answer to every example, is written to.
    """
    metrics: dict[str, float] = {}
    splits = {}
    for suffix, asked in (examples or validation_examples(data, task)).items():
        features = task.features(asked, tokenizer, max_tokens_of(data))
        split = splits[suffix] = evaluate_task(task, asked, features, predict)
        metrics |= {f"{name}{suffix}": split.metric(name) for name in split.metrics}
    if keep_in is not None:
        write_predictions(keep_in, task.name, splits)
    return metrics


def evaluate_task(task: Task, examples: Sequence[Any], features: Sequence[Any], predict: Predict) -> Split:
    """What `predict` answers to every example: a torch model and an engine are scored alike.

    predict: features -> one float32 array per feature, logits [labels], or [tokens, 2] (start, end) for spans.
    """
    if isinstance(task, EmbeddingTask):
        return make_split(task, examples, task.outcomes(examples, features, _vectors(predict, features)))
    logits = predict(features)
    if isinstance(task, ClassificationTask):
        return make_split(task, examples, task.outcomes(examples, features, np.stack(logits)))
    return make_split(task, examples, task.outcomes(examples, features, logits))


def _vectors(predict: Predict, features: Sequence[EmbeddingFeature]) -> list[np.ndarray]:
    """Of each feature's texts, float32 [texts, size]; a text that stands in many of them is computed once."""
    places: dict[int, int] = {}
    once: list[EmbeddingFeature] = []
    for feature in features:
        for sequence in feature.sequences:
            if id(sequence) not in places:
                places[id(sequence)] = len(once)
                once.append(EmbeddingFeature((sequence,), None))
    vectors = np.concatenate(predict(once))
    return [vectors[[places[id(sequence)] for sequence in feature.sequences]] for feature in features]


def engine_predict(model: Model, task: Task | None = None, on_progress: Advance | None = None) -> Predict:
    """`predict(features)` -> one float32 array per feature: logits [labels], or [tokens, 2] for spans.

    Of tasks whose features have several sequences: vectors [texts, size], or logits [texts].
    """
    if isinstance(task, EmbeddingTask | RankingTask):
        return _sequences_predict(model, task, on_progress)

    def predict(features: Sequence[Any]) -> list[np.ndarray]:
        results: list[np.ndarray] = []
        for begin in range(0, len(features), EVALUATION_BATCH):
            batch = features[begin : begin + EVALUATION_BATCH]
            results += list(model([each.input_ids for each in batch], [each.token_type_ids for each in batch]))
            if on_progress is not None:
                on_progress(len(results), len(features))
        return results

    return predict


def _sequences_predict(model: Model, task: EmbeddingTask | RankingTask, on_progress: Advance | None = None) -> Predict:
    def predict(features: Sequence[Any]) -> list[np.ndarray]:
        results: list[np.ndarray] = []
        for begin in range(0, len(features), EVALUATION_BATCH):
            batch = features[begin : begin + EVALUATION_BATCH]
            sequences = [each for feature in batch for each in feature.sequences]
            tokens = [each.input_ids for each in sequences], [each.token_type_ids for each in sequences]
            rows = model.embed(*tokens, normalize=False) if isinstance(task, EmbeddingTask) else model(*tokens)[:, 0]
            results += np.split(rows, np.cumsum([len(feature.sequences) for feature in batch])[:-1])
            if on_progress is not None:
                on_progress(len(results), len(features))
        return results

    return predict


def packed_task(file: str | Path, data: TaskData) -> tuple[Model, Task, TaskData]:
    """The model of a packed file, its task, and the task's data with the model's labels where they are one's own."""
    model = load_model(file)
    wanted = class_of(data.name).pipeline
    fits = {EmbeddingTask.pipeline: True, RankingTask.pipeline: model.ranks}.get(wanted, model.task == wanted)
    if not fits:
        raise UsageError(f"{file} is a model for {model.task}; task '{data.name}' needs one for {wanted}")
    data = with_length_of(with_labels_of(data, lambda: model.labels), model.provenance)
    task = task_of(data)
    if task.labels and list(task.labels) != model.labels:
        raise UsageError(f"{file} answers {', '.join(model.labels)}; task '{task.name}' has {', '.join(task.labels)}")
    return model, task, data
