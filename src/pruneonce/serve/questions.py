"""Routes of our own, in TEI's style: /qa, /fill and /tag, with the answers of `pruneonce.pipeline`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pruneonce.models.tokenizer import encode_batch, require_unicode
from pruneonce.run.pipelines.question_answering import DOC_STRIDE, MAX_SEQ_LEN
from pruneonce.run.pipelines.text_model import Asking, Wanted, asking
from pruneonce.serve.refusal import Refusal
from pruneonce.serve.route import Body, Exchange, Reply, Route, Shape, json_bytes, require_texts
from pruneonce.serve.served_model import Question, ServedModel
from pruneonce.serve.tei import Truncating


class QuestionAndContext(Body):
    question: str
    context: str


class QaBody(Body):
    model: str | None = None
    inputs: QuestionAndContext | list[QuestionAndContext]
    top_k: Annotated[int, Field(ge=1, le=100)] = 1
    max_answer_len: Annotated[int, Field(ge=1, le=512)] = 15
    max_seq_len: Annotated[int, Field(ge=4)] | None = None
    doc_stride: Annotated[int, Field(ge=0)] | None = None
    handle_impossible_answer: bool = False


class FillBody(Body):
    model: str | None = None
    inputs: str | list[str]
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    targets: Annotated[list[str], Field(max_length=1000)] | None = None


class TagBody(Truncating):
    inputs: str | list[str]
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"
    ignore_labels: Annotated[list[str], Field(max_length=1000, default_factory=lambda: ["O"])]
    stride: Annotated[int, Field(ge=1)] | None = None


class Span(Shape):
    score: float
    start: int
    end: int
    answer: str


class Word(Shape):
    score: float
    token: int
    token_str: str
    sequence: str


async def qa(exchange: Exchange, body: QaBody) -> Reply:
    """The stretch of each context that answers its question; a list where top_k is above 1."""
    model = exchange.models.able("qa", body.model)
    several = isinstance(body.inputs, list)
    rows = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    require_texts(rows, exchange.limits)
    pairs = [(row.question, row.context) for row in rows]
    names = ("top_k", "max_answer_len", "max_seq_len", "doc_stride", "handle_impossible_answer")
    options = {name: getattr(body, name) for name in names}
    texts = [text for pair in pairs for text in pair]

    def respond(answers: Any, _: Wanted) -> bytes:
        return json_bytes(answers if several else answers[0])

    return await exchange.ask(model, Question(lambda: ask_spans(model, pairs, **options), texts, respond))


def ask_spans(
    model: ServedModel,
    pairs: list[tuple[str, str]],
    max_seq_len: int | None = None,
    doc_stride: int | None = None,
    **options: Any,
) -> Asking[Any]:
    """Of questions and contexts; Refusal for more windows than the server takes."""
    window = min(max_seq_len or MAX_SEQ_LEN, model.model.max_tokens)
    stride = min(window // 2, DOC_STRIDE) if doc_stride is None else doc_stride
    require_few_windows(model, pairs, window, stride)
    rows = [{"question": question, "context": context} for question, context in pairs]
    return asking(model.pipelines["qa"].__call__, rows, max_seq_len=max_seq_len, doc_stride=doc_stride, **options)


async def fill(exchange: Exchange, body: FillBody) -> Reply:
    """The words that fit in place of [MASK]: a list per text, of several masks a list of lists."""
    model = exchange.models.able("fill", body.model)
    several = isinstance(body.inputs, list)
    texts = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    require_texts(texts, exchange.limits)

    def check(wanted: Wanted) -> None:
        masks = sum(len(each) for each in wanted.positions or ())
        if masks > exchange.limits.masks:
            raise Refusal(
                f"the request has {masks:,} masks, this server fills {exchange.limits.masks} at once", status=413
            )

    def respond(answers: Any, _: Wanted) -> bytes:
        return json_bytes([answers] if several and len(texts) == 1 else answers)

    def ask() -> Asking[Any]:
        return asking(model.pipelines["fill"].__call__, texts, top_k=body.top_k, targets=body.targets)

    return await exchange.ask(model, Question(ask, texts, respond, check=check))


async def tag(exchange: Exchange, body: TagBody) -> Reply:
    """Names and places in texts: a list per text."""
    model = exchange.models.able("tag", body.model)
    several = isinstance(body.inputs, list)
    texts = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    require_texts(texts, exchange.limits)
    options = {**body.options, "aggregation_strategy": body.aggregation_strategy, "stride": body.stride}

    def respond(answers: Any, _: Wanted) -> bytes:
        return json_bytes(answers if several else answers[0])

    def ask() -> Asking[Any]:
        if body.stride is not None:
            require_few_windows(model, [("", text) for text in texts], model.model.max_tokens, body.stride)
        return asking(model.pipelines["tag"].__call__, texts, ignore_labels=body.ignore_labels, **options)

    return await exchange.ask(model, Question(ask, texts, respond, cuts=body.cuts and body.stride is None))


def require_few_windows(model: ServedModel, pairs: list[tuple[str, str]], window: int, stride: int) -> None:
    """Refusal for texts whose windows would have more tokens than the server takes: it is told before they are made.

    Windows that advance by a token each have hundreds of times the tokens of their text. Numbers of bytes stand for
    those of tokens, which are fewer, as long as even they do no harm.
    """
    most = model.limits.tokens
    total = 0
    for question, context in pairs:
        sizes = len(question.encode("utf-8", "replace")), len(context.encode("utf-8", "replace"))
        tokens = _tokens_of_windows(*sizes, window, stride)
        if tokens is None or total + tokens > most:
            for text in (question, context):
                require_unicode(text, "a text")
            encodings = encode_batch(model.text_model.tokenizer, [question, context], add_special_tokens=False)
            tokens = _tokens_of_windows(len(encodings[0]), len(encodings[1]), window, stride)
        total += tokens or 0  # None: no room, which the pipeline says
        if total > most:
            raise Refusal(f"the windows of these texts have more than the {most:,} tokens that are taken", status=413)


def _tokens_of_windows(question: int, context: int, window: int, stride: int) -> int | None:
    """At most; None where windows have no room to advance."""
    room = window - question - 3
    if context <= room:
        return window
    return window * (1 - (room - context) // (room - stride)) if room > stride else None


ROUTES = [
    Route("POST", "/qa", qa, "Answers to questions about contexts", Span | list[Span] | list[list[Span]], QaBody),
    Route("POST", "/fill", fill, "Words for [MASK]", list[Any], FillBody),
    Route("POST", "/tag", tag, "Names and places in texts", list[Any], TagBody),
]
