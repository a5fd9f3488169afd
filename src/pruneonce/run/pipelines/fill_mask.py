"""The words that fit in place of [MASK]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pruneonce.errors import UsageError
from pruneonce.models.tokenizer import encode_batch, refused_as, require_unicode
from pruneonce.run.pipelines.text_model import Array, Asking, TextModel, Wanted, asks_its_model, check_top_k, softmax


class FillMask:
    """`fill("Paris is the [MASK] of France.")` -> [{"score", "token", "token_str", "sequence"}, ...]"""

    task = "fill-mask"

    def __init__(self, text_model: TextModel) -> None:
        self.text_model = text_model
        text_model.tokenizer.encode_special_tokens = False  # here, and only here, [MASK] in a text means the mask

    @asks_its_model
    def __call__(
        self, inputs: Any, *, top_k: int = 5, targets: str | Sequence[str] | None = None, batch_size: int = 32
    ) -> Asking[Any]:
        """Fill the masks of a text or a list of texts.

        top_k: candidates per mask, best first. targets: choose among these words only (of a word that is not in the
        vocabulary, its first piece). A text with several masks is answered with one list per mask.
        """
        check_top_k(top_k)
        wanted = None if targets is None else self._target_ids(targets)
        several = isinstance(inputs, list | tuple)
        texts = list(inputs) if several else [inputs]
        encodings = self.text_model.encode(texts, truncation=False, remedy="cut it")
        ids = [np.array(encoding.ids) for encoding in encodings]
        positions = [np.flatnonzero(each == self.text_model.special["mask"]) for each in ids]
        for number, each in enumerate(positions):
            if not len(each):
                mask = self.text_model.tokenizer.id_to_token(self.text_model.special["mask"])
                raise UsageError(f"text {number} has no {mask} to fill")
        logits = yield Wanted.of(encodings, batch_size, positions=positions)
        answers = [
            self._answers(*each, top_k=top_k, wanted=wanted) for each in zip(ids, positions, logits, strict=True)
        ]
        return answers if len(answers) > 1 else answers[0] if answers else []

    def _answers(self, ids: Array, positions: Array, logits: Array, *, top_k: int, wanted: Array | None) -> Any:
        rows = []
        for position, probabilities in zip(positions, softmax(logits), strict=True):
            candidates = np.arange(len(probabilities)) if wanted is None else wanted
            best = candidates[np.argsort(-probabilities[candidates], kind="stable")[:top_k]]
            rows.append([self._answer(ids, position, token, probabilities, len(positions) == 1) for token in best])
        return rows[0] if len(rows) == 1 else rows

    def _answer(self, ids: Array, position: int, token: int, probabilities: Array, single: bool) -> dict[str, Any]:
        filled = ids.copy()
        filled[position] = token
        filled = filled[filled != self.text_model.special["pad"]]
        decode = self.text_model.tokenizer.decode
        with refused_as("the tokenizer cannot write the answer out"):
            word = decode([int(token)], skip_special_tokens=False)
            # the other masks would vanish with the special tokens
            sequence = decode(filled.tolist(), skip_special_tokens=single)
        return {"score": float(probabilities[token]), "token": int(token), "token_str": word, "sequence": sequence}

    def _target_ids(self, targets: str | Sequence[str]) -> Array:
        found = set()
        for target in [targets] if isinstance(targets, str) else targets:
            if not isinstance(target, str):
                raise UsageError(f"target {target!r} is {type(target).__name__}: a word is expected")
            require_unicode(target, f"target {target!r}")
            token = self.text_model.tokenizer.token_to_id(target)
            if token is None:
                pieces = encode_batch(self.text_model.tokenizer, [target], add_special_tokens=False)[0].ids
                if not pieces:
                    raise UsageError(f"target {target!r} is none of the vocabulary's words, nor made of its pieces")
                token = pieces[0]
            found.add(token)
        if not found:
            raise UsageError("targets is empty: name at least one word, or leave it out")
        return np.array(sorted(found))
