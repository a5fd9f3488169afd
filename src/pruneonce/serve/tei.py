"""The contract of text-embeddings-inference: /predict, /tokenize, /decode, /info, /health, /metrics.

Requests may name one of several models by `model`, which TEI ignores; it has one.
"""

from __future__ import annotations

from typing import Any, Literal

import pruneonce
from pruneonce.models.tokenizer import encode_batch, refused_as, require_unicode
from pruneonce.run.pipelines.text_model import Wanted, asking
from pruneonce.serve.metrics import CONTENT_TYPE
from pruneonce.serve.refusal import Refusal
from pruneonce.serve.route import Body, Exchange, Reply, Route, Shape, json_bytes, require_texts
from pruneonce.serve.served_model import Question, ServedModel

TokenId = int
Text = str


class Truncating(Body):
    """What every text route takes."""

    model: str | None = None
    truncate: bool | None = None  # None: as True
    truncation_direction: Literal["right", "left", "Right", "Left"] = "right"

    @property
    def options(self) -> dict[str, Any]:
        """Those of a pipeline."""
        return {"truncation": self.cuts, "truncation_side": self.truncation_direction.lower()}

    @property
    def cuts(self) -> bool:
        return self.truncate is not False


class PredictBody(Truncating):
    inputs: Text | list[Text] | list[list[Text]]
    raw_scores: bool = False


class TokenizeBody(Body):
    model: str | None = None
    inputs: Text | list[Text]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeBody(Body):
    model: str | None = None
    ids: list[TokenId] | list[list[TokenId]]
    skip_special_tokens: bool = True


class Prediction(Shape):
    score: float
    label: str


class Token(Shape):
    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


async def predict(exchange: Exchange, body: PredictBody) -> Reply:
    """Classes of a text, of one pair ["a", "b"], or of a batch [["a"], ["a", "b"]]."""
    model = exchange.models.able("predict", body.model)
    rows: list[list[Text]]
    if isinstance(body.inputs, str):
        rows, several = [[body.inputs]], False
    elif body.inputs and isinstance(body.inputs[0], str):
        rows, several = [body.inputs], False
    else:
        rows, several = body.inputs, True  # type: ignore[assignment]
    require_texts(rows, exchange.limits)
    for number, row in enumerate(rows):
        if not 1 <= len(row) <= 2:
            raise Refusal(f"inputs {number} has {len(row)} texts: one, or a pair is expected")
    texts = [row[0] if len(row) == 1 else {"text": row[0], "text_pair": row[1]} for row in rows]
    options = {**body.options, "top_k": None, "function_to_apply": "none" if body.raw_scores else None}

    def respond(answers: Any, _: Wanted) -> bytes:
        told = [[{"score": each["score"], "label": each["label"]} for each in answer] for answer in answers]
        return json_bytes(told if several else told[0])

    return await exchange.ask(
        model,
        Question(
            lambda: asking(model.pipelines["predict"].__call__, texts, **options),
            [text for row in rows for text in row],
            respond,
            cuts=body.cuts,
        ),
    )


def any_model(exchange: Exchange, name: str | None) -> ServedModel:
    """Of that name, or the first."""
    return next(iter(exchange.models.by_name.values())) if name is None else exchange.models.named(name)


async def tokenize(exchange: Exchange, body: TokenizeBody) -> Reply:
    """Texts as tokens, with the characters of the text that each is; special tokens have none."""
    model = any_model(exchange, body.model)
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    require_texts(texts, exchange.limits)

    def work() -> bytes:
        for number, text in enumerate(texts):
            require_unicode(text, f"inputs {number}")
        before = ""
        if body.prompt_name is not None:
            if not model.can("embed"):
                raise Refusal(f"{model.name} has no prompts")
            before = model.pipelines["embed"].prompt(body.prompt_name)
        whole = [before + text for text in texts]
        encodings = encode_batch(model.text_model.tokenizer, whole, add_special_tokens=body.add_special_tokens)
        tokens = sum(map(len, encodings))
        if tokens > exchange.limits.tokens:
            most = f"{exchange.limits.tokens:,}"
            raise Refusal(f"the texts have {tokens:,} tokens, this server takes {most} at once", status=413)
        rows: list[list[dict[str, Any]]] = []
        for text, encoding in zip(whole, encodings, strict=True):
            row: list[dict[str, Any]] = []
            columns = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
            for token_id, token, special, (start, stop) in columns:
                if special:
                    row.append({"id": token_id, "text": token, "special": True, "start": None, "stop": None})
                    continue
                row.append({"id": token_id, "text": text[start:stop], "special": False, "start": start, "stop": stop})
            rows.append(row)
        return json_bytes(rows)

    return Reply(await model.in_thread(work, texts), model=model.name)


