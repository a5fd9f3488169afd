"""The queue of one model, and the one thread that computes what waits in it.

A batch takes what waits when the thread becomes free, up to a budget of tokens: nobody waits for company, and until
then who arrives may join and who leaves drops out. Sequences of a job are taken one by one, and jobs share the model as
in start-time fair queueing (Goyal, Vin, Cheng 1996): a job's next sequence starts, in virtual time, when its last one
would have ended with an equal share of the model. So a text that comes behind a thousand others is in the next batch.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pruneonce.errors import PruneonceError
from pruneonce.run.pipelines.text_model import Array, Wanted

Compute = Callable[[Wanted, Sequence[int]], Sequence[Array]]  # the sequences of these numbers, each a result


class Job:
    """The sequences of one request. `done` is called once, by the scheduler's thread, unless it has been cancelled."""

    def __init__(self, wanted: Wanted, done: Callable[[Job], None]) -> None:
        self.wanted = wanted
        self.lengths = wanted.lengths
        self.tokens = sum(self.lengths)
        self.outputs: list[Array] = [np.empty(0, np.float32)] * len(self.lengths)
        self.error: BaseException | None = None
        self.cancelled = False
        self.submitted = time.perf_counter()
        self.started: float | None = None  # when its first sequence was taken
        self.compute_seconds = 0.0  # of the batches that it was in
        self._done = done
        self._taken = 0
        self._missing = len(self.lengths)

    def cancel(self) -> None:
        """Nobody waits for it any more: what has not been computed is not."""
        self.cancelled = True

    def fail(self, error: BaseException) -> None:
        if not self.cancelled:
            self.error, self.cancelled = error, True
            self._done(self)

    def take(self) -> int:
        """The number of its next sequence."""
        self._taken += 1
        return self._taken - 1

    @property
    def exhausted(self) -> bool:
        return self._taken == len(self.lengths)

    def deliver(self, number: int, output: Array) -> None:
        self.outputs[number] = output
        self._missing -= 1
        if not self._missing and not self.cancelled:
            self._done(self)


class Scheduler:
    """Computes jobs, one batch at a time, on a thread of its own; several threads may submit."""

    def __init__(
        self,
        compute: Callable[[Wanted, Sequence[int]], Sequence[Array]],
        batch_tokens: int,
        on_batch: Callable[[int, int, float], None] = lambda sequences, tokens, seconds: None,
        name: str = "model",
    ) -> None:
        """batch_tokens: of a batch, unless one sequence alone has more. on_batch: told of each that was computed."""
        self._compute, self._batch_tokens, self._on_batch = compute, batch_tokens, on_batch
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Job]] = []  # virtual start of the job's next sequence, arrival
        self._arrivals = itertools.count()
        self._now = 0.0  # virtual time: tokens that each of the waiting jobs could have had
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"pruneonce-{name}", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """A job without sequences is done at once, and one that comes after `close` fails."""
        if not job.lengths:
            job._done(job)
            return
        with self._changed:
            if not self._closed:
                heapq.heappush(self._queue, (self._now, next(self._arrivals), job))
                self._changed.notify()
                return
        job.fail(PruneonceError("the server is shutting down"))

    def close(self) -> None:
        """Ends the thread after its batch; jobs that still wait fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def waiting(self) -> int:
        """Jobs that have sequences in the queue."""
        return len(self._queue)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if self._closed:
                    left, self._queue = self._queue, []
                    break
                batch = self._take()
            if batch:
                self._run(batch)
            batch.clear()  # or the last answers would lie here while nothing waits
        for _, _, job in left:
            job.fail(PruneonceError("the server is shutting down"))

    def _take(self) -> list[tuple[Job, list[int]]]:
        """What the next batch computes: sequences of jobs that want the same of the model."""
        batch: dict[int, tuple[Job, list[int]]] = {}
        tokens, first = 0, None
        while self._queue:
            start, arrival, job = self._queue[0]
            if job.cancelled:
                heapq.heappop(self._queue)
                continue
            length = job.lengths[job._taken]
            if first is not None and (tokens + length > self._batch_tokens or job.wanted.output != first.wanted.output):
                break
            first = first or job
            tokens += length
            if job.started is None:
                job.started = time.perf_counter()
            batch.setdefault(arrival, (job, []))[1].append(job.take())
            self._now = max(self._now, start) + length / len(self._queue)
            if job.exhausted:
                heapq.heappop(self._queue)
            else:
                heapq.heapreplace(self._queue, (start + length, arrival, job))
        return list(batch.values())

    def _run(self, batch: list[tuple[Job, list[int]]]) -> None:
        begin = time.perf_counter()
        wanted = joined([(job.wanted, numbers) for job, numbers in batch])
        try:
            outputs: Any = self._compute(wanted, range(len(wanted.token_ids)))
        except BaseException as error:  # of whatever kind: the thread must live, and no client may wait for ever
            if len(batch) == 1:
                batch[0][0].fail(error)
            else:  # the others have done nothing
                for part in batch:
                    self._run([part])
            return
        seconds = time.perf_counter() - begin
        self._on_batch(len(wanted.token_ids), sum(wanted.lengths), seconds)
        results = iter(outputs)
        for job, numbers in batch:
            job.compute_seconds += seconds
            for number in numbers:
                output = next(results)
                if not np.isfinite(output).all():
                    job.fail(PruneonceError(f"the model answers text {number} with NaN or infinity"))
                job.deliver(number, output)


def joined(parts: Sequence[tuple[Wanted, Sequence[int]]]) -> Wanted:
    """One wanted of some sequences of several that want the same of the model."""
    first = parts[0][0]

    def of(name: str) -> list[Array] | None:
        if getattr(first, name) is None:
            return None
        return [getattr(wanted, name)[number] for wanted, numbers in parts for number in numbers]

    return Wanted(of("token_ids") or [], of("token_types"), positions=of("positions"), output=first.output)
