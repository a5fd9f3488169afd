"""What a contract is made of: routes, the bodies that they read, and what their handlers may use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from pruneonce.serve.limits import Limits
from pruneonce.serve.metrics import Metrics
from pruneonce.serve.refusal import Refusal
from pruneonce.serve.served_model import Answer, Question, ServedModel


class Body(BaseModel):
    """A request's JSON. Types are not converted; what a contract does not name is ignored, as clients send more."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Shape(BaseModel):
    """JSON that comes back, for the OpenAPI document alone: pipelines give dicts."""


@dataclass
class Reply:
    """What a handler gives back."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answer: Answer | None = None  # a model's, which headers and log tell of
    model: str | None = None


class Models:
    """The models of a server, in the order in which they were named."""

    def __init__(self, models: list[ServedModel]) -> None:
        self.by_name = {model.name: model for model in models}

    @property
    def full(self) -> bool:
        """Whether each of them refuses whatever comes."""
        return all(model.full for model in self.by_name.values())

    def overloaded(self) -> Refusal:
        """Of the one that has room first."""
        return min(self.by_name.values(), key=lambda model: model.seconds_to_answer).overloaded()

    def named(self, name: str) -> ServedModel:
        if name not in self.by_name:
            raise Refusal(f"no model is named {name[:100]!a}; there are {', '.join(self.by_name)}", status=404)
        return self.by_name[name]

    def able(self, ability: str, name: str | None = None) -> ServedModel:
        """The model of that name, or the only one that can do it: clients name models of other servers."""
        if name is not None and name in self.by_name:
            model = self.by_name[name]
            if not model.can(ability):
                raise Refusal(f"{model.name} is a model for {model.task}: it cannot {ability}", "Backend")
            return model
        able = [model for model in self.by_name.values() if model.can(ability)]
        if not able:
            tasks = ", ".join(sorted({model.task for model in self.by_name.values()}))
            raise Refusal(f"no model here can {ability}: they are for {tasks}", "Backend")
        if name is not None and len(able) > 1:
            names = ", ".join(model.name for model in able)
            raise Refusal(f"no model is named {name[:100]!a}; those that can {ability} are {names}", status=404)
        return able[0]


@dataclass
class Exchange:
    """One request, as a handler sees it."""

    models: Models
    limits: Limits
    metrics: Metrics
    ready: bool
    headers: Mapping[bytes, bytes]
    path_parameters: Mapping[str, str]
    query: Mapping[str, str]
    gone: asyncio.Future[Any] | None = None

    async def ask(self, model: ServedModel, question: Question) -> Reply:
        answer = await model.answer(question, self.gone)
        return Reply(answer.body, answer=answer, model=model.name)


B = TypeVar("B", bound=Body)
Handler = Callable[[Exchange, Any], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """A path and what answers there."""

    method: str
    path: str
    handle: Handler
    summary: str
    answers: Any = None  # type of the JSON that comes back; None: none
    body: type[Body] | None = None
    read: Callable[[bytes, Mapping[bytes, bytes]], Any] | None = None  # of a body that is not JSON alone
    is_open: bool = False  # without a key


def read_json(kind: type[B], body: bytes) -> B:
    """Refusal, 400 for what is no JSON and 422 for what is none of this kind."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def checked(kind: type[B], values: Any) -> B:
    """The same of values that are no longer JSON."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> Refusal:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        return Refusal(f"the body is no JSON: {first['msg']}"[:300], status=400)
    place = first["loc"][0] if first["loc"] else "body"
    reasons = dict.fromkeys(each["msg"] for each in errors if each["loc"][:1] == first["loc"][:1])
    return Refusal(f"{place}: {'; or '.join(list(reasons)[:4])}"[:300])


def json_bytes(value: Any) -> bytes:
    """Of numpy arrays too, their floats in the fewest digits that give the same float32."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def require_texts(texts: list[Any], limits: Limits, what: str = "inputs") -> None:
    """Refusal for none or too many."""
    if not texts:
        raise Refusal(f"{what} cannot be empty", "Empty")
    if len(texts) > limits.texts:
        raise Refusal(f"{what} has {len(texts):,} texts, this server takes {limits.texts:,} at once", status=413)
