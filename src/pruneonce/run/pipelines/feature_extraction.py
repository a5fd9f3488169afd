"""Vectors of texts: one per token, or one per text for search and comparison."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruneonce.errors import UsageError
from pruneonce.run.pipelines.text_model import Array, Asking, TextModel, Wanted, asks_its_model


class FeatureExtraction:
    """`embed("a text", pooling="mean", normalize=True)` -> float32 [hidden]"""

    task = "feature-extraction"

    def __init__(self, text_model: TextModel) -> None:
        self.text_model = text_model

    @asks_its_model
    def __call__(
        self,
        inputs: Any,
        *,
        pooling: str | None = None,
        normalize: bool = False,
        return_tensors: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        batch_size: int = 32,
    ) -> Asking[Any]:
        """Vectors of a text or a list of texts.

        Without pooling as transformers does: nested lists [1, tokens, hidden] per text, or with return_tensors float32
        arrays of that shape. pooling: "mean" over all tokens or "cls", the first one's; then float32 [hidden], or
        [texts, hidden] for a list. normalize: to length 1. truncation: cut long texts. max_length: to so
        many tokens.
        """
        if pooling not in (None, "mean", "cls"):
            raise UsageError(f"pooling is {pooling!r}: 'mean', 'cls' or None is expected")
        if normalize and pooling is None:
            raise UsageError("normalize is for pooled vectors: set pooling='mean' or 'cls'")
        several = isinstance(inputs, list | tuple)
        texts = list(inputs) if several else [inputs]
        encodings = self.text_model.encode(
            texts, truncation=truncation, max_length=max_length, remedy="cut it, or set truncation=True"
        )
        states = yield Wanted.of(encodings, batch_size, output="states")
        if pooling is None:
            answers = [each[None] if return_tensors else each[None].tolist() for each in states]
            return answers if several else answers[0]
        vectors = np.array([each.mean(axis=0) if pooling == "mean" else each[0] for each in states], np.float32)
        vectors = vectors.reshape(len(states), self.text_model.model.hidden_size)
        if normalize:
            vectors = _unit(vectors)
        return vectors if several else vectors[0]


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Array = vectors / np.maximum(lengths, 1e-12)
    return unit
