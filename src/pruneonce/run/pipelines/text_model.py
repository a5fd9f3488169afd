"""A model and its tokenizer: texts to tokens, within the model's length, and token sequences to logits in any order."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast

import numpy as np
from tokenizers import Encoding, Tokenizer

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.models.sentence import Pooling
from pruneonce.models.tokenizer import (
    beginning,
    encode_batch,
    refused_as,
    require_unicode,
    special_token_ids,
    tokenizer_from_text,
)
from pruneonce.run.model import Model

Array = np.ndarray[Any, Any]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Vectors:
    """What `Model.embed` is told beside tokens."""

    pooling: Pooling | tuple[Pooling, ...] | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    skipped_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a pipeline asks of its model between tokens and answers."""

    token_ids: Sequence[Array]  # integers [tokens] of each sequence, 1 to the model's maximum
    token_types: Sequence[Array] | None = None
    batch_size: int = 32
    positions: Sequence[Array] | None = None  # fill-mask: the tokens of each whose logits are wanted, rising
    # What of the model: its head's logits, the last hidden states, or vectors
    output: Literal["logits", "states"] | Vectors = "logits"
    encodings: Sequence[Encoding] = ()  # that the sequences come from

    @classmethod
    def of(cls, encodings: Sequence[Encoding], batch_size: int = 32, **kwargs: Any) -> Wanted:
        """Of texts and pairs."""
        ids = [np.array(encoding.ids) for encoding in encodings]
        types = [np.array(encoding.type_ids) for encoding in encodings]
        return cls(ids, types, batch_size, encodings=encodings, **kwargs)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [len(each) for each in self.token_ids]


# A pipeline at work: it yields what it wants, is sent one array per sequence in their order, and returns its answers.
Asking = Generator[Wanted, Sequence[Array], R]


class HasTextModel(Protocol):
    text_model: TextModel


S = TypeVar("S", bound=HasTextModel)


def asks_its_model(method: Callable[Concatenate[S, P], Asking[R]]) -> Callable[Concatenate[S, P], R]:
    """A pipeline's method that is written as `Asking`: whoever calls it waits for its model.

    A server, whose model computes for many at once, takes the parts from `asking`.
    """

    @functools.wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        parts = method(self, *args, **kwargs)
        return answered(parts, self.text_model.outputs(next(parts)))

    return call


