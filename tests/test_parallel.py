from __future__ import annotations

import contextlib
import os
import socket
import threading
import types

import pytest

from pruneonce import ray_cluster
from pruneonce.data.executor import ordered_map
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.in_order import IN_FLIGHT_PER_WORKER


def square(number):
    return number * number


def process_id(_):
    return os.getpid()


def kill_self(_):
    os._exit(9)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    assert list(ordered_map(square, range(30), workers=workers)) == [i * i for i in range(30)]


def test_items_are_not_read_ahead_without_bound():
    taken = []
    results = ordered_map(square, (taken.append(i) or i for i in range(1000)), workers=2)
    next(results)
    assert len(taken) <= 2 * IN_FLIGHT_PER_WORKER
    results.close()


def test_work_is_done_elsewhere_even_when_the_parent_has_threads():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert os.getpid() not in ordered_map(process_id, range(4), workers=2)
    finally:
        stop.set()
        thread.join()


def test_killed_worker_is_an_error_not_a_hang():
    with pytest.raises(PruneonceError, match="worker process was killed"):
        list(ordered_map(kill_self, range(4), workers=2))


def test_no_workers_is_a_usage_error():
    with pytest.raises(UsageError, match="at least 1"):
        list(ordered_map(square, [1], workers=0))


class FailingRay:
    """Ray whose server for a client dies so many times, as its log says it does."""

    exceptions = types.SimpleNamespace(RayError=type("RayError", (Exception,), {}))

    def __init__(self, failures):
        self.failures, self.asked = failures, 0

    def init(self, **_):
        self.asked += 1
        if self.asked <= self.failures:
            raise ConnectionAbortedError("Initialization failure from server:\n  Traceback\n  it did not start in 30 s")

    def shutdown(self):
        pass


@pytest.mark.parametrize(("failures", "asked"), [(0, 1), (2, 3), (9, 3)])
def test_a_cluster_s_client_port_is_asked_again_and_its_reason_is_told(failures, asked):
    ray = FailingRay(failures)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"ray://127.0.0.1:{listener.getsockname()[1]}"
        told = (
            pytest.raises(PruneonceError, match=r"cannot be reached: it did not start in 30 s$")
            if failures >= asked
            else contextlib.nullcontext()
        )
        with told:
            ray_cluster._connect(ray, address)
    assert ray.asked == asked
