"""What is computed: batches of token ids, the same for every engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from pruneonce.errors import UsageError
from pruneonce.formats.stored_tensors import Array
from pruneonce.models.tokenizer import special_token_ids

# Tokens of question and paragraph, at most 384: quantiles 1/32, 3/32 … 31/32 of 20 articles of SQuAD 1.1 dev.
SQUAD_LENGTHS = (110, 123, 131, 138, 145, 151, 158, 166, 176, 185, 196, 211, 232, 254, 284, 370)
FIRST_WORD = 1000  # of BERT's vocabulary; what is below are special, unused and single characters


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences of one call; padded views for engines that need them."""

    name: str
    sequences: tuple[Array, ...]  # int64 [tokens] each
    pad_id: int = 0
    types: tuple[Array, ...] | None = None  # token types like sequences; None: all 0
    padded_tokens: int = 0  # what rivals pad to, where it is more than the longest

    @property
    def lengths(self) -> list[int]:
        return [len(sequence) for sequence in self.sequences]

    @property
    def shape(self) -> tuple[int, int]:
        """(sequences, tokens of each when padded)."""
        return len(self.sequences), max(*self.lengths, self.padded_tokens)

    def padded(self) -> tuple[Array, Array, Array]:
        """(token ids, attention mask, token types), int64 [sequences, tokens]."""
        ids, mask = np.full(self.shape, self.pad_id, np.int64), np.zeros(self.shape, np.int64)
        types = np.zeros(self.shape, np.int64)
        for row, sequence in enumerate(self.sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
            if self.types is not None:
                types[row, : len(sequence)] = self.types[row]
        return ids, mask, types


class Inputs:
    """Makes batches: tokens of a text file in order, or random words."""

    def __init__(self, tokenizer: Tokenizer, *, texts: Path | None = None, seed: int = 0) -> None:
        self._special = special_token_ids(tokenizer)
        vocabulary = tokenizer.get_vocab_size()
        self._random = np.random.default_rng(seed)
        self._words = (min(FIRST_WORD, vocabulary // 2), vocabulary)
        self._text: Array | None = None
        if texts is not None:
            try:
                lines = texts.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"--texts {texts} cannot be read: {error}") from error
            ids = [encoding.ids for encoding in tokenizer.encode_batch(lines, add_special_tokens=False)]
            self._text = np.array([token for line in ids for token in line], np.int64)
            if not len(self._text):
                raise UsageError(f"--texts {texts} holds no text")

    def batch(self, name: str, lengths: Sequence[int]) -> Batch:
        """[CLS] words [SEP] of the given lengths, each at least 2."""
        return Batch(name, tuple(self._sequence(length) for length in lengths), self._special["pad"])

    def _sequence(self, length: int) -> Array:
        if self._text is None:
            words = self._random.integers(*self._words, length - 2)
        else:
            words = np.resize(self._text, length - 2)
            self._text = np.roll(self._text, 2 - length)
        return np.array([self._special["cls"], *words, self._special["sep"]], np.int64)


def parse_grid(text: str, max_tokens: int) -> list[tuple[int, int]]:
    """ "1x32,16x128" -> [(1, 32), (16, 128)]: (sequences, tokens each). UsageError says which cell is wrong."""
    cells = []
    for cell in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d{0,4})x([1-9]\d{0,4})\s*", cell)
        if not match:
            raise UsageError(f"--grid cell '{cell}' is not SEQUENCESxTOKENS, as in 16x128")
        sequences, tokens = int(match[1]), int(match[2])
        if not 2 <= tokens <= max_tokens:
            raise UsageError(f"--grid cell '{cell}': this model takes 2 to {max_tokens} tokens")
        cells.append((sequences, tokens))
    return cells


def mixed_lengths(source: str, max_tokens: int) -> list[int]:
    """Lengths of the mixed case: "squad", or a file with one whole number per line; cut to the model's `max_tokens`."""
    if source == "squad":
        lengths = list(SQUAD_LENGTHS)
    else:
        try:
            lengths = [int(line) for line in Path(source).read_text(encoding="utf-8").split()]
        except (OSError, ValueError) as error:
            raise UsageError(f"--mixed {source}: 'squad' or a file of token counts is expected: {error}") from error
    if not lengths or min(lengths) < 2:
        raise UsageError(f"--mixed {source}: expected token counts of at least 2")
    return [min(length, max_tokens) for length in lengths]
