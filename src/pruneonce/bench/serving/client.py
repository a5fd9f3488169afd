"""One HTTP connection of a load test: a request at a time, as few instructions of Python as can be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools

from pruneonce.errors import UsageError


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    path: str
    key: str | None = None

    @classmethod
    def of(cls, url: str, path: str, key: str | None = None) -> Target:
        """UsageError for what is no http://HOST:PORT."""
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError as error:
            raise UsageError(f"{url[:100]!a} is no URL: {error}") from error
        if parts.scheme != "http" or not parts.hostname:
            raise UsageError(f"{url[:100]!a}: http://HOST:PORT is expected")
        return cls(parts.hostname, port, parts.path.rstrip("/") + path, key)

    def request(self, body: bytes) -> bytes:
        """POST of JSON, as bytes to send."""
        authorization = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"{authorization}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass
class Response:
    status: int
    tokens: int  # as the server counts them; 0 where it does not say
    body: bytes


class Connection(asyncio.Protocol):
    """`ask` sends a request and waits for its answer; ConnectionError once the server has closed."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._answer: asyncio.Future[Response] | None = None
        self._start()

    @classmethod
    async def open(cls, target: Target) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(cls, target.host, target.port)
        return connection

    async def ask(self, request: bytes) -> Response:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server has closed the connection"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-compute-tokens" and value.isdigit():
            self._tokens = int(value)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        response = Response(self._parser.get_status_code(), self._tokens, b"".join(self._body))
        if not self._parser.should_keep_alive():
            self._transport.close()
        self._start()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(response)

    def _start(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._tokens = 0
