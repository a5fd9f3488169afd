"""The queue of one model, and the one thread that computes what waits in it.

A batch takes what waits when the thread becomes free, up to a budget of tokens: nobody waits for company, and until
then who arrives may join and who leaves drops out. Sequences are taken one by one in the order in which they are due:
each is due when the model has computed STRETCH times the tokens of its job up to its own since the job came (earliest
deadline first, as in Bender, Chakrabarti, Muthukrishnan 1998, "Flow and stretch metrics"). So a text waits in
proportion to its length, one that comes behind a request of a thousand is in the next batch, and since time goes on
with what is computed, nothing that waits is passed for ever.
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

# Times its own length that a text may be passed by others. At 1 it is the order of arrival nearly, far beyond 10 the
# shortest is first and the longest waits as long as there are others; what lies between is much the same.
STRETCH = 6
# Texts that are passed because they do not fit into what is left of a batch; they are the first of the next one.
PASSED = 4

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
        self.due = 0.0  # tokens that it will have computed when the next sequence is due
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
        if not self.exhausted:
            self.due += STRETCH * self.next_length
        return self._taken - 1

    @property
    def next_length(self) -> int:
        return self.lengths[self._taken]

    @property
    def exhausted(self) -> bool:
        return self._taken == len(self.lengths)

    def deliver(self, number: int, output: Array) -> bool:
        """Whether that was all; then `end` is due."""
        self.outputs[number] = output
        self._missing -= 1
        if not self.cancelled and not np.isfinite(output).all():
            self.error, self.cancelled = PruneonceError(f"the model answers text {number} with NaN or infinity"), True
            return True
        return not self._missing and not self.cancelled

    def end(self) -> None:
        self._done(self)


class Scheduler:
    """Computes jobs, one batch at a time, on a thread of its own; several threads may submit."""

    def __init__(
        self,
        compute: Callable[[Wanted, Sequence[int]], Sequence[Array]],
        batch_tokens: int,
        on_batch: Callable[[int, int, float], None] = lambda sequences, tokens, seconds: None,
        name: str = "model",
        hand_over: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:
        """batch_tokens: of a batch, unless one sequence alone has more. on_batch: told of each that was computed.
        hand_over: has the results of a batch given to their jobs, on another thread, so that the next one begins.
        """
        self._compute, self._batch_tokens, self._on_batch = compute, batch_tokens, on_batch
        self._hand_over = hand_over
        self._delivering = threading.Lock()  # results of one job may come from two batches at once
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Job]] = []  # when the job's next sequence is due, number of its arrival
        self._arrivals = itertools.count()
        self._now = 0  # tokens that have been taken
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
                job.due = self._now + STRETCH * job.next_length
                heapq.heappush(self._queue, (job.due, next(self._arrivals), job))
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
        passed: list[tuple[float, int, Job]] = []
        tokens, first = 0, None
        while self._queue and len(passed) <= PASSED:
            due, arrival, job = heapq.heappop(self._queue)
            if job.cancelled:
                continue
            length = job.next_length
            if first is not None and (tokens + length > self._batch_tokens or job.wanted.output != first.wanted.output):
                passed.append((due, arrival, job))
                continue
            first = first or job
            tokens += length
            if job.started is None:
                job.started = time.perf_counter()
            batch.setdefault(arrival, (job, []))[1].append(job.take())
            if not job.exhausted:
                heapq.heappush(self._queue, (job.due, arrival, job))
        for each in passed:
            heapq.heappush(self._queue, each)
        self._now += tokens
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
        parts = list(batch)  # the caller's is emptied
        self._hand_over(lambda: self._deliver(parts, outputs, seconds))

    def _deliver(self, batch: list[tuple[Job, list[int]]], outputs: Any, seconds: float) -> None:
        results = iter(outputs)
        for job, numbers in batch:
            ends = False
            with self._delivering:
                job.compute_seconds += seconds
                for number in numbers:
                    ends |= job.deliver(number, next(results))
            if ends:
                job.end()


def joined(parts: Sequence[tuple[Wanted, Sequence[int]]]) -> Wanted:
    """One wanted of some sequences of several that want the same of the model."""
    first = parts[0][0]

    def of(name: str) -> list[Array] | None:
        if getattr(first, name) is None:
            return None
        return [getattr(wanted, name)[number] for wanted, numbers in parts for number in numbers]

    return Wanted(of("token_ids") or [], of("token_types"), positions=of("positions"), output=first.output)
