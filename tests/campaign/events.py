"""What a process changes on disk, event by event."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")


def at_each_event(action: Callable[[int], object]) -> None:
    """Call `action` before each change of a file by this process, from now on until it ends, with its number from 1."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in EVENTS:
            count += 1
            action(count)

    sys.addaudithook(watch)
