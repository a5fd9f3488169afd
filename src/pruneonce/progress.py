"""Progress of everything that takes time: what a job calls, and a bar or plain lines that show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 10  # of one task when the output is no terminal


class Advance(Protocol):
    """Called by a long job: how much is done, of how much (None: unknown), and its state or, in one word, the unit."""

    def __call__(self, done: float, total: float | None, note: str = "", /) -> None: ...


OpenBar = Callable[[str], AbstractContextManager[Advance]]  # a title -> what shows it, as `progress_bar` does


def no_progress(done: float, total: float | None, note: str = "", /) -> None:
    """The `Advance` that shows nothing; a job takes it where it is given None."""


def counting(on_progress: Advance | None, unit: str) -> Advance | None:
    """For a part of a job that counts something else than the rest of it: `unit`, whatever its note."""
    if on_progress is None:
        return None
    told = on_progress

    def advance(done: float, total: float | None, note: str = "", /) -> None:
        told(done, total, unit)

    return advance


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[Advance]:
    """A bar with time left, or a line every ten seconds and a last one when the output is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(title, total=None, note="")
            before: float | None = None

            def advance(done: float, total: float | None, note: str = "", /) -> None:
                nonlocal before
                if before is not None and total != before:  # another part of the job, with a pace of its own
                    progress.reset(task)
                before = total
                progress.update(task, completed=done, total=total, note=note)

            yield advance
        return
    yield _line_printer(title, console)


def _line_printer(title: str, console: Console) -> Advance:
    printed = time.monotonic()
    first: tuple[float, float] | None = None  # (seconds, done) when the job began, or went on from a checkpoint
    before: float | None = None

    def advance(done: float, total: float | None, note: str = "", /) -> None:
        nonlocal printed, first, before
        now = time.monotonic()
        if first is None or total != before:  # another part of the job has a pace of its own
            first, before = (now, done), total
        if not total or not done or (done < total and now - printed < SECONDS_BETWEEN_LINES):
            return
        printed = now
        unit, state = (f" {note}", "") if note.isalpha() else ("", f", {note}" if note else "")
        pace = ""
        if now > first[0] and done > first[1]:
            rate = (done - first[1]) / (now - first[0])
            pace = f", {rate:.3g}/s" + (f", {(total - done) / rate:.0f} s left" if done < total else "")
        line = f"{title}: {done:g} of {total:g}{unit}{pace}{state}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)  # a line is one, however long

    return advance
