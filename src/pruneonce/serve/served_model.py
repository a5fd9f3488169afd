"""A model as requests see it: what it can do, how many it lets in, and the way of one through threads and queue."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pruneonce import _native
from pruneonce.errors import UsageError
from pruneonce.run.model import Model
from pruneonce.run.pipelines import PIPELINES
from pruneonce.run.pipelines.text_model import Asking, TextModel, Wanted, answered
from pruneonce.run.weights import Int8Weight
from pruneonce.serve.limits import BATCH_TOKENS_PER_THREAD, Limits
from pruneonce.serve.metrics import Metrics
from pruneonce.serve.refusal import Refusal, refusal_of
from pruneonce.serve.scheduler import Job, Scheduler

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
        self.before = ThreadPoolExecutor(self.count, "pruneonce-tokenise")
        self.after = ThreadPoolExecutor(self.count, "pruneonce-answer")

    def close(self) -> None:
        self.before.shutdown()
        self.after.shutdown()


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
        self.batch_tokens = BATCH_TOKENS_PER_THREAD * _native.num_threads()
        self.threads = threads.count
        self.quantized = any(isinstance(layer.down.weight, Int8Weight) for layer in self.model.encoder.layers)
        self.failed = False  # the last batch did; `health` asks then whether the next one does
        self._tokens_per_second = 0.0
        self.counting = threading.Lock()  # of tokens, which threads correct
        self._metrics, self._threads = metrics, threads
        self._scheduler = Scheduler(self.text_model.batch, self.batch_tokens, self._batch_done, name)
        metrics.gauge("te_queue_size", "Requests that wait for their model", name, self._scheduler.waiting)
        metrics.gauge("pruneonce_requests", "Requests that are not answered yet", name, lambda: self.requests)
        metrics.gauge("pruneonce_tokens", "Tokens of requests that are not answered yet", name, lambda: self.tokens)

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
            self._threads.before.submit(request.prepare)
            answer = await request.answer
        except asyncio.CancelledError:
            request.abandon()
            if gone is not None and gone.done():
                raise Gone from None
            raise
        finally:
            self.requests -= 1
            request.release()
        answer.characters = sum(map(len, question.texts))
        self._observe(answer)
        return answer

    async def in_thread(self, work: Callable[[], bytes], texts: list[str]) -> bytes:
        """What needs the tokenizer alone."""
        self._admit(sum(len(text) // CHARACTERS_PER_TOKEN for text in texts))
        self.requests += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads.before, work)
        finally:
            self.requests -= 1

    async def probe(self) -> None:
        """Refusal unless the model answers."""

        def ask() -> Asking[bytes]:
            outputs = yield Wanted.of(self.text_model.encode(["ready?"], truncation=True, remedy=""))
            return b"%d" % len(outputs)

        try:
            await self.answer(Question(ask, [], lambda told, _: told))
        except Refusal as refusal:
            raise Refusal(f"{self.name} does not answer: {refusal.message}", "Unhealthy") from refusal

    def close(self) -> None:
        """What still waits fails."""
        self._scheduler.close()

    def _admit(self, estimate: int) -> None:
        limits = self.limits
        if self.requests >= limits.requests or (self.requests and self.tokens + estimate > limits.tokens):
            wait = self.tokens / self._tokens_per_second if self._tokens_per_second else 1.0
            raise Refusal(
                f"{self.name} has {self.requests:,} requests of {self.tokens:,} tokens to answer: try again later",
                "Overloaded",
                headers={"retry-after": str(max(1, math.ceil(wait)))},
            )

    def _batch_done(self, sequences: int, tokens: int, seconds: float) -> None:
        self.failed = False
        rate = tokens / max(seconds, 1e-6)
        self._tokens_per_second = (
            rate if not self._tokens_per_second else RATE_MEMORY * self._tokens_per_second + (1 - RATE_MEMORY) * rate
        )
        self._metrics.batch_size.labels(self.name).observe(sequences)
        self._metrics.batch_tokens.labels(self.name).observe(tokens)
        self._metrics.batch_duration.labels(self.name).observe(seconds)

    def _observe(self, answer: Answer) -> None:
        metrics, name = self._metrics, self.name
        metrics.tokenization.labels(name).observe(answer.tokenization_seconds)
        metrics.queue.labels(name).observe(answer.queue_seconds)
        metrics.inference.labels(name).observe(answer.inference_seconds)
        metrics.input_length.labels(name).observe(answer.tokens)


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
            self._parts = self._question.ask()
            wanted = next(self._parts)
            self._tokenization_seconds = time.perf_counter() - begin
            tokens = sum(wanted.lengths)
            if tokens > self._model.limits.tokens:
                most = f"{self._model.limits.tokens:,}"
                raise Refusal(f"the request has {tokens:,} tokens, this server takes {most} at once", status=413)
            self.recount(tokens)
            self._question.check(wanted)
            self._job = Job(wanted, self._computed)
            if self._abandoned:  # before there was a job to cancel
                return
            self._model._scheduler.submit(self._job)
        except BaseException as error:
            self._fail(error)

    def recount(self, tokens: int) -> None:
        """So many are the model's to answer, instead of those that were counted before."""
        with self._model.counting:
            if not self._released:
                self._model.tokens += tokens - self._tokens
                self._tokens = tokens

    def release(self) -> None:
        with self._model.counting:
            self._model.tokens -= self._tokens
            self._released = True

    def _computed(self, job: Job) -> None:
        """On the scheduler's thread."""
        if job.error is not None:
            self._model.failed = not isinstance(job.error, UsageError)
            self._fail(job.error)
        else:
            self._model._threads.after.submit(self._finish, job)

    def _finish(self, job: Job) -> None:
        try:
            assert self._parts is not None
            body = self._question.respond(answered(self._parts, job.outputs), job.wanted)
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
        self._settle(lambda: self.answer.set_result(answer))

    def _fail(self, error: BaseException) -> None:
        refusal = refusal_of(error)
        refusal.__cause__ = error if refusal is not error else None
        self._settle(lambda: self.answer.set_exception(refusal))

    def _settle(self, settle: Callable[[], None]) -> None:
        def once() -> None:
            if not self.answer.done():
                settle()

        with contextlib.suppress(RuntimeError):  # the loop has ended: a server that was told twice to stop
            self._loop.call_soon_threadsafe(once)
