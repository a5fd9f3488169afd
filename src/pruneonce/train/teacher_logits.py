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
from pruneonce.train.task_model import torch_predict

FILE_NAME = "teacher_logits.safetensors"


def answers_pay(examples_trained: int, examples: int, processes: int = 1) -> bool:
    """Whether the teacher should answer every example beforehand: on CPUs, if most come up more than once."""
    return examples_trained >= 1.5 * examples and processes == 1 and not torch.accelerator.is_available()


def teacher_logits(
    teacher: Any,
    task: Task,
    features: Sequence[Any],
    pad_id: int,
    folder: Path,
    on_progress: Advance | None = None,
) -> list[np.ndarray]:
    """One float32 array per feature: logits [labels], or [tokens, 2] for spans.

    They are read from `folder` if a run that was interrupted left them there, so that it goes on with the same bits;
    else computed and written. PruneonceError if the file there is damaged.
    """
    file = folder / FILE_NAME
    if file.is_file():
        return _read(file, features)
    logits = torch_predict(teacher, task, pad_id, on_progress)(features)
    logits = [np.ascontiguousarray(each, np.float32) for each in logits]
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        save_file(
            {
                "logits": np.concatenate([each.ravel() for each in logits]),
                "sizes": np.array([each.shape[0] for each in logits], np.int64),
            },
            temporary,
        )
    return logits


def _read(file: Path, features: Sequence[Any]) -> list[np.ndarray]:
    try:
        tensors = load_file(file)
        logits, sizes = tensors["logits"], tensors["sizes"]
        if len(sizes) != len(features) or logits.ndim != 1 or logits.dtype != np.float32 or (sizes <= 0).any():
            raise ValueError(f"{len(sizes)} answers for {len(features)} examples")
        columns, rest = divmod(len(logits), int(sizes.sum()))
        if rest or columns not in (1, 2):
            raise ValueError(f"{len(logits)} logits for {int(sizes.sum())} places")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise PruneonceError(
            f"{file} does not hold the teacher's answers ({error}): delete it, and run the same command again"
        ) from error
    ends = np.cumsum(sizes) * columns
    parts = np.split(logits, ends[:-1])
    return [part.reshape(-1, 2) if columns == 2 else part for part in parts]
