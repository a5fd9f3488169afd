"""Rows of Parquet files: a few bytes never become more than a reader can hold."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruneonce.data import text
from pruneonce.errors import PruneonceError
from pruneonce.formats import parquet_file
from pruneonce.formats.parquet_file import parquet_rows
from pruneonce.run.text_rows import read_texts
from pruneonce.tasks import table


def test_rows_are_those_of_the_file_however_few_are_decoded_at_once(tmp_path, monkeypatch):
    rows = [{"text": f"text {number}", "n": number} for number in range(600)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet", row_group_size=250)
    assert list(parquet_rows(tmp_path / "f.parquet")) == rows
    monkeypatch.setattr(parquet_file, "BYTES_AT_ONCE", 1)
    assert list(parquet_rows(tmp_path / "f.parquet", ["n"])) == [{"n": number} for number in range(600)]


def test_a_few_bytes_that_would_become_a_gigabyte_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_file, "LARGE_BYTES", 1 << 20)
    long = pa.table({"text": ["a" * (2 << 20)], "short": ["b"]})
    pq.write_table(long, tmp_path / "f.parquet", compression="zstd", use_dictionary=False)
    message = r"f\.parquet: its [\d,]+ bytes would become 2,[\d,]+: that is no text"
    file = tmp_path / "f.parquet"
    readers = (parquet_rows, read_texts, lambda path: table.read_table(path).rows)
    for read in (lambda reader=reader: list(reader(file)) for reader in readers):
        with pytest.raises(PruneonceError, match=message):
            read()
    with pytest.raises(PruneonceError, match=message):
        text.collect([tmp_path / "f.parquet"], tmp_path / "out")


@pytest.mark.slow
def test_one_text_of_a_dictionary_for_every_row_is_not_decoded_for_all_of_them_at_once(tmp_path):
    """2 kB of file; 200 rows of 10 MB each were decoded in one batch."""
    pq.write_table(pa.table({"text": ["a" * (10 << 20)] * 200}), tmp_path / "f.parquet", compression="zstd")
    assert (tmp_path / "f.parquet").stat().st_size < 20_000
    code = f"""
from pathlib import Path
from pruneonce.formats.parquet_file import parquet_rows
assert sum(len(row["text"]) for row in parquet_rows(Path({str(tmp_path / "f.parquet")!r}))) == 200 * (10 << 20)
# Not ru_maxrss, which begins at what the process that started this one has.
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ended.stdout) << 10 < 1 << 30


def test_a_table_of_more_characters_than_can_be_held_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "LARGEST_TABLE", 1000)
    pq.write_table(pa.table({"text": ["a" * 90] * 12}), tmp_path / "f.parquet")
    with pytest.raises(PruneonceError, match=r"decodes to more than 1,000 characters"):
        table.read_table(tmp_path / "f.parquet")
