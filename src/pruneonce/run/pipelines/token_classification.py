"""Which class each token is of, and the names and places that classes such as B-PER, I-PER spell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding

from pruneonce.errors import UsageError
from pruneonce.run.pipelines.text_model import Array, Asking, TextModel, Wanted, asks_its_model, softmax

STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclass(frozen=True)
class _Token:
    word: str
    scores: Array  # float32 [labels]
    start: int
    end: int
    index: int
    continues: bool  # the word before it


class TokenClassification:
    """`tag("Ada lived in London.", aggregation_strategy="simple")` -> [{"entity_group", "score", "word", ...}, ...]"""

    task = "token-classification"

    def __init__(self, text_model: TextModel) -> None:
        self.text_model = text_model
        self.labels = text_model.model.labels

    @asks_its_model
    def __call__(
        self,
        inputs: Any,
        *,
        aggregation_strategy: str = "none",
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        truncation_side: str = "right",
        batch_size: int = 32,
    ) -> Asking[Any]:
        """Classify the tokens of a text or a list of texts.

        aggregation_strategy: "none", a dict per token; "simple", neighbours of one class together; "first", "average",
        "max", likewise, after the tokens of a word have agreed by its first token, the mean or the surest of them.
        ignore_labels: left out. stride: read a long text in windows that share so many tokens. truncation: cut it.
        max_length: cut it to so many tokens. truncation_side: which end is cut off, "right" or "left".
        """
        if aggregation_strategy not in STRATEGIES:
            raise UsageError(
                f"aggregation_strategy is {aggregation_strategy!r}: one of {', '.join(STRATEGIES)} is expected"
            )
        if stride is not None and aggregation_strategy == "none":
            raise UsageError("stride needs an aggregation_strategy, which joins what windows share")
        several = isinstance(inputs, list | tuple)
        texts = list(inputs) if several else [inputs]
        remedy = "cut it, or set stride=32 with an aggregation_strategy, or truncation=True"
        if stride is not None and max_length is not None:
            raise UsageError("max_length cuts a text, stride reads all of it: set one of them")
        whole = self.text_model.encode(
            texts,
            truncation=truncation or stride is not None,
            max_length=max_length,
            truncation_side=truncation_side,
            remedy=remedy,
        )
        windows = [[encoding] for encoding in whole]
        if stride is not None:
            limit = self.text_model.model.max_tokens
            windows = [self.text_model.windows(text, max_tokens=limit, stride=stride, question=False) for text in texts]
        logits = iter((yield Wanted.of([each for group in windows for each in group], batch_size)))
        answers = []
        for text, group in zip(texts, windows, strict=True):
            entities: list[dict[str, Any]] = []
            for encoding in group:
                tokens = self._tokens(text, encoding, softmax(next(logits)))
                entities += self._entities(tokens, aggregation_strategy)
            entities = [each for each in entities if each.get("entity", each.get("entity_group")) not in ignore_labels]
            answers.append(_without_overlaps(entities) if len(group) > 1 else entities)
        return answers if several else answers[0]

    def _tokens(self, text: str, encoding: Encoding, scores: Array) -> list[_Token]:
        tokens: list[_Token] = []
        marked = bool(getattr(self.text_model.tokenizer.model, "continuing_subword_prefix", None))
        for index, (token_id, word) in enumerate(zip(encoding.ids, encoding.tokens, strict=True)):
            if encoding.special_tokens_mask[index]:
                continue
            start, end = encoding.offsets[index]
            unknown = token_id == self.text_model.special["unk"]
            # "##" is not in the text; other vocabularies mark where a word begins: as transformers does, by the spaces.
            continues = len(word) != end - start if marked else start > 0 and " " not in text[start - 1 : start + 1]
            continues = continues and not unknown
            tokens.append(_Token(text[start:end] if unknown else word, scores[index], start, end, index, continues))
        return tokens

    def _entities(self, tokens: list[_Token], strategy: str) -> list[dict[str, Any]]:
        if strategy in ("none", "simple"):
            entities = [self._entity(token.scores, token) for token in tokens]
        else:
            entities = [self._word(word, strategy) for word in _words(tokens)]
        return entities if strategy == "none" else self._groups(entities)

    def _entity(self, scores: Array, token: _Token) -> dict[str, Any]:
        best = int(scores.argmax())
        return {
            "entity": self.labels[best],
            "score": float(scores[best]),
            "index": token.index,
            "word": token.word,
            "start": token.start,
            "end": token.end,
        }

    def _word(self, tokens: list[_Token], strategy: str) -> dict[str, Any]:
        if strategy == "first":
            scores = tokens[0].scores
        elif strategy == "max":
            scores = max(tokens, key=lambda token: float(token.scores.max())).scores
        else:
            scores = np.mean([token.scores for token in tokens], axis=0)
        best = int(scores.argmax())
        return {
            "entity": self.labels[best],
            "score": float(scores[best]),
            "word": self._joined([token.word for token in tokens]),
            "start": tokens[0].start,
            "end": tokens[-1].end,
        }

    def _groups(self, entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
        groups: list[list[dict[str, Any]]] = []
        for entity in entities:
            if groups and not entity["entity"].startswith("B-") and _tag(groups[-1][-1]) == _tag(entity):
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": float(np.mean([entity["score"] for entity in group])),
                "word": self._joined([entity["word"] for entity in group]),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]

    def _joined(self, words: list[str]) -> str:
        decoder = self.text_model.tokenizer.decoder
        joined: str = " ".join(words) if decoder is None else decoder.decode(words)
        return joined


def _words(tokens: list[_Token]) -> list[list[_Token]]:
    words: list[list[_Token]] = []
    for token in tokens:
        if words and token.continues:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _tag(entity: dict[str, Any]) -> str:
    """The class without B- or I-."""
    name: str = entity["entity"]
    return name[2:] if name.startswith(("B-", "I-")) else name


def _without_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that windows found twice, the longer one, or the surer of equal length."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda each: each["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _weight(entity) > _weight(kept[-1]):
            kept[-1] = entity
    return kept


def _weight(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]
