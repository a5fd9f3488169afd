"""How one tensor is stored in a packed file: positions as bits or gaps, values as floats or bytes. Pure functions.

Positions are those of the row-major flattened matrix. The rules are docs/format.md's; a broken one is a ValueError that
states it, and whoever knows the file and the tensor adds their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ESCAPE = 255  # a delta byte: 255 zeros and no weight; a smaller byte b: b zeros, then a weight
BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)  # numpy 1.26 has no bitwise_count
ENCODINGS = ("bitmask", "delta")  # of positions
MAX_SPARSE_SIZE = 2**31 - 1  # elements, zeros included: so positions, and the size itself, fit int32
MAX_SCALE = np.finfo(np.float32).max / np.float32(128)  # of int8 rows: no product overflows


@dataclass(frozen=True)
class FloatType:
    """A floating-point type, and what its bit patterns mean."""

    name: str
    container: str  # its name in a safetensors header
    storage: str  # the numpy type that holds it; bfloat16 is held as its bits
    bits: str  # unsigned type of the same size
    infinity: int  # bit pattern of +infinity: patterns above it are NaN

    @property
    def itemsize(self) -> int:
        return np.dtype(self.storage).itemsize


FLOAT_TYPES = {
    "fp32": FloatType("fp32", "F32", "<f4", "<u4", 0x7F80_0000),
    "fp16": FloatType("fp16", "F16", "<f2", "<u2", 0x7C00),
    "bf16": FloatType("bf16", "BF16", "<u2", "<u2", 0x7F80),
}


@dataclass(frozen=True, eq=False)
class DenseTensor:
    """A tensor of any shape with all its elements."""

    data: Array  # in the type's storage
    type: FloatType

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    def encoding(self) -> str:
        return "dense"

    def to_dense(self) -> Array:
        """float32, of the tensor's shape."""
        return decode_floats(self.data, self.type)

    def check(self) -> None:
        """ValueError unless every element is finite."""
        check_finite(self.data, self.type)


@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """A matrix as signed bytes with one scale per row: element = code * scale."""

    codes: Array  # int8 [rows, columns], -127..127
    scale: Array  # float32 [rows]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes

    @property
    def encoding(self) -> str:
        return "int8"

    def to_dense(self) -> Array:
        """float32 [rows, columns]."""
        return self.codes.astype(np.float32) * self.scale[:, None].astype(np.float32, copy=False)

    def check(self) -> None:
        """ValueError unless there is one scale of 0 to MAX_SCALE per row and no code is -128."""
        if self.codes.ndim != 2 or self.scale.shape != self.codes.shape[:1]:
            raise ValueError(
                f"int8 needs a matrix and one scale per row, not {self.codes.shape} and {self.scale.shape}"
            )
        check_finite(self.scale, FLOAT_TYPES["fp32"])
        if self.scale.size and not 0 <= self.scale.min() <= self.scale.max() <= MAX_SCALE:
            raise ValueError(f"a scale is not within 0 and {MAX_SCALE:g}")
        if self.codes.size and self.codes.min() == -128:
            raise ValueError("a code is -128: codes are symmetric, -127..127")


@dataclass(frozen=True)
class Csr:
    """A sparse matrix row by row: row r holds `values[p[r]:p[r + 1]]` in `columns[p[r]:p[r + 1]]`, p = row_pointers."""

    shape: tuple[int, int]
    row_pointers: Array  # int64 [rows + 1]
    columns: Array  # int32 [non-zeros], increasing within a row
    values: Array  # float32 [non-zeros]


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A matrix of which only the non-zero elements are stored."""

    shape: tuple[int, int]
    values: Array  # [non-zeros] in row-major order, in the type's storage
    type: FloatType
    encoding: str  # of the positions: one of ENCODINGS
    positions: Array  # uint8, encoded

    @property
    def size(self) -> int:
        """Elements, zeros included."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.positions.nbytes

    def flat_positions(self) -> Array:
        """Increasing positions in the flattened matrix: int32 [non-zeros]."""
        if self.encoding == "delta":
            return decode_deltas(self.positions)
        return decode_bitmask(self.positions, self.size)

    def csr(self) -> Csr:
        """Row pointers, columns and float32 values."""
        rows, columns = self.shape
        positions = self.flat_positions()
        row_starts = np.arange(rows + 1, dtype=np.int32) * np.int32(columns)
        pointers = np.searchsorted(positions, row_starts).astype(np.int64, copy=False)
        positions -= np.repeat(row_starts[:-1], np.diff(pointers))
        return Csr(self.shape, pointers, positions, decode_floats(self.values, self.type))

    def to_dense(self) -> Array:
        """float32 [rows, columns], with +0.0 wherever nothing is stored."""
        dense = np.zeros(self.size, np.float32)
        dense[self.flat_positions()] = decode_floats(self.values, self.type)
        return dense.reshape(self.shape)

    def check(self) -> None:
        """ValueError unless shape, positions and values obey every rule of docs/format.md."""
        if min(self.shape) < 1 or self.size > MAX_SPARSE_SIZE:
            raise ValueError(f"shape {self.shape} is not that of 1 to {MAX_SPARSE_SIZE:,} elements")
        if self.encoding == "delta":
            stored = check_deltas(self.positions, self.size)
        else:
            stored = check_bitmask(self.positions, self.size)
        if self.values.shape != (stored,):
            raise ValueError(
                f"the positions are those of {stored:,} weights, the values have shape {self.values.shape}"
            )
        check_finite(self.values, self.type)
        if not _magnitudes(self.values, self.type).all():
            raise ValueError("a stored value is zero")


