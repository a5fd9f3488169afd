"""Biases by distance: transformers' own buckets, and attention with them against a plain twin."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import activations, array
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from pruneonce import _native
from pruneonce.run.relative_bias import buckets, distance_biases

ISAS = _native.available_isas()


def test_every_distance_falls_into_the_bucket_of_transformers():
    distances = np.arange(-3000, 3001)
    expected = MPNetEncoder.relative_position_bucket(torch.from_numpy(distances), num_buckets=32)
    assert np.array_equal(buckets(distances, 32, 128), expected.numpy())


def test_beyond_the_largest_distance_nothing_changes():
    table = np.random.default_rng(0).standard_normal((32, 3), np.float32)
    biases = distance_biases(table, 128)
    assert biases.shape == (3, 257)
    far = buckets(np.array([-5000, -128, 128, 5000]), 32, 128)
    assert far.tolist() == [15, 15, 31, 31]
    np.testing.assert_array_equal(biases[:, [0, -1]], table[[15, 31]].T)


def biased_attention(qkv, starts, heads, bias):
    """One query after the other, in float64. qkv: [3 · hidden, tokens]; bias: [heads, 2 · reach + 1]."""
    query, key, value = np.split(qkv.astype(float), 3)
    out, size, reach = np.zeros_like(query), len(query) // heads, bias.shape[1] // 2
    for begin, end in itertools.pairwise(starts):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for at in range(begin, end):
                near = np.clip(np.arange(begin, end) - at, -reach, reach) + reach
                scores = key[part, begin:end].T @ query[part, at] / np.sqrt(size) + bias[head, near]
                weights = np.exp(scores - scores.max())
                out[part, at] = value[part, begin:end] @ (weights / weights.sum())
    return out


@pytest.mark.parametrize("isa", ISAS)
@given(
    heads=st.integers(1, 3),
    head_size=st.sampled_from([1, 7, 16]),
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    reach=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_attention_adds_what_the_distance_says(isa, heads, head_size, lengths, reach, seed):
    rng, tokens = np.random.default_rng(seed), sum(lengths)
    qkv = rng.standard_normal((3 * heads * head_size, tokens), np.float32)
    bias = rng.standard_normal((heads, 2 * reach + 1), np.float32) * 3
    starts = np.cumsum([0, *lengths])
    out = _native.Activations(heads * head_size, isa=isa)
    _native.attention(activations(qkv, isa), starts=starts, heads=heads, bias=bias, out=out)
    np.testing.assert_allclose(array(out), biased_attention(qkv, starts, heads, bias), rtol=0, atol=2e-5)


def test_a_bias_of_zeros_changes_nothing_and_other_shapes_are_refused():
    qkv = np.random.default_rng(1).standard_normal((24, 50), np.float32)
    starts, out = np.array([0, 20, 50]), _native.Activations(8)
    _native.attention(activations(qkv, out.isa), starts=starts, heads=2, bias=np.zeros((2, 9), np.float32), out=out)
    np.testing.assert_allclose(array(out), reference.attention(qkv, starts, 2), atol=5e-6)
    for shape in ((1, 9), (2, 8), (2, 0)):
        with pytest.raises(ValueError, match=r"bias is \["):
            _native.attention(
                activations(qkv, out.isa), starts=starts, heads=2, bias=np.zeros(shape, np.float32), out=out
            )
