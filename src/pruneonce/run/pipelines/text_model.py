"""A model and its tokenizer: texts to tokens, within the model's length, and token sequences to logits in any order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.models.tokenizer import (
    encode_batch,
    refused_as,
    require_unicode,
    special_token_ids,
    tokenizer_from_text,
)
from pruneonce.run.model import Model

Array = np.ndarray[Any, Any]


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
    ) -> list[Encoding]:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP] for a pair, of each text; an empty one is [CLS] [SEP].

        truncation: cut what is too long for the model; else that is a UsageError, which gives `remedy`.
        max_length: cut to so many tokens, as transformers does with or without `truncation`. usual_length: tokens that
        a text has at most where max_length says nothing; None: as many as the model takes.
        """
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
        if truncation or max_length is not None:
            return self._cut(texts, limit)
        encodings = encode_batch(self.tokenizer, texts)
        for number, encoding in enumerate(encodings):
            if len(encoding.ids) > limit:
                raise UsageError(f"text {number} has {len(encoding.ids):,} tokens, the model takes {limit}: {remedy}")
        return encodings

    def _cut(self, texts: Sequence[Any], limit: int) -> list[Encoding]:
        """Each in at most `limit` tokens. Only those that are too long wait for the one tokenizer that cuts."""
        encodings = encode_batch(self.tokenizer, texts)
        long = [number for number, encoding in enumerate(encodings) if len(encoding.ids) > limit]
        if long:
            with self._lock:
                cutting = self._cutting_tokenizer()
                cutting.enable_truncation(limit)
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

    def logits(
        self, encodings: Sequence[Encoding], *, batch_size: int, positions: Sequence[Array] | None = None
    ) -> list[Array]:
        """The model's output for each, in order. Sequences of a batch have similar lengths, and none is padded."""
        ids = [np.array(encoding.ids) for encoding in encodings]
        types = [np.array(encoding.type_ids) for encoding in encodings]

        def run(chosen: Array) -> Sequence[Array]:
            wanted = None if positions is None else [positions[index] for index in chosen]
            answer: Sequence[Array] = self.model(
                [ids[index] for index in chosen], [types[index] for index in chosen], positions=wanted
            )
            return answer

        return in_batches(run, [len(each) for each in ids], batch_size)

    def hidden_states(self, encodings: Sequence[Encoding], *, batch_size: int) -> list[Array]:
        """Last hidden states of each, in order: float32 [tokens, hidden]."""
        ids = [np.array(encoding.ids) for encoding in encodings]
        types = [np.array(encoding.type_ids) for encoding in encodings]
        return in_batches(
            lambda chosen: self.model.hidden_states(
                [ids[index] for index in chosen], [types[index] for index in chosen]
            ),
            [len(each) for each in ids],
            batch_size,
        )


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
