"""Rows of a Parquet file, in memory that its bytes bound: a few kilobytes can decode to as many gigabytes.

pyarrow is imported by the call: whoever reads no Parquet need not have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pruneonce.errors import PruneonceError

ROWS_AT_ONCE = 256  # at most; documents may be whole books
BYTES_AT_ONCE = 64 << 20  # of decoded rows: one text of a dictionary may be that of every row
LARGE_BYTES, SUSPICIOUS_RATIO = 1 << 30, 100  # text is compressed five times, hardly ever a hundred


def parquet_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Each row as a dictionary of these columns (None: all).

    PruneonceError for what is no Parquet, and for few bytes that stand for more than LARGE_BYTES.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                # Of columns it would tell more, but a broken one ends the process there (pyarrow 22: std::terminate).
                decoded = file.metadata.row_group(number).total_byte_size
                _check_decoded(path, decoded)
                rows = min(max(BYTES_AT_ONCE // max(decoded, 1), 1), ROWS_AT_ONCE)
                for batch in file.iter_batches(rows, row_groups=[number], columns=columns):
                    yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: strings that are not UTF-8
        lines = str(error).strip().splitlines()
        raise PruneonceError(
            f"{path} cannot be read as Parquet: {lines[0] if lines else type(error).__name__}"
        ) from error


def _check_decoded(path: Path, decoded: int) -> None:
    stored = path.stat().st_size
    if decoded > LARGE_BYTES and decoded > SUSPICIOUS_RATIO * stored:
        raise PruneonceError(
            f"{path}: its {stored:,} bytes would become {decoded:,}: that is no text; write the file in smaller row "
            "groups if it is"
        )
