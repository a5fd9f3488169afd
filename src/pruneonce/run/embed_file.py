"""Vectors of all texts of a file, into a file, in as much memory as a few thousand texts take."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import check_writable, replacing
from pruneonce.formats.stored_tensors import Array
from pruneonce.models.tokenizer import require_unicode
from pruneonce.progress import Advance, no_progress
from pruneonce.run.pipelines.embeddings import Embeddings
from pruneonce.run.text_rows import TextRow, read_texts

TEXTS_AT_ONCE = 1024  # read, embedded in batches of similar length, and written
VECTOR = "embedding"  # the column of a Parquet file
NPY_HEADER_BYTES = 128  # magic, version and length take 10; the rest holds any shape


class _Writer(Protocol):
    def __call__(self, rows: Sequence[TextRow], vectors: Array) -> None: ...


def embed_file(
    embeddings: Embeddings,
    source: str | Path,
    out: str | Path,
    *,
    column: str = "text",
    keep: Sequence[str] = (),
    on_progress: Advance | None = None,
    **options: Any,
) -> tuple[int, int]:
    """The vectors of a file's texts, in order, into `out`, which is whole or not there; (texts, size of a vector).

    source, column: as of `read_texts`. out: `.npy`, float32 [texts, size], or `.parquet`, a row per text with the
    vector as `embedding` and the columns `keep` of the source. options: of the pipeline's call.
    """
    out = Path(out)
    openers = {".npy": _npy, ".parquet": _parquet}
    if out.suffix not in openers:
        raise UsageError(f"{out}: vectors are written as {' or '.join(openers)}")
    if keep and out.suffix != ".parquet":
        raise UsageError(f"{out} holds vectors alone: columns are kept in .parquet")
    if VECTOR in keep:
        raise UsageError(f"the column '{VECTOR}' cannot be kept: it is that of the vectors")
    check_writable(out)
    advance = on_progress or no_progress
    rows = read_texts(source, column, keep)
    size = int(embeddings([], **options).shape[1])
    done = 0
    with replacing(out) as temporary, openers[out.suffix](temporary, size, keep) as write:
        for chunk in _chunks(rows):
            for row in chunk:
                require_unicode(row.text, f"{row.where}: the text")
            write(chunk, embeddings([row.text for row in chunk], **options))
            done += len(chunk)
            advance(done, None, "texts")
        if not done:
            raise PruneonceError(f"{source} holds no texts")
    return done, size


def _chunks(rows: Iterable[TextRow]) -> Iterator[list[TextRow]]:
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, TEXTS_AT_ONCE)):
        yield chunk


@contextmanager
def _npy(path: Path, size: int, keep: Sequence[str]) -> Iterator[_Writer]:
    """NumPy's format 1.0. How many rows there are is known at the end, and then written into the header's room."""
    texts = 0
    with open(path, "wb") as stream:

        def write(rows: Sequence[TextRow], vectors: Array) -> None:
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

        def write(rows: Sequence[TextRow], vectors: Array) -> None:
            nonlocal writer
            columns = {VECTOR: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size)}
            try:
                for index, name in enumerate(keep):
                    kind = writer.schema.field(name).type if writer is not None else None
                    columns[name] = pa.array([row.kept[index] for row in rows], kind)
            except pa.ArrowException as error:
                raise PruneonceError(
                    f"{rows[0].where} and the rows after it: '{name}' is not of one type: {error}"
                ) from error
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
