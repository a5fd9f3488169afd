"""A Hugging Face model with a task's head: loaded from any checkpoint, and as a `predict` function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pruneonce.errors import UsageError
from pruneonce.models import family_of
from pruneonce.models.hub import load_config, load_hub_model, require_whole_encoder
from pruneonce.progress import Advance
from pruneonce.tasks import Task
from pruneonce.train.heads import head_of
from pruneonce.train.losses import HiddenStatesLoss
from pruneonce.train.objectives import pad_examples, task_answer

PREDICTION_TOKENS = 4096  # per forward pass, padding included: large enough for full speed on two cores


def load_task_model(path: str | Path, task: Task, *, trained: bool = False) -> tuple[Any, list[str]]:
    """Load a checkpoint with the head of `task`; returns it with the names of parameters it did not have.

    trained: the checkpoint must have been fine-tuned for this task, as a teacher or for evaluation; UsageError if its
    head is missing or has other labels. UsageError also for a checkpoint whose encoder is not all there.
    """
    config = load_config(path)
    family = family_of(config.model_type)
    head = head_of(task)
    outputs = head.outputs(task)
    if trained and outputs is not None and config.num_labels != len(outputs):
        raise UsageError(f"{path} has {config.num_labels} labels, the task has {len(outputs)} ({', '.join(outputs)})")
    settings = head.settings(outputs or ())
    if head.loader == "AutoModel" and family.pooler is not None:
        settings["add_pooling_layer"] = False  # nothing reads it
    model, info = load_hub_model(head.loader, path, **settings, dtype=torch.float32, output_loading_info=True)
    require_whole_encoder(path, family, info)
    for key, value in head.config_entries().items():
        setattr(model.config, key, value)
    missing = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    if trained and missing:
        raise UsageError(f"{path} was not fine-tuned for {task.kind.replace('_', ' ')}: it has no {missing[0]}")
    if task.labels and not missing:
        _check_labels(path, config, task, trained=trained)
    return model, missing


def torch_predict(
    model: Any, task: Task, pad_id: int, on_progress: Advance | None = None
) -> Callable[[Sequence[Any]], list[np.ndarray]]:
    """`predict(features)` -> one float32 array per feature: logits [labels], or [tokens, 2] for spans.

    Runs without dropout, on features of similar length at a time.
    """
    answers = torch_answers(model, task, pad_id, on_progress=on_progress)
    return lambda features: [logits for logits, _ in answers(features)]


def torch_answers(
    model: Any, task: Task, pad_id: int, hidden: HiddenStatesLoss | None = None, on_progress: Advance | None = None
) -> Callable[[Sequence[Any]], list[tuple[np.ndarray, np.ndarray]]]:
    """As `torch_predict`, with the hidden states that the term `hidden` matches: float32 [layers, tokens, size].

    Without the term they are empty.
    """
    head, token_types = head_of(task), takes_token_types(model)

    @torch.no_grad()
    def answers(features: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
        model.eval()
        device = next(model.parameters()).device
        nothing = np.empty(0, np.float32)
        results = [(nothing, nothing)] * len(features)
        done = 0
        for chosen in _similar_lengths([len(feature.input_ids) for feature in features]):
            batch = pad_examples([features[index] for index in chosen], pad_id, head)
            batch = {name: value.to(device) for name, value in batch.items()}
            answer = task_answer(model, batch, head, token_types, hidden)
            lengths = [len(features[index].input_ids) for index in chosen]
            states = [nothing] * len(chosen)
            if hidden is not None:
                stacked = torch.stack(list(answer.hidden_states)).float().cpu().numpy()
                states = np.split(stacked, np.cumsum(lengths)[:-1], axis=1)
            logits = answer.logits["task"].float().cpu().numpy()
            for index, row, layers in zip(chosen, logits, states, strict=True):
                results[index] = head.answer(row, features[index]), layers
            done += len(chosen)
            if on_progress is not None:
                on_progress(done, len(features))
        return results

    return answers


def takes_token_types(model: Any) -> bool:
    """Whether a model is told which of two texts a token is of."""
    return family_of(model.config.model_type).token_types


def match_vocabulary(model: nn.Module, teacher: nn.Module, teacher_path: str) -> None:
    """UsageError unless student and teacher read the same token ids."""
    ours, theirs = (candidate.config.vocab_size for candidate in (model, teacher))  # type: ignore[union-attr]
    if ours != theirs:
        raise UsageError(
            f"teacher {teacher_path} has a vocabulary of {theirs}, the model one of {ours}: they must be the same"
        )


def _similar_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in groups of at most `PREDICTION_TOKENS` padded tokens, shortest first."""
    groups: list[list[int]] = []
    for index in np.argsort(lengths, kind="stable"):
        if groups and (len(groups[-1]) + 1) * lengths[index] <= PREDICTION_TOKENS:
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    return groups


def _check_labels(path: str | Path, config: Any, task: Task, *, trained: bool) -> None:
    """UsageError for the task's labels in another order, and in a model that was trained for it for any others."""
    labels = task.labels or ()
    names = [str(config.id2label.get(index, index)).lower() for index in range(len(labels))]
    generic = all(name == f"label_{index}" for index, name in enumerate(names))
    if generic:
        return
    if trained and sorted(names) != sorted(map(str.lower, labels)):
        raise UsageError(f"{path} answers {', '.join(names)}; task '{task.name}' has {', '.join(labels)}")
    if sorted(names) == sorted(map(str.lower, labels)) and names != [label.lower() for label in labels]:
        raise UsageError(
            f"{path} has the task's labels in another order ({', '.join(names)}, expected {', '.join(labels)}): list "
            "them in the recipe's task.labels in the model's order"
        )
