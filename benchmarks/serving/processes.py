"""Servers and the offline pipeline, each a process of its own that is stopped while others are measured."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from pruneonce.bench.isolation import end_with_parent, resident_bytes, resume, stop
from pruneonce.bench.serving.client import Target
from pruneonce.errors import PruneonceError

PATIENCE_SECONDS = 300.0  # for a rival to load its model
AT_ONCE = 64  # texts of one call of the offline pipeline, four of every length
OFFLINE = """
import json, sys, time
import numpy as np, pruneonce
file, texts, out = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3]
embed = pruneonce.pipeline("embeddings", file)
calls = [texts[at : at + AT_ONCE] for at in range(0, len(texts), AT_ONCE)]
np.save(out, embed(calls[0], normalize=True))
print("ready", flush=True)
for line in sys.stdin:
    done, begin = 0, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < float(line) or done == 0:
        embed(calls[0], normalize=True)
        done += AT_ONCE
        calls = [*calls[1:], calls[0]]
    print(done / seconds, flush=True)
""".replace("AT_ONCE", str(AT_ONCE))


@dataclass(frozen=True)
class Plan:
    """How a server is started, and where it is asked."""

    name: str
    command: tuple[str, ...]  # {port} stands for the port
    path: str = "/v1/embeddings"
    health: str = "/health"
    is_ours: bool = True


class Server:
    """A running server, stopped unless it is measured."""

    def __init__(self, plan: Plan, threads: int, log: Path) -> None:
        self.plan, self.port, self._log = plan, _free_port(), log
        self._begin = time.perf_counter()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PRUNEONCE_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        }
        command = [part.format(port=self.port) for part in plan.command]
        with open(log, "wb") as stream:
            self.process = subprocess.Popen(
                command, stdout=stream, stderr=stream, env=environment, preexec_fn=end_with_parent
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def target(self) -> Target:
        return Target("127.0.0.1", self.port, self.plan.path)

    def wait_until_ready(self, interval: float = 0.2) -> float:
        """Seconds since it was started."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError, HTTPException):
                status, _ = self.get(self.plan.health)
                if status == 200:
                    return time.perf_counter() - self._begin
            time.sleep(interval)
        said = self._log.read_text(errors="replace").strip().splitlines()
        self.close()
        raise PruneonceError(f"{self.plan.name} does not start: {said[-1] if said else 'it says nothing'}")

    def get(self, path: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(self, path: str, value: object) -> dict:
        """The JSON of an answer; PruneonceError for another status than 200."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("POST", path, json.dumps(value), {"Content-Type": "application/json"})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise PruneonceError(f"{self.plan.name} answers {response.status}: {body[:200]!a}")
        return json.loads(body)

    def resident_bytes(self) -> int:
        """Of the server and its descendants."""
        return resident_bytes(self.pid)

    def close(self) -> None:
        _end(self.process)


class Offline:
    """`pruneonce.pipeline` over the same texts; the vectors of the first AT_ONCE are kept."""

    def __init__(self, file: Path, texts: Path, vectors: Path, threads: int) -> None:
        environment = {**os.environ, "PRUNEONCE_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-c", OFFLINE, str(file), str(texts), str(vectors)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=end_with_parent,
        )
        self._line()

    @property
    def pid(self) -> int:
        return self.process.pid

    def texts_per_second(self, seconds: float) -> float:
        """Of calls for so long, and one at least."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise PruneonceError("the offline pipeline has ended; its error is above")
        return line

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        _end(self.process)


def put_aside(process: Server | Offline) -> None:
    """Stopped until it is measured."""
    stop(process.pid)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        resume(process.pid)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
