"""The features of attention's heads that zeros have left anything of.

A pruned model has whole rows without weights in its queries, keys and values. What such a row gives is its bias, for
every token. A key's feature that is the same for all keys adds the same to all scores of a query, so that no weight
changes; a value's is its own weighted mean. So attention need not compute them: heads become narrower, and nothing
else changes. The rows that count come first in every head (and with them columns of what reads attention), which is
an order of features that only the matrices around attention see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruneonce.formats.stored_tensors import Array, SparseMatrix, Tensor


@dataclass(frozen=True, eq=False)
class LiveFeatures:
    """How many features of each head count, and the order of features in which they come first."""

    scored: Array  # int64 [heads], of queries and keys
    mixed: Array  # int64 [heads], of values
    score_order: Array  # int64 [hidden]: which row of queries and keys comes in each place
    value_order: Array  # int64 [hidden], of values; and which column of what reads attention

    @property
    def stacked_order(self) -> Array:
        """Of the rows of queries, keys and values as one matrix: int64 [3 · hidden]."""
        size = len(self.score_order)
        return np.concatenate([self.score_order, size + self.score_order, 2 * size + self.value_order])


def live_features(keys: Tensor, values: Tensor, heads: int) -> LiveFeatures | None:
    """By the rows of two matrices [hidden, hidden] that have weights; None where all rows have."""
    counting = [_has_weights(tensor).reshape(heads, -1) for tensor in (keys, values)]
    if all(each.all() for each in counting):
        return None
    scored, mixed = (each.sum(axis=1).astype(np.int64) for each in counting)
    score_order, value_order = (_first(each) for each in counting)
    return LiveFeatures(scored, mixed, score_order, value_order)


def _has_weights(tensor: Tensor) -> Array:
    """bool [rows]."""
    if isinstance(tensor, SparseMatrix):
        return np.diff(tensor.csr().row_pointers) > 0
    return np.asarray(tensor.to_dense().any(axis=1))


def _first(counting: Array) -> Array:
    """Features in an order in which those of a head that count come first, and stay in theirs: int64 [hidden]."""
    heads, size = counting.shape
    return (np.argsort(~counting, axis=1, kind="stable") + size * np.arange(heads)[:, None]).ravel()
