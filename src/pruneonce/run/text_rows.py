"""Texts of a file, one at a time, however long it is: lines, or one column of rows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import parse_json
from pruneonce.formats.parquet_file import parquet_rows
from pruneonce.tasks.table import long_csv_fields

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")


class BadRow(NamedTuple):
    """A row that holds no text, and why, in one line with its place."""

    error: PruneonceError


class TextRow(NamedTuple):
    """A text, where it is for a message, and the values of other columns of its row."""

    text: str
    where: str
    kept: tuple[Any, ...]


def read_texts(file: str | Path, column: str = "text", keep: Sequence[str] = ()) -> Iterator[TextRow]:
    """Texts of a file in order. "-" is standard input.

    .txt and "-": a text per line, blank ones too, so that the n-th is that of line n. .jsonl, .csv (RFC 4180), .tsv
    (no quoting) and .parquet: `column` of each row; keep: other columns of the same row. UsageError or PruneonceError
    with the line for what is no such file, no UTF-8 or no string.
    """

    def good(row: TextRow | BadRow) -> TextRow:
        if isinstance(row, BadRow):
            raise row.error
        return row

    return map(good, read_rows(file, column, keep))


def read_rows(file: str | Path, column: str = "text", keep: Sequence[str] = ()) -> Iterator[TextRow | BadRow]:
    """As `read_texts`, with a row that holds no text among the others in place of an error.

    What concerns the whole file stays one: its format, a column that a table lacks, a quote that is never closed.
    """
    path = Path(file)
    if str(file) != "-" and path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: cannot tell the format; expected {', '.join(SUFFIXES)}, or - for standard input")
    if str(file) != "-" and not path.is_file():
        raise UsageError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    if str(file) == "-" or path.suffix == ".txt":
        if keep:
            raise UsageError(f"{path} has lines, and no columns to keep")
        return (
            line if isinstance(line, BadRow) else TextRow(_without_end(line), f"{path}, line {number}", ())
            for number, line in _lines(path)
        )
    rows = {".jsonl": _json_rows, ".parquet": _parquet_rows}.get(path.suffix, _separated_rows)(path, (column, *keep))
    return (row if isinstance(row, BadRow) else _text_row(where, row, column) for where, row in rows)


def _text_row(where: str, row: list[Any], column: str) -> TextRow | BadRow:
    if not isinstance(row[0], str):
        return BadRow(PruneonceError(f"{where}: '{column}' is {type(row[0]).__name__}, not a string"))
    return TextRow(row[0], where, tuple(row[1:]))


def _good_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Of a format whose rows are not lines: one that is no UTF-8 spoils the file."""
    for number, line in _lines(path):
        if isinstance(line, BadRow):
            raise line.error
        yield number, line


def _lines(path: Path) -> Iterator[tuple[int, str | BadRow]]:
    """(number from 1, line with its end); split at "\\n" alone, since a text may hold U+2028 and the like."""
    stream = sys.stdin.buffer if str(path) == "-" else open(path, "rb")  # noqa: SIM115 - closed below
    try:
        for number, line in enumerate(stream, start=1):
            try:
                text: str | BadRow = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                text = BadRow(PruneonceError(f"{path}, line {number}: not UTF-8 text; convert the file to UTF-8"))
            yield number, text
    except OSError as error:
        raise PruneonceError(f"{path} cannot be read: {error.strerror or error}") from error
    finally:
        if stream is not sys.stdin.buffer:
            stream.close()


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[Any] | BadRow]]:
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        if isinstance(line, BadRow):
            yield where, line
        elif line.strip():
            try:
                yield where, _of_json(line, where, columns)
            except PruneonceError as error:
                yield where, BadRow(error)


def _of_json(line: str, where: str, columns: Sequence[str]) -> list[Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise PruneonceError(f"{where}: expected one JSON object per line: {error}") from error
    if not isinstance(row, dict):
        raise PruneonceError(f"{where}: expected a JSON object, found {type(row).__name__}")
    _require(where, row, columns)
    return [row[name] for name in columns]


def _separated_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[Any] | BadRow]]:
    with long_csv_fields():
        number = 1
        try:
            rows = _csv_rows(path) if path.suffix == ".csv" else _tsv_rows(path)
            _, header = next(rows, (1, []))
            _require(str(path), header, columns)
            for number, row in rows:
                where = f"{path}, line {number}"
                if len(row) != len(header):
                    yield where, BadRow(PruneonceError(f"{where}: expected {len(header)} fields, found {len(row)}"))
                else:
                    yield where, [row[header.index(name)] for name in columns]
        except csv.Error as error:
            raise PruneonceError(f"{path}, after line {number}: not CSV: {error}") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the last line, fields) of each row."""
    reader = csv.reader((line for _, line in _good_lines(path)), strict=True)
    return ((reader.line_num, fields) for fields in reader if fields)


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    lines = ((number, _without_end(line)) for number, line in _good_lines(path))
    return ((number, line.split("\t")) for number, line in lines if line)


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[Any] | BadRow]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UsageError(f"reading {path} needs `pip install pruneonce[train]`; .jsonl and .csv do not") from error
    try:
        names = parquet.read_schema(path).names
    except (OSError, ArrowException) as error:
        raise PruneonceError(f"{path} cannot be read as Parquet: {str(error).strip().splitlines()[0]}") from error
    _require(str(path), names, columns)
    for number, row in enumerate(parquet_rows(path, list(dict.fromkeys(columns))), start=1):
        yield f"{path}, row {number}", [row[name] for name in columns]


def _require(where: str, present: Iterable[str], columns: Sequence[str]) -> None:
    for name in columns:
        if name not in present:
            raise UsageError(f"{where} has no column '{name}'; it has {', '.join(map(str, present)) or 'none'}")
