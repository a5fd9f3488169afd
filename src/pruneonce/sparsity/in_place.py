"""A model in memory, changed in place: `prune_`, `lock_` and `quantize_`, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pruneonce.errors import UsageError
from pruneonce.formats.scales_file import LinearQuantization
from pruneonce.models import family_of
from pruneonce.recipe import AttentionNumbers, Pruning
from pruneonce.sparsity.cpu_training import LOCKED_FROM, names_with_zeros
from pruneonce.sparsity.criteria import CriterionName
from pruneonce.sparsity.patterns import PatternName, check_pattern
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.quantizer import observing, quantize_layers
from pruneonce.sparsity.schedules import schedule_of


def prune_(
    model: nn.Module,
    sparsity: float = 0.9,
    *,
    steps: int | None = None,
    pattern: PatternName = "unstructured",
    criterion: CriterionName = "magnitude",
    names: Sequence[str] | None = None,
) -> Pruner:
    """Put masks on a model's linear layers: towards `sparsity` in the course of `steps`, or at once.

    steps: of the training to come; zeros then grow along the cubic schedule of recipes (all there at half of the steps,
    masks final at four fifths) as `Pruner.update(step)` is called before each. None: all zeros now, and locked.
    names: modules to prune; None: what recipes prune in a model of a known family (all linear layers of the encoder,
    and BERT's pooler). Parameters stay the same objects. End with `Pruner.bake`, or let `PruneCallback` do all of it.
    UsageError for a sparsity, pattern, name or number of steps that cannot be.

    >>> pruner = prune_(model, 0.9, steps=len(batches))
    >>> for step, batch in enumerate(batches):
    ...     pruner.update(step)
    ...     model(**batch).loss.backward()
    ...     optimizer.step()
    ...     optimizer.zero_grad()
    >>> pruner.bake()
    """
    pruning = Pruning(sparsity=sparsity, pattern=pattern, schedule="one-shot" if steps is None else "cubic")
    schedule = schedule_of(pruning, 1 if steps is None else steps)
    chosen = _linears(model, names)
    check_pattern(model, chosen, pattern, sparsity)
    pruner = Pruner(model, chosen, schedule, pattern, criterion)
    if steps is None:
        pruner.update(0)
        pruner.lock()
    return pruner


def lock_(model: nn.Module, names: Sequence[str] | None = None) -> Pruner:
    """Keep the zeros that a model has: masks that training cannot change. Parameters stay the same objects.

    names: modules whose zeros are kept; None: every prunable matrix of a known family with 1 % of zeros or more.
    End with `Pruner.bake`. On a CPU `sparse_training` does this and computes the non-zeros alone. UsageError if there
    are no zeros.
    """
    chosen = names_with_zeros(model) if names is None else _linears(model, names)
    if not chosen:
        raise UsageError(
            f"the model has no zeros to lock (less than {LOCKED_FROM:.0%} in every prunable matrix): prune it first"
        )
    return Pruner(model, chosen)


@torch.no_grad()
def quantize_(
    model: nn.Module,
    calibration: Iterable[Mapping[str, Any]],
    names: Sequence[str] | None = None,
    *,
    attention: AttentionNumbers = "fp32",
) -> dict[str, LinearQuantization]:
    """Round a model's linear layers to int8 after training; returns their scales, by module, for `export`.

    calibration: batches of the model's keyword inputs (`input_ids`, `attention_mask`, …) that set the ranges of the
    layers' inputs; padding takes no part. names: modules to round; None: the prunable ones of a known family. Weights
    become whole numbers of -127 to 127 times the scale of their row: the model stays a float model. Zeros, and masks
    that are on the layers, stay. attention: "int8" computes its products in 8 bits too, where every token sees all
    others and positions take no part in the scores. UsageError without a batch, or for attention of another kind;
    PruneonceError for weights or inputs that are not finite.
    """
    training = model.training
    quantizer = quantize_layers(model, _linears(model, names), attention=attention)
    batches = 0
    model.eval()
    try:
        with observing(quantizer):
            for batch in calibration:
                model(**batch)
                batches += 1
        if not batches:
            raise UsageError("quantize_ needs at least one batch of inputs to set the ranges by; calibration is empty")
        scales, _ = quantizer.bake()
    finally:
        quantizer.remove()
        model.train(training)
    return scales


def _linears(model: nn.Module, names: Sequence[str] | None) -> list[str]:
    """The modules that are named, each a linear layer; or the prunable ones of the model's family."""
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if names is not None:
        if unknown := [name for name in names if name not in linears]:
            raise UsageError(f"'{unknown[0]}' is no linear layer of this model: names are those of named_modules()")
        return list(names)
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type is None:
        raise UsageError("this is no transformers model (it has no config.model_type): say with names= which layers")
    return family_of(model_type).prunable_linears(linears)
