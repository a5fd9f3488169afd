"""A bias on attention scores by how far a key lies from its query, spread from buckets of distances to distances."""

from __future__ import annotations

import math

import numpy as np

from pruneonce.formats.stored_tensors import Array


def distance_biases(table: Array, max_distance: int) -> Array:
    """float32 [heads, 2 · max_distance + 1] for distances -max_distance ... max_distance; those beyond take the last.

    table: float32 [buckets, heads]; a distance is the key's place less the query's. Source: Raffel et al. 2019, T5,
    https://arxiv.org/abs/1910.10683, section 2.1, as transformers computes it.
    """
    distances = np.arange(-max_distance, max_distance + 1)
    return np.ascontiguousarray(table[buckets(distances, len(table), max_distance)].T)


def buckets(distances: Array, count: int, max_distance: int) -> Array:
    """The bucket of each distance, int64: half of them for keys before the query, half for those behind it.

    Of either half the first half hold one distance each, the others ever more, evenly by their logarithm.
    """
    half, far = count // 2, np.abs(distances)
    exact = half // 2
    # In float32, as the model was trained: a distance at the edge of two buckets would fall into the other one.
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(max_distance / exact)
    )
    wide = exact + (ratio * np.float32(half - exact)).astype(np.int64)
    found: Array = np.where(far < exact, far, np.minimum(wide, half - 1)) + half * (distances > 0)
    return found
