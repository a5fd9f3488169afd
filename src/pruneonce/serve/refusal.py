"""How requests are refused: one error, told in the form that the contract of its route has."""

from __future__ import annotations

from typing import Any

from pruneonce.errors import PruneonceError, UsageError

STATUS = {  # TEI's names -> status
    "Validation": 422,
    "Tokenizer": 422,
    "Empty": 400,
    "Backend": 424,
    "Overloaded": 429,
    "Unhealthy": 503,
    "Internal": 500,
}


class Refusal(Exception):
    """An answer that is none: a status and what to say. `kind` is one of TEI's `error_type`s, or Internal."""

    def __init__(
        self,
        message: str,
        kind: str = "Validation",
        *,
        status: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.kind = message, kind
        self.status = STATUS[kind] if status is None else status
        self.headers = headers or {}


def refusal_of(error: BaseException) -> Refusal:
    """What an error of ours, or a bug, is to a client."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UsageError):
        return Refusal(str(error))
    if isinstance(error, PruneonceError):
        return Refusal(str(error), "Backend")
    if isinstance(error, MemoryError):
        return Refusal("out of memory; send less at once", "Overloaded", headers={"retry-after": "1"})
    return Refusal("internal error; the server's log has it under this request's id", "Internal")


def body_of(refusal: Refusal, path: str) -> dict[str, Any]:
    """The JSON of a refusal, by the contract that the path belongs to."""
    if path.startswith("/v2") and path != "/v2/rerank":
        return {"error": refusal.message}
    if path.startswith("/v1") or path == "/embeddings":
        kind = "invalid_request_error" if 400 <= refusal.status < 500 else "server_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(refusal.status, kind)
        told = {"message": refusal.message, "type": kind, "param": None, "code": refusal.status}
        # OpenAI's own clients read `error`, TEI's form of the same route has its fields outside
        return {"error": told, "message": refusal.message, "type": refusal.kind, "code": refusal.status}
    return {"error": refusal.message, "error_type": refusal.kind}
