"""Plain numpy twins of the native kernels, in float64: what they compute, with no thought of speed."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

erf = np.vectorize(math.erf, otypes=[float])


def gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x):
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


NONLINEARITIES = {"none": lambda x: x, "gelu": gelu, "gelu_tanh": gelu_tanh, "relu": lambda x: np.maximum(x, 0)}


def multiply(weight, x, bias=None, residual=None, nonlinearity="none"):
    """weight: [rows, cols]; x: [cols, tokens]."""
    y = weight.astype(float) @ x
    if bias is not None:
        y = y + bias[:, None]
    if residual is not None:
        y = y + residual
    return NONLINEARITIES[nonlinearity](y)


def layer_norm(x, scale, shift, epsilon):
    """x: [features, tokens]."""
    x = x.astype(float)
    centred = x - x.mean(axis=0)
    return centred / np.sqrt((centred**2).mean(axis=0) + epsilon) * scale[:, None] + shift[:, None]


def attention(qkv, starts, heads):
    """qkv: [3 · hidden, tokens]; one sequence and head after the other."""
    query, key, value = np.split(qkv.astype(float), 3)
    out = np.zeros_like(query)
    size = len(query) // heads
    for begin, end in pairwise(starts):
        for head in range(heads):
            part = np.s_[head * size : (head + 1) * size, begin:end]
            scores = key[part].T @ query[part] / math.sqrt(size)
            scores = np.exp(scores - scores.max(axis=0))
            out[part] = value[part] @ (scores / scores.sum(axis=0))
    return out


def int8_attention(qkv, starts, heads, scales, zero_points):
    """As `attention`, of whole numbers: rounded queries, keys and values, and weights in 255ths of the largest."""
    scales = np.asarray(scales, np.float32)
    parts = zip(np.split(qkv, 3), scales, map(int, zero_points), strict=True)
    query, key, value = (codes(*part) for part in parts)
    out = np.zeros(query.shape)
    size = len(query) // heads
    for begin, end in pairwise(starts):
        for head in range(heads):
            part = np.s_[head * size : (head + 1) * size, begin:end]
            scores = key[part].T @ query[part] * (float(scales[0]) * float(scales[1]) / math.sqrt(size))
            weights = np.rint(255 * np.exp(scores - scores.max(axis=0)))
            out[part] = value[part] @ (weights / weights.sum(axis=0)) * float(scales[2])
    return out


def linear_gradients(weight, x, dy):
    """dx, gradients of the non-zeros (row by row) and of the bias, of y = x Wᵀ + b. x: [tokens, cols]."""
    x, dy = x.astype(float), dy.astype(float)
    return dy @ weight, (dy.T @ x)[np.nonzero(weight)], dy.sum(axis=0)


def csr(weight):
    """(row pointers int64, columns int32, values float32) of a dense matrix."""
    rows, cols = np.nonzero(weight)
    pointers = np.zeros(len(weight) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(weight)), out=pointers[1:])
    return pointers, cols.astype(np.int32), weight[rows, cols].astype(np.float32)


def codes(x, input_scale, zero_point):
    """What int8 kernels see of x: whole numbers around 0, int64; the arithmetic is fp32's."""
    scaled = np.asarray(x, np.float32) * (np.float32(1) / np.float32(input_scale))
    return np.rint(np.clip(scaled, -zero_point, 255 - zero_point)).astype(np.int64)


def multiply_int8(weight, scale, x, input_scale, zero_point):
    """weight: int8 [rows, cols]; scale: float32 [rows]; x: [cols, tokens]. The sums are whole numbers, so exact."""
    sums = weight.astype(np.int64) @ codes(x, input_scale, zero_point)
    return sums.astype(np.float32) * (scale * np.float32(input_scale))[:, None]
