"""Which weights stay, by what they are worth: pure selections, to an exact count of zeros.

To add a pattern: a class here, its row in PATTERNS, and its name in `recipe.Pruning.pattern`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from pruneonce.errors import UsageError

PatternName = Literal["unstructured", "1x4"]


class Pattern(Protocol):
    """Where zeros may lie in a matrix."""

    def zeros(self, shape: tuple[int, ...], sparsity: float) -> int:
        """How many `select` makes. ValueError if a matrix of this shape cannot have the pattern."""

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        """scores: what each weight is worth -> bool of the same shape and device, True = stays.

        ValueError for NaN, a sparsity outside [0, 1], or a shape that cannot have the pattern.
        """


class Unstructured:
    """Any weight may go; of any shape."""

    def zeros(self, shape: tuple[int, ...], sparsity: float) -> int:
        return pruned_count(torch.Size(shape).numel(), sparsity)

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        """mask = score > k-th least score, with k = floor(sparsity x size).

        Weights tied at the threshold go in index order until k have gone; the original code prunes them all, so that a
        constant matrix becomes empty.
        """
        if not 0.0 <= sparsity <= 1.0:
            raise ValueError(f"sparsity must be within [0, 1], got {sparsity}")
        flat = scores.flatten()
        if torch.isnan(flat).any():
            raise ValueError("weights contain NaN: they cannot be ranked")
        pruned = self.zeros(scores.shape, sparsity)
        if pruned == 0:
            return torch.ones_like(scores, dtype=torch.bool)
        threshold = torch.kthvalue(flat, pruned).values
        mask = flat > threshold
        missing = flat.numel() - pruned - int(mask.sum())
        if missing:
            tied = (flat == threshold).nonzero().squeeze(1)
            mask[tied[tied.numel() - missing :]] = True
        return mask.view(scores.shape)


@dataclass(frozen=True)
class Blocks:
    """Blocks of `width` neighbouring columns (inputs) of one row stay or go whole, by the sums of their scores.

    Ties as in `Unstructured`. A matrix must have a multiple of `width` columns.
    """

    width: int

    def zeros(self, shape: tuple[int, ...], sparsity: float) -> int:
        self._check(shape)
        return self.width * pruned_count(torch.Size(shape).numel() // self.width, sparsity)

    def select(self, scores: Tensor, sparsity: float) -> Tensor:
        self._check(scores.shape)
        sums = scores.view(scores.shape[0], -1, self.width).sum(dim=2)
        return Unstructured().select(sums, sparsity).repeat_interleave(self.width, dim=1)

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[1] % self.width:
            sizes = " x ".join(str(size) for size in shape)
            raise ValueError(f"{sizes} cannot be cut into blocks of 1 x {self.width} neighbouring inputs")


PATTERNS: dict[PatternName, Pattern] = {
    "unstructured": Unstructured(),
    "1x4": Blocks(4),  # what a dot-product instruction for bytes multiplies at once
}


def pruned_count(size: int, sparsity: float) -> int:
    """Zeros in a matrix of `size` weights at `sparsity`, rounded down.

    >>> pruned_count(10, 0.9), pruned_count(7, 0.5), pruned_count(1000, 0.29)
    (9, 3, 290)
    """
    # 0.29 * 1000 is 289.99…: a millionth of a weight keeps the binary fraction from costing a whole one.
    return min(size, int(sparsity * size + 1e-6))


def check_pattern(model: nn.Module, names: Iterable[str], pattern: PatternName, sparsity: float) -> None:
    """UsageError names the first of these layers whose matrix cannot have the pattern."""
    for name in names:
        weight: Any = model.get_submodule(name).weight
        try:
            PATTERNS[pattern].zeros(tuple(weight.shape), sparsity)
        except ValueError as error:
            raise UsageError(
                f'pruning.pattern "{pattern}": {name}.weight of {error}: set pruning.pattern = "unstructured"'
            ) from error
