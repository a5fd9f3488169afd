"""A connection of uvicorn's with what it lacks: deadlines for slow clients, sizes of heads, and errors as JSON.

It also says 429 itself, by a request's head, where no model has room: under overload that is what most requests get,
and whatever is done for them is taken from those that are answered.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pruneonce.serve.limits import Limits
from pruneonce.serve.refusal import Refusal, body_of
from pruneonce.serve.route import json_bytes
from pruneonce.serve.server import Server, request_id_of

PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
}


class Connection(HttpToolsProtocol):
    """`connection_class` gives it its server; uvicorn makes one per connection."""

    shared: Server
    limits: Limits
    model_paths: frozenset[str]  # where requests are refused by their heads, if there is no room

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._reading_head = True
        self._head_bytes = 0  # received, the last of them perhaps the body's
        self._cycles: list[Any] = []  # requests that are not answered: more than one where they come in a pipeline
        self._weight = 0  # of the fields of the head
        self._too_large = f"the request line and headers have more than {self.limits.head_bytes:,} bytes"
        self._unread: Refusal | None = None  # what the request is told that is arriving, whatever is in its body
        self._unread_since = 0.0
        self._head_deadline: asyncio.TimerHandle | None = None  # or that of a body that is not read
        self._write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for deadline in (self._head_deadline, self._write_deadline):
            if deadline is not None:
                deadline.cancel()
        self._tell_all()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._reading_head and self._unread is None and self._is_idle():
            self._expect_head()
        if self._reading_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._reading_head and self._head_bytes > self.limits.head_bytes:  # one header that does not end, say
            self._refuse(431, self._too_large)
        if self._unread is not None and self._head_deadline is None:
            self._head_deadline = self.loop.call_later(self.limits.body_seconds, self._body_too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._weight = 0

    def on_url(self, url: bytes) -> None:
        self._weigh(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._weigh(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reading_head = False
        self._meet_deadline()
        if self._may_be_unread() and (refusal := self.shared.lacks_room(dict(self.headers))) is not None:
            self._unread, self._unread_since = refusal, time.perf_counter()
            return
        super().on_headers_complete()
        self._cycles = [each for each in self._cycles if not each.response_complete] + [self.cycle]

    def on_body(self, body: bytes) -> None:
        if self._unread is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._unread is None:
            super().on_message_complete()
        else:
            self._answer_unread(self._unread)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(self.limits.write_seconds, self._drop)

    def resume_writing(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _is_idle(self) -> bool:
        """All requests are answered that have a head."""
        return self.cycle is None or self.cycle.response_complete

    def _may_be_unread(self) -> bool:
        return (
            self.parser.get_method() == b"POST"
            and self.url.decode("latin-1") in self.model_paths
            and self._is_idle()  # answers come in the order of requests
            and not (self.pipeline or self.flow.write_paused or self.expect_100_continue)
            and not self.parser.should_upgrade()
        )

    def _answer_unread(self, refusal: Refusal) -> None:
        self._unread = None
        self._meet_deadline()
        path, request_id = self.url.decode("latin-1"), request_id_of(dict(self.headers))
        body = json_bytes(body_of(refusal, path))
        keeps_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n"
            b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n%s%s\r\n%s"
            % (
                refusal.status,
                PHRASES[refusal.status],
                len(body),
                request_id.encode(),
                b"".join(b"%s: %s\r\n" % (name.encode(), text.encode()) for name, text in refusal.headers.items()),
                b"" if keeps_alive else b"connection: close\r\n",
                body,
            )
        )
        self.shared.count_refusal(refusal)
        seconds = time.perf_counter() - self._unread_since
        self.shared.log(request_id, self.client, "POST", path, refusal.status, seconds)
        if keeps_alive:
            self.on_response_complete()
        else:
            self.transport.close()

    def _meet_deadline(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _body_too_slow(self) -> None:
        self._refuse(408, f"the body did not arrive within {self.limits.body_seconds:g} seconds")

    def _weigh(self, part: bytes) -> None:
        self._weight += len(part)
        if self._weight > self.limits.head_bytes:
            raise ValueError(self._too_large)  # to the parser, which gives up

    def _expect_head(self) -> None:
        self._reading_head, self._head_bytes = True, 0
        self._head_deadline = self.loop.call_later(self.limits.head_seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._refuse(408, f"the headers did not arrive within {self.limits.head_seconds:g} seconds")

    def _refuse(self, status: int, message: str) -> None:
        """To a client whose request there is none of yet."""
        if self.transport.is_closing():
            return
        if any(not each.response_complete for each in self._cycles):
            self._drop()  # an answer to an earlier request is being made: none may come into it
            return
        body = json_bytes(body_of(Refusal(message, status=status), self.url.decode("latin-1")))
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            % (status, PHRASES[status], len(body))
            + body
        )
        self.transport.close()

    def _drop(self) -> None:
        """Ends it at once; what is still being answered learns it before it writes."""
        self._tell_all()
        self.transport.abort()

    def _tell_all(self) -> None:
        """uvicorn tells the last request alone."""
        for each in self._cycles:
            if not each.response_complete:
                each.disconnected = True
                each.message_event.set()


def connection_class(server: Server, model_paths: frozenset[str]) -> type[Connection]:
    members = {"shared": server, "limits": server.limits, "model_paths": model_paths}
    return type("Connection", (Connection,), members)
