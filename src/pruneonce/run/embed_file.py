"""Vectors of all texts of a file, into a file, in as much memory as a few thousand texts take."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import check_writable, replacing
from pruneonce.formats.stored_tensors import Array
from pruneonce.progress import Advance, no_progress
from pruneonce.remote_files import delivered, is_url
from pruneonce.run.chunk_answers import answering
from pruneonce.run.pipelines.embeddings import Embeddings
from pruneonce.run.source_rows import BadRows, chunks, rows_of
from pruneonce.run.text_rows import BadRow, TextRow

TEXTS_AT_ONCE = 1024  # read, embedded in batches of similar length, and written
VECTOR = "embedding"  # the column of a Parquet file
NPY_HEADER_BYTES = 128  # magic, version and length take 10; the rest holds any shape


class Embedded(NamedTuple):
    """What a file of vectors holds."""

    texts: int  # rows, those without a vector among them
    size: int  # of a vector
    bad: int  # rows that held no text


class _Writer(Protocol):
    def __call__(self, rows: Sequence[TextRow | BadRow], vectors: Array) -> None: ...


def embed_file(
    embeddings: Embeddings,
    source: str | Path,
    out: str | Path,
    *,
    column: str = "text",
    keep: Sequence[str] = (),
    errors: str | Path | None = None,
    on: str = "",
    workers: int | None = None,
    worker_threads: int = 1,
    on_progress: Advance | None = None,
    **options: Any,
) -> Embedded:
    """The vectors of a file's texts, in order, into `out`, which is whole or not there.

    source: a file as of `read_texts`, or a pattern whose files are read one after the other; each, and `out`, may be a
    URL (`remote_files`). out: `.npy`, float32 [texts, size], or `.parquet`, a row per text with the vector as
    `embedding` and the columns `keep` of the source. errors: a `.jsonl` of the rows that hold no text, which have a
    vector of NaN in .npy and none in .parquet; without it such a row is an error. on: "ray" or "ray://HOST:PORT", where
    so many workers with so many threads compute (`chunk_answers.answering`); the bytes written are the same. options:
    of the pipeline's call.
    """
    openers = {".npy": _npy, ".parquet": _parquet}
    if Path(out).suffix not in openers:
        raise UsageError(f"{out}: vectors are written as {' or '.join(openers)}")
    if keep and Path(out).suffix != ".parquet":
        raise UsageError(f"{out} holds vectors alone: columns are kept in .parquet")
    if VECTOR in keep:
        raise UsageError(f"the column '{VECTOR}' cannot be kept: it is that of the vectors")
    if not is_url(out):
        check_writable(Path(out))
    advance = on_progress or no_progress
    rows = rows_of(source, column, keep)
    size = int(embeddings([], **options).shape[1])
    done = 0
    waiting: deque[list[TextRow | BadRow]] = deque()  # chunks that are being answered
    with (
        answering(embeddings, out, options, on=on, workers=workers, worker_threads=worker_threads) as answer_all,
        BadRows(errors) as bad,
        delivered(out) as place,
        replacing(place) as temporary,
        openers[place.suffix](temporary, size, keep) as write,
    ):
        for vectors in answer_all(bad.texts_of(chunks(rows, TEXTS_AT_ONCE), waiting)):
            chunk = waiting.popleft()
            write(chunk, _in_their_rows(chunk, vectors, size))
            done += len(chunk)
            advance(done, None, "texts")
        if done == bad.count:
            raise PruneonceError(f"{source} holds no texts")
    return Embedded(done, size, bad.count)


def _in_their_rows(chunk: Sequence[TextRow | BadRow], vectors: Array, size: int) -> Array:
    """float32 [rows of the chunk, size]: the vectors of its texts, and NaN where there is none."""
    if len(vectors) == len(chunk):
        return vectors
    found = np.full((len(chunk), size), np.nan, np.float32)
    found[[isinstance(row, TextRow) for row in chunk]] = vectors
    return found


@contextmanager
def _npy(path: Path, size: int, keep: Sequence[str]) -> Iterator[_Writer]:
    """NumPy's format 1.0. How many rows there are is known at the end, and then written into the header's room."""
    texts = 0
    with open(path, "wb") as stream:

        def write(rows: Sequence[TextRow | BadRow], vectors: Array) -> None:
            nonlocal texts
            texts += len(rows)
            stream.write(vectors.astype("<f4", copy=False).tobytes())

        stream.write(bytes(NPY_HEADER_BYTES))
        yield write
        described = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({texts}, {size}), }}".encode()
        stream.seek(0)
        stream.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", NPY_HEADER_BYTES - 10))
        stream.write(described.ljust(NPY_HEADER_BYTES - 11) + b"\n")


def _parquet(path: Path, size: int, keep: Sequence[str]) -> AbstractContextManager[_Writer]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("writing .parquet needs `pip install pruneonce[train]`; .npy does not") from error

    @contextmanager
    def opened() -> Iterator[_Writer]:
        writer: Any = None

        def write(rows: Sequence[TextRow | BadRow], vectors: Array) -> None:
            nonlocal writer
            bad = [isinstance(row, BadRow) for row in rows]
            none = pa.array(bad) if any(bad) else None
            columns = {VECTOR: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size, mask=none)}
            try:
                for index, name in enumerate(keep):
                    kind = writer.schema.field(name).type if writer is not None else None
                    values = [row.kept[index] if isinstance(row, TextRow) else None for row in rows]
                    columns[name] = pa.array(values, kind)
            except pa.ArrowException as error:
                where = next(row.where for row in rows if isinstance(row, TextRow))
                raise PruneonceError(f"{where} and the rows after it: '{name}' is not of one type: {error}") from error
            batch = pa.record_batch(columns)
            if writer is None:
                writer = parquet.ParquetWriter(path, batch.schema)
            writer.write_batch(batch)

        try:
            yield write
        finally:
            if writer is not None:
                writer.close()

    return opened()
