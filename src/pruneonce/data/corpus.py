"""The corpus folder: what the teacher and the pruning run read, and the Arrow files that it is made of.

A corpus folder holds, per shard of articles and per split, one Arrow IPC file (`train-00000.arrow`,
`validation-00000.arrow`); `token_counts.npy`; and, written last, `manifest.json`. Masking is dynamic and so not stored.
`build` makes one; what its examples are is in `layouts`.
"""

from __future__ import annotations

import functools
import itertools
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pruneonce import files
from pruneonce.data import building
from pruneonce.data.articles import check_manifest
from pruneonce.errors import PruneonceError, UsageError

FORMAT = "pruneonce-corpus"
VERSION = 1
SPLITS = ("train", "validation")
MANIFEST, TOKEN_COUNTS = "manifest.json", "token_counts.npy"
EXAMPLES_PER_BATCH = 1024  # of an Arrow record batch: about 1 MB at 512 tokens
TokenType = type[np.uint16] | type[np.int32]
_KEYS = ("parameters", "vocab_size", "splits", "shards")


class Example(NamedTuple):
    """One pre-training example, special tokens included, without padding or masking."""

    input_ids: NDArray[np.int64]  # [tokens]
    segment_b_start: int  # index of B's first token; `tokens` when there is no B
    next_sentence_label: int  # 0: B follows A; 1: B is random (as in transformers); -1: the layout has no pairs


class Corpus:
    """One split of a finished corpus folder: random access through memory maps. Picklable; a worker reopens it."""

    def __init__(self, folder: str | Path, split: str) -> None:
        """Open `split` ("train" or "validation"); PruneonceError when it is not whole or has no example."""
        self.folder, self.split = Path(folder), split
        self.manifest = _manifest_of(self.folder)
        if split not in SPLITS:
            raise UsageError(f"split must be one of {', '.join(SPLITS)}; got '{split}'")
        entries = [entry for entry in self.manifest["shards"] if entry.get("split") == split]
        self._blocks = [block for entry in entries for block in _checked_blocks(self.folder, entry)]
        self._starts = list(itertools.accumulate((len(block.labels) for block in self._blocks), initial=0))
        if not len(self):
            raise UsageError(f"corpus {folder} has no {split} examples")

    @property
    def layout(self) -> str:
        """ "segment_pair_nsp" or "document_sentences"."""
        return str(self.manifest["parameters"]["layout"])

    @property
    def vocab_size(self) -> int:
        """Every id is below this."""
        vocab_size: int = self.manifest["vocab_size"]
        return vocab_size

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds those of the shards: equal for equal corpora on any machine."""
        return files.sha256_json(self.manifest)

    @functools.cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each example, special tokens included: int32 [examples]."""
        return np.concatenate([np.diff(block.offsets) for block in self._blocks])

    @functools.cached_property
    def token_counts(self) -> NDArray[np.int64]:
        """Occurrences of each token in the train split, whatever this split: int64 [vocab_size]."""
        return _token_counts(self.folder / TOKEN_COUNTS, self.vocab_size)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        index %= len(self)
        number = bisect_right(self._starts, index) - 1
        block, row = self._blocks[number], index - self._starts[number]
        ids = block.ids[block.offsets[row] : block.offsets[row + 1]].astype(np.int64)
        return Example(ids, int(block.segment_b_starts[row]), int(block.labels[row]))

    def __reduce__(self) -> tuple[type[Corpus], tuple[Path, str]]:
        return Corpus, (self.folder, self.split)


