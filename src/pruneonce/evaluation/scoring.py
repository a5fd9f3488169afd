"""Score a torch model on a task's data: after fine-tuning, and for `pruneonce evaluate`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from pruneonce.convert.to_packed import DEFAULT_EMBEDDINGS
from pruneonce.evaluation.packed import engine_predict, packed_task, score_predictions
from pruneonce.formats.record import read_provenance
from pruneonce.formats.scales_file import read_quantization
from pruneonce.formats.stored_tensors import FLOAT_TYPES, decode_floats, encode_floats
from pruneonce.models import family_of
from pruneonce.models.hub import load_config
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids, tokenizer_from_text
from pruneonce.progress import Advance
from pruneonce.recipe import TaskData
from pruneonce.sparsity.cpu_training import as_served
from pruneonce.sparsity.quantizer import quantized
from pruneonce.tasks import Task
from pruneonce.tasks.recipe_data import task_of, with_labels_of, with_length_of, with_pooling_of
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


@contextlib.contextmanager
def embeddings_as_exported(model: Any) -> Iterator[None]:
    """Within it a quantised model's embeddings are those of the file that `export` makes by default, float16.

    Int8 layers make whole steps of such differences: without this, the score is that of a file which nobody has.
    """
    family = family_of(model.config.model_type)
    tables = [
        parameter
        for name, parameter in model.named_parameters()
        if family.encoder_name(name) in family.embedding_tables and parameter.dim() == 2
    ]
    before = [table.detach().clone() for table in tables]
    try:
        with torch.no_grad():
            for table in tables:
                stored = encode_floats(table.detach().float().cpu().numpy(), DEFAULT_EMBEDDINGS)
                table.copy_(torch.from_numpy(decode_floats(stored, FLOAT_TYPES[DEFAULT_EMBEDDINGS])))
        yield
    finally:
        with torch.no_grad():
            for table, old in zip(tables, before, strict=True):
                table.copy_(old)


def score_folder(
    model: str | Path,
    data: TaskData,
    on_progress: Advance | None = None,
    *,
    examples: Mapping[str, Sequence[Any]] | None = None,
    keep_in: Path | None = None,
) -> dict[str, float]:
    """Load a fine-tuned model and `score` it, rounding as its quantisation says if it has one.

    A pruned model on a CPU answers by its non-zeros alone: several times as fast, alike but for rounding. Memory
    that is freed meanwhile then stays with the process (glibc).
    Class names of one's own task are read from the model's config.
    examples, keep_in: as in `score`. UsageError if the model has no head for the task, or one with other labels.
    """
    record = read_provenance(model)
    data = with_length_of(with_labels_of(data, lambda: _labels_in_config(model)), asdict(record) if record else None)
    data = with_pooling_of(data, model)
    task = task_of(data)
    loaded, _ = load_task_model(model, task, trained=True)
    layers = read_quantization(model)
    with embeddings_as_exported(loaded) if layers else contextlib.nullcontext(), as_served(loaded, layers):
        tokenizer = load_tokenizer(model)
        return score(loaded, task, data, tokenizer, examples=examples, keep_in=keep_in, on_progress=on_progress)


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
