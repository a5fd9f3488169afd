"""Windows of plain text for matching: pieces of documents, or a sentence beside a passage, drawn by random numbers.

Read from a corpus of the layout "document_sentences", whose examples are documents as [CLS] s1 [SEP] s2 [SEP] ….
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pruneonce.data.corpus import Corpus, Example
from pruneonce.data.layouts import NO_LABEL
from pruneonce.errors import UsageError
from pruneonce.models.tokenizer import separators_between, special_token_ids

LAYOUT = "document_sentences"
DOCUMENT_TOKENS = 4096  # longer documents are several examples of the corpus

# A sentence that plays the question: tokens, and of those each may be left out, as questions are not in the passage.
QUESTION_TOKENS = (5, 40)
WORDS_DROPPED = 0.3
# What stands beside it: the passage that it was taken out of, the same with it still in, or one of another document.
TAKEN_OUT, LEFT_IN = 0.4, 0.7


@dataclass(frozen=True)
class Windows:
    """Draws windows from one split of a corpus. Picklable.

    special_ids: of "cls" and "sep" at least. pairs: share of windows of two texts. separators: [SEP] between two texts.
    """

    corpus: Corpus
    special_ids: Mapping[str, int]
    pairs: float
    separators: int = 1

    def __post_init__(self) -> None:
        if self.corpus.layout != LAYOUT:
            raise UsageError(
                f"{self.corpus.folder} is a corpus of the layout {self.corpus.layout}, matching reads {LAYOUT}: build "
                f"it with `pruneonce data pretraining --layout {LAYOUT} --max-tokens {DOCUMENT_TOKENS}`"
            )

    def draw(self, rng: np.random.Generator, tokens: int) -> Example:
        """A window of at most `tokens` tokens, special ones included; a shorter document gives a shorter one.

        Documents are drawn by their lengths, so that every token of the corpus is as likely as any other.
        """
        sentences = self.sentences(self.document(rng))
        if rng.random() < self.pairs and (pair := self._pair(rng, sentences, tokens)) is not None:
            return pair
        piece = _piece(rng, sentences, tokens - 2)
        ids = np.concatenate([[self.special_ids["cls"]], piece, [self.special_ids["sep"]]])
        return Example(ids, len(ids), NO_LABEL)

    def _pair(self, rng: np.random.Generator, sentences: list[NDArray[np.int64]], tokens: int) -> Example | None:
        """A sentence and a passage; None where no sentence of the document serves."""
        shortest, longest = QUESTION_TOKENS
        special = 2 + self.separators
        longest = min(longest, (tokens - special) // 2)
        fit = [index for index, sentence in enumerate(sentences) if shortest <= len(sentence) <= longest]
        if not fit:
            return None
        chosen = fit[int(rng.integers(len(fit)))]
        question = sentences[chosen]
        room = tokens - special - len(question)
        kind = rng.random()
        if kind < TAKEN_OUT and len(sentences) > 1:
            # Near it: what surrounds the sentence is what speaks of the same.
            others = sentences[:chosen] + sentences[chosen + 1 :]
            passage = _around(rng, others, chosen, room)
        elif kind < LEFT_IN:
            passage = _around(rng, sentences, chosen, room)
        else:
            passage = _piece(rng, self.sentences(self.document(rng)), room)
        if rng.random() < WORDS_DROPPED:
            question = question[rng.random(len(question)) >= WORDS_DROPPED]
        if not len(question):
            return None
        cls, sep = self.special_ids["cls"], self.special_ids["sep"]
        ids = np.concatenate([[cls], question, [sep] * self.separators, passage, [sep]])
        return Example(ids, len(question) + 1 + self.separators, NO_LABEL)

    @functools.cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Tokens of the documents up to and with each: int64 [documents]."""
        ends: NDArray[np.int64] = np.cumsum(self.corpus.lengths, dtype=np.int64)
        return ends

    def document(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The tokens of one, int64 [tokens], drawn by their lengths."""
        place = int(rng.integers(self._ends[-1]))
        return self.corpus[int(np.searchsorted(self._ends, place, side="right"))].input_ids

    def sentences(self, document: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Its sentences, without [CLS] and [SEP]; never empty ones."""
        pieces = np.split(document, np.flatnonzero(document == self.special_ids["sep"]))
        sentences = (piece[piece != self.special_ids["sep"]] for piece in (pieces[0][1:], *pieces[1:]))
        return [sentence for sentence in sentences if len(sentence)]


def windows_for(corpus: Corpus, tokenizer: Tokenizer, pairs: float) -> Windows:
    """Windows with the special tokens of a tokenizer, which the corpus was built with."""
    return Windows(corpus, special_token_ids(tokenizer), pairs, separators_between(tokenizer))


def _piece(rng: np.random.Generator, sentences: list[NDArray[np.int64]], room: int) -> NDArray[np.int64]:
    """Up to `room` tokens from the beginning of a sentence on, or from earlier where the document ends too soon."""
    text = np.concatenate(sentences)
    if len(text) <= room:
        return text
    starts = np.cumsum([0, *map(len, sentences[:-1])])
    start = min(int(starts[int(rng.integers(len(starts)))]), len(text) - room)
    return text[start : start + room]


def _around(rng: np.random.Generator, sentences: list[NDArray[np.int64]], place: int, room: int) -> NDArray[np.int64]:
    """Up to `room` tokens that hold the sentence at `place`, or its neighbours; where in them is random."""
    text = np.concatenate(sentences)
    if len(text) <= room:
        return text
    before = sum(len(sentence) for sentence in sentences[:place])
    start = before - int(rng.integers(room))
    start = min(max(start, 0), len(text) - room)
    return text[start : start + room]
