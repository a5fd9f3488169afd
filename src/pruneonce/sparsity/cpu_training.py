"""Models with zeros train and answer by their non-zeros alone: in every stage, and in training loops of one's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from pruneonce import _native
from pruneonce.errors import UsageError
from pruneonce.models import family_of
from pruneonce.recipe import TrainingKernel
from pruneonce.sparsity.native_attention import use_native_attention
from pruneonce.sparsity.pruner import MaskedLinear, Pruner
from pruneonce.sparsity.sparse_linear import SPARSE_BELOW
from pruneonce.sparsity.torch_threads import torch_threads
from pruneonce.sparsity.training_kernel import layers_faster_sparse

LOCKED_FROM = 0.01  # a matrix with fewer zeros than this was not pruned; some trained weight may just be 0


@contextlib.contextmanager
def sparse_training(model: Any, kernel: TrainingKernel = "auto") -> Iterator[Pruner]:
    """Lock the zeros of a transformers model and, on a CPU, let its layers compute and keep their non-zeros alone.

    Make the optimizer within: the parameters of such layers are one-dimensional there, and other objects than before
    and after. State dicts and saved folders have ordinary weights at any time. On leaving, the model is an ordinary one
    again, with every zero where it was.

    Memory that is freed within stays with the process from then on, for the tensors of the next step (glibc).

    kernel: "auto" takes the layers that gain, "sparse" all, "dense" masks them only. UsageError if the model has
    no zeros, or for "sparse" beside an accelerator.

    >>> with sparse_training(model):
    ...     optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ...     for batch in batches:
    ...         model(**batch).loss.backward()
    ...         optimizer.step()
    ...         optimizer.zero_grad()
    >>> model.save_pretrained("runs/my-task")
    """
    names = names_with_zeros(model)
    if not names:
        raise UsageError(
            f"the model has no zeros to lock (less than {LOCKED_FROM:.0%} in every prunable matrix): prune it first"
        )
    pruner = Pruner(model, names)
    with torch_threads():
        try:
            compute_faster(model, pruner, kernel)
            yield pruner
        finally:
            pruner.bake()
            match_attention(model, pruner)


@contextlib.contextmanager
def sparse_scoring(model: Any) -> Iterator[None]:
    """Within it a pruned model on a CPU multiplies its non-zeros alone; a dense one is left as it is.

    Weights are the same afterwards, in new parameters. Layers that are to round are made to within it (`quantized`).
    """
    if torch.accelerator.is_available() or not names_with_zeros(model):
        yield
        return
    with sparse_training(model):
        yield


def names_with_zeros(model: Any) -> list[str]:
    """Prunable linear layers of a transformers model that have been pruned."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return [
        name
        for name in family_of(model.config.model_type).prunable_linears(linears)
        if float((linears[name].weight == 0).float().mean()) >= LOCKED_FROM
    ]


def compute_faster(
    model: Any,
    pruner: Pruner,
    kernel: TrainingKernel = "auto",
    autocast: torch.dtype | None = None,
    agree: Callable[[list[str]], list[str]] = lambda names: names,
) -> None:
    """Let layers, and attention, use the kernels that are faster here; nothing beside an accelerator.

    Layers whose zeros are locked change at once; those that are being pruned, once few weights are left.
    autocast: the lower precision of the training, if any. agree: what all processes of a run do, from what this one has
    measured. Layers of a lower precision stay as they are. UsageError for "sparse" beside them or an accelerator.
    """
    if kernel == "dense":
        return
    if torch.accelerator.is_available():
        if kernel == "sparse":
            raise UsageError('kernel "sparse" runs on CPUs: hide the accelerator, or use "auto"')
        return
    _native.keep_freed_memory()
    fit = {name: layer for name, layer in pruner.layers.items() if next(layer.parameters()).dtype == torch.float32}
    if kernel == "sparse" and (unfit := pruner.layers.keys() - fit.keys()):
        raise UsageError(
            f'kernel "sparse" computes in float32, {min(unfit)} does not: load the model with dtype=float32'
        )
    names = list(fit)
    if kernel == "auto":
        masked = {name: layer for name, layer in fit.items() if isinstance(layer, MaskedLinear)}
        if pruner.schedule is None:
            names = layers_faster_sparse(masked, autocast)
        elif autocast is not None:
            names = layers_faster_sparse(masked, autocast, density=SPARSE_BELOW)
    pruner.compute_sparse(agree(names))
    match_attention(model, pruner)


def match_attention(model: Any, pruner: Pruner) -> None:
    """A model with sparse layers attends by our kernels as well: beside those, torch's take a third of the step."""
    use_native_attention(model, pruner.computes_sparse)
