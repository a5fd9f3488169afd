"""Texts as vectors: pairs that belong together, triplets, or pairs with a graded similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from tokenizers import Tokenizer

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.models.sentence import Pooling
from pruneonce.models.tokenizer import require_unicode
from pruneonce.tasks.classification import ENCODE_BATCH, TextFeature, batches, encode_texts, truncating_copy
from pruneonce.tasks.metrics import check_no_nan
from pruneonce.tasks.retrieval import RETRIEVAL_METRICS, retrieval_scores
from pruneonce.tasks.table import Table, read_source

QUERIES_AT_ONCE = 256  # whose similarities to all candidates are in memory


@dataclass(frozen=True, slots=True)
class EmbeddingExample:
    """A text alone; a text and one that belongs to it, and perhaps one that does not; or two texts and a similarity."""

    text: tuple[str, ...]
    label: float | None = None  # similarity, 0 to 1


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingFeature:
    """An example as the model takes it: a sequence for each of its texts."""

    sequences: tuple[TextFeature, ...]
    label: float | None

    @property
    def input_ids(self) -> np.ndarray:
        """All of its tokens, sequence after sequence: int32 [tokens]."""
        return np.concatenate([each.input_ids for each in self.sequences])


@dataclass(frozen=True)
class EmbeddingTask:
    """How the user's own texts are read, turned into features, and scored."""

    text: str = "text"  # names of columns
    text_pair: str = "text_pair"
    negative: str = ""  # a text that does not belong to the first; "": there are none
    label: str = ""  # graded similarity; "": pairs belong together
    label_max: float = 1.0  # the label of two texts that mean the same; the least is 0
    pooling: tuple[Pooling, ...] = ("mean",)  # of the states of a text's tokens

    name: ClassVar[str] = "embedding"
    kind: ClassVar[Literal["embedding"]] = "embedding"
    labels: ClassVar[None] = None
    dev_splits: ClassVar[tuple[str, ...]] = ("validation",)
    hub: ClassVar[None] = None
    pipeline: ClassVar[str] = "sentence-similarity"  # of pruneonce and the Hub, for models of such tasks
    usual_tokens: ClassVar[int] = 128
    in_percent: ClassVar[bool] = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """The first is the main one."""
        return ("spearman", "pearson", "average_precision") if self.label else RETRIEVAL_METRICS

    @property
    def main_metric(self) -> str:
        return self.metrics[0]

    def read(self, source: str | Path, *, training: bool = False) -> list[EmbeddingExample]:
        """Examples of a local file.

        training: a file without the second column holds texts alone, whose vectors are a teacher's to give.
        """
        table = read_source(source)
        alone = training and self.text_pair not in table.columns
        columns = [self.text] if alone else [name for name in (self.text, self.text_pair, self.negative) if name]
        table.require(columns)
        texts = zip(*(table.column(name) for name in columns), strict=True)
        labels = [None] * len(table.rows) if alone or not self.label else table.column(self.label)
        return [
            EmbeddingExample(
                tuple(text_of(table, index, text) for text in row), unit_label(table, index, label, self.label_max)
            )
            for index, (row, label) in enumerate(zip(texts, labels, strict=True))
        ]

    def features(
        self, examples: Sequence[EmbeddingExample], tokenizer: Tokenizer, max_tokens: int
    ) -> list[EmbeddingFeature]:
        """One feature per example, in order; each text is cut to `max_tokens`."""
        flat = sequences_of([text for example in examples for text in example.text], tokenizer, max_tokens)
        parts = iter(flat)
        return [EmbeddingFeature(tuple(next(parts) for _ in example.text), example.label) for example in examples]

    def outcomes(
        self, examples: Sequence[EmbeddingExample], features: Sequence[EmbeddingFeature], logits: Sequence[np.ndarray]
    ) -> dict[str, list[Any]]:
        """What the metrics are made of. logits: float32 [texts, size] per example, its texts' vectors.

        Graded pairs: `predictions`, the cosine, and `labels`. Others: each metric of every different first text, among
        all second and third texts of the file; right are the second ones of its rows.
        """
        if not all(len(each) == len(example.text) > 1 for each, example in zip(logits, examples, strict=True)):
            raise PruneonceError("vectors are scored on pairs of texts: the validation file needs a second column")
        units = [_unit(each) for each in logits]
        if self.label:
            cosines = [float(each[0] @ each[1]) for each in units]
            return {"predictions": cosines, "labels": [example.label for example in examples]}
        queries: dict[str, tuple[np.ndarray, set[int]]] = {}
        found: dict[str, int] = {}
        candidates: list[np.ndarray] = []
        for example, vectors in zip(examples, units, strict=True):
            for text, vector in zip(example.text[1:], vectors[1:], strict=True):
                if text not in found:
                    found[text] = len(candidates)
                    candidates.append(vector)
            _, right = queries.setdefault(example.text[0], (vectors[0], set()))
            right.add(found[example.text[1]])
        rows: list[tuple[float, ...]] = []
        among = np.stack(candidates)
        for batch in batches(list(queries.values()), QUERIES_AT_ONCE):
            for scores, (_, right) in zip(np.stack([vector for vector, _ in batch]) @ among.T, batch, strict=True):
                relevance = np.zeros(len(among))
                relevance[sorted(right)] = 1
                rows.append(retrieval_scores(scores, relevance))
        return {name: list(column) for name, column in zip(RETRIEVAL_METRICS, zip(*rows, strict=True), strict=True)}


def sequences_of(texts: Sequence[Any], tokenizer: Tokenizer, max_tokens: int) -> list[TextFeature]:
    """Texts or pairs as sequences of at most `max_tokens`; the same text is one object."""
    truncating = truncating_copy(tokenizer, max_tokens)
    known: dict[Any, TextFeature] = {}
    for batch in batches(list(dict.fromkeys(texts)), ENCODE_BATCH):
        for text, encoding in zip(batch, encode_texts(batch, truncating), strict=True):
            ids, types = np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int32)
            known[text] = TextFeature(ids, types, 0)
    return [known[text] for text in texts]


def text_of(table: Table, index: int, value: Any) -> str:
    """A text of a row; PruneonceError, which names the place, for anything else."""
    if not isinstance(value, str):
        raise PruneonceError(f"{table.where(index)}: expected text, found {type(value).__name__}")
    require_unicode(value, f"{table.where(index)}: the text")
    return value


def unit_label(table: Table, index: int, value: Any, largest: float) -> float | None:
    """A label of 0 to `largest` as 0 to 1; None where a task has none."""
    if value is None:
        return None
    try:
        label = float(value) / largest
    except (TypeError, ValueError):
        label = -1.0
    if not 0 <= label <= 1:
        raise UsageError(
            f"{table.where(index)}: the label {str(value)[:40]!a} is no number of 0 to {largest:g}; set task.label_max "
            "to the largest there is"
        )
    return label


def _unit(vectors: np.ndarray) -> np.ndarray:
    check_no_nan(vectors)
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
