"""Vectors: TEI's /embed, /embed_all and /similarity, and OpenAI's /v1/embeddings."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pruneonce.run.pipelines.embeddings import Embeddings
from pruneonce.run.pipelines.text_model import Array, Asking, Wanted, asking
from pruneonce.serve.refusal import Refusal
from pruneonce.serve.route import Body, Exchange, Reply, Route, Shape, json_bytes, require_texts
from pruneonce.serve.served_model import Question, ServedModel
from pruneonce.serve.tei import Truncating

JSON_BYTES_PER_NUMBER = 12  # of a float32 in the fewest digits, and its comma

Inputs = str | list[str] | list[int] | list[list[int]]


class EmbedAllBody(Truncating):
    inputs: Inputs
    prompt_name: str | None = None


class EmbedBody(EmbedAllBody):
    normalize: bool = True
    dimensions: int | None = None


class SimilarityInputs(Body):
    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Truncating):
    prompt_name: str | None = None


class SimilarityBody(Body):
    model: str | None = None
    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class OpenAiBody(Body):
    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class Embedding(Shape):
    object: str
    index: int
    embedding: list[float] | str


class Usage(Shape):
    prompt_tokens: int
    total_tokens: int


class OpenAiEmbeddings(Shape):
    object: str
    data: list[Embedding]
    model: str
    usage: Usage


class OpenAiModel(Shape):
    id: str
    object: str
    created: int
    owned_by: str


class OpenAiModels(Shape):
    object: str
    data: list[OpenAiModel]


async def embed(exchange: Exchange, body: EmbedBody) -> Reply:
    """A vector per input, also of a single one: a list of lists."""
    model = exchange.models.able("embed", body.model)
    options: dict[str, Any] = {"normalize": body.normalize, "dimensions": body.dimensions}

    def respond(vectors: Array, _: Wanted) -> bytes:
        return json_bytes(vectors)

    return await exchange.ask(model, _question(exchange, model, body, body.inputs, "inputs", options, respond))


async def embed_all(exchange: Exchange, body: EmbedAllBody) -> Reply:
    """The last hidden state of every token of each input."""
    model = exchange.models.able("embed", body.model)
    pipeline: Embeddings = model.pipelines["embed"]
    texts, ids = _inputs(exchange, model, body.inputs, "inputs")

    def ask() -> Asking[list[Array]]:
        if ids is not None:
            states = yield Wanted(_framed(model, ids, body), output="states")
        else:
            options = {"truncation": body.cuts, "truncation_side": body.options["truncation_side"]}
            encodings = pipeline.encode(texts, prompt=pipeline.prompt(body.prompt_name), **options)
            states = yield Wanted.of(encodings, output="states")
        return list(states)

    def check(wanted: Wanted) -> None:
        size = sum(wanted.lengths) * model.model.hidden_size * JSON_BYTES_PER_NUMBER
        if size > exchange.limits.response_bytes:
            most = f"{exchange.limits.response_bytes:,}"
            raise Refusal(f"the answer would have some {size:,} bytes, this server sends {most} at most", status=413)

    def respond(states: list[Array], _: Wanted) -> bytes:
        return json_bytes(states)

    return await exchange.ask(model, Question(ask, texts, respond, cuts=body.cuts, check=check))


async def similarity(exchange: Exchange, body: SimilarityBody) -> Reply:
    """How alike a sentence is to each of others, by the model's own measure."""
    model = exchange.models.able("embed", body.model)
    pipeline: Embeddings = model.pipelines["embed"]
    parameters = body.parameters or SimilarityParameters()
    require_texts(body.inputs.sentences, exchange.limits, "sentences")
    source, sentences = body.inputs.source_sentence, body.inputs.sentences
    options = {**parameters.options, "prompt_name": parameters.prompt_name}

    def respond(scores: list[float], _: Wanted) -> bytes:
        return json_bytes(scores)

    return await exchange.ask(
        model,
        Question(
            lambda: asking(pipeline.similarity, source, sentences, **options),
            [source, *sentences],
            respond,
            cuts=parameters.cuts,
        ),
    )