Tensor = DenseTensor | Int8Matrix | SparseMatrix


def pack(weight: Array, kind: str = "fp32") -> DenseTensor | SparseMatrix:
    """A matrix in whichever form is smallest: sparse with a bitmask, sparse with deltas, or dense.

    weight: float32 [rows, columns], finite; every -0.0 counts as a zero. kind: a key of FLOAT_TYPES.
    """
    weight = np.ascontiguousarray(weight)
    if weight.ndim != 2 or weight.size > MAX_SPARSE_SIZE:
        raise ValueError(f"a matrix of at most {MAX_SPARSE_SIZE:,} elements is expected, not shape {weight.shape}")
    rows, columns = weight.shape
    positions = np.flatnonzero(weight)
    sizes = {"bitmask": bitmask_bytes(weight.size), "delta": delta_bytes(positions, weight.size)}
    encoding = min(ENCODINGS, key=sizes.__getitem__)
    itemsize = FLOAT_TYPES[kind].itemsize
    if sizes[encoding] + len(positions) * itemsize >= weight.size * itemsize:
        return dense(weight, kind)
    encode = encode_deltas if encoding == "delta" else encode_bitmask
    values = encode_floats(weight.reshape(-1)[positions], kind)
    return SparseMatrix((rows, columns), values, FLOAT_TYPES[kind], encoding, encode(positions, weight.size))


def dense(tensor: Array, kind: str = "fp32") -> DenseTensor:
    """A float32 tensor with all its elements, as `kind`."""
    return DenseTensor(encode_floats(tensor, kind), FLOAT_TYPES[kind])


def quantize_rows(matrix: Array) -> Int8Matrix:
    """A float32 matrix as bytes: the largest magnitude of a row becomes 127, ties round to even.

    A row of zeros has scale 0.
    """
    if matrix.ndim != 2:
        raise ValueError(f"int8 needs a matrix, not shape {matrix.shape}")
    check_finite(matrix, FLOAT_TYPES["fp32"])
    scale = np.abs(matrix).max(axis=1, initial=0).astype("<f4") / np.float32(127)
    divisor = np.where(scale > 0, scale, np.float32(1))
    codes = np.rint(matrix / divisor[:, None]).clip(-127, 127)  # a subnormal scale is inexact: hence the clip
    return Int8Matrix(codes.astype(np.int8), scale.astype("<f4"))


