"""Work on the processes of a Ray cluster: the one place that knows Ray, which is imported when a command asks for it.

A piece of work is a task of Ray's. Where a worker or a node is killed, Ray computes the task again elsewhere; a piece
is a function of its arguments alone, or goes on from what it left in a shared folder, so nothing is lost or done twice.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pruneonce.errors import PruneonceError, UsageError, in_one_line
from pruneonce.files import scratch_folder
from pruneonce.in_order import in_order
from pruneonce.machine import available_cores

MAX_RETRIES = 3  # of a piece whose worker or node was killed
CLIENT_ATTEMPTS = 3  # to connect by a cluster's client port
CONNECT_SECONDS = 10  # until somebody answers at a cluster's address
LOOK_SECONDS = 5  # between looks at how large the cluster is: nodes come and go

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Setting:
    """What a worker checks and sets before it works."""

    version: str  # of pruneonce
    cpus: int
    folder: str = ""  # that the driver runs in, which relative paths begin at
    marker: str = ""  # a folder of the driver's beside what is written; there is none where nothing is shared


class Cluster:
    """A cluster that this process is connected to; `connected` makes it."""

    def __init__(self, ray: Any, on: str, setting: _Setting, at_once: int | None, gpus: int) -> None:
        self._ray, self._on, self._setting = ray, on, setting
        self._remote = ray.remote(num_cpus=setting.cpus, num_gpus=gpus, max_retries=MAX_RETRIES)(_work)
        self._at_once = at_once
        self._free = threading.Semaphore(at_once) if at_once is not None else None
        self._running: set[Any] = set()
        self._looked, self._seen = time.monotonic(), 0
        if not self.workers:
            raise PruneonceError(f"{on}: no node of the cluster has {setting.cpus} CPUs: ask for fewer --threads")

    @property
    def cpus(self) -> int:
        """Of each piece of work."""
        return self._setting.cpus

    @property
    def workers(self) -> int:
        """Pieces of work that the cluster's CPUs have room for at once, or as many as were asked for."""
        if not self._seen or time.monotonic() > self._looked + LOOK_SECONDS:
            self._looked = time.monotonic()
            self._seen = sum(cpus // self._setting.cpus for cpus in _cpus_of_nodes(self._ray))
        return self._seen if self._at_once is None else min(self._seen, self._at_once)

    def share(self, data: bytes) -> Any:
        """Bytes that all pieces of work read: `submit` takes what this returns, workers get uint8 [bytes].

        They cross to each node once, and are mapped there.
        """
        return self._ray.put(np.frombuffer(data, np.uint8))

    def submit(self, function: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        """`function(*arguments)` in a worker; waits for room where only so many may run. `function`: of a module."""
        if self._free is not None:
            self._free.acquire()
        result: Future[_Result] = Future()
        reference = self._remote.remote(self._setting, function, *arguments)
        self._running.add(reference)

        def ended(done: Future[_Result]) -> None:
            self._running.discard(reference)
            if self._free is not None:
                self._free.release()
            error = done.exception()
            if error is None:
                result.set_result(done.result())
            else:
                result.set_exception(self._told(error))

        reference.future().add_done_callback(ended)
        return result

    def in_order(self, ask: Callable[[_Item], Future[_Result]], items: Iterable[_Item]) -> Iterator[_Result]:
        """The results of what `ask` begins, in the order of `items`, which are read lazily."""
        return in_order(ask, items, lambda: self.workers)

    def cancel(self) -> None:
        """Give up whatever still runs or waits."""
        for reference in list(self._running):
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference)

    def _told(self, error: BaseException) -> BaseException:
        """Ray's errors as those of a local run: what the work itself raised, or one line."""
        errors = self._ray.exceptions
        cause = getattr(error, "cause", None)
        if isinstance(error, errors.RayTaskError) and isinstance(cause, PruneonceError):
            return cause
        if isinstance(error, errors.RayTaskError) and "No module named 'pruneonce" in str(error):
            return PruneonceError(f"{self._on}: its nodes have no pruneonce: install {_own_version()} on all of them")
        if isinstance(error, errors.RayError) and not isinstance(error, errors.RayTaskError):
            return PruneonceError(
                f"{self._on}: a piece of work was lost {MAX_RETRIES + 1} times with its worker or its node "
                f"({type(error).__name__}), most often for want of memory: run the same command again, with fewer "
                "workers"
            )
        return error


def check_on(on: str) -> None:
    """UsageError unless `on` is "" (this process), "ray", or "ray://HOST:PORT"."""
    host, _, port = on.removeprefix("ray://").rpartition(":")
    if on in ("", "ray") or (on.startswith("ray://") and host and port.isdigit() and port.isascii()):
        return
    raise UsageError(f"--on {on}: ray or ray://HOST:PORT is expected")


@contextlib.contextmanager
def connected(
    on: str,
    *,
    cpus: int | None = 1,
    at_once: int | None = None,
    shared: Path | None = None,
    gpus: bool = False,
) -> Iterator[Cluster]:
    """A Ray cluster for the length of the block.

    on: "ray": that of $RAY_ADDRESS, or the one that runs on this machine, or else one that is started here for the
    block, with this machine's cores; "ray://HOST:PORT": one elsewhere, by its client port. A process that is connected
    already stays where it is. cpus: of each piece of work; None: an equal share of the cluster's. at_once: pieces that
    run at the same time; None: as many as fit, or, with equal shares, as many as there are nodes. shared: what the work
    writes; then relative paths begin where this process runs, and a worker that does not see what lies beside it is an
    error. gpus: each piece has one, where the cluster has any. UsageError without Ray; PruneonceError if the cluster
    cannot be reached.
    """
    check_on(on)
    if at_once is not None and at_once < 1:
        raise UsageError(f"workers must be at least 1, got {at_once}")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--on ray needs Ray: pip install 'pruneonce[ray]', here and on the cluster's nodes") from error
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            _connect(ray, on)
        if cpus is None:
            nodes = _cpus_of_nodes(ray) or [1]
            at_once = at_once or len(nodes)
            cpus = max(1, min(sum(nodes) // at_once, max(nodes)))
        setting = _Setting(_own_version(), cpus)
        if shared is not None:
            marker = stack.enter_context(scratch_folder(shared.absolute()))
            setting = replace(setting, folder=os.getcwd(), marker=str(marker))
        has_gpus = gpus and ray.cluster_resources().get("GPU", 0) >= 1
        cluster = Cluster(ray, on, setting, at_once, int(has_gpus))
        stack.callback(cluster.cancel)
        yield cluster


def _connect(ray: Any, on: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS") or "auto" if on == "ray" else on
    try:
        _look_for(address)
        try:
            with _one_attempt():
                _init(ray, address, quiet)
        except ConnectionError:
            if address != "auto":
                raise
            ray.init(address="local", num_cpus=available_cores(), include_dashboard=False, **quiet)
    except ImportError as error:
        raise UsageError(f"{on} needs Ray's client: pip install 'pruneonce[ray]'") from error
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:  # versions that differ, among others
        raise PruneonceError(f"{on}: the cluster at {address} cannot be reached: {in_one_line(error, 200)}") from error


def _init(ray: Any, address: str, options: dict[str, Any]) -> None:
    """By a client's port Ray forks a server for each client, which may die of a race of its own: it is asked again."""
    for attempt in range(1, CLIENT_ATTEMPTS + 1):
        try:
            ray.init(address=address, **options)
            return
        except ConnectionAbortedError:
            if not address.startswith("ray://") or attempt == CLIENT_ATTEMPTS:
                raise
            ray.shutdown()


def _look_for(address: str) -> None:
    """OSError if nobody listens there: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


@contextlib.contextmanager
def _one_attempt() -> Iterator[None]:
    """Ray gives up a cluster that has gone, whose address lies in its files still, after one attempt and not twenty."""
    name = "RAY_gcs_server_port_wait_time_s"
    given = os.environ.get(name)
    os.environ[name] = given or "1"
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]


def _cpus_of_nodes(ray: Any) -> list[int]:
    """Of the nodes that live and have any."""
    found = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return [cpus for cpus in found if cpus]


def _work(setting: _Setting, function: Callable[..., _Result], *arguments: Any) -> _Result:
    """In a worker."""
    host = socket.gethostname()
    if setting.version != _own_version():
        raise PruneonceError(f"node {host} has pruneonce {_own_version()}, and you {setting.version}: make them equal")
    # The tokenizers' own threads begin with the first text, and would take the whole node.
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if setting.cpus > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(setting.cpus)
    if setting.marker:
        if not Path(setting.marker).is_dir() or not Path(setting.folder).is_dir():
            where = Path(setting.marker).parent
            raise PruneonceError(f"node {host} does not see {where}: a folder that all nodes share is expected")
        os.chdir(setting.folder)
    return function(*arguments)


def _own_version() -> str:
    return importlib.metadata.version("pruneonce")
