"""How one tensor is stored in a packed file: dense, or its non-zeros and where they are. Pure functions.

The rules are docs/format.md's; a broken one is a ValueError that states it, and whoever knows the file and the tensor
adds their names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruneonce.formats import nonzero_codes as coding
from pruneonce.formats.nonzero_codes import Array, Positions

MAX_SPARSE_SIZE = 2**31 - 1  # elements, zeros included: so positions, and the size itself, fit int32
MAX_SCALE = np.finfo(np.float32).max / np.float32(128)  # of int8 rows: no product overflows


@dataclass(frozen=True)
class NumberType:
    """A type of stored values, and what its bit patterns mean."""

    name: str
    container: str  # its name in a safetensors header
    storage: str  # the numpy type that holds it; bfloat16 is held as its bits
    bits: str  # unsigned type of the same size
    infinity: int  # bit pattern of +infinity: patterns above it are NaN. For whole numbers: beyond all of them

    @property
    def itemsize(self) -> int:
        return np.dtype(self.storage).itemsize


FLOAT_TYPES = {
    "fp32": NumberType("fp32", "F32", "<f4", "<u4", 0x7F80_0000),
    "fp16": NumberType("fp16", "F16", "<f2", "<u2", 0x7C00),
    "bf16": NumberType("bf16", "BF16", "<u2", "<u2", 0x7F80),
}
INT8 = NumberType("int8", "I8", "|i1", "|u1", 0x80)


@dataclass(frozen=True, eq=False)
class DenseTensor:
    """A tensor of any shape with all its elements."""

    data: Array  # in the type's storage
    type: NumberType

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


def nonzero_places(dense: Array) -> tuple[Array, Array]:
    """(row pointers int64 [rows + 1], columns int32 [non-zeros]) of a matrix of numbers or of bool, as in `Csr`."""
    rows, columns = np.nonzero(dense)
    pointers = np.zeros(len(dense) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(dense)), out=pointers[1:])
    return pointers, columns.astype(np.int32)


@dataclass(frozen=True, eq=False)
class Quantization:
    """What the int8 values of a sparse matrix stand for, and the 8-bit codes of the x it is multiplied with.

    weight = value * scale of its row; x = (code - input_zero_point) * input_scale, code 0..255.
    """

    scale: Array  # float32 [rows]
    input_scale: Array  # float32 [1]
    input_zero_point: Array  # uint8 [1]
    attention_scale: Array | None = None  # float32 [1]: of the product's codes, by which attention is computed
    attention_zero_point: Array | None = None  # uint8 [1]

    @property
    def nbytes(self) -> int:
        parts = (self.scale, self.input_scale, self.input_zero_point, self.attention_scale, self.attention_zero_point)
        return sum(part.nbytes for part in parts if part is not None)

    def check(self, rows: int) -> None:
        """ValueError unless there is one positive scale per row, and one scale and zero point for input and output."""
        if (self.scale.shape, self.input_scale.shape, self.input_zero_point.shape) != ((rows,), (1,), (1,)):
            raise ValueError(f"int8 values need {rows} scales, one input_scale and one input_zero_point")
        scales = [self.scale, self.input_scale]
        if self.attention_scale is not None or self.attention_zero_point is not None:
            if getattr(self.attention_scale, "shape", 0) != (1,) or getattr(self.attention_zero_point, "shape", 0) != (
                1,
            ):
                raise ValueError("attention takes one attention_scale and one attention_zero_point")
            assert self.attention_scale is not None
            scales.append(self.attention_scale)
        for scale in scales:
            check_finite(scale, FLOAT_TYPES["fp32"])
            if not np.float32(1e-30) <= scale.min() <= scale.max() <= np.float32(1e30):
                raise ValueError("a scale is not within 1e-30 and 1e30")


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A matrix of which only the non-zero elements are stored."""

    shape: tuple[int, int]
    values: Array  # [non-zeros] in row-major order, in the type's storage
    type: NumberType
    positions: Positions
    quantization: Quantization | None = None  # of int8 values, and of no others

    @property
    def size(self) -> int:
        """Elements, zeros included."""
        return self.shape[0] * self.shape[1]

    @property
    def encoding(self) -> str:
        return self.positions.encoding

    @property
    def tail(self) -> int:
        """Elements after the last non-zero, where the coding spends no bytes on them; for a checked matrix."""
        return self.positions.tail(self.size, len(self.values))

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.positions.nbytes + (self.quantization.nbytes if self.quantization else 0)

    def csr(self) -> Csr:
        """Row pointers, columns and float32 values."""
        rows, columns = self.shape
        positions = self.positions.decode(self.size, len(self.values))
        row_starts = np.arange(rows + 1, dtype=np.int32) * np.int32(columns)
        pointers = np.searchsorted(positions, row_starts).astype(np.int64, copy=False)
        lengths = np.diff(pointers)
        positions -= np.repeat(row_starts[:-1], lengths)
        values = decode_floats(self.values, self.type)
        if self.quantization is not None:
            values = values * np.repeat(self.quantization.scale, lengths)
        return Csr(self.shape, pointers, positions, values)

    def to_dense(self) -> Array:
        """float32 [rows, columns], with +0.0 wherever nothing is stored."""
        dense = np.zeros(self.shape, np.float32)
        csr = self.csr()
        dense[np.repeat(np.arange(self.shape[0]), np.diff(csr.row_pointers)), csr.columns] = csr.values
        return dense

    def check(self) -> None:
        """ValueError unless shape, positions and values obey every rule of docs/format.md."""
        if min(self.shape) < 1 or self.size > MAX_SPARSE_SIZE:
            raise ValueError(f"shape {self.shape} is not that of 1 to {MAX_SPARSE_SIZE:,} elements")
        if self.values.ndim != 1:
            raise ValueError(f"values have one dimension, not shape {self.values.shape}")
        self.positions.check(self.size, len(self.values))
        check_finite(self.values, self.type)
        if not _magnitudes(self.values, self.type).all():
            raise ValueError("a stored value is zero" if self.quantization is None else "a stored value is 0 or -128")
        if self.quantization is not None:
            self.quantization.check(self.shape[0])


