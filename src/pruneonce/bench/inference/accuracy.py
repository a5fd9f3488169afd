"""Every engine's answers to one real task, scored alike: what int8 costs is not only time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pruneonce.bench.inference.cases import Batch
from pruneonce.bench.inference.rivals import Engine, rows
from pruneonce.evaluation.packed import score_predictions
from pruneonce.models.tokenizer import special_token_ids
from pruneonce.progress import Advance
from pruneonce.recipe import TaskData
from pruneonce.tasks.recipe_data import max_tokens_of, task_of


def score_engines(
    engines: Sequence[Engine], data: TaskData, tokenizer: Tokenizer, max_tokens: int, on_progress: Advance
) -> dict[str, dict[str, float]]:
    """Engine -> the task's metrics on its validation data.

    One example at a time; rivals that want fixed shapes get it padded to the task's longest. max_tokens: the model's.
    """
    data = replace(data, max_tokens=min(max_tokens, max_tokens_of(data)))
    task, width, pad = task_of(data), max_tokens_of(data), special_token_ids(tokenizer)["pad"]
    metrics = {}
    for number, engine in enumerate(engines):
        on_progress(number, len(engines), f"{data.name} with {engine.name}")

        def predict(features: Sequence[Any], engine: Engine = engine) -> list[np.ndarray]:
            answers = []
            for feature in features:
                ids, types = (np.asarray(each, np.int64) for each in (feature.input_ids, feature.token_type_ids))
                output = engine.prepare(Batch("", (ids,), pad, (types,), width))()[1]
                answers.append(rows(output, [len(ids)])[0])
            return answers

        metrics[engine.name] = score_predictions(predict, task, data, tokenizer)
    return metrics
