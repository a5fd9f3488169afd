"""Which kernel multiplies a matrix: sparse, or dense where too few of its elements are zero. Measured, not assumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pruneonce import _native
from pruneonce.formats.stored_tensors import Array, Csr, SparseMatrix, Tensor, nonzero_places
from pruneonce.machine import SPARSE_BELOW

Int8Weight = _native.Int8Weight | _native.Int8DenseWeight
Weight = _native.PackedWeight | _native.DenseWeight | Int8Weight

Kernels = Literal["measured", "sparse", "dense"]  # which of a matrix's kernels computes it
KERNELS = ("measured", "sparse", "dense")

# Weights per four neighbouring columns that have any, from which code for blocks is tried; it needs them nearly full.
BLOCKS_FROM = 2.0
# The instruction set whose dense int8 code keeps up with sparse code at nine tenths of zeros.
TILES = "amx"
MEASURED_TOKENS = 64
MEASURED_RUNS = 3

# Kind of number, rows, columns, density in 1/20, weights per four in halves, ISA, kernels that were asked for.
_Key = tuple[str, int, int, int, int, str, str]
_chosen: dict[_Key, str] = {}  # -> the fastest kernel's name


def weight_of(
    tensors: Sequence[Tensor],
    isa: str | None = None,
    *,
    kernels: Kernels = "measured",
    rows: Array | None = None,
    columns: Array | None = None,
) -> Weight:
    """Matrices of equally many columns, stacked and packed for a kernel.

    rows, columns: int64, which row and column of the stack comes in each place; None: each in its own.

    kernels: "measured": the one that multiplies them fastest here, measured once per process for each type of number,
    shape, density, filling of blocks and instruction set. "dense"; or "sparse", which is dense for what is stored with
    its zeros. Results of floats depend on the choice in their last bits, those of int8 do not: which of its two
    sparse kernels is the faster one is always measured.
    """
    isa = isa or _native.choose_isa()
    quantized = any(isinstance(tensor, SparseMatrix) and tensor.quantization is not None for tensor in tensors)
    matrix, places = _in_order(_stacked(tensors), rows, columns)
    density = len(matrix.values) / max(1, matrix.shape[0] * matrix.shape[1])
    candidates = (
        _int8_kernels(_integers(tensors, places, rows), matrix, isa) if quantized else _float_kernels(matrix, isa)
    )
    fill = _weights_per_four(matrix) if quantized else 0.0
    if kernels == "dense" or (kernels == "sparse" and not any(isinstance(each, SparseMatrix) for each in tensors)):
        return candidates["dense"]()
    tiles = quantized and isa == TILES
    if kernels == "sparse" or (density < SPARSE_BELOW and not tiles):
        candidates.pop("dense")
    if fill < BLOCKS_FROM:
        candidates.pop("neighbours", None)
    key = ("int8" if quantized else "float", *matrix.shape, round(20 * density), round(2 * fill), isa, kernels)
    return _fastest(candidates, key)


def _fastest(candidates: Mapping[str, Callable[[], Weight]], key: _Key) -> Weight:
    if len(candidates) == 1:
        return next(iter(candidates.values()))()
    if key in _chosen:
        return candidates[_chosen[key]]()
    weights = {name: make() for name, make in candidates.items()}
    seconds = {name: _seconds(weight) for name, weight in weights.items()}
    _chosen[key] = min(seconds, key=seconds.__getitem__)
    return weights[_chosen[key]]


def measured_choices() -> list[tuple[list[Any], str]]:
    """What was measured in this process: (what was to be multiplied, its fastest kernel)."""
    return sorted((list(key), name) for key, name in _chosen.items())


def adopt_choices(choices: Iterable[tuple[list[Any], str]]) -> None:
    """Take another process's measurements for this one's: models that are loaded after it have that one's bits."""
    for key, name in choices:
        _chosen[tuple(key)] = name


def _float_kernels(matrix: Csr, isa: str) -> dict[str, Callable[[], Weight]]:
    return {
        "sparse": lambda: _native.PackedWeight(
            matrix.row_pointers, matrix.columns, matrix.values, cols=matrix.shape[1], isa=isa
        ),
        "dense": lambda: _native.DenseWeight(to_dense(matrix), isa=isa),
    }


