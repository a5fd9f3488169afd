"""Texts of a file, one at a time, however long it is: lines, or one column of rows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import parse_json
from pruneonce.tasks.table import long_csv_fields

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
PARQUET_ROWS = 256  # read at a time


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
    path = Path(file)
    if str(file) != "-" and path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: cannot tell the format; expected {', '.join(SUFFIXES)}, or - for standard input")
    if str(file) != "-" and not path.is_file():
        raise UsageError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    if str(file) == "-" or path.suffix == ".txt":
        if keep:
            raise UsageError(f"{path} has lines, and no columns to keep")
        return (TextRow(_without_end(line), f"{path}, line {number}", ()) for number, line in _lines(path))
    rows = {".jsonl": _json_rows, ".parquet": _parquet_rows}.get(path.suffix, _separated_rows)(path, (column, *keep))
    return (TextRow(_string(row[0], where, column), where, tuple(row[1:])) for where, row in rows)


def _string(value: Any, where: str, column: str) -> str:
    if not isinstance(value, str):
        raise PruneonceError(f"{where}: '{column}' is {type(value).__name__}, not a string")
    return value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its end); split at "\\n" alone, since a text may hold U+2028 and the like."""
    stream = sys.stdin.buffer if str(path) == "-" else open(path, "rb")  # noqa: SIM115 - closed below
    try:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise PruneonceError(f"{path}, line {number}: not UTF-8 text; convert the file to UTF-8") from error
            yield number, text
    except OSError as error:
        raise PruneonceError(f"{path} cannot be read: {error.strerror or error}") from error
    finally:
        if stream is not sys.stdin.buffer:
            stream.close()


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise PruneonceError(f"{where}: expected one JSON object per line: {error}") from error
        if not isinstance(row, dict):
            raise PruneonceError(f"{where}: expected a JSON object, found {type(row).__name__}")
        _require(where, row, columns)
        yield where, [row[name] for name in columns]


def _separated_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    with long_csv_fields():
        number = 1
        try:
            rows = _csv_rows(path) if path.suffix == ".csv" else _tsv_rows(path)
            _, header = next(rows, (1, []))
            _require(str(path), header, columns)
            for number, row in rows:
                where = f"{path}, line {number}"
                if len(row) != len(header):
                    raise PruneonceError(f"{where}: expected {len(header)} fields, found {len(row)}")
                yield where, [row[header.index(name)] for name in columns]
        except csv.Error as error:
            raise PruneonceError(f"{path}, after line {number}: not CSV: {error}") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the last line, fields) of each row."""
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    return ((reader.line_num, fields) for fields in reader if fields)


def _tsv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    lines = ((number, _without_end(line)) for number, line in _lines(path))
    return ((number, line.split("\t")) for number, line in lines if line)


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UsageError(f"reading {path} needs `pip install pruneonce[train]`; .jsonl and .csv do not") from error
    try:
        with parquet.ParquetFile(path) as table:
            _require(str(path), table.schema_arrow.names, columns)
            number = 0
            for batch in table.iter_batches(PARQUET_ROWS, columns=list(columns)):
                for row in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                    number += 1
                    yield f"{path}, row {number}", list(row)
    except (OSError, ArrowException, UnicodeDecodeError) as error:
        raise PruneonceError(f"{path} cannot be read as Parquet: {str(error).strip().splitlines()[0]}") from error


def _require(where: str, present: Iterable[str], columns: Sequence[str]) -> None:
    for name in columns:
        if name not in present:
            raise UsageError(f"{where} has no column '{name}'; it has {', '.join(map(str, present)) or 'none'}")
