"""How many zeros each matrix gets of a budget for all of them: pure functions of what weights are worth.

To add an allocation: a function here, its row in ALLOCATIONS, and its name in `recipe.Pruning.allocation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

AllocationName = Literal["uniform", "global"]

# No matrix gets so few weights that training could not bring its product back: a global ranking by a noisy criterion
# would otherwise empty the one that it underrates.
MOST_OF_A_MATRIX = 0.95


def uniform(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
    """The same in every matrix, as in the paper."""
    return dict.fromkeys(scores, sparsity)


def in_all(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, float]:
    """As if all matrices were one: the share of each that is worth less than the budget's threshold.

    scores: comparable between matrices, by layer. No matrix gets above `MOST_OF_A_MATRIX` (or the budget, if that is
    more); what this spares is taken from the others. ValueError for NaN.

    >>> found = in_all({"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([3.5, 5.0, 6.0, 7.0])}, 0.5)
    >>> found
    {'a': 0.75, 'b': 0.25}
    """
    if not scores or sparsity <= 0.0:
        return uniform(scores, sparsity)
    flat = {name: each.flatten().float() for name, each in scores.items()}
    if any(bool(each.isnan().any()) for each in flat.values()):
        raise ValueError("weights contain NaN: they cannot be ranked")
    most = max(MOST_OF_A_MATRIX, sparsity)
    # A weight that no threshold may take away is worth more than any.
    for name, each in flat.items():
        kept = each.numel() - int(most * each.numel() + 1e-6)
        if kept:
            flat[name] = each.clone()
            flat[name][each.topk(kept).indices] = torch.inf
    together = torch.cat(list(flat.values()))
    pruned = min(together.numel(), int(sparsity * together.numel() + 1e-6))
    if pruned == 0:
        return uniform(scores, 0.0)
    threshold = together.kthvalue(pruned).values
    return {name: float((each <= threshold).sum()) / each.numel() for name, each in flat.items()}


Allocation = Callable[[Mapping[str, Tensor], float], dict[str, float]]
ALLOCATIONS: dict[AllocationName, Allocation] = {"uniform": uniform, "global": in_all}
