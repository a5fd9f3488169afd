"""A process of its own for what must not share ours: its settings, its memory or its packages."""

from __future__ import annotations

import contextlib
import os
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruneonce.bench.inference.deepsparse_worker import receive, send
from pruneonce.bench.isolation import resume
from pruneonce.errors import PruneonceError
from pruneonce.formats.stored_tensors import Array


class Worker:
    """A running command that answers the messages of `deepsparse_worker` on its standard streams.

    log: a file for what it says otherwise. advice: what to do if it ends, for the error. It ends when we do.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, advice: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self._log, self._advice = name, log, advice
        with open(log, "wb") as stream:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**os.environ, **(environment or {})},
            )
        weakref.finalize(self, _end, self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: dict[str, Any], arrays: Sequence[Array] = ()) -> tuple[dict[str, Any], list[Array]]:
        """Send a message and wait for its answer; PruneonceError if the process has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            send(self._process.stdin, message, arrays)
        return self.answer()

    def answer(self) -> tuple[dict[str, Any], list[Array]]:
        """Wait for a message; PruneonceError if the process has ended."""
        assert self._process.stdout is not None
        try:
            return receive(self._process.stdout)
        except EOFError as error:
            self.close()
            raise PruneonceError(f"{self.name} has ended: {self._reason()}. {self._advice}") from error

    def close(self) -> None:
        """End the process."""
        _end(self._process)

    def _reason(self) -> str:
        code = self._process.returncode
        if code < 0:
            return f"killed by signal {-code}"
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it said nothing, exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    if process.poll() is None:
        resume(process.pid)  # it may be stopped
    try:
        process.wait(timeout=10)  # it ends when its input does
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