async def openai(exchange: Exchange, body: OpenAiBody) -> Reply:
    """As OpenAI's: `base64` is little-endian float32. Vectors are of length 1, as OpenAI's are."""
    model = exchange.models.able("embed", body.model)
    options: dict[str, Any] = {"normalize": True, "dimensions": body.dimensions}

    def respond(vectors: Array, wanted: Wanted) -> bytes:
        told = list(vectors)
        if body.encoding_format == "base64":
            told = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        tokens = sum(wanted.lengths)
        return json_bytes(
            {
                "object": "list",
                "data": [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(told)],
                "model": model.name,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    cut = Truncating()
    return await exchange.ask(model, _question(exchange, model, cut, body.input, "input", options, respond))


async def models(exchange: Exchange, _: None) -> Reply:
    """The names of the models here."""
    told = [
        {"id": name, "object": "model", "created": model.created, "owned_by": "pruneonce"}
        for name, model in exchange.models.by_name.items()
    ]
    return Reply(json_bytes({"object": "list", "data": told}))


async def model_named(exchange: Exchange, _: None) -> Reply:
    model = exchange.models.named(exchange.path_parameters["name"])
    told = {"id": model.name, "object": "model", "created": model.created, "owned_by": "pruneonce"}
    return Reply(json_bytes(told))


def _question(
    exchange: Exchange,
    model: ServedModel,
    body: Truncating,
    inputs: Inputs,
    what: str,
    options: dict[str, Any],
    respond: Any,
) -> Question:
    """Vectors of texts, or of token ids."""
    pipeline: Embeddings = model.pipelines["embed"]
    texts, ids = _inputs(exchange, model, inputs, what)
    prompt = getattr(body, "prompt_name", None)
    if ids is None:
        return Question(
            lambda: asking(pipeline.__call__, texts, prompt_name=prompt, **body.options, **options),
            texts,
            respond,
            cuts=body.cuts,
        )
    if prompt is not None:
        raise Refusal("prompt_name is for texts; tokens are taken as they are")
    sequences = _framed(model, ids, body)
    return Question(lambda: asking(pipeline.vectors, sequences, **options), texts, respond)


def _inputs(
    exchange: Exchange, model: ServedModel, inputs: Inputs, what: str
) -> tuple[list[str], list[list[int]] | None]:
    """Texts, and None; or for token ids stand-ins of as many characters as their tokens are taken for, and the ids."""
    rows: list[Any] = [inputs] if isinstance(inputs, str) else inputs
    if rows and isinstance(rows[0], int):
        rows = [rows]
    require_texts(rows, exchange.limits, what)
    if isinstance(rows[0], str):
        return rows, None
    most = model.model.vocabulary_size
    for number, row in enumerate(rows):
        if not row:
            raise Refusal(f"{what} {number} has no tokens", "Empty")
        for token in row:
            if not 0 <= token < most:
                raise Refusal(f"{what} {number} has the token {str(token)[:20]}: this model's are 0 to {most - 1}")
    return ["   " * len(row) for row in rows], rows


def _framed(model: ServedModel, rows: list[list[int]], body: Truncating) -> list[Array]:
    """Tokens of this model's own, [CLS] and [SEP] put around those that lack them, and cut as texts are."""
    pipeline: Embeddings = model.pipelines["embed"]
    special, most = model.text_model.special, pipeline.max_tokens
    framed = []
    for number, row in enumerate(rows):
        inner = row[1:] if row[0] == special["cls"] else row
        inner = inner[:-1] if inner and inner[-1] == special["sep"] else inner
        if len(inner) > most - 2:
            if not body.cuts:
                raise Refusal(f"input {number} has {len(inner) + 2:,} tokens, the model takes {most}")
            right = body.options["truncation_side"] == "right"
            inner = inner[: most - 2] if right else inner[len(inner) - (most - 2) :]
        framed.append(np.array([special["cls"], *inner, special["sep"]], np.int64))
    return framed


Vectors = list[list[float]]
ROUTES = [
    Route("POST", "/embed", embed, "Vectors of texts", Vectors, EmbedBody),
    Route("POST", "/embed_all", embed_all, "States of all tokens", list[Vectors], EmbedAllBody),
    Route("POST", "/similarity", similarity, "How alike texts are", list[float], SimilarityBody),
    Route("POST", "/v1/embeddings", openai, "Vectors of texts, as OpenAI", OpenAiEmbeddings, OpenAiBody),
    Route("POST", "/embeddings", openai, "The same", OpenAiEmbeddings, OpenAiBody),
    Route("GET", "/v1/models", models, "The models here, as OpenAI", OpenAiModels),
    Route("GET", "/v1/models/{name}", model_named, "One of them", OpenAiModel),
]
