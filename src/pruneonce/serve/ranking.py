"""Texts in order of a query: TEI's /rerank, and that of Jina and Cohere, which have `documents`."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from pydantic import Field

from pruneonce.run.pipelines.text_model import Wanted, asking
from pruneonce.run.pipelines.text_ranking import TextRanking
from pruneonce.serve.refusal import Refusal
from pruneonce.serve.route import Body, Exchange, Reply, Route, Shape, json_bytes, require_texts
from pruneonce.serve.served_model import Question
from pruneonce.serve.tei import Truncating

QUERY_BODIES = 4  # what a query may come to in all, in bodies of the largest size


class Document(Body):
    text: str


class RerankBody(Truncating):
    """`texts` as TEI, answered as TEI; or `documents` as Jina and Cohere, answered as they do."""

    query: str
    texts: list[str] | None = None
    raw_scores: bool = False
    return_text: bool = False
    documents: list[str | Document] | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = None


class Rank(Shape):
    index: int
    score: float
    text: str | None = None


class Result(Shape):
    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class Results(Shape):
    id: str
    object: str
    model: str
    results: list[Result]
    usage: dict[str, int]
    meta: dict[str, Any]


async def rerank(exchange: Exchange, body: RerankBody) -> Reply:
    """Best first; scores are sigmoids unless `raw_scores`."""
    if (body.texts is None) == (body.documents is None):
        raise Refusal("either texts or documents is expected")
    return await (_as_tei if body.documents is None else as_jina)(exchange, body)


async def _as_tei(exchange: Exchange, body: RerankBody) -> Reply:
    texts = body.texts or []
    require_texts(texts, exchange.limits, "texts")

    def respond(ranking: list[dict[str, Any]], _: Wanted) -> bytes:
        return json_bytes(ranking)

    return await _ask(exchange, body, texts, respond, return_texts=body.return_text)


async def as_jina(exchange: Exchange, body: RerankBody) -> Reply:
    """The form to which gateways bring that of every provider; Cohere's clients read `meta` of it."""
    if body.documents is None:
        raise Refusal("documents is missing")
    require_texts(body.documents, exchange.limits, "documents")
    if body.max_tokens_per_doc is not None:
        raise Refusal("max_tokens_per_doc is not supported: pairs are cut to what the model takes, leave it out")
    texts = [each if isinstance(each, str) else each.text for each in body.documents]
    model = exchange.models.able("rerank", body.model)

    def respond(ranking: list[dict[str, Any]], wanted: Wanted) -> bytes:
        tokens = sum(wanted.lengths)
        results = []
        for each in ranking:
            told = {"index": each["index"], "relevance_score": each["score"]}
            if body.return_documents:
                told["document"] = {"text": texts[each["index"]]}
            results.append(told)
        return json_bytes(
            {
                "id": uuid.uuid4().hex,
                "object": "rerank",
                "model": model.name,
                "results": results,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 0}},
            }
        )

    return await _ask(exchange, body, texts, respond, top_k=body.top_n)


async def _ask(exchange: Exchange, body: RerankBody, texts: list[str], respond: Any, **options: Any) -> Reply:
    model = exchange.models.able("rerank", body.model)
    pipeline: TextRanking = model.pipelines["rerank"]
    options |= {**body.options, "raw_scores": body.raw_scores}
    # The query is read once for each text.
    if len(body.query) * len(texts) > QUERY_BODIES * exchange.limits.body_bytes:
        raise Refusal("so long a query with so many texts is more than this server takes at once", status=413)
    given = [text for each in texts for text in (body.query, each)]
    return await exchange.ask(
        model,
        Question(lambda: asking(pipeline.rerank, body.query, texts, **options), given, respond, cuts=body.cuts),
    )


ROUTES = [
    Route("POST", "/rerank", rerank, "Texts in order of a query", list[Rank] | Results, RerankBody),
    Route("POST", "/v1/rerank", as_jina, "The same, as Jina and Cohere", Results, RerankBody),
    Route("POST", "/v2/rerank", as_jina, "The same, as Cohere's second version", Results, RerankBody),
]
