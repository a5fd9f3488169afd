"""What a server takes from its clients at most; everything beyond is refused, and said how."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of one server; those of requests and tokens are each model's."""

    requests: int = 512  # admitted and not yet answered, as TEI
    tokens: int = 262_144  # of requests that are not answered yet; one alone may not have more
    wait_seconds: float = 1.0  # that the tokens of these take to compute; while they take longer none are let in
    always_requests: int = 32  # that are let in even so: as many clients as a slow model, too, should have
    texts: int = 2048  # of one request, as OpenAI
    masks: int = 128  # to be filled, of one request: each has logits of the size of the vocabulary
    body_bytes: int = 2_000_000  # as TEI
    response_bytes: int = 64_000_000  # of the states of all tokens, which are far larger than their text
    sending_bytes: int = 256_000_000  # of large answers that clients have not fetched
    head_bytes: int = 32_768  # of a request line and its headers
    head_seconds: float = 10.0  # for a client to send them
    body_seconds: float = 30.0  # for a client to send the body
    write_seconds: float = 30.0  # for a client to take more of an answer
    idle_seconds: int = 60  # between requests of a connection
    connections: int = 4096
    drain_seconds: float = 0.0  # that requests are still taken after SIGTERM, while readiness is false
    stop_seconds: int = 30  # for what has been admitted to be answered before exit
