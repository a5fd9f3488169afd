"""A server for tests: its application called without a socket, or the process that users start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from pruneonce.serve.application import application
from pruneonce.serve.limits import Limits
from pruneonce.serve.metrics import Metrics
from pruneonce.serve.route import Models
from pruneonce.serve.served_model import ServedModel, Threads
from pruneonce.serve.server import Server

PATIENCE = 60
JSON = {"content-type": "application/json"}

PROCESS = """
import json, sys
from pathlib import Path
from pruneonce.serve import process
from pruneonce.serve.limits import Limits
files, limits, options = json.loads(sys.argv[1])
options["keys"] = [key.encode() for key in options.pop("keys_text", [])]
settings = process.ServeSettings([(n, Path(f)) for n, f in files], port=0, limits=Limits(**limits), **options)
process.serve(settings, lambda line: print(line, file=sys.stderr, flush=True))
"""


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Application:
    """The application over loaded models."""

    def __init__(self, models: dict[str, Any], limits: Limits | None = None, cors: list[str] | None = None, **options):
        self.threads, metrics, limits = Threads(), Metrics(), limits or Limits()
        self.models = [ServedModel(name, model, limits, metrics, self.threads) for name, model in models.items()]
        self.server = Server(Models(self.models), limits, metrics, logs_requests=False, **options)
        self.app = application(self.server, cors or [])

    def close(self):
        for model in self.models:
            model.close()
        self.threads.close()

    async def call(
        self, method, path, content=b"", headers=None, *, chunks=None, gone=None, send=None
    ) -> Response | None:
        """chunks: an async iterator of bodies, instead of `content`; gone: an asyncio.Event that the client leaves;
        send: told what is sent.
        """
        sent: list[Any] = []
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 1),
        }
        parts = chunks or _once(content)
        gone = gone or asyncio.Event()

        async def receive():
            async for part, more in parts:
                return {"type": "http.request", "body": part, "more_body": more}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def keep(message):
            sent.append(message)
            if send is not None:
                await send(message)

        await asyncio.wait_for(self.app(scope, receive, keep), PATIENCE)
        if not sent:
            return None
        start, *bodies = sent
        named = {name.decode(): value.decode() for name, value in start["headers"]}
        return Response(start["status"], named, b"".join(message.get("body", b"") for message in bodies))

    def post(self, path, value, headers=None) -> Response:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        return asyncio.run(self.call("POST", path, content, JSON if headers is None else headers))

    def get(self, path, headers=None) -> Response:
        return asyncio.run(self.call("GET", path, headers=headers))


async def _once(content):
    yield content, False


class Process:
    """`pruneonce serve` with limits that the command line has no options for."""

    def __init__(
        self, files: dict[str, Any], limits: dict[str, Any] | None = None, before: Sequence[Any] = (), **options: Any
    ) -> None:
        """before: a command that starts it."""
        arguments = json.dumps([[(name, str(file)) for name, file in files.items()], limits or {}, options])
        command = [*before, sys.executable, "-c", PROCESS, arguments]
        environment = {**os.environ, "PRUNEONCE_THREADS": "2"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self._started_by_another = bool(before)
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._ready.wait(PATIENCE), self.lines
        self.port = int(next(line for line in self.lines if "ready in" in line).rpartition(":")[2])

    def _read(self):
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if "ready in" in line:
                self._ready.set()
        self._ready.set()

    def request(self, method, path, value=None, headers=None) -> Response:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            content = value if isinstance(value, bytes) or value is None else json.dumps(value)
            connection.request(method, path, content, {**JSON, **(headers or {})})
            response = connection.getresponse()
            return Response(
                response.status, {name.lower(): text for name, text in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def post(self, path, value, headers=None) -> Response:
        return self.request("POST", path, value, headers)

    def terminate(self):
        pid = self.process.pid
        if self._started_by_another:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        os.kill(pid, signal.SIGTERM)

    def ended(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


@contextmanager
def running(files, limits=None, before=(), **options):
    server = Process(files, limits, before, **options)
    try:
        yield server
    finally:
        server.process.kill()
        server.ended()
        server.process.stderr.close()
