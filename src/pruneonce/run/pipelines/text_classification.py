"""Which class a text, or a pair of texts, is of."""

from __future__ import annotations

from typing import Any

import numpy as np

from pruneonce.errors import UsageError
from pruneonce.run.pipelines.text_model import Array, Asking, TextModel, Wanted, asks_its_model, check_top_k, softmax

FUNCTIONS = ("softmax", "sigmoid", "none")


class TextClassification:
    """`classify("a text")` -> [{"label": ..., "score": ...}]"""

    task = "text-classification"

    def __init__(self, text_model: TextModel) -> None:
        self.text_model = text_model
        self.labels = text_model.model.labels

    @asks_its_model
    def __call__(
        self,
        inputs: Any,
        *,
        top_k: Any = "",
        function_to_apply: str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        truncation_side: str = "right",
        batch_size: int = 32,
    ) -> Asking[Any]:
        """Classify a text, a pair {"text": ..., "text_pair": ...}, or a list of these.

        top_k: how many labels, best first (None: all); the answer to one text is then a list. function_to_apply:
        "softmax", "sigmoid" or "none" instead of what the config's problem_type asks for. truncation: cut long texts,
        to what the model was trained with if its file says that. max_length: cut texts to so many tokens.
        truncation_side: which end is cut off, "right" or "left".
        """
        if top_k not in ("", None):
            check_top_k(top_k)
        function = self._function(function_to_apply)
        several = isinstance(inputs, list | tuple)
        texts = [_pair(each) for each in (inputs if several else [inputs])]
        encodings = self.text_model.encode(
            texts,
            truncation=truncation,
            max_length=max_length,
            truncation_side=truncation_side,
            usual_length=self.text_model.model.usual_tokens if truncation else None,
            remedy="cut it, or set truncation=True",
        )
        scores = [function(logits) for logits in (yield Wanted(encodings, batch_size))]
        answers: list[Any] = [self._answers(each) for each in scores]
        answers = [each[0] for each in answers] if top_k == "" else [each[:top_k] for each in answers]
        if several or (isinstance(inputs, str) and top_k == ""):
            return answers
        return answers[0]

    def _answers(self, scores: Array) -> list[dict[str, Any]]:
        order = np.argsort(-scores, kind="stable")
        return [{"label": self.labels[index], "score": float(scores[index])} for index in order]

    def _function(self, name: str | None) -> Any:
        config = self.text_model.model.config
        if name is None:
            problem = config.get("problem_type")
            if problem == "regression":
                name = "none"
            elif problem == "multi_label_classification" or len(self.labels) == 1:
                name = "sigmoid"
            else:
                name = "softmax"
        if not isinstance(name, str) or name.lower() not in FUNCTIONS:
            raise UsageError(f"function_to_apply is {name!r}: one of {', '.join(FUNCTIONS)} is expected")
        return {"softmax": softmax, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "none": lambda x: x}[name.lower()]


def _pair(text: Any) -> Any:
    """A text, or a tuple of two; transformers takes an empty second one for none."""
    if isinstance(text, tuple) and len(text) == 2 and text[1] == "":
        return text[0]
    if not isinstance(text, dict):
        return text
    if unknown := text.keys() - {"text", "text_pair"} or {"text"} - text.keys():
        raise UsageError(f"a pair of texts has the keys text and text_pair; {min(map(str, unknown))} is amiss")
    pair = text.get("text_pair")
    return text["text"] if pair in (None, "") else (text["text"], pair)
