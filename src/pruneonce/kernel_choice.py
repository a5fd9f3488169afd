"""Which kernel multiplies a matrix: sparse, or dense where too few of its elements are zero. Measured, not assumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from pruneonce import _native
from pruneonce.packing import Array, Csr, SparseMatrix, Tensor

Weight = _native.PackedWeight | _native.DenseWeight | _native.Int8Weight

SPARSE_BELOW = 0.2  # density at which nothing need be measured: dense code does five times the arithmetic
MEASURED_TOKENS = 64
MEASURED_RUNS = 3

_measured: dict[tuple[int, int, int, str], bool] = {}  # (rows, columns, density in 1/20, ISA) -> sparse is faster


def weight_of(tensors: Sequence[Tensor], isa: str | None = None) -> Weight:
    """Matrices of equally many columns, stacked and packed for the kernel that multiplies them fastest here.

    The choice is measured once per process for each shape, density (to 5 %) and instruction set.
    """
    isa = isa or _native.choose_isa()
    if any(isinstance(tensor, SparseMatrix) and tensor.quantization is not None for tensor in tensors):
        return _int8_weight_of(tensors, isa)
    matrix = _stacked(tensors)
    rows, columns = matrix.shape
    density = len(matrix.values) / max(1, rows * columns)
    sparse = _native.PackedWeight(matrix.row_pointers, matrix.columns, matrix.values, cols=columns, isa=isa)
    if density < SPARSE_BELOW:
        return sparse
    dense = _native.DenseWeight(to_dense(matrix), isa=isa)
    key = (rows, columns, round(20 * density), isa)
    if key not in _measured:
        _measured[key] = _seconds(sparse, columns, rows) < _seconds(dense, columns, rows)
    return sparse if _measured[key] else dense


def _int8_weight_of(tensors: Sequence[Tensor], isa: str) -> _native.Int8Weight:
    """Quantised matrices, stacked; ValueError unless all are, for the same codes of their common input."""
    matrices = [tensor for tensor in tensors if isinstance(tensor, SparseMatrix)]
    quantizations = [matrix.quantization for matrix in matrices if matrix.quantization is not None]
    inputs = {(float(each.input_scale[0]), int(each.input_zero_point[0])) for each in quantizations}
    if len(quantizations) != len(tensors) or len(inputs) != 1:
        raise ValueError("matrices that read the same activations must all be quantised, with one input scale")
    stacked = _stacked(tensors)
    ((input_scale, input_zero_point),) = inputs
    return _native.Int8Weight(
        stacked.row_pointers,
        stacked.columns,
        np.concatenate([matrix.values for matrix in matrices]),
        np.concatenate([each.scale for each in quantizations]),
        cols=stacked.shape[1],
        input_scale=input_scale,
        input_zero_point=input_zero_point,
        isa=isa,
    )


def to_dense(matrix: Csr) -> Array:
    """float32 [rows, columns]."""
    dense = np.zeros(matrix.shape, np.float32)
    dense[np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.row_pointers)), matrix.columns] = matrix.values
    return dense


def _stacked(tensors: Sequence[Tensor]) -> Csr:
    parts = [tensor.csr() if isinstance(tensor, SparseMatrix) else _csr_of(tensor.to_dense()) for tensor in tensors]
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0, *(len(part.values) for part in parts)])
    pointers = [parts[0].row_pointers[:1]]
    pointers += [part.row_pointers[1:] + end for part, end in zip(parts, ends[:-1], strict=True)]
    return Csr(
        (sum(part.shape[0] for part in parts), parts[0].shape[1]),
        np.concatenate(pointers),
        np.concatenate([part.columns for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def _csr_of(dense: Array) -> Csr:
    rows, columns = np.nonzero(dense)
    pointers = np.zeros(dense.shape[0] + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=dense.shape[0]), out=pointers[1:])
    return Csr((dense.shape[0], dense.shape[1]), pointers, columns.astype(np.int32), dense[rows, columns])


def _seconds(weight: _native.PackedWeight | _native.DenseWeight, columns: int, rows: int) -> float:
    x = _native.Activations(columns, isa=weight.isa)
    x.load(np.ones((MEASURED_TOKENS, columns), np.float32))
    out = _native.Activations(rows, isa=weight.isa)
    return min(_time(lambda: _native.multiply(weight, x, out=out)) for _ in range(1 + MEASURED_RUNS))


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
