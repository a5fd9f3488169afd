"""Processes that take turns: one works, the others are stopped; and whether anybody else used the processor meanwhile.

From /proc, so on Linux alone; elsewhere nothing is stopped and `Used.others` is NaN.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# Of a line of /proc/PID/stat, counted behind the name, which may hold spaces: proc(5).
STATE, USER_TICKS, SYSTEM_TICKS = 0, 11, 12
STOPPED = "TtZX"  # or ended
BUSY = (0, 1, 2, 5, 6, 7)  # of the line `cpu` of /proc/stat: user, nice, system, irq, softirq, steal; not idle, iowait
SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)
STOP_SECONDS = 5.0  # after which a process that does not stop is let be


@dataclass
class Used:
    """Processor seconds of a stretch of time, in the kernel's ticks."""

    wall: float = 0.0
    own: float = 0.0  # of the processes that were watched
    others: float = 0.0  # of all others, the time that a hypervisor took among them; NaN: not known

    def __add__(self, more: Used) -> Used:
        return Used(self.wall + more.wall, self.own + more.own, self.others + more.others)


def end_with_parent() -> None:
    """This process is killed when its parent ends, however it does, and also while it is stopped. Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


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
        used.others = max(0.0, now - busy - used.own) if math.isfinite(now - busy) else math.nan


def resident_bytes(pid: int) -> int:
    """Of a process and its descendants; what they share counts for each."""
    pages = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            pages += int((PROC / str(each) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") if pages else 0


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


def _busy_seconds() -> float:
    try:
        numbers = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
        return sum(int(numbers[place]) for place in BUSY) / _ticks_per_second()
    except (OSError, ValueError, IndexError):
        return math.nan


def _fields(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text(errors="replace").rpartition(")")[2].split()
    return []


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
