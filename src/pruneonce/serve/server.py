"""What all connections and endpoints of a server share: who may ask, whether there is room, counts and the log."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from pruneonce.serve.limits import Limits
from pruneonce.serve.metrics import Metrics
from pruneonce.serve.refusal import Refusal
from pruneonce.serve.route import Models, Reply

access = logging.getLogger("pruneonce.access")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
LOOPBACK = {b"localhost", b"127.0.0.1", b"[::1]"}


@dataclass
class Server:
    """One per process."""

    models: Models
    limits: Limits
    metrics: Metrics
    keys: list[bytes] = field(default_factory=list)  # any of them opens every route
    loopback_only: bool = False  # other names for this host are refused: a page could have resolved one to it
    ready: bool = True
    sending_bytes: int = 0  # of large answers that are not fetched yet
    logs_requests: bool = True

    def admit(self, headers: Mapping[bytes, bytes], is_open: bool = False) -> None:
        """Refusal for a client that may not ask. is_open: it needs no key."""
        if self.loopback_only:
            host = headers.get(b"host", b"").lower()
            if re.sub(rb":\d*$", b"", host) not in LOOPBACK:
                raise Refusal(
                    f"the host {host[:100].decode('latin-1')!a} is not this one; it listens to its own machine alone",
                    status=421,
                )
        if self.keys and not is_open:
            kind, _, key = headers.get(b"authorization", b"").partition(b" ")
            known = [hmac.compare_digest(key.strip(), each) for each in self.keys]  # all, whichever it is
            if kind.lower() != b"bearer" or not any(known):
                raise Refusal(
                    "a key is expected: Authorization: Bearer KEY", status=401, headers={"www-authenticate": "Bearer"}
                )

    def lacks_room(self, headers: Mapping[bytes, bytes]) -> Refusal | None:
        """What a client that may ask is told, whatever its request to a model has to say; None: read it."""
        if not self.models.full:
            return None
        try:
            self.admit(headers)
        except Refusal:
            return None  # told the usual way
        return self.models.overloaded()

    def count_refusal(self, refusal: Refusal) -> None:
        kind = "Unauthorized" if refusal.status == 401 else refusal.kind
        self.metrics.count("te_request_failure", "Requests that were refused or failed", err=kind)
        if refusal.status == 429:
            self.metrics.count("pruneonce_rejected", "Requests refused for lack of room")

    def log(
        self,
        request_id: str,
        client: tuple[str, int] | None,
        method: str,
        path: str,
        status: int,
        seconds: float,
        reply: Reply | None = None,
    ) -> None:
        if not self.logs_requests:
            return
        line = {
            "time": round(time.time(), 3),
            "id": request_id,
            "client": client[0] if client else None,
            "method": method,
            "path": path[:300],
            "status": status,
            "ms": round(1000 * seconds, 2),
        }
        if reply is not None and reply.model is not None:
            line["model"] = reply.model
        if reply is not None and (answer := reply.answer) is not None:
            line |= {
                "texts": answer.sequences,
                "tokens": answer.tokens,
                "queue_ms": round(1000 * answer.queue_seconds, 2),
            }
        access.info(orjson.dumps(line).decode())


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The client's, if it is one that a log can hold."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
