"""Rows of labelled data, as dictionaries: from a local .tsv, .csv, .jsonl, .json or .parquet file, or from the Hub."""

from __future__ import annotations

import contextlib
import csv
import difflib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import parse_json
from pruneonce.formats.parquet_file import parquet_rows

Row = dict[str, Any]

LARGEST_TABLE = 4 << 30  # characters; the other formats hold what their file holds

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """The rows of one source, and where in it each was found, so that an error can name the place."""

    source: str  # file or Hub split
    columns: tuple[str, ...]
    rows: list[Row]
    places: Sequence[int]  # of each row: line number in a text file, otherwise ordinal; both from 1
    unit: str = "line"  # what `places` counts

    def where(self, index: int) -> str:
        """The place of row `index`, for an error message: "dev.tsv, line 7"."""
        return f"{self.source}, {self.unit} {self.places[index]}"

    def require(self, columns: Sequence[str]) -> None:
        """UsageError unless every one of `columns` exists; names the nearest one that does."""
        for name in columns:
            if name not in self.columns:
                raise UsageError(
                    f"{self.source} has no column '{name}'{did_you_mean(name, self.columns)}; "
                    f"expected {', '.join(columns)}, found {', '.join(self.columns)}"
                )

    def column(self, name: str) -> list[Any]:
        """The values of one column, one per row. An error if a row lacks it."""
        self.require([name])
        for index, row in enumerate(self.rows):
            if name not in row:
                raise PruneonceError(f"{self.where(index)}: '{name}' is missing; found {', '.join(row) or 'nothing'}")
        return [row[name] for row in self.rows]


@dataclass(frozen=True)
class HubData:
    """A data set on the Hugging Face Hub, and those of its splits that carry labels."""

    dataset: str
    config: str | None
    splits: tuple[str, ...]


def read_source(
    source: str | Path,
    hub: HubData | None = None,
    *,
    headerless: Sequence[str] = (),
    drop_broken: bool = False,
    txt_is_tsv: bool = False,
) -> Table:
    """Read `source`: one of the splits of `hub` (or a slice, "train[:1000]"), otherwise a local file."""
    if hub is not None and str(source).partition("[")[0] in hub.splits:
        return from_hub(hub.dataset, hub.config, str(source))
    if hub is not None and not Path(source).exists():
        hint = did_you_mean(str(source), hub.splits) or did_you_mean(Path(source).name, _siblings(Path(source)))
        splits = ", ".join(hub.splits)
        raise UsageError(f"'{source}' is neither a file nor one of the splits of {hub.dataset} ({splits}){hint}")
    return read_table(source, headerless=headerless, drop_broken=drop_broken, txt_is_tsv=txt_is_tsv)


def read_table(
    path: str | Path, *, headerless: Sequence[str] = (), drop_broken: bool = False, txt_is_tsv: bool = False
) -> Table:
    """Read a local file; its suffix tells the format. At least one row, or it is an error.

    .tsv: tab separated, no quoting, as GLUE is (a quotation mark is a character like any other).
    .csv: RFC 4180 quoting; a field may hold line breaks. .jsonl and .json: one object per line, or a list of objects.
    headerless: names for the columns of a .tsv or .csv whose first line is already data.
    drop_broken: leave out rows whose number of fields differs from the header's; otherwise such a row is an error.
    txt_is_tsv: read .txt as .tsv, as MRPC's files are called.
    """
    path = existing_file(path)
    if path.suffix in (".tsv", ".csv") or (txt_is_tsv and path.suffix == ".txt"):
        lines = (_csv_lines if path.suffix == ".csv" else _tsv_lines)(path)
        table = _with_header(str(path), lines, headerless, drop_broken)
    elif path.suffix in (".jsonl", ".json"):
        table = _json_table(path)
    elif path.suffix == ".parquet":
        table = _parquet_table(path)
    else:
        raise UsageError(f"{path}: cannot tell the format; expected .tsv, .csv, .jsonl, .json or .parquet")
    if not table.rows:
        raise PruneonceError(f"{path} holds no rows")
    return table


