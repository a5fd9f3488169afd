"""Extractive question answering: SQuAD files, windows over long contexts, and spans decoded from logits.

Sources: Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250 (SQuAD); Devlin et al. 2019,
https://arxiv.org/abs/1810.04805, section 4.2 (span scores, windows, [CLS] as "no answer").
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from tokenizers import Tokenizer

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import read_json
from pruneonce.models.tokenizer import encode_batch, require_unicode, separators_between, special_token_ids
from pruneonce.tasks.classification import ENCODE_BATCH, batches
from pruneonce.tasks.metrics import check_no_nan, question_scores, squad_scores
from pruneonce.tasks.table import HubData, Row, Table, read_source

_log = logging.getLogger(__name__)


class Span(NamedTuple):
    """An answer: the characters [start, end) of its context. Empty at (0, 0): the context does not tell."""

    text: str
    start: int
    end: int
    score: float  # sum of the start and end logits
    probability: float  # among the n best of its question


@dataclass(frozen=True, slots=True)
class QuestionExample:
    """A question, the text that should answer it, and the gold answers."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...] = ()  # empty: unanswerable, or not known
    answer_span: tuple[int, int] | None = None  # characters [start, end) of an answer, the target of training


@dataclass(frozen=True, slots=True, eq=False)
class WindowFeature:
    """One window of an example's context, unpadded: [CLS] question [SEP] context tokens [SEP]."""

    example_index: int
    input_ids: np.ndarray  # int32 [tokens]
    token_type_ids: np.ndarray  # int32 [tokens]; 1 for the context tokens and their [SEP]
    context_start: int  # index in input_ids of the first context token
    offsets: np.ndarray  # int32 [context tokens, 2]: the characters [start, end) of the context that each stands for
    start_position: int  # index in input_ids of the answer's first token; 0, [CLS], when it is not all in the window
    end_position: int  # of its last token