async def decode(exchange: Exchange, body: DecodeBody) -> Reply:
    """Texts that token ids spell."""
    model = any_model(exchange, body.model)
    require_texts(body.ids, exchange.limits, "ids")
    rows: list[list[TokenId]] = [body.ids] if isinstance(body.ids[0], int) else body.ids
    for number, row in enumerate(rows):
        for token_id in row:
            if not 0 <= token_id < model.model.vocabulary_size:
                raise Refusal(f"ids {number} has {token_id}: expected 0 to {model.model.vocabulary_size - 1}")

    def work() -> bytes:
        tokenizer = model.text_model.tokenizer
        with refused_as("the ids cannot be decoded"):
            return json_bytes([tokenizer.decode(row, skip_special_tokens=body.skip_special_tokens) for row in rows])

    return Reply(await model.in_thread(work, []), model=model.name)


async def info(exchange: Exchange, _: None) -> Reply:
    """What runs here, and its limits. `?model=NAME` of several models; `models` has the names of all."""
    model = any_model(exchange, exchange.query.get("model"))
    limits = exchange.limits
    labels = model.model.labels
    classes = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    kinds: dict[str, dict[str, Any]] = {"text-classification": {"classifier": classes}}
    kinds["token-classification"] = {"token_classifier": classes}
    kinds["text-ranking"] = {"reranker": classes}
    kinds["embeddings"] = {"embedding": {"pooling": _pooling(model)}}
    precision = "int8" if model.quantized else "float32"
    told = {
        "model_id": model.name,
        "model_sha": None,
        "model_dtype": precision,
        "served_model_name": model.name,
        "model_type": kinds.get(model.task, {model.task.replace("-", "_"): {}}),
        "max_concurrent_requests": limits.requests,
        "max_input_length": model.model.max_tokens,
        "max_batch_tokens": model.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": limits.texts,
        "auto_truncate": True,
        "tokenization_workers": model.threads,
        "version": pruneonce.__version__,
        "sha": None,
        "docker_label": None,
        "models": list(exchange.models.by_name),
    }
    return Reply(json_bytes(told), model=model.name)


def _pooling(model: ServedModel) -> str:
    """TEI's name for it, where TEI has one."""
    return "+".join({"lasttoken": "last_token"}.get(each, each) for each in model.model.embedding.pooling)


async def health(exchange: Exchange, _: None) -> Reply:
    """200 while all models answer; one that has failed is asked again."""
    if not exchange.ready:
        raise Refusal("shutting down", "Unhealthy")
    for model in exchange.models.by_name.values():
        if model.failed:
            await model.probe()
    return Reply(b"")


async def metrics(exchange: Exchange, _: None) -> Reply:
    return Reply(exchange.metrics.text(), CONTENT_TYPE)


Predictions = list[Prediction] | list[list[Prediction]]
ROUTES = [
    Route("POST", "/predict", predict, "Classes of texts or pairs", Predictions, PredictBody),
    Route("POST", "/tokenize", tokenize, "Texts as tokens", list[list[Token]], TokenizeBody),
    Route("POST", "/decode", decode, "Token ids as texts", list[str], DecodeBody),
    Route("GET", "/info", info, "What runs here, and its limits", dict[str, Any]),
    Route("GET", "/health", health, "200 while all models answer", is_open=True),
    Route("GET", "/ping", health, "The same", is_open=True),
    Route("GET", "/metrics", metrics, "Counts and times for Prometheus"),
]