def asking(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Asking[Any]:
    """A pipeline's method before it has asked; the arguments are the method's."""
    bound: Any = method
    return cast(Asking[Any], bound.__wrapped__(bound.__self__, *args, **kwargs))


def answered(parts: Asking[R], outputs: Sequence[Array]) -> R:
    """What a pipeline that has asked makes of its model's outputs."""
    try:
        parts.send(outputs)
    except StopIteration as end:
        return cast(R, end.value)
    raise AssertionError("a pipeline asks its model once")


class TextModel:
    """What every pipeline is built on. Several threads may use it at once."""

    def __init__(self, model: Model, max_length: int | None = None) -> None:
        self.model = model
        self.max_length = max_length  # where a call gives none
        self.tokenizer: Tokenizer = tokenizer_from_text(model.tokenizer)
        self.special = special_token_ids(self.tokenizer)
        self._cutting: Tokenizer | None = None
        self._lock = threading.Lock()

    def encode(
        self,
        texts: Sequence[Any],
        *,
        truncation: bool,
        remedy: str,
        max_length: int | None = None,
        usual_length: int | None = None,
        truncation_side: str = "right",
    ) -> list[Encoding]:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP] for a pair, of each text; an empty one is [CLS] [SEP].

        truncation: cut what is too long for the model; else that is a UsageError, which gives `remedy`.
        max_length: cut to so many tokens, as transformers does with or without `truncation`. usual_length: tokens that
        a text has at most where max_length says nothing; None: as many as the model takes. truncation_side: which end
        is cut off, "right" or "left".
        """
        if truncation_side not in ("right", "left"):
            raise UsageError(f"truncation_side is {truncation_side!r}: 'right' or 'left' is expected")
        if not isinstance(truncation, bool):
            raise UsageError(f"truncation is {truncation!r}: True or False is expected")
        max_length = self.max_length if max_length is None else max_length
        for number, text in enumerate(texts):
            parts = text if isinstance(text, tuple) else (text,)
            if not all(isinstance(part, str) for part in parts):
                raise UsageError(f"text {number} is {type(text).__name__}: a string is expected")
            for part in parts:
                require_unicode(part, f"text {number}")
        limit = min(self.model.max_tokens, usual_length or self.model.max_tokens)
        if max_length is not None:
            check_tokens("max_length", max_length)
            limit = min(self.model.max_tokens, max_length)
        cuts = truncation or max_length is not None
        read = texts
        if not cuts or truncation_side == "right":
            read = [text if isinstance(text, tuple) else beginning(self.tokenizer, text, limit) for text in texts]
        if cuts:
            return self._cut(read, limit, truncation_side)
        encodings = encode_batch(self.tokenizer, read)
        for number, encoding in enumerate(encodings):
            if (found := len(encoding.ids)) > limit:
                count = f"{found:,}" if read[number] is texts[number] else f"more than {limit}"
                raise UsageError(f"text {number} has {count} tokens, the model takes {limit}: {remedy}")
        return encodings

    def _cut(self, texts: Sequence[Any], limit: int, side: str) -> list[Encoding]:
        """Each in at most `limit` tokens. Only those that are too long wait for the one tokenizer that cuts."""
        encodings = encode_batch(self.tokenizer, texts)
        long = [number for number, encoding in enumerate(encodings) if len(encoding.ids) > limit]
        if long:
            with self._lock:
                cutting = self._cutting_tokenizer()
                cutting.enable_truncation(limit, direction=side)
                cut = encode_batch(cutting, [texts[number] for number in long])
            for number, encoding in zip(long, cut, strict=True):
                encodings[number] = encoding
        return encodings

    def windows(self, text: Any, *, max_tokens: int, stride: int, question: bool) -> list[Encoding]:
        """A text cut into overlapping windows of at most `max_tokens`; `stride` tokens are shared by neighbours.

        question: the text is a pair, of which the first part is in every window and the second is cut.
        """
        for part, name in zip(text, ("question", "context"), strict=True) if question else [(text, "the text")]:
            require_unicode(part, name)
        no_room = f"a window of {max_tokens} tokens has no room for {stride} shared tokens" + (
            " beside the question: shorten it, or set a larger max_seq_len" if question else ""
        )
        with self._lock:
            strategy = "only_second" if question else "longest_first"
            cutting = self._cutting_tokenizer()
            try:
                with refused_as(no_room):
                    cutting.enable_truncation(max_tokens, stride=stride, strategy=strategy)
                    first: Encoding = cutting.encode(*text) if question else cutting.encode(text)
            except UsageError:
                encode_batch(self.tokenizer, [text])  # raises if it is the text that is refused, not the window
                raise
        return [first, *first.overflowing]

    def _cutting_tokenizer(self) -> Tokenizer:
        """One of its own, since its truncation changes from call to call; for holders of the lock."""
        if self._cutting is None:  # its JSON takes long to parse, and texts that fit need none
            self._cutting = tokenizer_from_text(self.model.tokenizer)
        return self._cutting

    def outputs(self, wanted: Wanted) -> list[Array]:
        """The model's output for each sequence, in order. Those of a batch have similar lengths, and none is padded."""
        return in_batches(lambda chosen: self.batch(wanted, chosen), wanted.lengths, wanted.batch_size)

    def batch(self, wanted: Wanted, chosen: Sequence[int] | Array) -> Sequence[Array]:
        """The model's output for the sequences of these numbers, in one call of it."""
        ids = [wanted.token_ids[number] for number in chosen]
        types = None if wanted.token_types is None else [wanted.token_types[number] for number in chosen]
        if isinstance(wanted.output, Vectors):
            return list(self.model.embed(ids, types, **vars(wanted.output)))
        if wanted.output == "states":
            return self.model.hidden_states(ids, types)
        positions = None if wanted.positions is None else [wanted.positions[number] for number in chosen]
        logits: Sequence[Array] = self.model(ids, types, positions=positions)
        return logits


def in_batches(run: Callable[[Array], Sequence[Array]], lengths: Sequence[int], batch_size: int) -> list[Array]:
    """`run(indices)` over batches of similar length; its results in the order of `lengths`. PruneonceError for NaN."""
    if type(batch_size) is not int or batch_size < 1:
        raise UsageError(f"batch_size is {batch_size!r}: a number of 1 or more is expected")
    order = np.argsort(lengths, kind="stable")
    results: list[Array] = [np.empty(0, np.float32)] * len(lengths)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        for index, result in zip(chosen, run(chosen), strict=True):
            if not np.isfinite(result).all():
                raise PruneonceError(f"the model answers text {index} with NaN or infinity: its weights are damaged")
            results[index] = result
    return results


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def check_tokens(name: str, tokens: Any) -> None:
    """UsageError unless it is a number of 4 or more: [CLS], [SEP] twice and a token."""
    if type(tokens) is not int or tokens < 4:
        raise UsageError(f"{name} is {tokens!r}: a number of 4 or more is expected")


def check_top_k(top_k: Any) -> None:
    """UsageError unless it is a number of 1 or more."""
    if type(top_k) is not int or top_k < 1:
        raise UsageError(f"top_k is {top_k!r}: a number of 1 or more is expected")
