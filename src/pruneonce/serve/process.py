"""A server as a process: loads models, has each answer once, listens, and ends in order when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from pruneonce import _native
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.run.model import load_model
from pruneonce.run.weights import Kernels
from pruneonce.serve import endpoint, server
from pruneonce.serve.application import MODEL_PATHS, application
from pruneonce.serve.connection import connection_class
from pruneonce.serve.limits import Limits
from pruneonce.serve.metrics import Metrics
from pruneonce.serve.refusal import Refusal
from pruneonce.serve.route import Models
from pruneonce.serve.served_model import ServedModel, Threads
from pruneonce.serve.server import Server

KEY_VARIABLE = "PRUNEONCE_API_KEY"
OTHER_FILES = 256  # that are no connections
LOOPBACK_ADDRESSES = ("127.0.0.1", "::1", "localhost")
# A thread that comes back from a kernel waits so long at most for Python, which the event loop may hold: at the default
# of 5 ms a batch's dozens of kernels would wait longer than they compute.
SWITCH_SECONDS = 0.0005


@dataclass(frozen=True)
class ServeSettings:
    """What `pruneonce serve` is told."""

    files: Sequence[tuple[str, Path]]  # name, packed file
    host: str = "127.0.0.1"
    port: int = 8080
    threads: int | None = None
    kernels: Kernels = "measured"
    keys: list[bytes] = field(default_factory=list)
    cors_origins: list[str] = field(default_factory=list)
    logs_requests: bool = True
    limits: Limits = field(default_factory=Limits)


def serve(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Until SIGTERM or SIGINT. PruneonceError for a file that cannot be served, UsageError for an address in use."""
    begin = time.perf_counter()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would take the cores from the kernels
    try:
        if settings.threads is not None:
            _native.set_num_threads(settings.threads)
        _native.num_threads()  # may be one of $PRUNEONCE_THREADS that means nothing
    except ValueError as error:
        raise UsageError(f"serve: {error}") from error
    _allow_files(settings.limits.connections)
    listener = _bound(settings.host, settings.port)
    with contextlib.ExitStack() as stack:
        stack.callback(listener.close)
        threads, metrics = Threads(), Metrics()
        stack.callback(threads.close)
        models: list[ServedModel] = []
        for name, file in settings.files:
            models.append(
                ServedModel(name, load_model(file, kernels=settings.kernels), settings.limits, metrics, threads)
            )
            stack.callback(models[-1].close)
            say(f"{name}: {models[-1].task}, {'int8' if models[-1].quantized else 'float32'}, {file}")
        shared = Server(
            Models(models),
            settings.limits,
            metrics,
            keys=settings.keys,
            loopback_only=settings.host in LOOPBACK_ADDRESSES,
            logs_requests=settings.logs_requests,
        )
        _log_to_stderr()
        sys.setswitchinterval(SWITCH_SECONDS)
        config = uvicorn.Config(
            application(shared, settings.cors_origins),
            http=connection_class(shared, frozenset() if settings.cors_origins else MODEL_PATHS),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.limits.idle_seconds,
            timeout_graceful_shutdown=settings.limits.stop_seconds,
        )

        def started() -> None:
            address, port = listener.getsockname()[:2]
            place = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
            say(f"{_native.num_threads()} threads, ready in {time.perf_counter() - begin:.2f} s: {place}")
            if not settings.keys and not shared.loopback_only:
                say(f"other machines can use it without a key: set {KEY_VARIABLE} or --api-key-file")

        server = _Uvicorn(config, shared, settings.limits.drain_seconds, started)

        async def run() -> None:
            for model in models:
                try:
                    await model.probe()
                except Refusal as refusal:
                    raise PruneonceError(f"serve: {refusal.message}") from refusal
            gc.collect()
            gc.freeze()  # modules and models stay: who looks for garbage need not go through them, which takes long
            warming = [asyncio.ensure_future(model.warm_up()) for model in models]  # of a large one it takes a while
            await server.serve([listener])
            await asyncio.gather(*warming)

        uvicorn_loop = config.get_loop_factory()
        if uvicorn_loop is None:
            asyncio.run(run())
        else:
            loop = uvicorn_loop()
            try:
                loop.run_until_complete(run())
            finally:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()


class _Uvicorn(uvicorn.Server):
    """On SIGTERM: not ready, still serving for the time of draining, then closed once all is answered; exit code 0."""

    def __init__(
        self, config: uvicorn.Config, shared: Server, drain_seconds: float, started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._shared, self._drain_seconds, self._started = shared, drain_seconds, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt as ever
                loop.add_signal_handler(number, self._stop, loop)
        yield

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._shared.ready:  # told twice
            self.should_exit = self.force_exit = True
            return
        self._shared.ready = False
        loop.call_later(self._drain_seconds, self._exit)

    def _exit(self) -> None:
        self.should_exit = True


def _allow_files(connections: int) -> None:
    """Each connection is a file, and processes often start with 1,024: as many as needed, if the system has them."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bound(host: str, port: int) -> socket.socket:
    """Not listening yet; an address that cannot be had is told before models are loaded."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the latter: no name of a machine at all
        raise UsageError(f"serve: the host {host!r} is not known: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(f"serve: cannot listen on {host}:{port}: {error}; choose another --port") from error
    listener.set_inheritable(False)
    return listener


def keys_of(file: Path | None) -> list[bytes]:
    """API keys: the lines of a file, and the environment's. UsageError for a file without any."""
    keys = [os.environ[KEY_VARIABLE].encode()] if os.environ.get(KEY_VARIABLE) else []
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_bytes().splitlines()]
        except OSError as error:
            raise UsageError(f"--api-key-file {file} cannot be read: {error.strerror or error}") from error
        found = [line for line in lines if line]
        if not found:
            raise UsageError(f"--api-key-file {file} has no key: one per line is expected")
        keys += found
    return keys


def named_files(given: Sequence[str]) -> list[tuple[str, Path]]:
    """FILE, or NAME=FILE; UsageError for two of one name."""
    found: list[tuple[str, Path]] = []
    for text in given:
        name, equals, path = text.partition("=")
        file = Path(path) if equals and not Path(text).exists() else Path(text)
        name = name if equals and not Path(text).exists() else file.stem
        if not name or "/" in name or name in dict(found):
            raise UsageError(f"serve: {text!r} has a name that is empty, has a slash or is taken: say NAME=FILE")
        found.append((name, file))
    return found


def _log_to_stderr() -> None:
    """Lines as they are: requests are JSON, the rest is rare."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for logger, level in ((server.access, logging.INFO), (endpoint.errors, logging.INFO)):
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    logging.getLogger("uvicorn.error").addHandler(handler)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").propagate = False
