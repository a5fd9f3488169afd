"""Masks, bool tensors of a weight's shape with True = kept: by magnitude, by the zeros there are, and as bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pruneonce.sparsity.criteria import Magnitude
from pruneonce.sparsity.patterns import PATTERNS, PatternName


def magnitude_mask(weight: Tensor, sparsity: float, pattern: PatternName = "unstructured") -> Tensor:
    """Keep the largest magnitudes: mask = |w| > k-th smallest |w|, with k = floor(sparsity x size).

    weight: any shape, floating point; of the pattern "1x4" [rows, columns], where blocks of four neighbouring columns
    are ranked by their summed magnitudes, and stay or go whole. Returns a bool tensor of the same shape and device with
    exactly k False. Weights tied at the threshold are pruned in index order until k is reached; the original code
    prunes them all, so that a constant matrix becomes empty. Raises ValueError for NaN, a sparsity outside [0, 1], or a
    shape that cannot be cut into blocks.
    """
    return PATTERNS[pattern].select(Magnitude().scores("", weight), sparsity)


def nonzero_mask(weight: Tensor) -> Tensor:
    """The pattern lock: keep what is not zero now."""
    return weight.detach() != 0


def pack_mask(mask: Tensor) -> Tensor:
    """Mask as bits, uint8, row-major, most significant bit first, the last byte padded with zeros."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))


def unpack_mask(bits: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of `pack_mask`."""
    flat = np.unpackbits(bits.numpy(), count=shape.numel())
    return torch.from_numpy(flat.astype(bool)).view(shape)
