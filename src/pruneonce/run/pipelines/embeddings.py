"""One vector per text, for search and comparison: those of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding

from pruneonce.errors import UsageError
from pruneonce.models.sentence import Pooling
from pruneonce.models.tokenizer import encode_batch
from pruneonce.run.model import Model, load_model
from pruneonce.run.pipelines.text_model import Array, Asking, TextModel, Vectors, Wanted, asking, asks_its_model
from pruneonce.run.sentence import unit

DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the first that a model has goes before texts to be found


class Embeddings:
    """`embed(["a text", "another"])` -> float32 [texts, size]; by what the model's file says of pooling and length."""

    task = "embeddings"

    def __init__(self, text_model: TextModel) -> None:
        self.text_model = text_model
        self.model = text_model.model
        self.plan = self.model.embedding

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return self.model.embedding_size

    @property
    def max_tokens(self) -> int:
        """What a text is cut to where a call says nothing else, special tokens included."""
        chosen = self.text_model.max_length or self.plan.max_tokens or self.model.max_tokens
        return min(chosen, self.model.max_tokens)

    @asks_its_model
    def __call__(
        self,
        inputs: Any,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
        pooling: Pooling | Sequence[Pooling] | None = None,
        truncation: bool = True,
        max_length: int | None = None,
        truncation_side: str = "right",
        batch_size: int = 32,
    ) -> Asking[Array]:
        """Vectors: float32 [size] of a text, [texts, size] of a list.

        prompt_name: of the file's prompts, the one that goes before every text; prompt: a text that does. normalize: to
        length 1, or not, instead of what the file says. dimensions: keep the first so many (Matryoshka). pooling:
        instead of the file's. truncation: cut long texts, as sentence-transformers does; False: they are an error.
        max_length: tokens to cut to, instead of the file's. truncation_side: which end is cut off, "right" or "left".
        """
        before = self.prompt(prompt_name, prompt)
        several = isinstance(inputs, list | tuple)
        encodings = self.encode(
            list(inputs) if several else [inputs],
            prompt=before,
            truncation=truncation,
            max_length=max_length,
            truncation_side=truncation_side,
        )
        vectors = yield from asking(
            self.vectors,
            [np.array(encoding.ids) for encoding in encodings],
            encodings=encodings,
            normalize=normalize,
            dimensions=dimensions,
            pooling=pooling,
            skipped_tokens=self.skipped_tokens(before),
            batch_size=batch_size,
        )
        found: Array = vectors if several else vectors[0]
        return found

    def queries(self, inputs: Any, **options: Any) -> Array:
        """As a call, with the prompt that the file has for queries, if any."""
        return self(inputs, **self._prompted(("query",), options))

    def documents(self, inputs: Any, **options: Any) -> Array:
        """As a call, with the prompt that the file has for texts to be found, if any."""
        return self(inputs, **self._prompted(DOCUMENT_PROMPTS, options))

    @asks_its_model
    def similarity(self, source: str, sentences: Sequence[str], **options: Any) -> Asking[list[float]]:
        """How alike a text is to each of others, the higher the more; options: those of a call.

        By the measure that the model's file names: cosine, dot product, or a distance with its sign changed.
        """
        if not isinstance(source, str):
            raise UsageError(f"source is {type(source).__name__}: a string is expected")
        vectors = yield from asking(self.__call__, [source, *sentences], **options)
        first, others = vectors[0], vectors[1:]
        if self.plan.similarity in ("euclidean", "manhattan"):
            order = 2 if self.plan.similarity == "euclidean" else 1
            scores = -np.linalg.norm(others - first, ord=order, axis=1)
        else:
            if self.plan.similarity == "cosine":
                vectors = unit(vectors)
            # Row by row: a product of matrices rounds differently in other company.
            scores = (vectors[1:] * vectors[0]).sum(axis=1)
        return [float(score) for score in scores]

    def prompt(self, name: str | None = None, text: str | None = None) -> str:
        """What goes before a text: `text`, else that of the name, else the file's default; "" for nothing."""
        if text is not None:
            if name is not None:
                raise UsageError("prompt_name and prompt are both given: choose one")
            if not isinstance(text, str):
                raise UsageError(f"prompt is {type(text).__name__}: a string is expected")
            return text
        return _prompt_of(self.plan.prompts, self.plan.default_prompt, name)

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        truncation: bool = True,
        max_length: int | None = None,
        truncation_side: str = "right",
    ) -> list[Encoding]:
        """Tokens of each text behind the prompt, cut to `max_tokens` or `max_length`; UsageError for pairs."""
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                kind = "a pair" if isinstance(text, tuple | list | dict) else type(text).__name__
                raise UsageError(f"text {number} is {kind}: embeddings are of single texts, as strings")
        return self.text_model.encode(
            [prompt + text for text in texts] if prompt else texts,
            truncation=truncation,
            max_length=max_length,
            usual_length=self.plan.max_tokens,
            truncation_side=truncation_side,
            remedy="cut it, or set truncation=True",
        )

    def skipped_tokens(self, prompt: str) -> int:
        """How many tokens at the beginning are the prompt's, and not pooled: 0 where the model pools them."""
        if not prompt or self.plan.include_prompt:
            return 0
        return len(encode_batch(self.text_model.tokenizer, [prompt])[0].ids) - 1  # without [SEP]

    @asks_its_model
    def vectors(
        self,
        token_ids: Sequence[Array],
        *,
        normalize: bool | None = None,
        dimensions: int | None = None,
        pooling: Pooling | Sequence[Pooling] | None = None,
        skipped_tokens: int = 0,
        batch_size: int = 32,
        encodings: Sequence[Encoding] = (),
    ) -> Asking[Array]:
        """From tokens to vectors: integers [tokens] each -> float32 [sequences, size], in order, nothing padded.

        encodings: that the tokens come from. PruneonceError if a vector is not finite.
        """
        modes: Any = tuple(pooling) if isinstance(pooling, list) else pooling
        # Told before the model is asked: a server's model computes for others too.
        none = self.model.embed([], pooling=modes, normalize=normalize, dimensions=dimensions)
        wanted = Vectors(modes, normalize, dimensions, skipped_tokens)
        rows = yield Wanted(token_ids, None, batch_size, output=wanted, encodings=encodings)
        return np.stack(rows) if len(rows) else none

    def _prompted(self, names: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
        if options.get("prompt_name") is not None or options.get("prompt") is not None:
            return options
        return options | {"prompt_name": next((name for name in names if name in self.plan.prompts), None)}


def embed(model: str | Path | Model, texts: Any, **options: Any) -> Array:
    """Vectors of texts: float32 [texts, size], or [size] of a single string.

    model: a packed file, loaded for this one call, or what `load_model` returned. options: those of the pipeline
    `embeddings`: prompt_name, prompt, normalize, dimensions, pooling, truncation, max_length, batch_size.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    return Embeddings(TextModel(loaded))(texts, **options)


def _prompt_of(prompts: Mapping[str, str], default: str | None, name: str | None) -> str:
    """The text of a named prompt, or of the default one; UsageError for a name that is not there."""
    if name is None:
        return "" if default is None else prompts[default]
    if not isinstance(name, str) or name not in prompts:
        known = ", ".join(prompts) or "none at all"
        raise UsageError(f"prompt_name is {name!r}: this model has {known}")
    return prompts[name]
