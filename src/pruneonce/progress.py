"""One progress bar for everything that takes time; plain lines where nobody watches a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINES_WITHOUT_TERMINAL = 10  # progress lines of one task when the output is a file


class Advance(Protocol):
    """Called by a long job: how much is done, of how much (None: unknown), and a word on its state."""

    def __call__(self, done: float, total: float | None, note: str = "", /) -> None: ...


@contextmanager
def progress_bar(title: str, console: Console | None = None) -> Iterator[Advance]:
    """A bar with time left, or one line every tenth of the way when the output is not a terminal."""
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