Tensor = DenseTensor | Int8Matrix | SparseMatrix


def pack(weight: Array, kind: str = "fp32") -> DenseTensor | SparseMatrix:
    """A matrix in whichever form is smallest: sparse with one of the codings of positions, or dense.

    weight: float32 [rows, columns], finite; every -0.0 counts as a zero. kind: a key of FLOAT_TYPES.
    """
    weight = _matrix(weight)
    kept = np.flatnonzero(weight)
    positions = coding.smallest(kept, weight.size)
    itemsize = FLOAT_TYPES[kind].itemsize
    if positions.nbytes + len(kept) * itemsize >= weight.size * itemsize:
        return dense(weight, kind)
    values = encode_floats(weight.reshape(-1)[kept], kind)
    return SparseMatrix(weight.shape, values, FLOAT_TYPES[kind], positions)


def pack_int8(weight: Array, quantization: Quantization) -> SparseMatrix:
    """A matrix of de-quantised weights as their int8 values; ValueError unless they are those of the scales.

    weight: float32 [rows, columns], each a whole number of -127 to 127 times the scale of its row, up to rounding.
    """
    weight = _matrix(weight)
    check_finite(weight, FLOAT_TYPES["fp32"])
    quantization.check(weight.shape[0])
    exact = weight / quantization.scale[:, None]
    values = np.rint(exact)
    if np.abs(exact - values).max(initial=0) > 1e-3 or np.abs(values).max(initial=0) > 127:
        raise ValueError("its weights are not whole numbers of -127 to 127 times their scales: quantise it again")
    kept = np.flatnonzero(values)
    found = values.reshape(-1)[kept].astype(np.int8)
    return SparseMatrix(weight.shape, found, INT8, coding.smallest(kept, weight.size), quantization)


def _matrix(weight: Array) -> Array:
    weight = np.ascontiguousarray(weight)
    if weight.ndim != 2 or weight.size > MAX_SPARSE_SIZE:
        raise ValueError(f"a matrix of at most {MAX_SPARSE_SIZE:,} elements is expected, not shape {weight.shape}")
    return weight


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


def decode_floats(stored: Array, kind: NumberType) -> Array:
    """float32 of the same shape, exact; fp32 is returned as it is."""
    if kind.name == "bf16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)


def check_finite(stored: Array, kind: NumberType) -> None:
    """ValueError if any element is NaN or infinite."""
    if not _is_finite(stored, kind):
        wrong = int(np.count_nonzero(_magnitudes(stored, kind) >= kind.infinity))
        raise ValueError(f"{wrong:,} of its {stored.size:,} values are NaN or infinite")


def _is_finite(stored: Array, kind: NumberType) -> bool:
    return not stored.size or int(_magnitudes(stored, kind).max()) < kind.infinity


def _magnitudes(stored: Array, kind: NumberType) -> Array:
    """Bit patterns without the sign: they sort as the magnitudes do."""
    bits = stored.view(kind.bits)
    return bits & np.array(np.iinfo(bits.dtype).max >> 1, bits.dtype)
