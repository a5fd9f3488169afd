"""The safetensors container: a reader by mmap that trusts nothing, and a writer whose bytes depend on its input alone.

Layout, from https://github.com/huggingface/safetensors: u64 length of the header (little-endian), header (JSON), data.
We read it ourselves to check more than the library does, to have bfloat16 without torch, and to map, not copy.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import MAX_HEADER_BYTES, check_not_a_pointer, parse_json

Array = np.ndarray[Any, Any]

MAX_TENSORS = 1 << 16  # BERT-large, packed, has 700
MAX_RANK = 8
MAX_TENSOR_BYTES = 1 << 47  # the address space of a process; also keeps numpy from overflowing on empty shapes
NAME = re.compile(
    r"[A-Za-z0-9_.\-]{1,256}"
)  # what PyTorch modules are called; printable, unlike what an attacker sends
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # escaped, lone or one of a pair

# bfloat16 has no numpy type: its bits are held as uint16.
_STORAGE = "F64 <f8, F32 <f4, F16 <f2, BF16 <u2, I64 <i8, I32 <i4, I16 <i2, I8 |i1, U64 <u8, U32 <u4, U16 <u2, U8 |u1"
DTYPES = {name: np.dtype(storage) for name, storage in (pair.split() for pair in _STORAGE.split(", "))}
DTYPES["BOOL"] = np.dtype("|u1")  # a byte that is neither 0 nor 1 makes no sound numpy bool


def number_in(text: str | None) -> int | str | None:
    """A small number that metadata, which holds nothing but text, spells in digits; any other text as it is."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else text


@dataclass(frozen=True)
class Entry:
    """One tensor of the container: its bytes are [begin, end) of the file."""

    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    begin: int
    end: int


class Container:
    """An open file. Its arrays are read-only views of the mapped file and keep it mapped."""

    def __init__(self, path: Path, metadata: dict[str, str], entries: dict[str, Entry], data: Array) -> None:
        self.path = path
        self.metadata = metadata
        self.entries = entries
        self._data = data  # uint8, the whole file

    @property
    def file_bytes(self) -> int:
        return self._data.nbytes

    def array(self, name: str) -> Array:
        """The tensor `name`, in DTYPES' storage for its type."""
        entry = self.entries[name]
        return self._data[entry.begin : entry.end].view(DTYPES[entry.dtype]).reshape(entry.shape)


