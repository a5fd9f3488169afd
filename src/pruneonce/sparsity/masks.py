"""Which weights stay: pure functions from a weight matrix to a boolean mask (True = kept)."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Keep the largest magnitudes: mask = |w| > k-th smallest |w|, with k = floor(sparsity x size).

    weight: any shape, floating point. Returns a bool tensor of the same shape and device with exactly k False.
    Weights tied at the threshold are pruned in index order until k is reached; the original code prunes them all,
    so that a constant matrix becomes empty. Raises ValueError for NaN or a sparsity outside [0, 1].
    """
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"sparsity must be within [0, 1], got {sparsity}")
    magnitude = weight.detach().abs().flatten()
    if torch.isnan(magnitude).any():
        raise ValueError("weights contain NaN: they cannot be ranked by magnitude")
    pruned = pruned_count(magnitude.numel(), sparsity)
    if pruned == 0:
        return torch.ones_like(weight, dtype=torch.bool)
    threshold = torch.kthvalue(magnitude, pruned).values
    mask = magnitude > threshold
    missing = magnitude.numel() - pruned - int(mask.sum())
    if missing:
        tied = (magnitude == threshold).nonzero().squeeze(1)
        mask[tied[tied.numel() - missing :]] = True
    return mask.view(weight.shape)


BLOCK = 4  # of the pattern "1x4": what a dot-product instruction for bytes multiplies at once


def block_magnitude_mask(weight: Tensor, sparsity: float, block: int = BLOCK) -> Tensor:
    """Keep the blocks of the largest summed magnitudes; a block is `block` neighbouring columns (inputs) of one row.

    weight: [rows, columns], columns a multiple of `block`. Returns a bool tensor of the same shape in which exactly
    floor(sparsity x number of blocks) blocks are False, whole; ties as in `magnitude_mask`. ValueError if the columns
    cannot be cut into blocks, for NaN, or a sparsity outside [0, 1].
    """
    if weight.dim() != 2 or weight.shape[1] % block:
        shape = " x ".join(str(size) for size in weight.shape)
        raise ValueError(f"a matrix of {shape} cannot be cut into blocks of 1 x {block}")
    scores = weight.detach().abs().view(weight.shape[0], -1, block).sum(dim=2)
    return magnitude_mask(scores, sparsity).repeat_interleave(block, dim=1)


def pruned_count(size: int, sparsity: float) -> int:
    """Zeros in a matrix of `size` weights at `sparsity`, rounded down.

    >>> pruned_count(10, 0.9), pruned_count(7, 0.5), pruned_count(1000, 0.29)
    (9, 3, 290)
    """
    # 0.29 * 1000 is 289.99…: a millionth of a weight keeps the binary fraction from costing a whole one.
    return min(size, int(sparsity * size + 1e-6))


def nonzero_mask(weight: Tensor) -> Tensor:
    """The pattern lock: keep what is not zero now."""
    return weight.detach() != 0


def pack_mask(mask: Tensor) -> bytes:
    """Mask as bits, row-major, most significant bit first, the last byte padded with zeros."""
    return np.packbits(mask.detach().cpu().numpy().reshape(-1)).tobytes()


def unpack_mask(bits: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of `pack_mask`; bits: uint8 tensor."""
    flat = np.unpackbits(bits.numpy(), count=shape.numel())
    return torch.from_numpy(flat.astype(bool)).view(shape)


def mask_digest(mask: Tensor) -> str:
    """Hexadecimal SHA-256 over the shape and the packed bits: equal digests mean the same zeros."""
    shape = "x".join(str(size) for size in mask.shape)
    return hashlib.sha256(shape.encode() + b":" + pack_mask(mask)).hexdigest()
