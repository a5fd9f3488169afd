"""Time that counts against a process: what it computes, and what the machine had to give while it did nothing.

Seconds on the wall would call a process hung that others kept from the processor.
"""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def idle_seconds() -> float:
    """Of this machine since it began, by core; waiting for a disk is not idle."""
    fields = Path("/proc/stat").read_text().split(maxsplit=5)
    return int(fields[4]) / TICKS / (os.cpu_count() or 1)


def computed_seconds(process: int) -> float:
    """What a process and those of its children that have ended have computed; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS
