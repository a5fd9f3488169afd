"""`sparse-bitmask`, the layout in which compressed-tensors 0.3 to 0.14 stored matrices with zeros, to dense arrays.

The library no longer reads it (0.15 dropped it), so its files are stranded. Of a matrix there are four tensors:

    compressed   [non-zeros]                  the values, row by row
    bitmask      uint8 [rows, ceil(columns / 8)]  bit k % 8 of byte k // 8: column k has a value; the rest is 0
    row_offsets  int64 [rows]                 where each row's values begin in `compressed`
    shape        int64 [2]                    rows, columns

A vector is a single row whose bitmask is flat and whose row_offsets is a scalar. Source: how that library wrote it,
https://github.com/neuralmagic/compressed-tensors, sparse_bitmask.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PARTS = ("shape", "compressed", "bitmask", "row_offsets")  # what the tensors' names end in
LARGEST_SIZE = (1 << 31) - 1

Array = np.ndarray[Any, Any]


def decode(*, shape: Array, compressed: Array, bitmask: Array, row_offsets: Array) -> Array:
    """The dense array, of `compressed`'s type. Nothing is taken on trust: a ValueError says which rule is broken.

    Memory is bounded by the file: `bitmask` must have a bit for every element, `row_offsets` a number for every row.
    """
    rows, columns = _checked_shape(shape)
    flat = len(shape) == 1
    expected = (-(-columns // 8),) if flat else (rows, -(-columns // 8))
    if bitmask.dtype != np.uint8 or bitmask.shape != expected:
        raise ValueError(f"bitmask is {bitmask.dtype} {list(bitmask.shape)}; uint8 {list(expected)} is expected")
    if compressed.ndim != 1:
        raise ValueError(f"compressed has {compressed.ndim} dimensions; 1 is expected")
    row_offsets = _checked_row_offsets(row_offsets, rows, flat)
    bits = np.unpackbits(bitmask.reshape(rows, expected[-1]), axis=1, bitorder="little")
    if bits[:, columns:].any():
        raise ValueError("bitmask has bits beyond the last column")
    present = bits[:, :columns].view(bool)
    counts = present.sum(axis=1, dtype=np.int64)
    if counts.sum() != len(compressed):
        raise ValueError(f"bitmask has {counts.sum():,} bits for {len(compressed):,} values")
    wrong = np.flatnonzero(row_offsets != np.cumsum(counts) - counts)
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"row_offsets says {row_offsets[row]} of row {row}, the bitmask another place")
    dense = np.zeros((rows, columns), compressed.dtype)
    dense[present] = compressed
    return dense.reshape([columns] if flat else [rows, columns])


def _checked_shape(shape: Array) -> tuple[int, int]:
    """(rows, columns); a vector is one row."""
    if shape.dtype != np.int64 or shape.shape not in ((1,), (2,)):
        raise ValueError(f"shape is {shape.dtype} {list(shape.shape)}; int64 of 1 or 2 sizes is expected")
    sizes = [int(size) for size in shape]
    if not all(0 <= size <= LARGEST_SIZE for size in sizes):
        raise ValueError(f"shape is {sizes}: sizes are from 0 to {LARGEST_SIZE}")
    rows, columns = (1, *sizes) if len(sizes) == 1 else sizes
    return rows, columns


def _checked_row_offsets(row_offsets: Array, rows: int, flat: bool) -> Array:
    """int64 [rows]."""
    shapes: tuple[tuple[int, ...], ...] = ((), (1,)) if flat else ((rows,),)
    if row_offsets.dtype != np.int64 or row_offsets.shape not in shapes:
        found, wanted = list(row_offsets.shape), list(shapes[-1])
        raise ValueError(f"row_offsets is {row_offsets.dtype} {found}; int64 {wanted} is expected")
    return row_offsets.reshape(-1)
