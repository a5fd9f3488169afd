"""Documents to examples: the two layouts of the reference, as functions of sentences and random numbers alone.

- `segment_pair_nsp` (BERT): [CLS] A [SEP] B [SEP], where B follows A in the document (label 0) or is from elsewhere
  (label 1), after Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1;
- `document_sentences` (DistilBERT): [CLS] s1 [SEP] s2 [SEP] ... [SEP], sentences of one document, no labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -1


@dataclass(frozen=True)
class Cutting:
    """How documents become examples."""

    max_tokens: int  # special tokens included
    short_sequence_probability: float  # of a document being cut into examples of a random, smaller length
    random_next_probability: float  # of B coming from another document
    cls: int  # ids of the special tokens
    sep: int


class Document(NamedTuple):
    """A tokenised document: `tokens[bounds[i] : bounds[i + 1]]` is its sentence i, never empty."""

    number: int  # within its shard of articles, counted before any split or shuffle
    tokens: NDArray[np.int32]  # [tokens]
    bounds: list[int]  # [sentences + 1]

    @property
    def sentences(self) -> int:
        return len(self.bounds) - 1

    def span(self, start: int, stop: int) -> NDArray[np.int32]:
        """Tokens of the sentences start ... stop - 1."""
        return self.tokens[self.bounds[start] : self.bounds[stop]]


def segment_pairs(
    documents: Sequence[Document], position: int, rng: np.random.Generator, cutting: Cutting
) -> Iterator[tuple[NDArray[Any], int, int]]:
    """Examples of `documents[position]` as (ids, segment_b_start, label).

    Sentences are gathered until they reach the target length, and cut at a random sentence into A and B. B is replaced
    by a run of sentences of another document of this shard and split with `random_next_probability`, or always when A
    is the only sentence; what B would have been is put back. Where there is no other document, B is always the actual
    next, and a sentence without a next is dropped.
    """
    document = documents[position]
    budget = cutting.max_tokens - 3
    target = _target_tokens(budget, rng, cutting)
    start = 0
    while start < document.sentences:
        stop = _reach(document, start, target)
        if len(documents) == 1:
            stop = max(stop, min(start + 2, document.sentences))  # B can only be the next sentence
        cut = start + int(rng.integers(1, stop - start)) if stop - start > 1 else stop
        a = document.span(start, cut)
        is_random = cut == stop or rng.random() < cutting.random_next_probability
        if is_random and len(documents) > 1:
            other = documents[_another(len(documents), position, rng)]
            first = int(rng.integers(other.sentences))
            b = other.span(first, _reach(other, first, target - len(a)))
            start = cut
        elif cut < stop:
            b = document.span(cut, stop)
            is_random = False
            start = stop
        else:
            return  # one sentence is left, and no other document to draw from
        yield _pair(*truncate(a, b, budget), int(is_random), cutting)


def _target_tokens(budget: int, rng: np.random.Generator, cutting: Cutting) -> int:
    """Tokens at which a document's examples are full: `budget`, or now and then any number from 2 to it."""
    is_short = rng.random() < cutting.short_sequence_probability
    return int(rng.integers(2, budget + 1)) if is_short else budget


def _reach(document: Document, start: int, tokens: int) -> int:
    """The least stop > start such that sentences start ... stop - 1 have `tokens` tokens, or the document's end."""
    bounds = document.bounds
    stop = start + 1
    while stop < document.sentences and bounds[stop] - bounds[start] < tokens:
        stop += 1
    return stop


def _another(count: int, position: int, rng: np.random.Generator) -> int:
    """Uniform in 0 ... count - 1 without `position`."""
    drawn = int(rng.integers(count - 1))
    return drawn + (drawn >= position)


def truncate(a: NDArray[Any], b: NDArray[Any], budget: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Drop tokens one by one from the end of the longer (of b when equal) until both fit: "longest_first"."""
    if len(a) + len(b) <= budget:
        return a, b
    b_tokens = budget // 2
    if min(len(a), len(b)) <= b_tokens:
        b_tokens = len(b) if len(b) <= len(a) else budget - len(a)
    return a[: budget - b_tokens], b[:b_tokens]


def _pair(a: NDArray[Any], b: NDArray[Any], label: int, cutting: Cutting) -> tuple[NDArray[Any], int, int]:
    ids = np.concatenate([[cutting.cls], a, [cutting.sep], b, [cutting.sep]])
    return ids, len(a) + 2, label


def document_sentences(
    documents: Sequence[Document], position: int, rng: np.random.Generator, cutting: Cutting
) -> Iterator[tuple[NDArray[Any], int, int]]:
    """Examples of `documents[position]` as (ids, number of ids, NO_LABEL): whole sentences joined by [SEP].

    A sentence longer than the maximum is cut into pieces. One longer than a short document's target stays whole.
    """
    budget = cutting.max_tokens - 2
    target = _target_tokens(budget, rng, cutting)
    packed: list[NDArray[Any]] = []
    tokens = 0  # of `packed` joined, which has a [SEP] between any two
    for piece in _pieces(documents[position], budget):
        if packed and tokens + 1 + len(piece) > target:
            yield _joined(packed, cutting)
            packed, tokens = [], 0
        tokens += len(piece) + (1 if packed else 0)
        packed.append(piece)
    yield _joined(packed, cutting)


def _pieces(document: Document, longest: int) -> Iterator[NDArray[np.int32]]:
    for start, stop in itertools.pairwise(document.bounds):
        for first in range(start, stop, longest):
            yield document.tokens[first : min(first + longest, stop)]


def _joined(pieces: Sequence[NDArray[Any]], cutting: Cutting) -> tuple[NDArray[Any], int, int]:
    separator = [cutting.sep]
    ids = np.concatenate([[cutting.cls], *itertools.chain.from_iterable((piece, separator) for piece in pieces)])
    return ids, len(ids), NO_LABEL


Layout = Callable[[Sequence[Document], int, np.random.Generator, Cutting], Iterator[tuple[NDArray[Any], int, int]]]
LAYOUTS: dict[str, Layout] = {"segment_pair_nsp": segment_pairs, "document_sentences": document_sentences}
