"""Processes that take turns: one works, the others are stopped; and whether anybody else used the processor meanwhile.

From /proc, so on Linux alone; elsewhere nothing is stopped and `Used.others` is None.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# Of a line of /proc/PID/stat, counted behind the name, which may hold spaces: proc(5).
STATE, USER_TICKS, SYSTEM_TICKS = 0, 11, 12
STOPPED = "TtZX"  # or ended
BUSY = (0, 1, 2, 5, 6, 7)  # of the line `cpu` of /proc/stat: user, nice, system, irq, softirq, steal; not idle, iowait
STOP_SECONDS = 5.0  # after which a process that does not stop is let be


@dataclass
class Used:
    """Processor seconds of a stretch of time, in the kernel's ticks."""

    wall: float = 0.0
    own: float = 0.0  # of the processes that were watched
    others: float | None = 0.0  # of all others, the time that a hypervisor took among them; None: not known

    def __add__(self, more: Used) -> Used:
        others = None if self.others is None or more.others is None else self.others + more.others
        return Used(self.wall + more.wall, self.own + more.own, others)


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:
        for children in PROC.glob(f"{each}/task/*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in children.read_text().split()]
    return found


def stop(pid: int) -> None:
    """Stop a process and its descendants; returns once none of their threads runs."""
    if not PROC.is_dir():
        return
    deadline = time.monotonic() + STOP_SECONDS
    while running := [each for each in tree(pid) if not _is_stopped(each)]:
        for each in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGSTOP)
        if time.monotonic() > deadline:
            return
        time.sleep(0.001)


def resume(pid: int) -> None:
    """Let a process and its descendants go on."""
    if not PROC.is_dir():
        return
    for each in tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGCONT)


@contextlib.contextmanager
def at_work(pid: int) -> Iterator[None]:
    """A stopped process works inside, and is stopped again."""
    resume(pid)
    try:
        yield
    finally:
        stop(pid)


@contextlib.contextmanager
def watched(pids: Collection[int]) -> Iterator[Used]:
    """What is used inside, told at its end: by these processes and their descendants, and by all others."""
    used = Used()
    begin, own, busy = time.monotonic(), _cpu_seconds(pids), _busy_seconds()
    try:
        yield used
    finally:
        used.wall = time.monotonic() - begin
        used.own = _cpu_seconds(pids) - own
        now = _busy_seconds()
        used.others = None if now is None or busy is None else max(0.0, now - busy - used.own)


def _is_stopped(pid: int) -> bool:
    """Every thread of it."""
    for file in PROC.glob(f"{pid}/task/*/stat"):
        fields = _fields(file)
        if fields and fields[STATE] not in STOPPED:
            return False
    return True


def _cpu_seconds(pids: Collection[int]) -> float:
    ticks = 0
    for each in {member for pid in pids for member in tree(pid)}:
        if fields := _fields(PROC / str(each) / "stat"):
            ticks += int(fields[USER_TICKS]) + int(fields[SYSTEM_TICKS])
    return ticks / _ticks_per_second()


def _busy_seconds() -> float | None:
    try:
        numbers = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
        return sum(int(numbers[place]) for place in BUSY) / _ticks_per_second()
    except (OSError, ValueError, IndexError):
        return None


def _fields(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text(errors="replace").rpartition(")")[2].split()
    return []


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
