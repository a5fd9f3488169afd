"""Texts in the order in which they answer a query, by a model that reads both: one logit per pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from tokenizers import Tokenizer

from pruneonce.errors import PruneonceError
from pruneonce.tasks.classification import TextFeature
from pruneonce.tasks.embedding import sequences_of, text_of, unit_label
from pruneonce.tasks.metrics import check_no_nan
from pruneonce.tasks.retrieval import RANKING_METRICS, retrieval_scores
from pruneonce.tasks.table import read_source

MOST_TEXTS = 16  # of one query in a training example: they are in memory together


@dataclass(frozen=True, slots=True)
class RankingExample:
    """A query and its texts, with a label of 0 to 1 each."""

    text: tuple[str, ...]  # the query, then the texts
    label: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RankingFeature:
    """An example as the model takes it: a pair for each of its texts."""

    sequences: tuple[TextFeature, ...]
    label: tuple[float, ...]

    @property
    def input_ids(self) -> np.ndarray:
        """All of its tokens, pair after pair: int32 [tokens]."""
        return np.concatenate([each.input_ids for each in self.sequences])


@dataclass(frozen=True)
class RankingTask:
    """How the user's own queries and texts are read, turned into features, and scored."""

    text: str = "text"  # names of columns: the query
    text_pair: str = "text_pair"
    label: str = "label"  # how well the text answers: 0 to `label_max`
    label_max: float = 1.0

    name: ClassVar[str] = "ranking"
    kind: ClassVar[Literal["ranking"]] = "ranking"
    labels: ClassVar[None] = None
    dev_splits: ClassVar[tuple[str, ...]] = ("validation",)
    hub: ClassVar[None] = None
    metrics: ClassVar[tuple[str, ...]] = RANKING_METRICS
    main_metric: ClassVar[str] = RANKING_METRICS[0]
    pipeline: ClassVar[str] = "text-ranking"  # of pruneonce and the Hub, for models of such tasks
    usual_tokens: ClassVar[int] = 128
    in_percent: ClassVar[bool] = False

    def read(self, source: str | Path, *, training: bool = False) -> list[RankingExample]:
        """An example per query of a local file, in the order of their first rows; each row is a query and a text.

        training: lists of more than MOST_TEXTS are several examples.
        """
        table = read_source(source)
        columns = (self.text, self.text_pair, self.label)
        table.require(columns)
        lists: dict[str, list[tuple[str, float]]] = {}
        for index, (query, text, label) in enumerate(zip(*(table.column(name) for name in columns), strict=True)):
            found = unit_label(table, index, label, self.label_max)
            if found is None:
                raise PruneonceError(f"{table.where(index)}: the label is missing")
            asked = lists.setdefault(text_of(table, index, query), [])
            asked.append((text_of(table, index, text), found))
        size = MOST_TEXTS if training else max(map(len, lists.values()))
        return [
            RankingExample((query, *(text for text, _ in part)), tuple(label for _, label in part))
            for query, asked in lists.items()
            for part in (asked[begin : begin + size] for begin in range(0, len(asked), size))
        ]

    def features(
        self, examples: Sequence[RankingExample], tokenizer: Tokenizer, max_tokens: int
    ) -> list[RankingFeature]:
        """One feature per example, in order. Pairs of more than `max_tokens` lose the end of the longer text."""
        pairs = [(example.text[0], text) for example in examples for text in example.text[1:]]
        parts = iter(sequences_of(pairs, tokenizer, max_tokens))
        return [RankingFeature(tuple(next(parts) for _ in example.label), example.label) for example in examples]

    def outcomes(
        self, examples: Sequence[RankingExample], features: Sequence[RankingFeature], logits: Sequence[np.ndarray]
    ) -> dict[str, list[Any]]:
        """Each metric of every query. logits: float32 [texts] per example."""
        rows = []
        for example, scores in zip(examples, logits, strict=True):
            if scores.shape != (len(example.label),):
                raise PruneonceError(f"task ranking: expected {len(example.label)} logits, got shape {scores.shape}")
            check_no_nan(scores)
            rows.append(retrieval_scores(scores, np.array(example.label))[: len(RANKING_METRICS)])
        return {name: list(column) for name, column in zip(RANKING_METRICS, zip(*rows, strict=True), strict=True)}
