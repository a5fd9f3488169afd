"""Angles of rotary positions (Su et al. 2021, arXiv 2104.09864), for as many tokens as texts had so far."""

from __future__ import annotations

import numpy as np

from pruneonce.formats.stored_tensors import Array

LEAST_TOKENS = 512  # of the first table


class Rotary:
    """Cosines and sines by position: feature f of a head turns by position / base^(2 f / head size)."""

    def __init__(self, base: float, head_size: int) -> None:
        # In float32 as transformers does: at thousands of tokens the roundings of angles are larger than our tolerance.
        exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
        self._turns = np.float32(1) / np.power(np.float64(base), exponents).astype(np.float32)
        self._tables: tuple[Array, Array] = (np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))

    def tables(self, tokens: int) -> tuple[Array, Array]:
        """Cosines, sines: float32 [at least `tokens`, head size / 2]. Threads may ask at once: both make the same."""
        tables = self._tables
        if len(tables[0]) < tokens:
            longest = max(LEAST_TOKENS, 1 << (tokens - 1).bit_length())
            angles = np.arange(longest, dtype=np.float32)[:, None] * self._turns
            wide = angles.astype(np.float64)
            self._tables = tables = np.cos(wide).astype(np.float32), np.sin(wide).astype(np.float32)
        return tables