def bitmask_bytes(size: int) -> int:
    """Bytes of a bitmask over `size` elements."""
    return -(-size // 8)


def delta_bytes(positions: Array, size: int) -> int:
    """Bytes of the deltas of increasing `positions` among `size` elements."""
    return len(positions) + int((_gaps(positions, size) // ESCAPE).sum())


def encode_bitmask(positions: Array, size: int) -> Array:
    """uint8 [ceil(size / 8)]: bit i % 8 (lowest first) of byte i // 8 is set if i is one of `positions`."""
    kept = np.zeros(size, bool)
    kept[positions] = True
    return np.packbits(kept, bitorder="little")


def decode_bitmask(bitmask: Array, size: int) -> Array:
    """The positions that `encode_bitmask` got: int32."""
    kept = np.unpackbits(bitmask, count=size, bitorder="little")
    return np.flatnonzero(kept.view(bool)).astype(np.int32)


def check_bitmask(bitmask: Array, size: int) -> int:
    """How many bits are set; ValueError if the length or the padding is wrong."""
    if bitmask.shape != (bitmask_bytes(size),):
        raise ValueError(f"a bitmask of {size:,} elements has {bitmask_bytes(size):,} bytes, not {bitmask.shape}")
    if size % 8 and int(bitmask[-1]) >> size % 8:
        raise ValueError("the bitmask's padding bits are not zero")
    return int(BITS_SET[bitmask].sum(dtype=np.int64))


def encode_deltas(positions: Array, size: int) -> Array:
    """uint8: per position the zeros before it, ESCAPE for each 255 of them; zeros at the end only in full 255s."""
    gaps = _gaps(positions, size)
    escapes = gaps // ESCAPE
    deltas = np.full(len(positions) + int(escapes.sum()), ESCAPE, np.uint8)
    ends = np.cumsum(escapes[:-1] + 1) - 1
    deltas[ends] = gaps[:-1] % ESCAPE
    return deltas


def decode_deltas(deltas: Array) -> Array:
    """The positions that `encode_deltas` got: int32."""
    weight_here = deltas != ESCAPE
    steps = deltas.astype(np.uint16) + weight_here
    ends = np.cumsum(steps, dtype=np.int32)
    positions = ends[weight_here]
    positions -= 1
    return positions


def check_deltas(deltas: Array, size: int) -> int:
    """How many weights the deltas place; ValueError unless they end inside the matrix, within 255 of its end.

    Positions can neither decrease nor repeat: every byte moves on by at least one.
    """
    if deltas.ndim != 1:
        raise ValueError(f"deltas have one dimension, not shape {deltas.shape}")
    weights = int(np.count_nonzero(deltas != ESCAPE))
    covered = int(deltas.sum(dtype=np.int64)) + weights
    if not 0 <= size - covered < ESCAPE:
        raise ValueError(f"the deltas cover {covered:,} of {size:,} elements: only the last 254 may be left out")
    return weights


def encode_floats(values: Array, kind: str) -> Array:
    """Finite float32 values of any shape in the storage of `kind`, rounded to nearest even.

    What is not zero stays so (the least magnitude instead of an underflow), because zeros are what a mask digest
    covers. ValueError for NaN and infinity, and for what `kind` cannot hold.
    """
    check_finite(values, FLOAT_TYPES["fp32"])
    values = np.ascontiguousarray(values, "<f4").reshape(values.shape)
    if kind == "fp32":
        return values
    bits = values.view("<u4")
    target = FLOAT_TYPES[kind]
    if kind == "fp16":
        with np.errstate(over="ignore", under="ignore"):
            coded = values.astype("<f2").view("<u2")
    else:
        coded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")
    underflows = ((coded & 0x7FFF) == 0) & ((bits & 0x7FFF_FFFF) != 0)
    stored = (coded | underflows).view(target.storage)
    if not _is_finite(stored, target):
        raise ValueError(f"the largest magnitude, {np.abs(values).max():g}, is beyond {kind}: choose fp32")
    return stored


def decode_floats(stored: Array, kind: FloatType) -> Array:
    """float32 of the same shape, exact; fp32 is returned as it is."""
    if kind.name == "bf16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def check_finite(stored: Array, kind: FloatType) -> None:
    """ValueError if any element is NaN or infinite."""
    if not _is_finite(stored, kind):
        wrong = int(np.count_nonzero(_magnitudes(stored, kind) >= kind.infinity))
        raise ValueError(f"{wrong:,} of its {stored.size:,} values are NaN or infinite")


def _is_finite(stored: Array, kind: FloatType) -> bool:
    return not stored.size or int(_magnitudes(stored, kind).max()) < kind.infinity


def _magnitudes(stored: Array, kind: FloatType) -> Array:
    """Bit patterns without the sign: they sort as the magnitudes do."""
    bits = stored.view(kind.bits)
    return bits & np.array(np.iinfo(bits.dtype).max >> 1, bits.dtype)


def _gaps(positions: Array, size: int) -> Array:
    """Zeros before each position, and after the last: int64 [positions + 1]."""
    return np.diff(positions, prepend=-1, append=size).astype(np.int64, copy=False) - 1
