"""Requests that arrive when they will, whatever the server does, or as fast as so many clients get answers.

Open arrivals are a Poisson process. Latency counts from the moment at which a request was due, also where no connection
was free then: a server that stops is not measured by the requests that it let through (coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from pruneonce.bench.serving.client import Connection, Response, Target
from pruneonce.errors import PruneonceError

PATIENCE_SECONDS = 30.0  # for answers after the last request


@dataclass(frozen=True)
class LoadSettings:
    """One measurement."""

    seconds: float = 10.0
    rate: float | None = None  # requests per second, as they arrive; None: clients that wait for their answers
    clients: int = 32  # connections; of open arrivals the most that are open at once
    texts: int = 1  # of one request
    warmup_seconds: float = 1.0  # that are not counted
    seed: int = 0


@dataclass
class Measured:
    """What came of it; requests of the warm-up are left out."""

    seconds: float
    latencies: list[float] = field(default_factory=list)  # of answered requests
    numbers: list[int] = field(default_factory=list)  # which of the requests in turn each of them was
    due: list[float] = field(default_factory=list)  # when each of them was, seconds from the beginning
    refused: list[float] = field(default_factory=list)  # the same of those that got another status
    texts: int = 0  # answered
    tokens: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    lost: int = 0  # connections that broke, or answers that did not come
    changed: int = 0  # answers that differ from an earlier one to the same request


def bodies(path: str, texts: Sequence[str], count: int) -> Iterator[bytes]:
    """Requests of `count` texts each, in turn for ever, in the form of the route; of a single text as such."""
    source = itertools.cycle(texts)
    while True:
        chosen = [next(source) for _ in range(count)]
        given: object = chosen[0] if count == 1 else chosen
        if path.endswith("embeddings"):
            yield orjson.dumps({"input": given, "model": "any", "encoding_format": "base64"})
        elif path.endswith("rerank"):
            yield orjson.dumps({"query": chosen[0], "texts": chosen})
        elif path.endswith("predict") and count > 1:
            yield orjson.dumps({"inputs": [[text] for text in chosen]})
        else:
            yield orjson.dumps({"inputs": given})


async def run_load(
    target: Target, texts: Sequence[str], settings: LoadSettings, answers: dict[bytes, int] | None = None
) -> Measured:
    """PruneonceError where nothing listens. answers: by request the hash of its right answer, known or to be."""
    try:
        (await Connection.open(target)).close()
    except OSError as error:
        raise PruneonceError(f"loadtest: nothing answers at {target.host}:{target.port}: {error}") from error
    return await _Load(target, texts, settings, {} if answers is None else answers).run()


def measure_load(
    target: Target, texts: Sequence[str], settings: LoadSettings, answers: dict[bytes, int] | None = None
) -> Measured:
    """`run_load` on a loop of its own; uvloop's where it is: the server may need the cores."""
    loading = run_load(target, texts, settings, answers)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(loading)
    return uvloop.run(loading)


class _Load:
    """Callbacks but for the clock and the opening of connections."""

    def __init__(self, target: Target, texts: Sequence[str], settings: LoadSettings, answers: dict[bytes, int]) -> None:
        self._target, self._settings = target, settings
        self._bodies = enumerate(bodies(target.path, texts, settings.texts))
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()  # all that are open
        self._places = settings.clients  # that are free
        self._late: deque[float] = deque()  # when requests were due that have no place yet
        self._opening: set[asyncio.Task[None]] = set()
        self._seen = answers  # request -> hash of its answer
        self._measured = Measured(settings.seconds)
        self._begin = time.perf_counter() + settings.warmup_seconds
        self._end = self._begin + settings.seconds
        self._asked = 0  # and not answered
        self._closed = False  # what comes now is not counted
        self._all_answered = asyncio.Event()

    async def run(self) -> Measured:
        if self._settings.rate is None:
            for _ in range(self._settings.clients):
                self._arrive(time.perf_counter())
            await asyncio.sleep(self._end - time.perf_counter())
        else:
            await self._arrivals(self._settings.rate)
        if self._asked:
            self._all_answered.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_answered.wait(), PATIENCE_SECONDS)
        self._measured.lost += self._asked
        self._closed = True
        for task in self._opening:
            task.cancel()
        for connection in self._connections:
            connection.close()
        return self._measured

    async def _arrivals(self, rate: float) -> None:
        random = np.random.default_rng(self._settings.seed)
        due = time.perf_counter()
        while (due := due + random.exponential(1 / rate)) < self._end:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._arrive(due)

    def _arrive(self, due: float) -> None:
        if self._closed:
            return
        self._asked += 1
        if self._places:
            self._places -= 1
            self._start(due)
        else:
            self._late.append(due)

    def _start(self, due: float) -> None:
        if self._idle:
            self._ask(self._idle.pop(), due)
        else:
            task = asyncio.get_running_loop().create_task(self._open(due))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, due: float) -> None:
        try:
            connection = await Connection.open(self._target)
        except OSError:
            self._done(due, lost=True)
        else:
            self._connections.add(connection)
            self._ask(connection, due)

    def _ask(self, connection: Connection, due: float) -> None:
        number, body = next(self._bodies)

        def tell(response: Response | None) -> None:
            if response is None:
                connection.close()
                self._connections.discard(connection)
                self._done(due, lost=True)
                return
            self._idle.append(connection)
            self._count(due, number, body, response)
            self._done(due)

        connection.ask(self._target.request(body), tell)

    def _done(self, due: float, lost: bool = False) -> None:
        if self._closed:
            return
        self._measured.lost += lost and due >= self._begin
        self._asked -= 1
        self._places += 1
        if self._late:
            self._places -= 1
            self._start(self._late.popleft())
        elif self._settings.rate is None and (now := time.perf_counter()) < self._end:
            asyncio.get_running_loop().call_soon(self._arrive, now)
        elif not self._asked:
            self._all_answered.set()

    def _count(self, due: float, number: int, body: bytes, response: Response) -> None:
        latency = time.perf_counter() - due
        measured = self._measured
        if response.status == 200:
            answer = hash(response.body)
            measured.changed += self._seen.setdefault(body, answer) != answer
        if due < self._begin:
            return
        measured.statuses[response.status] = measured.statuses.get(response.status, 0) + 1
        if response.status == 200:
            measured.latencies.append(latency)
            measured.numbers.append(number)
            measured.due.append(due - self._begin)
            measured.texts += self._settings.texts
            measured.tokens += response.tokens
        else:
            measured.refused.append(due - self._begin)
