"""How well texts answer a query: one score per pair, and the order that they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding

from pruneonce.errors import UsageError
from pruneonce.models.sentence import RankingPlan
from pruneonce.run.pipelines.text_model import Array, Asking, TextModel, Wanted, asking, asks_its_model, check_top_k


class TextRanking:
    """`rank.rerank("a query", ["a text", "another"])` -> [{"index": 1, "score": 0.98}, …], best first."""

    task = "text-ranking"

    def __init__(self, text_model: TextModel) -> None:
        self.text_model = text_model
        self.model = text_model.model
        self.plan = self.model.ranking or RankingPlan()

    @property
    def max_tokens(self) -> int:
        """What a pair is cut to where a call says nothing else, special tokens included."""
        chosen = self.text_model.max_length or self.plan.max_tokens or self.model.max_tokens
        return min(chosen, self.model.max_tokens)

    @asks_its_model
    def __call__(
        self,
        pairs: Sequence[Any],
        *,
        raw_scores: bool | None = None,
        truncation: bool = True,
        max_length: int | None = None,
        truncation_side: str = "right",
        batch_size: int = 32,
    ) -> Asking[Array]:
        """Scores of (query, text) pairs, in order: float32 [pairs].

        raw_scores: the logit as it is (True), its sigmoid (False), or what the model's file says (None). truncation:
        cut long pairs, the longer text first, as the original does; False: they are an error. max_length: tokens to
        cut to, instead of the file's. truncation_side: which end is cut off, "right" or "left".
        """
        before = "" if self.plan.default_prompt is None else self.plan.prompts[self.plan.default_prompt]
        encodings = self.encode(
            pairs, prompt=before, truncation=truncation, max_length=max_length, truncation_side=truncation_side
        )
        logits = yield Wanted.of(encodings, batch_size)
        scores = np.array([each[0] for each in logits], np.float32)
        raw = self.plan.activation == "none" if raw_scores is None else raw_scores
        return scores if raw else sigmoid(scores)

    def encode(
        self,
        pairs: Sequence[Any],
        *,
        prompt: str = "",
        truncation: bool = True,
        max_length: int | None = None,
        truncation_side: str = "right",
    ) -> list[Encoding]:
        """Tokens of each pair, the prompt before its query, cut to `max_tokens` or `max_length`."""
        if isinstance(pairs, str | dict) or not isinstance(pairs, Sequence):
            raise UsageError("pairs: a list of (query, text) is expected")
        return self.text_model.encode(
            [(prompt + query, text) for query, text in map(_pair, range(len(pairs)), pairs)],
            truncation=truncation,
            max_length=max_length,
            usual_length=self.plan.max_tokens,
            truncation_side=truncation_side,
            remedy="cut it, or set truncation=True",
        )

    @asks_its_model
    def rerank(
        self, query: str, texts: Sequence[str], *, top_k: int | None = None, return_texts: bool = False, **options: Any
    ) -> Asking[list[dict[str, Any]]]:
        """The texts in order of their score: dicts of "index" and "score", with return_texts of "text" as well.

        top_k: the best so many (None: all). options: those of a call. Equal scores stay in the order of the texts.
        """
        if top_k is not None:
            check_top_k(top_k)
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise UsageError("texts: a list of strings is expected")
        scores = yield from asking(self.__call__, [(query, text) for text in texts], **options)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [
            {"index": int(index), "score": float(scores[index])} | ({"text": texts[index]} if return_texts else {})
            for index in order
        ]


def sigmoid(logits: Array) -> Array:
    """1 / (1 + e^-x), without overflow at either end."""
    tail = np.exp(-np.abs(logits))
    found: Array = np.where(logits >= 0, 1 / (1 + tail), tail / (1 + tail)).astype(np.float32)
    return found


def _pair(number: int, pair: Any) -> tuple[str, str]:
    if isinstance(pair, dict) and pair.keys() == {"text", "text_pair"}:
        pair = pair["text"], pair["text_pair"]
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise UsageError(f"pair {number} is no (query, text): two strings are expected")
    return pair[0], pair[1]
