"""A model folder's tokenizer, as the `tokenizers` library's object: the same text rules for training and engine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from pruneonce.errors import UsageError
from pruneonce.models import FAMILIES
from pruneonce.models.family import SpecialTokens
from pruneonce.models.hub import converted_tokenizer

LONG_TEXT = 1 << 17  # characters; while it encodes a text, the library takes up to a kilobyte for each
_WORD_END = re.compile(r"(?:[^\W_]|[!-/:-@\[-^`{-~])(?= )")


def load_tokenizer(model: str | Path) -> Tokenizer:
    """The fast tokenizer of a model folder (or Hub id), with padding and truncation off.

    A folder with `tokenizer.json` needs nothing else; older ones (only `vocab.txt`) and Hub ids are converted by
    transformers. "[MASK]" and the like in a text are ordinary characters: text cannot forge special tokens.
    """
    file = Path(model) / "tokenizer.json"
    if not file.is_file():
        return _plain(converted_tokenizer(model))
    try:
        return tokenizer_from_text(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, UsageError) as error:
        raise UsageError(f"{file}: {error}") from error


def tokenizer_from_text(text: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`'s text, as a packed file holds it. UsageError if it is none."""
    with refused_as("the tokenizer cannot be read"):
        return _plain(Tokenizer.from_str(text))


def encode_batch(
    tokenizer: Tokenizer, texts: Sequence[str | tuple[str, str]], *, add_special_tokens: bool = True
) -> list[Encoding]:
    """Texts and pairs as tokens, in order. UsageError where the tokenizer has no answer to one of them."""
    with refused_as("the texts cannot be tokenised"):
        encodings: list[Encoding] = tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
    return encodings


def beginning(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """So much of `text` that the rest has no say in its first `tokens` tokens: all of a text that is not long.

    A text is cut where a word has ended, and its tokens are counted piece by piece.
    """
    if len(text) <= LONG_TEXT:
        return text
    end = found = 0
    for piece in pieces(text):
        end += len(piece)
        found += len(encode_batch(tokenizer, [piece], add_special_tokens=False)[0])
        if found >= tokens:
            break
    return text[:end]


def pieces(text: str) -> Iterator[str]:
    """A long text in parts that together have its tokens.

    Each ends with a letter, a digit or ASCII's punctuation before a space: no pre-tokenizer joins what is on both sides
    of that, and no normalizer changes one side for the other's sake.
    """
    begin = 0
    while len(text) - begin > LONG_TEXT and (word_end := _WORD_END.search(text, begin + LONG_TEXT // 2)):
        yield text[begin : word_end.end()]
        begin = word_end.end()
    yield text[begin:]


def require_unicode(text: str, what: str) -> None:
    """UsageError, which calls the text `what`, for half a surrogate pair: the library takes no such text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} is not Unicode: it has half of a surrogate pair, as bytes that are not UTF-8 leave"
        ) from error


@contextmanager
def refused_as(what: str) -> Iterator[None]:
    """UsageError `what` for whatever the library raises: plain Exception, or a panic, which is a BaseException."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise UsageError(f"{what}: {error}") from error


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def separators_between(tokenizer: Tokenizer) -> int:
    """How many [SEP] stand between the two texts of a pair: one in BERT's vocabularies, two in RoBERTa's."""
    places = encode_batch(tokenizer, [("a", "a")])[0].sequence_ids
    between = places[places.index(0) : len(places) - places[::-1].index(1)] if {0, 1} <= set(places) else []
    return max(1, between.count(None))


def special_token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the special tokens of a family's vocabulary: keys `pad`, `unk`, `cls`, `sep`, `mask`.

    The family is the one whose special tokens the tokenizer has. UsageError names one that lacks.
    """
    vocabularies = {family.special_tokens: None for family in FAMILIES.values()}
    lacking: dict[SpecialTokens, list[str]] = {}
    for vocabulary in vocabularies:
        tokens: dict[str, str] = asdict(vocabulary)
        found = {name: tokenizer.token_to_id(token) for name, token in tokens.items()}
        ids = {name: token_id for name, token_id in found.items() if token_id is not None}
        if len(ids) == len(tokens):
            return ids
        lacking[vocabulary] = [token for name, token in tokens.items() if name not in ids]
    nearest = min(lacking.values(), key=len)
    raise UsageError(f"this tokenizer has no {nearest[0]}: a vocabulary of {' or '.join(FAMILIES)} is expected")
