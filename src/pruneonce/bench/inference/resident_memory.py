"""How much memory this process takes, now and at most, as the system sees it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): "reset the peak resident set size to the process's current value"


def resident_bytes() -> int:
    """Now; where the system does not say, the most so far."""
    return _status("VmRSS") or _most_so_far()


def reset_peak() -> bool:
    """Forget the peak so far; False where the system cannot."""
    with contextlib.suppress(OSError):
        CLEAR.write_text(RESET_PEAK)
        return _status("VmHWM") is not None
    return False


def peak_bytes() -> int:
    """The most since the last reset, or since the process began."""
    return _status("VmHWM") or _most_so_far()


def _status(key: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return 1024 * int(line.split()[1])
    return None


def _most_so_far() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