@dataclass(frozen=True)
class QuestionAnsweringTask:
    """How question answering data is read, turned into features, decoded and scored."""

    name: str = "question_answering"
    hub: HubData | None = None
    dev_splits: tuple[str, ...] = ("validation",)
    stride_tokens: int = 128  # shared by consecutive windows. 128, 20 and 30 are the usual values for SQuAD
    n_best: int = 20
    max_answer_tokens: int = 30

    kind: ClassVar[Literal["question_answering"]] = "question_answering"
    labels: ClassVar[None] = None
    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    main_metric: ClassVar[str] = "f1"
    pipeline: ClassVar[str] = "question-answering"  # of pruneonce and the Hub, for models of such tasks
    usual_tokens: ClassVar[int] = 384  # longest window, as published
    in_percent: ClassVar[bool] = True  # whether the metrics are percentages

    def __post_init__(self) -> None:
        if self.stride_tokens < 0:
            raise UsageError(f"stride_tokens must be 0 or more, got {self.stride_tokens}: tokens would be skipped")

    def read(self, source: str | Path, *, training: bool = False) -> list[QuestionExample]:
        """Examples of a local file or of one of the task's Hub splits.

        A file is SQuAD's JSON, or rows (.jsonl, .json, .parquet) of `question`, `context`, `answers` and perhaps `id`.
        `answers` is a list of texts, a list of {"text", "answer_start"}, or {"text": [...], "answer_start": [...]};
        an empty list means unanswerable. A wrong `answer_start` is corrected to the nearest occurrence.
        training: leave out, with a warning that counts them, questions whose answers are nowhere in their context.
        """
        table = _squad_table(source) or read_source(source, self.hub)
        examples = _examples(table)
        if not training:
            return examples
        usable = [example for example in examples if example.answer_span is not None or not example.answers]
        if len(usable) < len(examples):
            _log.warning(
                "%s: left out %d of %d questions, whose answers are not in their context",
                table.source,
                len(examples) - len(usable),
                len(examples),
            )
        if not usable:
            raise PruneonceError(f"{table.source}: no question has an answer in its context")
        return usable

    def features(
        self, examples: Sequence[QuestionExample], tokenizer: Tokenizer, max_tokens: int
    ) -> list[WindowFeature]:
        """All windows of all examples, in order; every example has at least one.

        A window has at most `max_tokens` tokens. A question gets at most half of those that are not special, and
        loses its end beyond; consecutive windows share `stride_tokens` context tokens, or half of a window if less.
        """
        if max_tokens < 8:
            raise UsageError(f"max_tokens must be at least 8 to hold a question and a context, got {max_tokens}")
        special = special_token_ids(tokenizer)
        cls, sep = (np.array([special[name]], np.int32) for name in ("cls", "sep"))
        between = sep.repeat(separators_between(tokenizer))
        questions = _tokenise([example.question for example in examples], tokenizer)
        contexts = _tokenise([example.context for example in examples], tokenizer)
        features = []
        for index, example in enumerate(examples):
            question = questions[example.question].ids[: (max_tokens - 2 - len(between)) // 2]
            head = np.concatenate([cls, question, between])
            context = contexts[example.context]
            answer = _answer_tokens(example.answer_span, context.offsets)
            bounds = window_bounds(len(context.ids), max_tokens - len(head) - 1, self.stride_tokens)
            features += [_window(index, head, context, sep, answer, begin, end) for begin, end in bounds]
        return features

    def decode(
        self,
        examples: Sequence[QuestionExample],
        features: Sequence[WindowFeature],
        logits: Sequence[np.ndarray],
        *,
        allow_empty: bool = False,
        null_threshold: float = 0.0,
    ) -> list[list[Span]]:
        """The `n_best` answers to each question, best first, over all of its windows.

        logits: for each feature float32 [tokens, 2], the start and end logits; further rows are padding, so that a
        padded array [features, tokens, 2] will do. allow_empty: "no answer" is a candidate, which wins when its
        score is more than `null_threshold` above the best answer's. Its score is the lowest of [CLS] over the windows:
        one window that holds an answer is enough. Source: the SQuAD 2.0 script of BERT, `run_squad.py`.
        """
        if len(features) != len(logits):
            raise PruneonceError(f"task {self.name}: {len(logits)} logits for {len(features)} windows")
        spans: list[dict[tuple[int, int], float]] = [{} for _ in examples]
        nulls = np.full(len(examples), np.inf)
        for feature, window in zip(features, logits, strict=True):
            _check_window(feature, window)
            best = spans[feature.example_index]
            for start, end, score in self._window_spans(feature, window):
                best[start, end] = max(score, best.get((start, end), -np.inf))
            nulls[feature.example_index] = min(nulls[feature.example_index], window[0].sum())
        for best, null in zip(spans, nulls, strict=True):
            if allow_empty or not best:
                best[0, 0] = float(null) - null_threshold
        return [_ranked(example.context, best, self.n_best) for example, best in zip(examples, spans, strict=True)]

    def score(
        self, examples: Sequence[QuestionExample], features: Sequence[WindowFeature], logits: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """SQuAD's F1 and exact match, in percent. "No answer" is a candidate only if some example has no answer."""
        scores = squad_scores(self.best_answers(examples, features, logits), [example.answers for example in examples])
        return {name: scores[name] for name in self.metrics}

    def outcomes(
        self, examples: Sequence[QuestionExample], features: Sequence[WindowFeature], logits: Sequence[np.ndarray]
    ) -> dict[str, list[Any]]:
        """What `score` is made of, question by question: `answers`, and `exact_match` and `f1` as fractions."""
        answers = self.best_answers(examples, features, logits)
        exact, f1 = question_scores(answers, [example.answers for example in examples])
        return {"answers": answers, "exact_match": exact, "f1": f1}

    def best_answers(
        self, examples: Sequence[QuestionExample], features: Sequence[WindowFeature], logits: Sequence[np.ndarray]
    ) -> list[str]:
        """The text of the best answer to each question, as `score` takes it."""
        allow_empty = any(not example.answers for example in examples)
        return [best[0].text for best in self.decode(examples, features, logits, allow_empty=allow_empty)]

    def _window_spans(self, feature: WindowFeature, window: np.ndarray) -> Iterator[tuple[int, int, float]]:
        """(first character, character after the last, score) of a window's best answers."""
        context = slice(feature.context_start, feature.context_start + len(feature.offsets))
        starts, ends, scores = best_token_spans(
            window[context, 0], window[context, 1], max_tokens=self.max_answer_tokens, count=self.n_best
        )
        yield from zip(
            feature.offsets[starts, 0].tolist(), feature.offsets[ends, 1].tolist(), scores.tolist(), strict=True
        )


QUESTION_ANSWERING = {
    task.name: task
    for task in (
        QuestionAnsweringTask("squad", HubData("rajpurkar/squad", None, ("train", "validation"))),
        QuestionAnsweringTask("squad_v2", HubData("rajpurkar/squad_v2", None, ("train", "validation"))),
        QuestionAnsweringTask(),
    )
}


def predictions(examples: Sequence[QuestionExample], answers: Sequence[Sequence[Span]]) -> dict[str, str]:
    """Id of each example -> text of its best answer: what SQuAD's scripts take. answers: as `decode` gives them."""
    return {example.id: best[0].text for example, best in zip(examples, answers, strict=True)}


def window_bounds(tokens: int, room: int, stride_tokens: int) -> list[tuple[int, int]]:
    """Windows [begin, end) of at most `room` over `tokens`, each sharing `stride_tokens` with the one before.

    The last window ends at the last token. The share is at most half of a window: else a long question would leave
    windows that hardly advance.

    >>> window_bounds(10, room=5, stride_tokens=2)
    [(0, 5), (3, 8), (6, 10)]
    """
    step = room - min(stride_tokens, room // 2)
    count = 1 + max(0, -(-(tokens - room) // step))
    return [(begin, min(begin + room, tokens)) for begin in range(0, count * step, step)]


def best_token_spans(
    start_logits: np.ndarray, end_logits: np.ndarray, *, max_tokens: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` spans [start, end], both inclusive, of at most `max_tokens` tokens with the highest scores.

    start_logits, end_logits: [tokens]. Returns starts, ends, scores, best first; of equal scores the earliest start.
    The score of a span is its start logit plus its end logit; all spans compete, not only those between good starts
    and good ends. Each of the best spans starts at one of the `count` starts whose own best span scores highest, so
    that only those are sorted.
    """
    width = min(max_tokens, len(start_logits))
    if width == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, start_logits.dtype)
    beyond = np.full(width - 1, -np.inf, end_logits.dtype)
    reachable = sliding_window_view(np.concatenate([end_logits, beyond]), width)  # [tokens, width]: end_logits[i + k]
    rows = _descending(start_logits + reachable.max(axis=1))[:count]
    scores = (start_logits[rows, None] + reachable[rows]).ravel()
    picks = _descending(scores)[:count]
    picks = picks[np.isfinite(scores[picks])]
    starts = rows[picks // width]
    return starts, starts + picks % width, scores[picks]


class _Tokens(NamedTuple):
    ids: np.ndarray  # int32 [tokens], without special tokens
    offsets: np.ndarray  # int32 [tokens, 2]


def _tokenise(texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, _Tokens]:
    """Each different text's tokens: in SQuAD five questions share a context."""
    tokens = {}
    for batch in batches(list(dict.fromkeys(texts)), ENCODE_BATCH):
        for text, encoding in zip(batch, encode_batch(tokenizer, batch, add_special_tokens=False), strict=True):
            offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
            tokens[text] = _Tokens(np.array(encoding.ids, np.int32), offsets)
    return tokens


def _answer_tokens(answer_span: tuple[int, int] | None, offsets: np.ndarray) -> tuple[int, int] | None:
    """First and last of the context tokens that overlap the characters of the answer; None when none does."""
    if answer_span is None:
        return None
    first = int(np.searchsorted(offsets[:, 1], answer_span[0], side="right"))
    last = int(np.searchsorted(offsets[:, 0], answer_span[1], side="left")) - 1
    return (first, last) if first <= last else None


def _window(
    index: int,
    head: np.ndarray,
    context: _Tokens,
    sep: np.ndarray,
    answer: tuple[int, int] | None,
    begin: int,
    end: int,
) -> WindowFeature:
    """The window over context tokens [begin, end) of example `index`; `head` is [CLS] question [SEP]."""
    input_ids = np.concatenate([head, context.ids[begin:end], sep])
    token_type_ids = (np.arange(len(input_ids)) >= len(head)).astype(np.int32)
    start_position = end_position = 0
    if answer is not None and begin <= answer[0] and answer[1] < end:
        start_position, end_position = (len(head) + token - begin for token in answer)
    offsets = context.offsets[begin:end]
    return WindowFeature(index, input_ids, token_type_ids, len(head), offsets, start_position, end_position)


def _check_window(feature: WindowFeature, window: np.ndarray) -> None:
    if window.ndim != 2 or window.shape[0] < len(feature.input_ids) or window.shape[1] != 2:
        wanted = f"[{len(feature.input_ids)}, 2]"
        raise PruneonceError(f"expected start and end logits of shape {wanted} for a window, got {window.shape}")
    check_no_nan(window[: len(feature.input_ids)])


def _ranked(context: str, scores: Mapping[tuple[int, int], float], count: int) -> list[Span]:
    ordered = sorted(scores.items(), key=lambda item: -item[1])[:count]
    exponentials = np.exp(np.array([score for _, score in ordered], np.float64) - ordered[0][1])
    probabilities = exponentials / exponentials.sum()
    return [
        Span(context[start:end], start, end, score, float(probability))
        for ((start, end), score), probability in zip(ordered, probabilities, strict=True)
    ]


def _descending(values: np.ndarray) -> np.ndarray:
    """Indices from the highest value to the lowest, equal ones in order: the same on every machine."""
    return np.argsort(-values, kind="stable")


def _squad_table(source: str | Path) -> Table | None:
    """The questions of a file in SQuAD's own JSON, as rows; None when the source is something else."""
    if Path(source).suffix != ".json":
        return None
    try:
        value = read_json(Path(source))
    except PruneonceError:
        return None  # missing, one object per line, or broken: the reader of rows tells which
    if not isinstance(value, dict) or "question" in value:
        return None
    rows: list[Row] = []
    try:
        for article in value["data"]:
            for paragraph in article["paragraphs"]:
                rows += [{**question, "context": paragraph["context"]} for question in paragraph["qas"]]
    except (KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise PruneonceError(f"{source} is not SQuAD's JSON: after {len(rows)} questions: {reason}") from error
    if not rows:
        raise PruneonceError(f"{source} holds no questions")
    return Table(str(source), tuple(rows[0]), rows, places=range(1, len(rows) + 1), unit="question")


def _examples(table: Table) -> list[QuestionExample]:
    columns = [table.column(name) for name in ("question", "context", "answers")]
    examples = []
    seen: set[str] = set()
    for index, (question, context, answers) in enumerate(zip(*columns, strict=True)):
        example_id = str(table.rows[index].get("id", index))
        if example_id in seen:
            raise PruneonceError(f"{table.where(index)}: id '{example_id}' appears a second time")
        seen.add(example_id)
        if not isinstance(question, str) or not isinstance(context, str):
            raise PruneonceError(f"{table.where(index)}: 'question' and 'context' must be text")
        for text in (question, context):
            require_unicode(text, f"{table.where(index)}: the text")
        try:
            texts, starts = _answer_lists(answers)
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # the last: int() of Infinity
            raise PruneonceError(
                f"{table.where(index)}: 'answers' must be a list of texts or of {{text, answer_start}}"
            ) from error
        examples.append(QuestionExample(example_id, question, context, texts, _first_span(context, texts, starts)))
    return examples


def _answer_lists(answers: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Gold texts and where each is said to start, from any of the forms that `read` takes; -1: not said."""
    if isinstance(answers, Mapping):
        texts = tuple(answers["text"])
        starts = tuple(answers.get("answer_start", [-1] * len(texts)))
    else:
        pairs = [(a, -1) if isinstance(a, str) else (a["text"], a.get("answer_start", -1)) for a in answers]
        texts, starts = tuple(text for text, _ in pairs), tuple(start for _, start in pairs)
    if isinstance(answers, str) or len(texts) != len(starts) or not all(isinstance(text, str) for text in texts):
        raise TypeError
    return texts, tuple(int(start) for start in starts)


def _first_span(context: str, texts: Sequence[str], starts: Sequence[int]) -> tuple[int, int] | None:
    """The first answer that is in the context at all."""
    for text, start in zip(texts, starts, strict=True):
        found = locate(context, text.strip(), start)
        if found is not None:
            return found, found + len(text.strip())
    return None


def locate(context: str, text: str, start: int) -> int | None:
    """The occurrence of `text` nearest to `start`, which files often give wrongly; None when there is none."""
    if not text:
        return None
    before = context.rfind(text, 0, max(start, 0) + len(text))
    after = context.find(text, max(start, 0))
    found = [position for position in (before, after) if position >= 0]
    return min(found, key=lambda position: abs(position - start), default=None)
