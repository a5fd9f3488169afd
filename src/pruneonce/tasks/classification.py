"""Tasks with one label per text or pair of texts: a class, or for regression a number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from tokenizers import Encoding, Tokenizer

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.models.tokenizer import beginning, refused_as, require_unicode
from pruneonce.tasks.metrics import METRICS, check_no_nan
from pruneonce.tasks.table import HubData, Table, did_you_mean, read_source

Item = TypeVar("Item")
Text = str | tuple[str, str]  # one text, or a pair

ENCODE_BATCH = 1000  # texts given to the tokenizer at a time: an Encoding takes kilobytes, its ids a hundred bytes


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns that hold the text, the second text of a pair ("" when there is none), and the label."""

    text: str
    text_pair: str = ""
    label: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text, self.text_pair) if self.text_pair else (self.text,)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.texts, self.label)


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text or pair of texts, with the id of its class or, for regression, its number."""

    text: Text
    label: int | float


@dataclass(frozen=True, slots=True, eq=False)
class TextFeature:
    """An example as the model takes it, unpadded: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""

    input_ids: np.ndarray  # int32 [tokens]
    token_type_ids: np.ndarray  # int32 [tokens]; 1 for the second text and its [SEP]
    label: int | float


@dataclass(frozen=True)
class ClassificationTask:
    """How one task is read, turned into features, and scored."""

    name: str
    labels: tuple[str, ...] | None  # in the order of their ids; None: regression
    metrics: tuple[str, ...]  # names in metrics.METRICS; the first is the main one
    schemas: tuple[Columns, ...]  # the forms in which the data is found; the first that fits a source is used
    hub: HubData | None = None
    dev_splits: tuple[str, ...] = ("validation",)  # each is scored, and reported, by itself
    headerless: tuple[str, ...] = ()  # columns of a file whose first line is already data
    skipped_labels: tuple[str, ...] = ()  # rows so labelled are no examples
    drop_broken: bool = False  # leave out rows with too few or too many fields

    pipeline: ClassVar[str] = "text-classification"  # of pruneonce and the Hub, for models of such tasks
    usual_tokens: ClassVar[int] = 128  # longest example, as published
    in_percent: ClassVar[bool] = False  # whether the metrics are percentages

    @property
    def kind(self) -> Literal["classification", "regression"]:
        return "regression" if self.labels is None else "classification"

    @property
    def main_metric(self) -> str:
        return self.metrics[0]

    def read(self, source: str | Path, *, training: bool = False) -> list[TextExample]:
        """Examples of a local file or of one of the task's Hub splits.

        training: the examples are to be learnt from, so that a single class, or a single number, is an error.
        """
        table = read_source(
            source,
            self.hub,
            headerless=self.headerless,
            drop_broken=self.drop_broken,
            txt_is_tsv=self.hub is not None,  # the files of a published task, under the names they have
        )
        columns = self._columns_of(table)
        texts = [table.column(name) for name in columns.texts]
        labels = [label_text(value) for value in table.column(columns.label)]
        examples = [
            TextExample(_text(table, index, row), self._label(table, index, label))
            for index, (*row, label) in enumerate(zip(*texts, labels, strict=True))
            if label not in self.skipped_labels
        ]
        if not examples:
            raise PruneonceError(f"{table.source}: no row has a label")
        if training and len({example.label for example in examples}) == 1:
            raise PruneonceError(f"{table.source}: every example has the same label; there is nothing to learn")
        return examples

    def features(self, examples: Sequence[TextExample], tokenizer: Tokenizer, max_tokens: int) -> list[TextFeature]:
        """One feature per example, in order. Texts of more than `max_tokens` tokens lose the end of the longer one."""
        truncating = truncating_copy(tokenizer, max_tokens)
        return [
            TextFeature(np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int32), example.label)
            for batch in batches(examples, ENCODE_BATCH)
            for example, encoding in zip(batch, encode_texts([e.text for e in batch], truncating), strict=True)
        ]

    def score(
        self, examples: Sequence[TextExample], features: Sequence[TextFeature], logits: np.ndarray
    ) -> dict[str, float]:
        """The task's metrics, main one first. logits: float32 [examples, labels], or [examples, 1] for regression."""
        predictions, labels = map(np.array, self.outcomes(examples, features, logits).values())
        return {name: METRICS[name](predictions, labels) for name in self.metrics}

    def outcomes(
        self, examples: Sequence[TextExample], features: Sequence[TextFeature], logits: np.ndarray
    ) -> dict[str, list[Any]]:
        """What `score` is made of, example by example: `predictions` and `labels`, as ids or numbers."""
        wanted = (len(examples), 1 if self.labels is None else len(self.labels))
        if logits.shape != wanted or len(features) != len(examples):
            raise PruneonceError(f"task {self.name}: expected logits of shape {wanted}, got {logits.shape}")
        check_no_nan(logits)
        predictions = logits[:, 0] if self.labels is None else logits.argmax(axis=1)
        return {"predictions": predictions.tolist(), "labels": [example.label for example in examples]}

    def _columns_of(self, table: Table) -> Columns:
        for columns in self.schemas:
            if set(columns.names) <= set(table.columns):
                return columns
        table.require(self.schemas[0].names)
        raise AssertionError("unreachable: the first schema does not fit")

    def _label(self, table: Table, index: int, text: str) -> int | float:
        if not text:
            raise PruneonceError(f"{table.where(index)}: the label is missing")
        try:
            return _number(text) if self.labels is None else label_id(text, self.labels)
        except ValueError as error:
            raise PruneonceError(f"{table.where(index)}: {error}") from error


