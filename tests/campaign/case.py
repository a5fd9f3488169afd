"""What a campaign is made of: attempts that are repeated by their seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """A row of the table. An attempt that raises, dies or takes too long is wrong; its seed repeats it."""

    name: str
    promise: str  # what must hold of every attempt
    tries: int  # wanted in all
    outcomes: tuple[str, ...]  # good ends of an attempt
    prepare: Callable[[Path], Any]  # scratch folder -> what attempts need; once per process
    attempt: Callable[[Any, int], str]  # that and a seed -> one of `outcomes`
    attempt_seconds: float = 600  # of `clock`; longer is a hang
    memory_bytes: int | None = None  # of address space, beyond what is imported
    slice_seconds: float = 30  # of one process, before other cases have their turn
