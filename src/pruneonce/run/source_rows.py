"""Rows of many files, here or elsewhere, in order; and those that hold no text, set aside into a file of their own."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from pruneonce.errors import PruneonceError
from pruneonce.files import replacing
from pruneonce.models.tokenizer import require_unicode
from pruneonce.remote_files import delivered, fetched, files_of, is_url
from pruneonce.run.text_rows import BadRow, TextRow, read_rows


def rows_of(source: str | Path, column: str, keep: Sequence[str] = ()) -> Iterator[TextRow | BadRow]:
    """`read_rows` of all files that a name, a URL or a pattern stands for, one after the other; "-" is standard input.

    Messages name a file as it was given. One file of elsewhere is on this machine at a time.
    """
    files = ["-"] if str(source) == "-" else files_of(source)
    if len(files) == 1 and not is_url(files[0]):
        return read_rows(files[0], column, keep)
    return _rows_of_all(files, column, keep)


def _rows_of_all(files: Sequence[str], column: str, keep: Sequence[str]) -> Iterator[TextRow | BadRow]:
    for file in files:
        with fetched(file) as local:
            try:
                for row in read_rows(local, column, keep):
                    if isinstance(row, BadRow):
                        yield BadRow(_renamed(row.error, local, file))
                    else:
                        yield row._replace(where=row.where.replace(str(local), file, 1))
            except PruneonceError as error:
                raise _renamed(error, local, file) from error


def _renamed(error: PruneonceError, local: Path, file: str) -> PruneonceError:
    return type(error)(str(error).replace(str(local), file, 1))


def chunks(rows: Iterable[TextRow | BadRow], size: int) -> Iterator[list[TextRow | BadRow]]:
    """Lists of `size` rows, the last one shorter."""
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


class BadRows:
    """Sets rows without a text aside: into a `.jsonl` of their places and reasons, or, without a file, as an error."""

    def __init__(self, file: str | Path | None) -> None:
        self.count = 0
        self._file = file
        self._stack = contextlib.ExitStack()
        self._stream: IO[str] | None = None

    def __enter__(self) -> BadRows:
        if self._file is not None:
            place = self._stack.enter_context(delivered(self._file))
            temporary = self._stack.enter_context(replacing(place))
            self._stream = self._stack.enter_context(open(temporary, "w", encoding="utf-8"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def texts_of(
        self, chunks: Iterable[list[TextRow | BadRow]], waiting: deque[list[TextRow | BadRow]]
    ) -> Iterator[list[str]]:
        """The texts of each chunk; the chunk itself goes to the end of `waiting`, until its answers are there."""
        for chunk in chunks:
            texts = self.set_aside(chunk)
            waiting.append(chunk)
            yield texts

    def set_aside(self, chunk: list[TextRow | BadRow]) -> list[str]:
        """The texts of a chunk; rows that hold none are written down, and are `BadRow` in `chunk` afterwards."""
        for place, row in enumerate(chunk):
            if isinstance(row, TextRow):
                try:
                    require_unicode(row.text, f"{row.where}: the text")
                    continue
                except PruneonceError as error:
                    row = chunk[place] = BadRow(error)
            if self._stream is None:
                raise row.error
            self._stream.write(json.dumps({"error": str(row.error)}, ensure_ascii=True) + "\n")
            self.count += 1
        return [row.text for row in chunk if isinstance(row, TextRow)]
