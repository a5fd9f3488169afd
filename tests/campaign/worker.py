"""Attempts in a process that may die of one: its count lies in memory that outlives it."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from campaign.case import Case
from campaign.clock import computed_seconds, idle_seconds

POLL_SECONDS = 0.2


@dataclass
class Tally:
    """Of one case so far."""

    tries: int = 0  # the next seed
    outcomes: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)  # "seed 7: what happened"


def run_for(case: Case, tally: Tally, scratch: Path, seconds: float) -> None:
    """Make attempts, from the first seed that was not tried on, for about `seconds`; adds them to `tally`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and tally.tries < case.tries:
        counts = mmap.mmap(-1, 8 * (1 + len(case.outcomes)))
        first, notes = tally.tries, scratch / "wrong.txt"
        notes.unlink(missing_ok=True)
        worker = os.fork()
        if not worker:
            _work(case, first, scratch, end, counts, notes)
        status = _watch(worker, case, counts)
        if notes.exists():
            tally.wrong += notes.read_text().splitlines()
        done, *found = struct.unpack(f"<{1 + len(case.outcomes)}q", counts[:])
        tally.tries += done
        for outcome, count in zip(case.outcomes, found, strict=True):
            tally.outcomes[outcome] = tally.outcomes.get(outcome, 0) + count
        if status is not None:
            tally.wrong.append(f"seed {tally.tries}: {status}")
            tally.tries += 1


def _work(case: Case, first: int, scratch: Path, end: float, counts: mmap.mmap, notes: Path) -> None:
    """In the fork: never returns."""
    try:
        if case.memory_bytes is not None:
            limit = 4096 * int(Path("/proc/self/statm").read_text().split()[0]) + case.memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        given, totals = case.prepare(scratch), dict.fromkeys(case.outcomes, 0)
        for done in range(case.tries - first):
            if time.monotonic() >= end:
                break
            try:
                totals[case.attempt(given, first + done)] += 1
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                told = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
                with notes.open("a") as stream:
                    stream.write(f"seed {first + done}: {ascii(told)[1:400]}\n")
            counts[:] = struct.pack(f"<{1 + len(totals)}q", done + 1, *totals.values())
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(9)


def _watch(worker: int, case: Case, counts: mmap.mmap) -> str | None:
    """What ended the worker before its time: a signal, a hang; None if nothing did."""
    seen, since = counts[:8], _clock(worker)
    while True:
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            if code > 0:
                raise SystemExit(f"{case.name}: the campaign itself failed, see above")
            return None if code == 0 else f"died of {signal.Signals(-code).name}"
        if counts[:8] != seen:
            seen, since = counts[:8], _clock(worker)
        if _clock(worker) - since > case.attempt_seconds + 900 * (seen == bytes(8)):  # the first one prepares
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            return f"took more than {case.attempt_seconds:.0f} s"
        time.sleep(POLL_SECONDS)


def _clock(worker: int) -> float:
    """Seconds, from anywhere, that stand still while others keep a worker from the processor."""
    return idle_seconds() + computed_seconds(worker)