def own_task(columns: Columns, labels: Sequence[str] | None) -> ClassificationTask:
    """A task over the user's own files: classification into `labels`, or regression when they are None."""
    if labels is None:
        return ClassificationTask("regression", None, ("pearson", "spearman"), (columns,))
    if len(set(labels)) < max(len(labels), 2):
        raise UsageError(f"a classification task needs two or more different labels, got {', '.join(labels)}")
    metrics = ("accuracy", "f1", "matthews") if len(labels) == 2 else ("accuracy", "matthews")
    return ClassificationTask("classification", tuple(labels), metrics, (columns,))


def discover_labels(source: str | Path, label_column: str) -> tuple[str, ...]:
    """The labels that occur in a file, sorted: as numbers when all are numbers, otherwise as text."""
    table = read_source(source)
    labels = {label_text(value) for value in table.column(label_column)} - {""}
    if len(labels) < 2:
        found = ", ".join(labels) or "none"
        raise PruneonceError(f"{source}: two or more labels are needed in column '{label_column}', found {found}")
    try:
        return tuple(sorted(labels, key=lambda label: (_number(label), label)))
    except ValueError:
        return tuple(sorted(labels))


def label_text(value: Any) -> str:
    """A label as a file or the Hub gives it -> its name: 1, 1.0 and " 1" are "1"; null and NaN are ""."""
    if value is None or value != value:  # only NaN differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def label_id(text: str, labels: Sequence[str]) -> int:
    """Id of the label called `text`; where no label is itself an integer, ids in digits are understood too."""
    if text in labels:
        return labels.index(text)
    if text.isdecimal() and int(text) < len(labels) and not any(_is_integer(label) for label in labels):
        return int(text)
    raise ValueError(f"unknown label '{text}'{did_you_mean(text, labels)}; expected one of {', '.join(labels)}")


def truncating_copy(tokenizer: Tokenizer, max_tokens: int) -> Tokenizer:
    """A copy that cuts longest first to `max_tokens` tokens, special ones included; takes some 40 ms to make."""
    if max_tokens < 4:
        raise UsageError(f"max_tokens must be at least 4 to hold [CLS], [SEP] twice and a token, got {max_tokens}")
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = tokenizer.encode_special_tokens  # the one setting that to_str leaves out
    copy.enable_truncation(max_tokens, strategy="longest_first")
    return copy


def encode_texts(texts: Sequence[Text], tokenizer: Tokenizer) -> list[Encoding]:
    """Texts and pairs as tokens, special ones included, cut by a `truncating_copy`; a pair is (text, text_pair)."""
    assert tokenizer.truncation is not None
    limit = tokenizer.truncation["max_length"]
    read = [text if isinstance(text, tuple) else beginning(tokenizer, text, limit) for text in texts]
    with refused_as("the texts cannot be tokenised"):
        encodings: list[Encoding] = tokenizer.encode_batch_fast(read)
    return encodings


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive slices of at most `size` items."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _text(table: Table, index: int, row: Sequence[Any]) -> Text:
    for value in row:
        if not isinstance(value, str):
            raise PruneonceError(f"{table.where(index)}: expected text, found {type(value).__name__}")
        require_unicode(value, f"{table.where(index)}: the text")
    return (row[0], row[1]) if len(row) == 2 else row[0]


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"expected a number as label, found '{text}'")
    return number


def _is_integer(text: str) -> bool:
    return text.lstrip("+-").isdecimal()
