"""From a text's token states to its vector, as an `EmbeddingPlan` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pruneonce.formats.stored_tensors import Array
from pruneonce.models.sentence import EmbeddingPlan, Pooling, Projection
from pruneonce.run.encoder import Linear
from pruneonce.run.heads import rows_of
from pruneonce.run.tensors import Tensors
from pruneonce.run.workspace import Workspace

NATIVE = ("none", "relu", "gelu")  # nonlinearities that the kernels apply as they multiply


@dataclass(frozen=True, eq=False)
class ProjectionLayer:
    """A projection with its weights."""

    linear: Linear
    nonlinearity: str
    residual: Linear | None  # of x where the sizes differ
    adds_x: bool

    def __call__(self, vectors: Array, space: Workspace) -> Array:
        """float32 [texts, in] -> [texts, out]."""
        fused = self.nonlinearity if self.nonlinearity in NATIVE else "none"
        out = _multiplied(self.linear, vectors, space, fused)
        if self.nonlinearity == "tanh":
            out = np.tanh(out)
        if self.residual is not None:
            out = out + _multiplied(self.residual, vectors, space, "none")
        return out + vectors if self.adds_x else out


def projection_layers(plan: EmbeddingPlan, tensors: Tensors) -> list[ProjectionLayer]:
    """The plan's projections from a file; ValueError if it lacks a tensor, or one is of another shape."""
    layers = []
    size = tensors.plan.hidden_size * len(plan.pooling)
    for projection in plan.projections:
        linear = _linear(tensors, f"{projection.name}.linear", size)
        layers.append(_layer(tensors, projection, linear, size))
        size = linear.weight.rows
    return layers


def pooled(states: Array, modes: Sequence[Pooling], skipped: int = 0) -> Array:
    """One vector of a text's states: float32 [tokens, hidden] -> [modes x hidden].

    skipped: so many tokens at the beginning do not count; the last one always does. Weights of "weightedmean" are
    1, 2, 3, … over all tokens.
    """
    skipped = min(skipped, len(states) - 1)
    counted = states[skipped:]
    parts: list[Array] = []
    for mode in modes:
        if mode in ("cls", "lasttoken"):
            parts.append(counted[0 if mode == "cls" else -1])
        elif mode == "max":
            parts.append(counted.max(axis=0))
        elif mode == "weightedmean":
            weights = np.arange(skipped + 1, len(states) + 1, dtype=np.float32)
            parts.append((counted * weights[:, None]).sum(axis=0) / weights.sum())
        else:
            tokens = np.float32(len(counted))
            parts.append(counted.sum(axis=0) / (tokens if mode == "mean" else np.sqrt(tokens)))
    return np.concatenate(parts).astype(np.float32, copy=False)


def tokens_read(length: int, modes: Sequence[Pooling], skipped: int = 0) -> Array | None:
    """The tokens of a text whose states `pooled` reads, where those are few: int64; None: all of them."""
    if not set(modes) <= {"cls", "lasttoken"}:
        return None
    first = min(skipped, length - 1)
    return np.unique([first if mode == "cls" else length - 1 for mode in modes]).astype(np.int64)


def unit(vectors: Array) -> Array:
    """Vectors, float32 [texts, size], each of length 1; those of length 0 stay so."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    made: Array = vectors / np.maximum(lengths, np.float32(1e-12))
    return made


def _layer(tensors: Tensors, projection: Projection, linear: Linear, size: int) -> ProjectionLayer:
    same = linear.weight.rows == size
    residual = None
    if projection.residual and not same:
        weight = tensors.get(f"{projection.name}.residual.weight", (linear.weight.rows, size))
        residual = Linear(tensors.weight([weight]), np.zeros(linear.weight.rows, np.float32))
    return ProjectionLayer(linear, projection.nonlinearity, residual, adds_x=projection.residual and same)


def _linear(tensors: Tensors, name: str, size: int) -> Linear:
    weight = tensors.get(f"{name}.weight", (None, size))
    rows = weight.shape[0]
    if not rows:
        raise ValueError(f"tensor {name}.weight has no rows")
    bias = tensors.vector(f"{name}.bias", rows) if tensors.has(f"{name}.bias") else np.zeros(rows, np.float32)
    return Linear(tensors.weight([weight]), bias)


def _multiplied(linear: Linear, vectors: Array, space: Workspace, nonlinearity: str) -> Array:
    x = space.activations("vectors", vectors.shape[1])
    x.load(np.ascontiguousarray(vectors))
    out = space.activations("projected", linear.weight.rows)
    linear(x, out, space.codes, nonlinearity=nonlinearity)
    return rows_of(out)
