"""Results in the order of their items while many are computed at once, and items are read no sooner than needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

IN_FLIGHT_PER_WORKER = 3  # one running, one queued, one waiting for its turn to be written

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(
    ask: Callable[[_Item], Future[_Result]], items: Iterable[_Item], workers: Callable[[], int]
) -> Iterator[_Result]:
    """The results of what `ask` begins; at most IN_FLIGHT_PER_WORKER of each worker are held.

    workers: how many there are now. (Executor.map and Pool.imap read all items at once.)
    """
    pending: deque[Future[_Result]] = deque()
    for item in items:
        pending.append(ask(item))
        if len(pending) >= IN_FLIGHT_PER_WORKER * max(1, workers()):
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
