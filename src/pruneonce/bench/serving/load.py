"""Requests that arrive when they will, whatever the server does, or as fast as so many clients get answers.

Open arrivals are a Poisson process. Latency counts from the moment at which a request was due, also where no connection
was free then: a server that stops is not measured by the requests that it let through (coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from pruneonce.bench.serving.client import Connection, Target
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
    def __init__(self, target: Target, texts: Sequence[str], settings: LoadSettings, answers: dict[bytes, int]) -> None:
        self._target, self._settings = target, settings
        self._bodies = enumerate(bodies(target.path, texts, settings.texts))
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(settings.clients)
        self._seen = answers  # request -> hash of its answer
        self._measured = Measured(settings.seconds)
        self._begin = time.perf_counter() + settings.warmup_seconds

    async def run(self) -> Measured:
        if self._settings.rate is None:
            tasks = [asyncio.create_task(self._client()) for _ in range(self._settings.clients)]
        else:
            tasks = await self._arrivals(self._settings.rate)
        _, late = await asyncio.wait(tasks, timeout=self._settings.seconds + PATIENCE_SECONDS)
        self._measured.lost += len(late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for connection in self._idle:
            connection.close()
        return self._measured

    async def _client(self) -> None:
        while (due := time.perf_counter()) < self._begin + self._settings.seconds:
            await self._ask(due)

    async def _arrivals(self, rate: float) -> list[asyncio.Task[None]]:
        random = np.random.default_rng(self._settings.seed)
        tasks = []
        due = time.perf_counter()
        while (due := due + random.exponential(1 / rate)) < self._begin + self._settings.seconds:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._ask(due)))
        return tasks

    async def _ask(self, due: float) -> None:
        number, body = next(self._bodies)
        async with self._places:
            try:
                connection = self._idle.pop() if self._idle else await Connection.open(self._target)
            except OSError:
                self._measured.lost += due >= self._begin
                return
            try:
                response = await connection.ask(self._target.request(body))
            except BaseException as error:
                connection.close()
                if not isinstance(error, OSError):
                    raise
                self._measured.lost += due >= self._begin
                return
            self._idle.append(connection)
        latency = time.perf_counter() - due
        if response.status == 200:
            answer = hash(response.body)
            self._measured.changed += self._seen.setdefault(body, answer) != answer
        if due < self._begin:
            return
        self._measured.statuses[response.status] = self._measured.statuses.get(response.status, 0) + 1
        if response.status == 200:
            self._measured.latencies.append(latency)
            self._measured.numbers.append(number)
            self._measured.due.append(due - self._begin)
            self._measured.texts += self._settings.texts
            self._measured.tokens += response.tokens
        else:
            self._measured.refused.append(due - self._begin)
