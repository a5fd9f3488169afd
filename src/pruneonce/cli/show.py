"""Answers on the terminal: tables, JSON, and text from files with nothing in it that a terminal would obey."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

# Control characters, separators of lines, marks that turn the direction of writing and lone surrogates: what could
# rewrite a terminal, show a text in another order than it has, or not be printed at all.
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def terminal() -> Console:
    """Where answers go. A file or pipe gets lines long enough that no name is cut; "[/b]" in one is no markup."""
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)


def folding_table(*columns: str, title: str | None = None) -> Table:
    """A table whose cells a narrow terminal folds: cut, names that differ in their last part would be the same."""
    table = _PlainTable(title=None if title is None else plain(title))
    for column in columns:
        table.add_column(plain(column), overflow="fold")
    return table


class _PlainTable(Table):
    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(plain, cells), **options)


def print_json(value: Any) -> None:
    for line in json.dumps(value, indent=2, ensure_ascii=False).split("\n"):
        print(plain(line))


def plain(text: object) -> str:
    """Text that may come from a file, on one line, its unprintable characters escaped as JSON does."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))


def print_metrics(metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        print(f"  {plain(name):<24}{value:.4f}")
