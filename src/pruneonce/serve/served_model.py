"""A model as requests see it: what it can do, how many it lets in, and the way of one through threads and queue."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pruneonce import _native
from pruneonce.errors import UsageError
from pruneonce.run.model import Model
from pruneonce.run.pipelines import PIPELINES
from pruneonce.run.pipelines.text_model import Array, Asking, TextModel, Vectors, Wanted, answered
from pruneonce.run.weights import Int8Weight
from pruneonce.serve.limits import Limits
from pruneonce.serve.metrics import Metrics
from pruneonce.serve.refusal import Refusal, refusal_of
from pruneonce.serve.scheduler import Job, Scheduler
from pruneonce.serve.workers import Workers

ABILITIES = {  # what routes ask for -> the pipeline that does it
    "predict": "text-classification",
    "tag": "token-classification",
    "qa": "question-answering",
    "fill": "fill-mask",
    "embed": "embeddings",
    "rerank": "text-ranking",
}
CHARACTERS_PER_TOKEN = 3  # fewer than text has: what is not yet tokenised is rather taken for more
RATE_MEMORY = 0.9  # of what tokens per second were, when a batch says what they are now
WARM_UP_TOKENS = 64  # of each sequence of the first batch


T = TypeVar("T")


class Gone(Exception):
    """The client has left; there is nobody to answer."""


@dataclass
class Answer:
    """The body of an answer, and what it took."""

    body: bytes
    sequences: int = 0
    tokens: int = 0
    characters: int = 0
    cut: int = 0  # texts that were longer than the model takes
    tokenization_seconds: float = 0.0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0  # of the batches that it was in, which others share


@dataclass(frozen=True)
class Question:
    """One request to a model, read and checked."""

    ask: Callable[[], Asking[Any]]  # run on a thread: text to tokens
    texts: list[str]  # all it sends, to be estimated
    respond: Callable[[Any, Wanted], bytes]  # run on a thread: what the pipeline answers as JSON
    cuts: bool = False  # long texts are cut, and those are counted
    check: Callable[[Wanted], None] = lambda wanted: None  # a Refusal for what would be too much


class Threads:
    """Threads for text: before the queue and after it, so that what has been computed never waits for new requests."""

    def __init__(self) -> None:
        self.count = min(4, _native.num_threads())
        self.before = Workers(self.count, "pruneonce-tokenise")
        self.after = Workers(self.count, "pruneonce-answer")

    def close(self) -> None:
        self.before.close()
        self.after.close()


class ServedModel:
    """A model with its pipelines and a queue; `answer` is for the event loop, and for it alone."""

    def __init__(self, name: str, model: Model, limits: Limits, metrics: Metrics, threads: Threads) -> None:
        self.name, self.model, self.limits = name, model, limits
        self.text_model = TextModel(model)
        tasks = _tasks_of(model)
        self.task = tasks[0]
        self.pipelines: dict[str, Any] = {  # by ability
            ability: PIPELINES[task](self.text_model) for ability, task in ABILITIES.items() if task in tasks
        }
        self.created = int(time.time())
        self.requests = 0  # admitted and not answered
        self.tokens = 0  # of these: estimated until they are counted
        # One pass: the next text waits for this one to end, and more at once would be no faster.
        self.batch_tokens = model.pass_tokens
        self.threads = threads.count
        self.quantized = any(isinstance(layer.down.weight, Int8Weight) for layer in self.model.encoder.layers)
        self.failed = False  # the last batch did; `health` asks then whether the next one does
        self._tokens_per_second = 0.0  # of batches that are full, at least half; 0: there was none
        self.counting = threading.Lock()  # of tokens, which threads correct
        self._metrics, self._threads = metrics, threads
        self._scheduler = Scheduler(self.text_model.batch, self.batch_tokens, self._batch_done, name, threads.after.put)
        self._observers = [
            each.labels(name) for each in (metrics.tokenization, metrics.queue, metrics.inference, metrics.input_length)
        ]
        self._batch_observers = [
            each.labels(name) for each in (metrics.batch_size, metrics.batch_tokens, metrics.batch_duration)
        ]
        metrics.gauge("te_queue_size", "Requests that wait for their model", name, self._scheduler.waiting)
        metrics.gauge("pruneonce_requests", "Requests that are not answered yet", name, lambda: self.requests)
        metrics.gauge("pruneonce_tokens", "Tokens of requests that are not answered yet", name, lambda: self.tokens)
        metrics.gauge("pruneonce_wait_seconds", "Seconds that these take, about", name, lambda: self.seconds_to_answer)

    def can(self, ability: str) -> bool:
        return ability in self.pipelines

    async def answer(self, question: Question, gone: asyncio.Future[Any] | None = None) -> Answer:
        """Refusal where there is no room, or the model refuses; Gone once `gone` is done, whose work is dropped."""
        most = self.model.max_tokens
        estimate = sum(min(len(text) // CHARACTERS_PER_TOKEN + 2, most) for text in question.texts)
        self._admit(estimate)
        request = _Request(self, question, asyncio.get_running_loop())
        request.recount(estimate)
        if gone is not None:
            gone.add_done_callback(request.abandon)
        self.requests += 1
        try:
            self._threads.before.put(request.prepare)
            answer = await request.answer
        except asyncio.CancelledError:
            request.abandon()
            if gone is not None and gone.done():
                raise Gone from None
            raise
        finally:
            self.requests -= 1
            if gone is not None:
                gone.remove_done_callback(request.abandon)
            request.release()
        answer.characters = sum(map(len, question.texts))
        self._observe(answer)
        return answer

    async def in_thread(self, work: Callable[[], bytes], texts: list[str]) -> bytes:
        """What needs the tokenizer alone."""
        self._admit(sum(len(text) // CHARACTERS_PER_TOKEN for text in texts))
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bytes] = loop.create_future()

        def do() -> None:
            try:
                result = work()
            except BaseException as error:
                settle(loop, done, error=error)
            else:
                settle(loop, done, result)

        self.requests += 1
        try:
            self._threads.before.put(do)
            return await done
        finally:
            self.requests -= 1

    async def warm_up(self) -> None:
        """A batch as large as they come, before others: its space is there then, and its speed known.

        If it fails `health` asks again.
        """
        length = min(WARM_UP_TOKENS, self.model.max_tokens)
        with contextlib.suppress(Refusal):
            await self._probed([np.zeros(length, np.int64)] * max(1, self.batch_tokens // length))

    async def probe(self) -> None:
        """Refusal unless the model answers."""
        await self._probed([np.zeros(1, np.int64)])

    async def _probed(self, sequences: list[Array]) -> None:
        def ask() -> Asking[bytes]:
            positions = [np.zeros(1, np.int64)] * len(sequences) if self.can("fill") else None
            outputs = yield Wanted(sequences, positions=positions, output=Vectors() if self.can("embed") else "logits")
            return b"%d" % len(outputs)

        try:
            await self.answer(Question(ask, [], lambda told, _: told))
        except Refusal as refusal:
            raise Refusal(f"{self.name} does not answer: {refusal.message}", "Unhealthy") from refusal

    @property
    def full(self) -> bool:
        """Whether whatever comes now is refused."""
        limits, rate = self.limits, self._tokens_per_second
        if self.requests >= limits.requests:
            return True
        return self.requests >= limits.always_requests and 0 < rate * limits.wait_seconds < self.tokens

    @property
    def seconds_to_answer(self) -> float:
        """What has been admitted, about; 0 where its speed is not known yet."""
        return self.tokens / self._tokens_per_second if self._tokens_per_second else 0.0

    def overloaded(self) -> Refusal:
        return Refusal(
            f"{self.name} has {self.requests:,} requests of {self.tokens:,} tokens to answer: try again later",
            "Overloaded",
            headers={"retry-after": str(max(1, math.ceil(self.seconds_to_answer)))},
        )

    def close(self) -> None:
        """What still waits fails."""
        self._scheduler.close()

    def _admit(self, estimate: int) -> None:
        if self.full or (self.requests and self.tokens + estimate > self.limits.tokens):
            raise self.overloaded()

    def _batch_done(self, sequences: int, tokens: int, seconds: float) -> None:
        self.failed = False
        if 2 * tokens >= self.batch_tokens:  # small ones say little of how fast a queue is worked off
            rate, before = tokens / max(seconds, 1e-6), self._tokens_per_second
            self._tokens_per_second = RATE_MEMORY * before + (1 - RATE_MEMORY) * rate if before else rate
        for observer, value in zip(self._batch_observers, (sequences, tokens, seconds), strict=True):
            observer.observe(value)

    def _observe(self, answer: Answer) -> None:
        values = answer.tokenization_seconds, answer.queue_seconds, answer.inference_seconds, answer.tokens
        for observer, value in zip(self._observers, values, strict=True):
            observer.observe(value)


def _tasks_of(model: Model) -> tuple[str, ...]:
    """What a model is served for, its main use first: a bare encoder embeds, and a classifier of one label ranks."""
    if model.ranks:
        return "text-ranking", "text-classification"
    return ("embeddings",) if model.use in ("embeddings", "feature-extraction") else (model.use,)


class _Request:
    """One question on its way: a thread tokenises it, the scheduler computes it, a thread writes the answer."""

    def __init__(self, model: ServedModel, question: Question, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self._tokens = 0
        self._released = False
        self._model, self._question, self._loop = model, question, loop
        self._abandoned = False
        self._parts: Asking[Any] | None = None
        self._job: Job | None = None
        self._tokenization_seconds = 0.0

    def abandon(self, _: object = None) -> None:
        """On the event loop: nobody waits."""
        self._abandoned = True
        if self._job is not None:
            self._job.cancel()
        self.answer.cancel()

    def prepare(self) -> None:
        if self._abandoned:
            return
        try:
            begin = time.perf_counter()
            self._parts = parts = self._question.ask()
            wanted = next(parts)
            self._tokenization_seconds = time.perf_counter() - begin
            tokens = sum(wanted.lengths)
            if tokens > self._model.limits.tokens:
                most = f"{self._model.limits.tokens:,}"
                raise Refusal(f"the request has {tokens:,} tokens, this server takes {most} at once", status=413)
            self.recount(tokens)
            self._question.check(wanted)
            self._job = job = Job(wanted, self._computed)
            if self._abandoned:  # before there was a job to cancel
                self._job = None
                return
            self._model._scheduler.submit(job)
        except BaseException as error:
            self._fail(error)

    def recount(self, tokens: int) -> None:
        """So many are the model's to answer, instead of those that were counted before."""
        with self._model.counting:
            if not self._released:
                self._model.tokens += tokens - self._tokens
                self._tokens = tokens

    def release(self) -> None:
        """It is over. Its tokens and text go at once: in a cycle they would lie here until Python looks for those."""
        with self._model.counting:
            self._model.tokens -= self._tokens
            self._released = True
        self._job = self._parts = None

    def _computed(self, job: Job) -> None:
        """On a thread for answers, or the scheduler's where a batch failed."""
        if job.error is not None:
            self._model.failed = not isinstance(job.error, UsageError)
            self._fail(job.error)
        else:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        parts = self._parts
        if parts is None:  # nobody waits any more
            return
        try:
            body = self._question.respond(answered(parts, job.outputs), job.wanted)
            cut = sum(bool(each.overflowing) for each in job.wanted.encodings) if self._question.cuts else 0
            answer = Answer(
                body,
                len(job.lengths),
                job.tokens,
                cut=cut,
                tokenization_seconds=self._tokenization_seconds,
                queue_seconds=(job.started or job.submitted) - job.submitted,
                inference_seconds=job.compute_seconds,
            )
        except BaseException as error:
            self._fail(error)
            return
        settle(self._loop, self.answer, answer)

    def _fail(self, error: BaseException) -> None:
        refusal = refusal_of(error)
        refusal.__cause__ = error if refusal is not error else None
        settle(self._loop, self.answer, error=refusal)


def settle(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[T],
    result: T | None = None,
    error: BaseException | None = None,
) -> None:
    """Of a future of this loop, from any thread, unless it is done or the loop has ended."""

    def once() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    with contextlib.suppress(RuntimeError):  # a server that was told twice to stop
        loop.call_soon_threadsafe(once)