@dataclass(frozen=True)
class _Integers:
    """Int8 weights in the order of a Csr's, and what they and the codes that they multiply stand for."""

    values: Array  # int8 [non-zeros]
    scale: Array  # float32 [rows]
    input_scale: float
    input_zero_point: int


def _integers(tensors: Sequence[Tensor], places: Array | slice, rows: Array | None) -> _Integers:
    """ValueError unless all of the tensors are quantised, for the same codes of their common input."""
    matrices = [tensor for tensor in tensors if isinstance(tensor, SparseMatrix)]
    quantizations = [each.quantization for each in matrices if each.quantization is not None]
    inputs = {(float(each.input_scale[0]), int(each.input_zero_point[0])) for each in quantizations}
    if len(quantizations) != len(tensors) or len(inputs) != 1:
        raise ValueError("matrices that read the same activations must all be quantised, with one input scale")
    ((input_scale, input_zero_point),) = inputs
    values = np.concatenate([each.values for each in matrices])[places]
    scale = np.concatenate([each.scale for each in quantizations])
    return _Integers(values, scale if rows is None else scale[rows], input_scale, input_zero_point)


def _int8_kernels(integers: _Integers, matrix: Csr, isa: str) -> dict[str, Callable[[], Weight]]:
    values, scale, columns = integers.values, integers.scale, matrix.shape[1]
    input_scale, input_zero_point = integers.input_scale, integers.input_zero_point

    def sparse(fours: str) -> _native.Int8Weight:
        return _native.Int8Weight(
            matrix.row_pointers,
            matrix.columns,
            values,
            scale,
            cols=columns,
            input_scale=input_scale,
            input_zero_point=input_zero_point,
            fours=fours,
            isa=isa,
        )

    def dense() -> _native.Int8DenseWeight:
        weight = np.zeros(matrix.shape, np.int8)
        weight[_rows_of(matrix), matrix.columns] = values
        return _native.Int8DenseWeight(
            weight, scale, input_scale=input_scale, input_zero_point=input_zero_point, isa=isa
        )

    return {"any": lambda: sparse("any"), "neighbours": lambda: sparse("neighbours"), "dense": dense}


def _in_order(matrix: Csr, rows: Array | None, columns: Array | None) -> tuple[Csr, Array | slice]:
    """A matrix with its rows and columns in another order, and which of its non-zeros comes in each place."""
    if rows is None and columns is None:
        return matrix, slice(None)
    lengths, row, column = np.diff(matrix.row_pointers), _rows_of(matrix), matrix.columns
    if rows is not None:
        lengths, row = lengths[rows], np.argsort(rows)[row]
    if columns is not None:
        column = np.argsort(columns)[column].astype(np.int32)
    places = np.lexsort((column, row))
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    return Csr(matrix.shape, pointers, column[places], matrix.values[places]), places


def _weights_per_four(matrix: Csr) -> float:
    """Non-zeros per four neighbouring columns of a row, of those fours that have any: 1 to 4."""
    fours = _rows_of(matrix) * (matrix.shape[1] // 4 + 1) + matrix.columns // 4
    return len(fours) / max(1, 1 + np.count_nonzero(np.diff(fours)))


def _rows_of(matrix: Csr) -> Array:
    """The row of each non-zero: int64."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.row_pointers))


def to_dense(matrix: Csr) -> Array:
    """float32 [rows, columns]."""
    dense = np.zeros(matrix.shape, np.float32)
    dense[_rows_of(matrix), matrix.columns] = matrix.values
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
    pointers, columns = nonzero_places(dense)
    return Csr((dense.shape[0], dense.shape[1]), pointers, columns, dense[dense != 0])


def _seconds(weight: Weight) -> float:
    x = _native.Activations(weight.cols, isa=weight.isa)
    x.load(np.ones((MEASURED_TOKENS, weight.cols), np.float32))
    out = _native.Activations(weight.rows, isa=weight.isa)
    if isinstance(weight, Int8Weight):
        codes = _native.Codes(isa=weight.isa)
        codes.quantize(x, weight)
        return min(_time(lambda: _native.multiply(weight, codes, out=out)) for _ in range(1 + MEASURED_RUNS))
    return min(_time(lambda: _native.multiply(weight, x, out=out)) for _ in range(1 + MEASURED_RUNS))


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
