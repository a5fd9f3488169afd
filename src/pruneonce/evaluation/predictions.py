"""`predictions.json`: what a run answered to each validation example, so that two runs can be compared pairwise.

A split holds the digest of its examples, the names of its metrics, and columns of one value per example, in the order
of the file: `predictions` and `labels` (ids, or numbers for regression), or for question answering `answers`, and
`exact_match` and `f1` as fractions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce.errors import PruneonceError
from pruneonce.files import check_format_version, read_json, sha256_json, write_text
from pruneonce.tasks import QuestionAnsweringTask, Task
from pruneonce.tasks.metrics import METRICS

FILE_NAME = "predictions.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Split:
    """One validation split as a run answered it."""

    examples: str  # digest: equal ones mean the same examples in the same order
    metrics: tuple[str, ...]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def is_mean(self, metric: str) -> bool:
        """True where the metric is a mean over the examples."""
        return metric in self.columns or metric == "accuracy"

    def per_example(self, metric: str) -> np.ndarray:
        """The values whose mean the metric is: float64 [examples]."""
        if metric in self.columns:
            scale = 100 if metric in QuestionAnsweringTask.metrics else 1  # SQuAD's scores are percentages
            return scale * np.asarray(self.columns[metric], dtype=np.float64)
        predictions, labels = self._answers()
        return (predictions == labels).astype(np.float64)

    def metric(self, name: str, rows: np.ndarray | None = None) -> float:
        """A metric over all examples, or over those at `rows` (which may repeat)."""
        if self.is_mean(name):
            values = self.per_example(name)
            return float(np.mean(values if rows is None else values[rows]))
        predictions, labels = self._answers()
        return METRICS[name](*((predictions, labels) if rows is None else (predictions[rows], labels[rows])))

    def _answers(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.columns["predictions"]), np.asarray(self.columns["labels"])


def make_split(task: Task, examples: Sequence[Any], outcomes: dict[str, list[Any]]) -> Split:
    """A split from a task's outcomes on `examples`."""
    if isinstance(task, QuestionAnsweringTask):
        identities = [[example.id, example.question, example.context, example.answers] for example in examples]
    else:
        identities = [[example.text, example.label] for example in examples]
    return Split(sha256_json(identities), tuple(task.metrics), outcomes)


def write_predictions(folder: Path, task: str, splits: dict[str, Split]) -> None:
    """Write the file into a run folder. splits: suffix of the metric names -> split."""
    record = {
        "format_version": FORMAT_VERSION,
        "task": task,
        "splits": {
            suffix: {"examples": split.examples, "metrics": split.metrics, **split.columns}
            for suffix, split in splits.items()
        },
    }
    write_text(folder / FILE_NAME, json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_predictions(folder: str | Path) -> tuple[str, dict[str, Split]]:
    """(task, suffix -> split) of a run folder. PruneonceError when there is none, or it is damaged."""
    file = Path(folder) / FILE_NAME
    if not file.is_file():
        raise PruneonceError(
            f"{folder} has no {FILE_NAME}: it was made by an older version, or by a stage without a task. Run its "
            "stage again in another folder"
        )
    record = read_json(file)
    check_format_version(file, record.get("format_version") if isinstance(record, dict) else None, FORMAT_VERSION)
    try:
        splits = {suffix: _read_split(dict(values)) for suffix, values in record["splits"].items()}
        return str(record["task"]), splits
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PruneonceError(f"{file} is damaged: {error!r}") from error


def _read_split(values: dict[str, Any]) -> Split:
    split = Split(str(values.pop("examples")), tuple(map(str, values.pop("metrics"))), values)
    if not values or len({len(column) for column in values.values()}) != 1 or not len(split):
        raise ValueError("its columns are not of one length")
    for name in split.metrics:
        split.metric(name, np.arange(1))  # every column it needs is there, and of numbers
    return split
