"""From a recipe to zeros: when they come and at which rate, which matrices have them, which are locked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pruneonce.errors import UsageError
from pruneonce.formats.record import check_masks, read_provenance
from pruneonce.models import Family, family_of
from pruneonce.models.hub import load_config, random_hub_model
from pruneonce.recipe import FinetuneRecipe, PruneRecipe, Pruning, QuantizeRecipe, Training
from pruneonce.sparsity.allocation import ALLOCATIONS, Allocation
from pruneonce.sparsity.cpu_training import LOCKED_FROM, names_with_zeros
from pruneonce.sparsity.layers import linear_names
from pruneonce.sparsity.patterns import PATTERNS, check_pattern
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.schedules import linear_factor, rewinding_factor, schedule_of, warmup_steps_from_ratio
from pruneonce.train.language_model import pretraining_class


def learning_rate_factor(training: Training, steps: int, pruning: Pruning | None = None) -> Callable[[int], float]:
    """step -> fraction of the peak rate: linear, or rewound along the pruning schedule."""
    warmup = warmup_steps_from_ratio(training.warmup_ratio, steps)
    if pruning is None or pruning.schedule == "one-shot":
        return lambda step: linear_factor(step, total_steps=steps, warmup_steps=warmup)
    schedule = schedule_of(pruning, steps)

    def factor(step: int) -> float:
        return rewinding_factor(
            step,
            total_steps=steps,
            warmup_steps=warmup,
            policy_begin_step=schedule.policy_begin_step,
            policy_end_step=schedule.policy_end_step,
            interval_steps=schedule.frequency_steps,
            rewind=pruning.rewind,
        )

    try:
        factor(0)
    except ValueError as error:
        raise UsageError(f"pruning: {error}") from error
    return factor


def scheduled_pruner(model: nn.Module, pruning: Pruning, steps: int) -> Pruner:
    """Masks on a Hugging Face model that grow by magnitude in the course of `steps`."""
    config: Any = model.config
    names = family_of(config.model_type).prunable_linears(linear_names(model), pooler=pruning.pooler)
    check_pattern(model, names, pruning.pattern, pruning.sparsity)
    allocation = allocation_of(pruning, family_of(config.model_type), names)
    return Pruner(model, names, schedule_of(pruning, steps), pruning.pattern, pruning.criterion, allocation)


def allocation_of(pruning: Pruning, family: Family, names: Sequence[str]) -> Allocation:
    """How many zeros of a recipe each matrix gets. UsageError for targets of roles that the family has not."""
    if not pruning.targets:
        return ALLOCATIONS[pruning.allocation]
    roles = {name: str(family.role_of(name)) for name in names}
    if unknown := sorted(pruning.targets.keys() - set(roles.values())):
        raise UsageError(
            f"pruning.targets names '{unknown[0]}': what is pruned here has the roles "
            f"{', '.join(sorted(set(roles.values())))}"
        )
    # Along the schedule each goes its own part of the way.
    parts = {name: pruning.targets.get(role, pruning.sparsity) / pruning.sparsity for name, role in roles.items()}
    return lambda scores, sparsity: {name: min(1.0, sparsity * parts[name]) for name in scores}


def lock_zeros(model: Any, recipe: FinetuneRecipe | QuantizeRecipe) -> Pruner | None:
    """Masks over the matrices that have zeros, checked against the parent's record; None for a dense model."""
    if recipe.lock == "off":
        return None
    parent = read_provenance(recipe.model)
    family = family_of(model.config.model_type)
    # A matrix that has lost its zeros must be found, and zeros by rounding (int8) are not for keeping.
    recorded = {name: family.encoder_name(name) for name in linear_names(model)}
    names = names_with_zeros(model) if parent is None else [name for name in recorded if recorded[name] in parent.masks]
    if not names:
        if recipe.lock == "require":
            why = f"less than {LOCKED_FROM:.0%} in every prunable matrix" if parent is None else "it was never pruned"
            raise UsageError(
                f'{recipe.model} has no zeros to lock ({why}): give a pruned model, or set lock = "auto" to fine-tune '
                "it dense"
            )
        return None
    pruner = Pruner(model, names)
    if parent is not None:
        digests = {recorded[name]: digest for name, digest in pruner.digests().items()}
        check_masks(parent.masks, digests, where=str(recipe.model))
    return pruner


@dataclass(frozen=True)
class PlannedMatrix:
    """One linear layer of a dry run."""

    name: str
    shape: tuple[int, int]
    target: float  # sparsity; 0 for layers that stay dense
    zeros: int

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]


def plan_pruning(recipe: PruneRecipe) -> list[PlannedMatrix]:
    """Every linear layer of the recipe's model with its target; reads the config, not the weights."""
    from accelerate import init_empty_weights

    config = load_config(recipe.model)
    family = family_of(config.model_type)
    with init_empty_weights():
        model = random_hub_model(pretraining_class(nsp=family.heads.next_sentence is not None), config)
    names = linear_names(model)
    pruned = family.prunable_linears(names, pooler=recipe.pruning.pooler)
    check_pattern(model, pruned, recipe.pruning.pattern, recipe.pruning.sparsity)
    pattern = PATTERNS[recipe.pruning.pattern]
    rows = []
    for name in names:
        rows_out, columns = model.get_submodule(name).weight.shape
        target = recipe.pruning.sparsity if name in pruned else 0.0
        zeros = pattern.zeros((rows_out, columns), target) if name in pruned else 0
        rows.append(PlannedMatrix(name, (rows_out, columns), target, zeros))
    return rows
