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
    more); what this spares is taken from the others. Of weights tied at the threshold those of the first matrices go
    until the budget is spent. ValueError for NaN.

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
    # The best of each matrix are not for taking, and so take no part.
    free = {
        name: each.topk(int(most * each.numel() + 1e-6), largest=False, sorted=False).values
        for name, each in flat.items()
    }
    together = torch.cat(list(free.values()))
    # Rounded down in each matrix, a budget at the cap may be some weights less than rounded down in all.
    left = min(together.numel(), int(sparsity * sum(each.numel() for each in flat.values()) + 1e-6))
    if left == 0:
        return uniform(scores, 0.0)
    threshold = together.kthvalue(left).values
    pruned = {name: int((each < threshold).sum()) for name, each in free.items()}
    left -= sum(pruned.values())
    for name, each in free.items():
        tied = min(left, int((each == threshold).sum()))
        pruned[name] += tied
        left -= tied
    return {name: pruned[name] / each.numel() for name, each in flat.items()}


Allocation = Callable[[Mapping[str, Tensor], float], dict[str, float]]
ALLOCATIONS: dict[AllocationName, Allocation] = {"uniform": uniform, "global": in_all}
