"""One HTTP connection of a load test: a request at a time, as few instructions of Python as can be.

No task and no future per request: a client that shares the server's cores takes them from what it measures.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
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

    @functools.cached_property
    def head(self) -> bytes:
        """Of a POST of JSON, up to its length."""
        authorization = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        return (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"{authorization}Content-Length: "
        ).encode()

    def request(self, body: bytes) -> bytes:
        """As bytes to send."""
        return b"%s%d\r\n\r\n%s" % (self.head, len(body), body)


@dataclass
class Response:
    status: int
    tokens: int  # as the server counts them; 0 where it does not say
    body: bytes


class Connection(asyncio.Protocol):
    """`ask` sends a request; its answer is told to a function: None if the server has closed."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._tell: Callable[[Response | None], None] | None = None
        self._start()

    @classmethod
    async def open(cls, target: Target) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(cls, target.host, target.port)
        return connection

    def ask(self, request: bytes, tell: Callable[[Response | None], None]) -> None:
        if self._transport is None or self._transport.is_closing():
            asyncio.get_running_loop().call_soon(tell, None)
            return
        self._tell = tell
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(None)

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
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(response)

    def _start(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._tokens = 0
