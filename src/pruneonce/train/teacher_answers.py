"""A task teacher's answers, computed once: it is frozen, so that every pass over the data would repeat them.

A dense teacher's forward pass takes longer than the whole training step of a student that computes its non-zeros alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pruneonce.errors import PruneonceError
from pruneonce.files import replacing
from pruneonce.progress import Advance
from pruneonce.tasks import Task
from pruneonce.train.heads import head_of
from pruneonce.train.losses import HiddenStatesLoss
from pruneonce.train.task_model import torch_answers

FILE_NAME = "teacher_logits.safetensors"
# Of hidden states that are kept, in memory and in the file. Logits always fit; SQuAD through six layers of 384 takes
# 130 GB in float32, and in fewer bits training would differ from one whose teacher is asked in each step.
HIDDEN_BYTES_KEPT = 1 << 30


def answers_pay(examples_trained: int, examples: int, processes: int = 1, hidden_bytes: int = 0) -> bool:
    """Whether the teacher should answer every example beforehand: on CPUs, if most come up more than once.

    hidden_bytes: `hidden_states_bytes` of what is asked; more than `HIDDEN_BYTES_KEPT` are never stored.
    """
    often = examples_trained >= 1.5 * examples and processes == 1 and not torch.accelerator.is_available()
    return often and hidden_bytes <= HIDDEN_BYTES_KEPT


def hidden_states_bytes(tokens: int, layers: int, hidden_size: int) -> int:
    """What the hidden states of so many real tokens take in float32."""
    return 4 * tokens * layers * hidden_size


def teacher_answers(
    teacher: Any,
    task: Task,
    features: Sequence[Any],
    pad_id: int,
    folder: Path,
    hidden: HiddenStatesLoss | None = None,
    on_progress: Advance | None = None,
) -> dict[str, list[np.ndarray]]:
    """What loss terms read, one float32 array per feature each.

    "logits": as `Head.answer` gives them, [labels], or [tokens, 2] for spans. "hidden_states", if the term `hidden` is
    given: [layers, tokens, size]. They are read from `folder` if a run that was interrupted left them there, so that it
    goes on with the same bits; else computed and written. PruneonceError if the file there is damaged.
    """
    file = folder / FILE_NAME
    if file.is_file():
        return _read(file, features, head_of(task).answer_columns, hidden is not None)
    answers = torch_answers(teacher, task, pad_id, hidden, on_progress)(features)
    logits = [np.ascontiguousarray(each, np.float32) for each, _ in answers]
    tensors = {
        "logits": np.concatenate([each.ravel() for each in logits]),
        "sizes": np.array([each.shape[0] for each in logits], np.int64),
    }
    found = {"logits": logits}
    if hidden is not None:
        found["hidden_states"] = [states for _, states in answers]
        tensors["hidden_states"] = np.concatenate(found["hidden_states"], axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        save_file(tensors, temporary)
    return found


def _read(file: Path, features: Sequence[Any], columns: int | None, hidden: bool) -> dict[str, list[np.ndarray]]:
    try:
        tensors = load_file(file)
        found = {"logits": _read_logits(tensors["logits"], tensors["sizes"], len(features), columns)}
        if hidden:
            states, lengths = tensors["hidden_states"], [len(feature.input_ids) for feature in features]
            if states.ndim != 3 or states.dtype != np.float32 or states.shape[1] != sum(lengths):
                raise ValueError(f"hidden states of shape {states.shape} for {sum(lengths)} tokens")
            found["hidden_states"] = np.split(states, np.cumsum(lengths)[:-1], axis=1)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise PruneonceError(
            f"{file} does not hold the teacher's answers ({error}): delete it, and run the same command again"
        ) from error
    return found


def _read_logits(logits: np.ndarray, sizes: np.ndarray, examples: int, columns: int | None) -> list[np.ndarray]:
    if len(sizes) != examples or logits.ndim != 1 or logits.dtype != np.float32 or (sizes <= 0).any():
        raise ValueError(f"{len(sizes)} answers for {examples} examples")
    flat = columns == 1
    columns = columns or len(logits) // max(1, int(sizes.sum()))
    if len(logits) != columns * int(sizes.sum()):
        raise ValueError(f"{len(logits)} logits for {int(sizes.sum())} places")
    parts = np.split(logits, (np.cumsum(sizes) * columns)[:-1])
    return [part if flat else part.reshape(-1, columns) for part in parts]
