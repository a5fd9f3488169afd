"""What surrounds every route: host, key, method, body, errors, headers, counts and the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

import anyio
from starlette.types import Receive, Scope, Send

from pruneonce.serve.limits import Limits
from pruneonce.serve.refusal import Refusal, body_of, refusal_of
from pruneonce.serve.route import Exchange, Reply, Route, json_bytes, read_json
from pruneonce.serve.served_model import Gone
from pruneonce.serve.server import Server, request_id_of

errors = logging.getLogger("pruneonce.serve")
JSON_TYPE = re.compile(rb"application/(?:[\w.+-]+\+)?json(?:\s*;.*)?", re.IGNORECASE)
LARGE_BYTES = 1_000_000  # what the system's buffers hold is not counted
AGAIN = {"retry-after": "1"}


class Endpoint:
    """One path, an ASGI application."""

    def __init__(self, server: Server, routes: Mapping[str, Route]) -> None:
        """routes: by method; none of them: the path is not there."""
        self.server, self.routes = server, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = request_id_of(headers)
        body = _Body(receive, self.server.limits)
        gone: asyncio.Future[Any] | None = None
        path: str = scope["path"]
        reply: Reply | None = None
        try:
            route = self._admitted(scope["method"], path, headers)
            exchange = Exchange(
                self.server.models,
                self.server.limits,
                self.server.metrics,
                self.server.ready,
                headers,
                scope.get("path_params", {}),
                _query(scope["query_string"]),
            )
            parsed = None
            if route.body is not None:
                _require_type(route, headers)
                if self.server.sending_bytes > self.server.limits.sending_bytes:
                    raise Refusal("too many large answers are not fetched yet", "Overloaded", headers=AGAIN)
                if self.server.models.full:
                    raise self.server.models.overloaded()
                content = await body.read(headers)
                parsed = route.read(content, headers) if route.read else read_json(route.body, content)
                gone = exchange.gone = asyncio.ensure_future(body.disconnect())
            reply = await route.handle(exchange, parsed)
        except Gone:
            pass
        except Exception as error:
            reply = self._refused(error, path, request_id)
            if not body.complete:
                await body.discard()
            if not body.complete:
                reply.headers["connection"] = "close"
        finally:
            if gone is not None:
                gone.cancel()
        seconds = time.perf_counter() - begin
        if reply is not None:
            try:
                with self._sending(len(reply.body)) as is_large:
                    await _send(send, reply, request_id, seconds, scope["method"] != "HEAD", is_large)
            except RuntimeError:  # uvloop's, for a connection that has ended: that is told a moment later
                reply = None
                if not await body.ends():
                    raise
        self._count(scope, reply, request_id, seconds)

    def _admitted(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Route:
        """The route of a request that may come in."""
        route = self.routes.get("GET" if method == "HEAD" else method)
        self.server.admit(headers, is_open=route is not None and route.is_open)
        if not self.routes:
            raise Refusal(f"there is nothing at {path[:200]!a}; /openapi.json has what there is", status=404)
        if route is None:
            allowed = ", ".join(self.routes)
            raise Refusal(f"{method} is not for {path[:200]!a}, but {allowed}", status=405, headers={"allow": allowed})
        return route

    @contextlib.contextmanager
    def _sending(self, size: int) -> Iterator[bool]:
        """Counts an answer that is large: those that nobody fetches are memory."""
        is_large = size > LARGE_BYTES
        self.server.sending_bytes += size * is_large
        try:
            yield is_large
        finally:
            self.server.sending_bytes -= size * is_large

    def _refused(self, error: Exception, path: str, request_id: str) -> Reply:
        refusal = refusal_of(error)
        if refusal.status >= 500 and refusal.kind == "Internal":
            errors.error("request %s to %s failed", request_id, path, exc_info=refusal.__cause__ or error)
        self.server.count_refusal(refusal)
        return Reply(json_bytes(body_of(refusal, path)), status=refusal.status, headers=dict(refusal.headers))

    def _count(self, scope: Scope, reply: Reply | None, request_id: str, seconds: float) -> None:
        metrics = self.server.metrics
        answer = reply.answer if reply is not None else None
        if answer is not None and reply is not None:
            method = "batch" if answer.sequences > 1 else "single"
            metrics.count("te_request_count", "Requests to models that were answered", method=method)
            metrics.count("te_request_success", "The same", method=method)
            metrics.duration.labels(reply.model).observe(seconds)
        elif reply is None:
            metrics.count("pruneonce_gone", "Requests whose client left")
        status = 499 if reply is None else reply.status
        self.server.log(request_id, scope["client"], scope["method"], scope["path"], status, seconds, reply)


class _Body:
    """A request's body, within size and time, and afterwards whether its client is still there."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self.complete = False

    async def read(self, headers: Mapping[bytes, bytes]) -> bytes:
        most = self._limits.body_bytes
        length = headers.get(b"content-length")
        if length is not None and int(length) > most:
            raise Refusal(f"the body has {int(length):,} bytes, this server takes {most:,}", status=413)
        parts: list[bytes] = []
        size = 0
        try:
            with anyio.fail_after(self._limits.body_seconds):
                while not self.complete:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    size += len(message.get("body", b""))
                    if size > most:
                        raise Refusal(f"the body has more than the {most:,} bytes that this server takes", status=413)
                    parts.append(message.get("body", b""))
                    self.complete = not message.get("more_body", False)
        except TimeoutError:
            raise Refusal(f"the body did not arrive within {self._limits.body_seconds:g} seconds", status=408) from None
        return b"".join(parts)

    async def discard(self) -> None:
        """What is on its way of a body that is not wanted: a connection closed on it would lose the answer."""
        size = 0
        with anyio.move_on_after(1.0):
            while not self.complete and size < 2 * self._limits.body_bytes:
                message = await self._receive()
                size += len(message.get("body", b""))
                self.complete = message["type"] == "http.disconnect" or not message.get("more_body", False)

    async def ends(self) -> bool:
        """Whether the client has left, or does so in the next second."""
        with anyio.move_on_after(1.0) as waiting:
            await self.disconnect()
        return not waiting.cancelled_caught

    async def disconnect(self) -> None:
        """Returns when the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _query(text: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(text.decode("latin-1"), max_num_fields=20))
    except ValueError as error:
        raise Refusal(f"the query cannot be read: {error}", status=400) from error


def _require_type(route: Route, headers: Mapping[bytes, bytes]) -> None:
    """A page of another origin can send other types, or none, without asking: they are refused."""
    kind = headers.get(b"content-type", b"")
    if not kind and route.read is not None and b"origin" not in headers:
        return  # Triton's client says no type; a page's browser says its origin
    if JSON_TYPE.fullmatch(kind) or (route.read is not None and kind.startswith(b"application/octet-stream")):
        return
    raise Refusal(f"the content type is {kind[:100].decode('latin-1')!a}: application/json is expected", status=415)


def _milliseconds(seconds: float) -> bytes:
    return b"%.3f" % (1000 * seconds)


async def _send(
    send: Send, reply: Reply, request_id: str, seconds: float, with_body: bool, wait_for_client: bool
) -> None:
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"content-length", b"%d" % len(reply.body)),
        (b"x-request-id", request_id.encode()),
        (b"x-total-time", _milliseconds(seconds)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    headers += [(name.encode(), value.encode("latin-1", "replace")) for name, value in reply.headers.items()]
    if (answer := reply.answer) is not None:
        headers += [
            (b"x-compute-type", b"cpu"),
            (b"x-compute-time", _milliseconds(seconds)),
            (b"x-compute-characters", b"%d" % answer.characters),
            (b"x-compute-tokens", b"%d" % answer.tokens),
            (b"x-tokenization-time", _milliseconds(answer.tokenization_seconds)),
            (b"x-queue-time", _milliseconds(answer.queue_seconds)),
            (b"x-inference-time", _milliseconds(answer.inference_seconds)),
        ]
        if answer.cut:
            headers.append((b"x-truncated", b"%d" % answer.cut))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = reply.body if with_body else b""
    await send({"type": "http.response.body", "body": body, "more_body": wait_for_client})
    if wait_for_client:  # what comes after a body is sent when the client has fetched most of it
        await send({"type": "http.response.body", "body": b""})