def from_hub(dataset: str, config: str | None, split: str) -> Table:
    """Rows of one split of a Hub data set, from the local cache when offline (`HF_HUB_OFFLINE=1`)."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UsageError(
            f"reading {dataset} from the Hub needs `pip install pruneonce[train]`; a local file does not"
        ) from error
    source = " ".join(part for part in (dataset, config, split) if part)
    try:
        rows = load_dataset(dataset, config, split=split).to_list()
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{source} could not be loaded from the Hub: {_first_line(error)}; "
            "give a local .tsv, .csv, .jsonl, .json or .parquet file instead"
        ) from error
    return _ordinal_table(source, rows, unit="row")


def existing_file(path: str | Path) -> Path:
    """`path`, when it is a file; otherwise a UsageError that names the nearest file beside it."""
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise UsageError(f"{path} is a folder; expected a file in it")
    raise UsageError(f"{path} does not exist{did_you_mean(path.name, _siblings(path))}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'label'?)" for the nearest known name, or nothing when none is near."""
    by_lower = {option.lower(): option for option in known}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean '{by_lower[nearest[0]]}'?)" if nearest else ""


def _siblings(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise PruneonceError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PruneonceError(f"{path}, line {line}: not UTF-8 text; convert the file to UTF-8") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not empty. Split at "\\n" alone: text may hold U+2028, U+0085 and the like."""
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        line = line.removesuffix("\r")
        if line:
            yield number, line


def _tsv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in _lines(path))


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, fields) of each row."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    number = 1
    with long_csv_fields():
        try:
            for fields in reader:
                if fields:
                    yield number, fields
                number = reader.line_num + 1
        except csv.Error as error:
            raise PruneonceError(f"{path}, line {number}: not CSV: {error}") from error


@contextlib.contextmanager
def long_csv_fields() -> Iterator[None]:
    """Lift the csv module's limit of 131,072 characters a field, which is process-wide, for a while."""
    before = csv.field_size_limit(2**31 - 1)  # the largest C long on every platform
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _with_header(
    source: str, lines: Iterator[tuple[int, list[str]]], headerless: Sequence[str], drop_broken: bool
) -> Table:
    numbered = list(lines)
    if not numbered:
        raise PruneonceError(f"{source} is empty")
    columns = tuple(numbered[0][1])
    if headerless and len(columns) == len(headerless) and not set(columns) & set(headerless):
        columns = tuple(headerless)
    else:
        numbered = numbered[1:]
    if repeated := [name for name in columns if columns.count(name) > 1]:
        raise PruneonceError(f"{source}: column '{repeated[0]}' appears more than once in {', '.join(columns)}")
    if drop_broken:
        whole = [(number, fields) for number, fields in numbered if len(fields) == len(columns)]
        if len(whole) < len(numbered):
            _log.warning("%s: left out %d broken rows of %d", source, len(numbered) - len(whole), len(numbered))
        numbered = whole
    for number, fields in numbered:
        if len(fields) != len(columns):
            raise PruneonceError(
                f"{source}, line {number}: expected {len(columns)} fields ({', '.join(columns)}), found {len(fields)}"
            )
    rows = [dict(zip(columns, fields, strict=True)) for _, fields in numbered]
    return Table(source, columns, rows, places=[number for number, _ in numbered])


def _json_table(path: Path) -> Table:
    text = _read_text(path)
    if text.lstrip().startswith("["):
        try:
            return _ordinal_table(str(path), parse_json(text), unit="item")
        except ValueError as error:
            raise PruneonceError(f"{path} is not JSON: {error}") from error
    numbers, rows = [], []
    for number, line in _lines(path):
        if line.strip():
            numbers.append(number)
            rows.append(_parse_line(path, number, line))
    return _checked(Table(str(path), (), rows, numbers))


def _parse_line(path: Path, number: int, line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise PruneonceError(f"{path}, line {number}: expected one JSON object per line: {error}") from error


def _parquet_table(path: Path) -> Table:
    try:
        import pyarrow  # noqa: F401 - the import that may fail
    except ImportError as error:
        raise UsageError(f"reading {path} needs `pip install pruneonce[train]`; .csv and .jsonl do not") from error
    rows, size = [], 0
    for row in parquet_rows(path):
        size += sum(len(value) for value in row.values() if isinstance(value, str))
        if size > LARGEST_TABLE:
            raise PruneonceError(f"{path} decodes to more than {LARGEST_TABLE:,} characters, too many to hold")
        rows.append(row)
    return _ordinal_table(str(path), rows, unit="row")


def _ordinal_table(source: str, rows: list[Any], unit: str) -> Table:
    return _checked(Table(source, (), rows, places=range(1, len(rows) + 1), unit=unit))


def _checked(table: Table) -> Table:
    """`table` with the first row's keys as columns, once every row is known to be an object."""
    for index, row in enumerate(table.rows):
        if not isinstance(row, dict):
            raise PruneonceError(f"{table.where(index)}: expected a JSON object, found {type(row).__name__}")
    columns = tuple(table.rows[0]) if table.rows else ()
    return Table(table.source, columns, table.rows, table.places, table.unit)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