def _manifest_of(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        unfinished = (folder / building.FILE_NAME).exists()
        raise UsageError(
            f"{folder} is {'an unfinished' if unfinished else 'not a'} corpus: it has no manifest.json. "
            f"{'Run the command that was building it again' if unfinished else 'Make one with `pruneonce data`'}"
        )
    return read_manifest(path)


def read_manifest(path: Path) -> dict[str, Any]:
    manifest = check_manifest(files.read_json(path), path, format_name=FORMAT, version=VERSION, keys=_KEYS)
    words, parameters = manifest["vocab_size"], manifest["parameters"]
    if type(words) is not int or words < 1 or not isinstance(parameters, dict) or "layout" not in parameters:
        raise PruneonceError(f"{path} does not say vocab_size or layout: delete the corpus folder and build it again")
    return manifest


def _checked_blocks(folder: Path, entry: dict[str, Any]) -> list[Block]:
    """A shard's blocks, once its size and number of examples are what the manifest says."""
    path = folder / entry["file"]
    size = path.stat().st_size if path.exists() else 0
    if size != entry.get("bytes"):
        raise PruneonceError(f"{path} has {size} bytes, its manifest says {entry.get('bytes')}: copy or build it again")
    blocks, _ = read_blocks(path)
    examples = sum(len(block.labels) for block in blocks)
    if examples != entry.get("examples"):
        raise PruneonceError(
            f"{path} has {examples} examples, its manifest says {entry.get('examples')}: build it again"
        )
    return blocks


def _token_counts(path: Path, vocab_size: int) -> NDArray[np.int64]:
    """int64 [vocab_size], as `build` wrote them; PruneonceError for a file of anything else."""
    damaged = f"{path} does not hold {vocab_size:,} counts: delete the corpus folder and build it again"
    try:
        with open(path, "rb") as stream:
            size = path.stat().st_size
            if np.lib.format.read_magic(stream) != (1, 0):
                raise PruneonceError(damaged)
            shape, _, kind = np.lib.format.read_array_header_1_0(stream)
            if shape != (vocab_size,) or kind != np.int64 or size != stream.tell() + 8 * vocab_size:
                raise PruneonceError(damaged)
            return np.frombuffer(stream.read(), np.int64)
    except (OSError, ValueError, SyntaxError, tokenize.TokenError) as error:  # numpy parses the header as Python
        raise PruneonceError(damaged) from error


# --------------------------------------------------------------------------------------------------------- Arrow files


def write_shard(
    path: Path, examples: Iterator[tuple[NDArray[Any], int, int]], *, documents: int, token_type: TokenType
) -> None:
    """Write (ids, segment_b_start, label) of each example to `path`.

    documents: how many there are; kept in the file so that it can be listed without being made again. token_type: of
    the ids on disk.
    """
    schema = _schema(token_type).with_metadata({"documents": str(documents)})
    with files.replacing(path) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        while rows := list(itertools.islice(examples, EXAMPLES_PER_BATCH)):
            writer.write_batch(_record_batch(rows, schema, token_type))


def _record_batch(rows: list[tuple[NDArray[Any], int, int]], schema: pa.Schema, token_type: TokenType) -> Any:
    ids, starts, labels = zip(*rows, strict=True)
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int32)
    values = np.concatenate(ids).astype(token_type)
    columns = [
        pa.ListArray.from_arrays(offsets, values),
        pa.array(np.array(starts, np.int32)),
        pa.array(np.array(labels, np.int8)),
    ]
    return pa.record_batch([column.cast(field.type) for column, field in zip(columns, schema, strict=True)], schema)


class Block(NamedTuple):
    """One record batch as numpy views of the mapped file."""

    ids: NDArray[Any]  # [tokens of all examples], uint16 or int32
    offsets: NDArray[np.int32]  # [examples + 1]
    segment_b_starts: NDArray[np.int32]  # [examples]
    labels: NDArray[np.int8]  # [examples]


def read_blocks(path: Path) -> tuple[list[Block], dict[bytes, bytes]]:
    """Views of a shard's record batches, and its schema's metadata. The views keep the mapping alive."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema.remove_metadata() not in (_schema(np.uint16), _schema(np.int32)):
            columns = ", ".join(f"{field.name}: {field.type}" for field in reader.schema)
            raise pa.ArrowInvalid(f"its columns are {columns}")
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)  # lengths and offsets in the file are believed by everything else
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: names in the file that are not UTF-8
        raise PruneonceError(f"{path} cannot be read ({error}): delete the corpus folder and build it again") from error
    return [_block(batch) for batch in batches], reader.schema.metadata


def _schema(token_type: TokenType) -> pa.Schema:
    return pa.schema(
        [
            ("input_ids", pa.list_(pa.from_numpy_dtype(token_type))),
            ("segment_b_start", pa.int32()),
            ("next_sentence_label", pa.int8()),
        ]
    )


def _block(batch: Any) -> Block:
    lists = batch.column(0)
    return Block(lists.values.to_numpy(), lists.offsets.to_numpy(), *(batch.column(i).to_numpy() for i in (1, 2)))
