"""Text files to articles: `.txt`, `.jsonl` and `.parquet`, read one document at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pruneonce.data import articles
from pruneonce.data.building import Built
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import parse_json
from pruneonce.formats.parquet_file import parquet_rows
from pruneonce.progress import Advance, no_progress

DOCUMENTS = ("blank-line", "line", "file")


def collect(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    text_column: str = "text",
    title_column: str | None = None,
    documents: str = "blank-line",
    shard_bytes: int = articles.SHARD_BYTES,
    on_progress: Advance | None = None,
) -> Built:
    """Turn UTF-8 text files into the articles folder `out`, in the order given.

    .txt: `documents` says what separates documents: "blank-line", "line" (every line is a document) or "file".
    .jsonl, .parquet: one document per row; `text_column` holds it, `title_column` (if any) its title. Rows without
        text (null or blank) are counted in the manifest's `skipped`.
    Without a title a document is called "<file name>:<line or row>". One document at a time is in memory, so a large
    .txt file needs blank lines or documents="line". Progress is in files.
    """
    paths = [Path(file) for file in inputs]
    _check(paths, documents)
    settings = {"text_column": text_column, "title_column": title_column, "documents": documents}
    skipped: Counter[str] = Counter()
    advance = on_progress or no_progress

    def read_all() -> Generator[tuple[str, str], None, None]:
        for done, path in enumerate(paths):
            advance(done, len(paths), "files")
            yield from _read(path, text_column, title_column, documents, skipped)
        advance(len(paths), len(paths), "files")

    source = {"kind": "text", **settings, "files": articles.describe_inputs(paths)}
    return articles.make(out, read_all, source=source, skipped=skipped, shard_bytes=shard_bytes)


def _check(paths: Sequence[Path], documents: str) -> None:
    if documents not in DOCUMENTS:
        raise UsageError(f"documents must be one of {', '.join(DOCUMENTS)}; got '{documents}'")
    if not paths:
        raise UsageError("no text files were given")
    for path in paths:
        if path.suffix not in (".txt", ".jsonl", ".parquet"):
            raise UsageError(f"{path} is not a .txt, .jsonl or .parquet file")
        if not path.is_file():
            raise UsageError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")


def _read(
    path: Path, text_column: str, title_column: str | None, documents: str, skipped: Counter[str]
) -> Iterator[tuple[str, str]]:
    """(title, text) of every document of one file; PruneonceError if it has none."""
    if path.suffix == ".txt":
        rows: Iterator[tuple[int, Any, str]] = ((line, None, text) for line, text in _READ_TXT[documents](_lines(path)))
    elif path.suffix == ".jsonl":
        rows = _read_jsonl(path, text_column, title_column)
    else:
        rows = _read_parquet(path, text_column, title_column)
    found = False
    for number, title, text in rows:
        if text.strip():
            found = True
            yield (f"{path.name}:{number}" if title is None else str(title)), text
        else:
            skipped["without text"] += 1
    if not found:
        raise PruneonceError(f"{path} holds no text")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a UTF-8 file; a byte order mark is ignored."""
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise PruneonceError(f"{path}, line {number} is not UTF-8: {error.reason}") from error


def _by_line(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in lines if line.strip())


def _by_blank_line(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    first, document = 1, list[str]()
    for number, line in lines:
        if line.strip():
            first = first if document else number
            document.append(line)
        elif document:
            yield first, "\n".join(document)
            document = []
    if document:
        yield first, "\n".join(document)


def _by_file(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield 1, "\n".join(line for _, line in lines)


_READ_TXT: dict[str, Callable[[Iterable[tuple[int, str]]], Iterator[tuple[int, str]]]] = {
    "blank-line": _by_blank_line,
    "line": _by_line,
    "file": _by_file,
}


def _read_jsonl(path: Path, text_column: str, title_column: str | None) -> Iterator[tuple[int, Any, str]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise PruneonceError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise PruneonceError(f"{path}, line {number} is not a JSON object")
        _require_columns(f"{path}, line {number}", row, text_column, title_column)
        text = row[text_column]
        if not isinstance(text, str | None):
            raise PruneonceError(f"{path}, line {number}: '{text_column}' is not a string")
        yield number, row[title_column] if title_column else None, text or ""


def _read_parquet(path: Path, text_column: str, title_column: str | None) -> Iterator[tuple[int, Any, str]]:
    columns = list(dict.fromkeys([text_column, *([title_column] if title_column else [])]))
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise PruneonceError(f"{path} cannot be read as Parquet: {error}") from error
    _require_columns(str(path), schema.names, text_column, title_column)
    kind = schema.field(text_column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise PruneonceError(f"{path}: column '{text_column}' holds {kind}, not strings")
    for number, row in enumerate(parquet_rows(path, columns), start=1):
        yield number, row[title_column] if title_column else None, row[text_column] or ""


def _require_columns(where: str, present: Iterable[str], text_column: str, title_column: str | None) -> None:
    for column in filter(None, (text_column, title_column)):
        if column not in present:
            raise UsageError(f"{where} has no column '{column}'; it has {', '.join(map(repr, present)) or 'none'}")
