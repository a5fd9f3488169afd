"""Threads that do what is put to them. An executor makes locks for each piece of work, which outlast the work here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

errors = logging.getLogger("pruneonce.serve")


class Workers:
    """So many threads and one queue; what is put must tell of its own end and of its own errors."""

    def __init__(self, count: int, name: str) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._do, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def close(self) -> None:
        """Ends the threads once all is done that was put before."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _do(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException:  # a bug; others' work goes on
                errors.exception("%s failed", threading.current_thread().name)
            del work  # or the last answer would lie here while nothing is to be done
