"""Progress of everything that takes time: what a job calls, and a bar or plain lines that show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

LINES_WITHOUT_TERMINAL = 10  # progress lines of one task when the output is a file


class Advance(Protocol):
    """Called by a long job: how much is done, of how much (None: unknown), and a word on its state."""

    def __call__(self, done: float, total: float | None, note: str = "", /) -> None: ...


OpenBar = Callable[[str], AbstractContextManager[Advance]]  # a title -> what shows it, as `progress_bar` does


def no_progress(done: float, total: float | None, note: str = "", /) -> None:
    """The `Advance` that shows nothing; a job takes it where it is given None."""


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[Advance]:
    """A bar with time left, or one line every tenth of the way when the output is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(title, total=None, note="")

            def advance(done: float, total: float | None, note: str = "", /) -> None:
                progress.update(task, completed=done, total=total, note=note)

            yield advance
        return
    yield _line_printer(title, console)


def _line_printer(title: str, console: Console) -> Advance:
    begun = time.monotonic()
    printed = -1

    def advance(done: float, total: float | None, note: str = "", /) -> None:
        nonlocal printed
        if not total:
            return
        tenth = int(LINES_WITHOUT_TERMINAL * done / total)
        if tenth <= printed:
            return
        printed = tenth
        elapsed = time.monotonic() - begun
        left = f", {elapsed * (total - done) / done:.0f} s left" if 0 < done < total else ""
        console.print(f"{title}: {done:g} of {total:g}{left}  {note}", markup=False, highlight=False)

    return advance