def open_container(path: str | Path) -> Container:
    """Map a safetensors file and check all of its header. PruneonceError names the file, the tensor and the rule.

    The file must not be changed in place while it is open; replacing it by renaming is safe.
    """
    path = Path(path)
    if path.is_file():
        check_not_a_pointer(path)
    data = _map(path)
    if data.nbytes < 8:
        _refuse(path, f"{data.nbytes} bytes are too few for a safetensors file")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > MAX_HEADER_BYTES:
        _refuse(path, f"the header claims {length:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed")
    if length > data.nbytes - 8:
        _refuse(
            path, f"the header claims {length:,} bytes, the file has {data.nbytes:,}: it is cut off or no safetensors"
        )
    header = _parse_header(path, data[8 : 8 + length].tobytes())
    metadata = _check_metadata(path, header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        _refuse(path, f"{len(header):,} tensors; at most {MAX_TENSORS:,} are allowed")
    start = 8 + length
    entries = {name: _check_entry(path, name, value, start, data.nbytes) for name, value in header.items()}
    _check_contiguous(path, entries, start, data.nbytes)
    return Container(path, metadata, entries, data)


def write_container(path: Path, tensors: Mapping[str, tuple[str, Array]], metadata: Mapping[str, str]) -> None:
    """Write tensors, name -> (key of DTYPES, array), and metadata to `path`; wrap it in `files.replacing`.

    Wide elements come first, then by name, behind a header padded to 8 bytes: so every tensor is aligned to its
    element without a hole in the file.
    """
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in order:
        dtype, array = tensors[name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little"))
        stream.write(encoded)
        for name in order:
            dtype, array = tensors[name]
            stream.write(np.ascontiguousarray(array, DTYPES[dtype]).data)


def strict_json(text: str, what: str) -> Any:
    """Parse JSON without duplicate keys, NaN, Infinity or lone surrogates; a ValueError says what is wrong with `what`.

    A lone surrogate ("\\ud800") is half of a character: no file can hold it, no terminal show it.
    """
    try:
        parsed = parse_json(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        if SURROGATE.search(text):  # escaped: `text` itself has none, as it was UTF-8
            json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is not valid Unicode: it has a lone surrogate") from None
    except RecursionError:  # writing may need a deeper stack than reading
        raise ValueError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON: {error}") from error
    return parsed


def _map(path: Path) -> Array:
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        _refuse(path, "it is not a file")
    try:
        with open(path, "rb") as stream:
            return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except ValueError:
        _refuse(path, "the file is empty")
    except FileNotFoundError:
        raise UsageError(f"'{path}' does not exist") from None
    except OSError as error:
        raise PruneonceError(f"{path} cannot be read: {error.strerror or error}") from error


def _parse_header(path: Path, header: bytes) -> dict[str, Any]:
    if not header.startswith(b"{"):
        _refuse(path, "the header does not begin with '{': not a safetensors file")
    try:
        parsed: dict[str, Any] = strict_json(header.decode("utf-8"), "the header")
    except ValueError as error:  # UnicodeDecodeError is one
        _refuse(path, str(error))
    return parsed


def _check_metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "the header's __metadata__ must map strings to strings")
    return metadata


def _check_entry(path: Path, name: str, value: Any, start: int, file_bytes: int) -> Entry:
    if not NAME.fullmatch(name):
        _refuse(path, f"a tensor is called {name[:40]!a}: names have 1 to 256 letters, digits, '_', '.' and '-'")
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"tensor {name}: the header must give dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        _refuse(path, f"tensor {name}: dtype {ascii(dtype)[:20]} is not one of {', '.join(DTYPES)}")
    if not is_shape(shape):
        _refuse(path, f"tensor {name}: a shape is a list of at most {MAX_RANK} sizes below 2^31")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        _refuse(path, f"tensor {name}: data_offsets must be two integers")
    begin, end = (start + offset for offset in offsets)
    if not start <= begin <= end <= file_bytes:
        _refuse(
            path, f"tensor {name}: data_offsets {_short(offsets)} are outside the {file_bytes - start:,} bytes of data"
        )
    itemsize = DTYPES[dtype].itemsize
    # Empty dimensions count as 1, so that none hides an overflow of the others.
    if math.prod(max(size, 1) for size in shape) * itemsize > MAX_TENSOR_BYTES:
        _refuse(path, f"tensor {name}: shape {shape} is too large")
    if math.prod(shape) * itemsize != end - begin:
        _refuse(path, f"tensor {name}: {dtype} of shape {shape} does not have {end - begin:,} bytes")
    return Entry(dtype, tuple(shape), begin, end)


def is_shape(shape: Any) -> bool:
    """Whether a value from JSON is a list of at most MAX_RANK sizes that fit 31 bits."""
    return (
        isinstance(shape, list)
        and len(shape) <= MAX_RANK
        and all(type(size) is int and 0 <= size < 1 << 31 for size in shape)
    )


def _check_contiguous(path: Path, entries: dict[str, Entry], start: int, file_bytes: int) -> None:
    expected = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != expected:
            what = "overlaps the tensor before it" if entry.begin < expected else "leaves a hole before it"
            _refuse(path, f"tensor {name}: its data {what}")
        expected = entry.end
    if expected != file_bytes:
        _refuse(path, f"{file_bytes - expected:,} bytes at the end belong to no tensor")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!a} occurs twice")
    return unique


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _short(value: Any) -> str:
    return f"{value}"[:60]


def _refuse(path: Path, rule: str) -> NoReturn:
    raise PruneonceError(f"{path}: {rule}")
