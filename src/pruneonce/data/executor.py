"""A map over processes that reads its input lazily and keeps its order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TypeVar

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.in_order import in_order
from pruneonce.machine import available_cores
from pruneonce.ray_cluster import connected

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ordered_map(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    workers: int | None,
    on: str = "",
    shared: Path | None = None,
) -> Iterator[_Result]:
    """`map(function, items)` over `workers` processes: results in the order of `items`, which are read lazily.

    Few items per worker are held at once (`in_order`). One worker means this process, and None one per core. Otherwise
    `function` must be a module-level function; processes are spawned, not forked, because the parent may have threads
    (torch, tokenizers) whose locks a fork would copy. on, shared: those of a Ray cluster instead
    (`ray_cluster.connected`), None then for all that it has room for.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    if on:
        with connected(on, at_once=workers, shared=shared) as cluster:
            yield from cluster.in_order(partial(cluster.submit, function), items)
        return
    processes = workers or available_cores()
    if processes == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker)
    try:
        yield from in_order(lambda item: pool.submit(function, item), items, lambda: processes)
    except BrokenProcessPool as error:
        raise PruneonceError(
            "a worker process was killed, most often for want of memory: use fewer workers, then run the same command "
            "again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """In a process of `multiprocessing`: end when the parent has, whatever ended it.

    A parent killed outright cannot end its workers; left alive, they would write into the next run's folder.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end on Ctrl-C at once and without a traceback per worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    end_with_parent()
