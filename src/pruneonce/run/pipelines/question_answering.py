"""The stretch of a text that answers a question.

Scores are those of the last transformers 4's pipeline (transformers 5 has none): per window, the probability of the
start times that of the end, each by softmax over [CLS] and the context's tokens; of the best spans, those that are the
same text once they are whole words add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding

from pruneonce.errors import UsageError
from pruneonce.run.pipelines.text_model import (
    Array,
    Asking,
    TextModel,
    Wanted,
    asks_its_model,
    check_tokens,
    check_top_k,
    softmax,
)

MAX_SEQ_LEN = 384
DOC_STRIDE = 128


class QuestionAnswering:
    """`ask(question="Who wrote it?", context="Ada wrote it.")` -> {"score", "start", "end", "answer"}"""

    task = "question-answering"

    def __init__(self, text_model: TextModel) -> None:
        self.text_model = text_model

    @asks_its_model
    def __call__(
        self,
        inputs: Any = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        batch_size: int = 32,
    ) -> Asking[Any]:
        """Answer a question about a context, or a list of them.

        inputs: {"question": ..., "context": ...} or a list of these, instead of the two arguments. top_k: answers, best
        first; more than one makes a list. max_seq_len: tokens of a window, 384 or the model's maximum; doc_stride:
        tokens that neighbouring windows share. max_answer_len: tokens. handle_impossible_answer: "" may be the answer.
        align_to_words: answers begin and end with whole words. "start" and "end" count the context's characters.
        """
        check_top_k(top_k)
        if type(max_answer_len) is not int or max_answer_len < 1:
            raise UsageError(f"max_answer_len is {max_answer_len!r}: a number of 1 or more is expected")
        if max_seq_len is not None:
            check_tokens("max_seq_len", max_seq_len)
        if doc_stride is not None and (type(doc_stride) is not int or doc_stride < 0):
            raise UsageError(f"doc_stride is {doc_stride!r}: a number of 0 or more is expected")
        examples, several = _examples(inputs, question, context)
        limit = self.text_model.model.max_tokens
        window = min(max_seq_len or MAX_SEQ_LEN, limit)
        stride = min(window // 2, DOC_STRIDE) if doc_stride is None else doc_stride
        windows = [self.text_model.windows(each, max_tokens=window, stride=stride, question=True) for each in examples]
        flat = [each for group in windows for each in group]
        logits = iter((yield Wanted.of(flat, batch_size)))
        candidates = 2 * top_k + 10 if align_to_words else top_k  # of each window; some become the same words
        answers: list[Any] = []
        for (_, text), group in zip(examples, windows, strict=True):
            found: dict[str, dict[str, Any]] = {}
            impossible = 1.0
            for encoding in group:
                spans, none = _spans(encoding, next(logits), candidates, max_answer_len)
                impossible = min(impossible, none)
                for first, last, score in spans:
                    start, end = _without_spaces(text, *_characters(encoding, first, last, align_to_words))
                    answer = {"score": 0.0, "start": start, "end": end, "answer": text[start:end]}
                    found.setdefault(text[start:end].lower(), answer)["score"] += score
            nothing = [{"score": impossible, "start": 0, "end": 0, "answer": ""}] if handle_impossible_answer else []
            each = sorted([*found.values(), *nothing], key=lambda answer: -answer["score"])[:top_k]
            answers.append(each[0] if top_k == 1 else each)
        return answers if several else answers[0]


def _examples(inputs: Any, question: Any, context: Any) -> tuple[list[tuple[str, str]], bool]:
    """(question, context) pairs, and whether the answer is a list."""
    if inputs is None:
        if question is None or context is None:
            raise UsageError("question answering needs question= and context=")
        questions = [question] if isinstance(question, str) else list(question)
        contexts = [context] * len(questions) if isinstance(context, str) else list(context)
        if len(questions) != len(contexts):
            raise UsageError(f"{len(questions)} questions, but {len(contexts)} contexts")
        pairs, several = list(zip(questions, contexts, strict=True)), not isinstance(question, str)
    else:
        several = not isinstance(inputs, dict)
        rows = list(inputs) if several else [inputs]
        if not all(isinstance(row, dict) and row.keys() >= {"question", "context"} for row in rows):
            raise UsageError('question answering takes {"question": ..., "context": ...}, or a list of these')
        pairs = [(row["question"], row["context"]) for row in rows]
    for number, pair in enumerate(pairs):
        for name, text in zip(("question", "context"), pair, strict=True):
            if not isinstance(text, str) or not text.strip():
                raise UsageError(f"{name} {number} is empty or no string")
    return pairs, several


def _spans(
    encoding: Encoding, logits: Array, count: int, max_answer_len: int
) -> tuple[list[tuple[int, int, float]], float]:
    """The best (first token, last token, score) of a window, and the score of "no answer"."""
    in_context = np.array([each == 1 for each in encoding.sequence_ids])
    allowed = in_context.copy()
    allowed[0] = True  # [CLS]: no answer here
    start, end = (softmax(np.where(allowed, column, -10000.0)) for column in logits.T)
    nothing = float(start[0] * end[0])
    places = np.flatnonzero(in_context)
    if not len(places):
        return [], nothing
    scores = np.outer(start[places], end[places])
    scores = np.tril(np.triu(scores), max_answer_len - 1)  # the end not before the start, nor too far behind it
    best = np.argsort(-scores, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(best, scores.shape)
    found = [
        (int(places[row]), int(places[column]), float(scores[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if 0 <= column - row < max_answer_len  # the rest are zeros of the triangles
    ]
    return found, nothing


def _without_spaces(text: str, start: int, end: int) -> tuple[int, int]:
    """A stretch of the text without the space before its first word, which Unigram's tokens begin with."""
    return end - len(text[start:end].lstrip()), end


def _characters(encoding: Encoding, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
    if align_to_words:
        first_word, last_word = encoding.token_to_word(first), encoding.token_to_word(last)
        if first_word is not None and last_word is not None:
            begin, end = encoding.word_to_chars(first_word, 1), encoding.word_to_chars(last_word, 1)
            if begin is not None and end is not None:
                return begin[0], end[1]
    return encoding.offsets[first][0], encoding.offsets[last][1]
