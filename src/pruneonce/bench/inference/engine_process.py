"""Engines in processes of their own, each stopped while another is timed.

Run as a script it is such a process: it makes the engine that the first message names, then prepares batches and runs
them, messages as in `deepsparse_worker`. `EngineProcess` is its other end, and looks like the engine itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruneonce import _native
from pruneonce.bench.inference.cases import Batch
from pruneonce.bench.inference.deepsparse_worker import receive, send
from pruneonce.bench.inference.rivals import DeepSparse, EngineSettings, make_engine
from pruneonce.bench.isolation import Used, at_work, end_with_parent, resident_bytes, stop, watched
from pruneonce.bench.measure import Call
from pruneonce.bench.worker import Worker
from pruneonce.errors import PruneonceError
from pruneonce.formats.stored_tensors import Array

ADVICE = "Leave it out of --against, or mend its installation"
Results = Sequence[tuple[float, Any]]  # of calls one after the other: seconds, output


@dataclass
class EngineProcess:
    """An engine that is elsewhere, stopped unless it is asked. `name`, `version` and `prepare` are the engine's own."""

    name: str
    version: str
    load_seconds: float  # to make the engine from its files, once what it needs is imported
    pid: int
    prepare_there: Callable[[Batch], None]
    run_there: Callable[[int], Results]
    close: Callable[[], None]
    resident_bytes: int = 0  # of the process after its last run, Python and libraries too
    used: Used = field(default_factory=Used)  # in all timed turns

    def prepare(self, batch: Batch) -> Call:
        """A Call, timed where it runs."""
        with at_work(self.pid):
            self.prepare_there(batch)
        return lambda: self.run(1)[-1]

    def run(self, calls: int) -> Results:
        """So many calls on the batch that was prepared last; the first finds the caches as others left them."""
        with at_work(self.pid), watched([self.pid, os.getpid()]) as used:
            results = self.run_there(calls)
        self.resident_bytes = resident_bytes(self.pid)
        self.used = self.used + used
        return results


def start_engine(name: str, settings: EngineSettings, calibration: Sequence[Batch]) -> EngineProcess:
    """One of `engine_names`; PruneonceError if its process ends."""
    if name in ("deepsparse", "deepsparse-int8"):
        return _start_deepsparse(name, settings, calibration)
    command = [sys.executable, "-m", "pruneonce.bench.inference.engine_process"]
    worker = Worker(name, command, Path(settings.work) / f"{name}.log", advice=ADVICE)

    def ask(message: dict[str, Any], arrays: Sequence[Array] = ()) -> tuple[dict[str, Any], list[Array]]:
        told, found = worker.ask(message, arrays)
        if "error" in told:
            worker.close()
            raise PruneonceError(f"{name}: {told['error']}")
        return told, found

    def prepare(batch: Batch) -> None:
        told = {"prepare": batch.name, "pad_id": batch.pad_id, "padded_tokens": batch.padded_tokens}
        ask(told | {"sequences": len(batch.sequences)}, [*batch.sequences, *(batch.types or ())])

    def run(calls: int) -> Results:
        told, arrays = ask({"run": calls})
        output: Any = arrays if told["is_list"] else arrays[0]
        return [(float(seconds), output) for seconds in told["seconds"]]

    told, _ = ask({"make": name, "settings": settings.as_json()})
    stop(worker.pid)
    return EngineProcess(name, told["version"], told["load_seconds"], worker.pid, prepare, run, worker.close)


def _start_deepsparse(name: str, settings: EngineSettings, calibration: Sequence[Batch]) -> EngineProcess:
    """It is in a process of its own already; it loads its model for each shape."""
    engine = DeepSparse(
        settings.subject,
        Path(settings.work),
        settings.threads,
        Path(settings.deepsparse_python),
        calibration=list(calibration) if name != "deepsparse" else None,
    )
    call: list[Call] = []

    def prepare(batch: Batch) -> None:
        call[:] = [engine.prepare(batch)]

    stop(engine.pid)
    return EngineProcess(
        name, engine.version, 0.0, engine.pid, prepare, lambda calls: [call[0]() for _ in range(calls)], engine.close
    )


def main() -> None:
    """Serve until the input ends."""
    end_with_parent()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not land among the messages
    order, _ = receive(requests)
    settings = EngineSettings.from_json(order["settings"])
    _native.set_num_threads(settings.threads)
    try:
        begun = time.perf_counter()
        engine = make_engine(order["make"], settings)
        send(answers, {"version": engine.version, "load_seconds": time.perf_counter() - begun})
    except PruneonceError as error:
        send(answers, {"error": str(error)})
        return
    call: Call | None = None
    while True:
        try:
            message, arrays = receive(requests)
        except EOFError:
            return
        if "prepare" in message:
            call = None  # a rival may hold one compiled shape at a time
            count = message["sequences"]
            types = tuple(arrays[count:]) or None
            batch = Batch(message["prepare"], tuple(arrays[:count]), message["pad_id"], types, message["padded_tokens"])
            call = engine.prepare(batch)
            send(answers, {})
            continue
        assert call is not None
        results = [call() for _ in range(message["run"])]
        output = results[-1][1]
        is_list = isinstance(output, list)
        told = {"seconds": [seconds for seconds, _ in results], "is_list": is_list}
        send(answers, told, output if is_list else [output])


if __name__ == "__main__":
    main()
