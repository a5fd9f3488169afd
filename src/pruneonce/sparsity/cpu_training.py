"""Models with zeros train and answer by their non-zeros alone: in every stage, and in training loops of one's own.

`CpuTraining` owns that a model computes so: which layers do, that attention follows them, and on which threads.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pruneonce import _native
from pruneonce.errors import UsageError
from pruneonce.formats.scales_file import LinearQuantization
from pruneonce.machine import SPARSE_BELOW
from pruneonce.models import family_of
from pruneonce.recipe import TrainingKernel
from pruneonce.sparsity.native_attention import NativeAttention
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.quantizer import quantized
from pruneonce.sparsity.torch_threads import torch_threads
from pruneonce.sparsity.training_kernel import layers_faster_sparse

LOCKED_FROM = 0.01  # a matrix with fewer zeros than this was not pruned; some trained weight may just be 0


class CpuTraining:
    """Within it a transformers model uses the kernels that are faster here; nothing changes beside an accelerator.

    Layers whose zeros are locked compute by their non-zeros alone at once; those that are being pruned, once few
    weights are left. While any does, attention is by our kernels too, whatever `pruner` is told meanwhile: beside
    sparse layers torch's takes a third of the step. Our kernels use torch's threads, and memory that is freed stays
    with the process from then on, for the tensors of the next step (glibc). Afterwards layers are masked and dense.

    pruner: the model's masks; None if it has none. autocast: the lower precision of the training, if any. agree: what
    all processes of a run do, from what this one has measured. attention: by our kernels beside sparse layers; or from
    the first step on, which is faster than torch's in bfloat16 too, and takes other roundings. Layers of a lower
    precision stay as they are. UsageError for the kernel "sparse" beside them, beside an accelerator or without masks;
    and from the first step of an optimizer that holds weights which have been replaced.
    """

    def __init__(
        self,
        model: Any,
        pruner: Pruner | None,
        kernel: TrainingKernel = "auto",
        autocast: torch.dtype | None = None,
        agree: Callable[[list[str]], list[str]] = lambda names: names,
        attention: Literal["sparse", "always"] = "sparse",
    ) -> None:
        self._pruner, self._attention = pruner, NativeAttention(model)
        self._always_attends = attention == "always" and not torch.accelerator.is_available()
        self._kernel, self._autocast, self._agree = kernel, autocast, agree
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> CpuTraining:
        with contextlib.ExitStack() as undo:
            undo.enter_context(torch_threads())
            if self._pruner is None:
                if self._kernel == "sparse":
                    raise UsageError(
                        'training.kernel = "sparse" is for training with zeros: this run has none; use "auto" or '
                        '"dense"'
                    )
                undo.callback(self._attention.switch, False)
                self._attention.switch(self._always_attends)
            else:
                undo.enter_context(_refusing_optimizers_of_replaced_weights(self._pruner))
                undo.enter_context(self._attention_follows(self._pruner))
                self._pruner.compute_sparse(self._agree(self._faster(self._pruner)) if self._may_be_sparse() else [])
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    @contextlib.contextmanager
    def _attention_follows(self, pruner: Pruner) -> Iterator[None]:
        pruner.on_change = lambda: self._attention.switch(self._always_attends or pruner.computes_sparse)
        try:
            yield
        finally:
            pruner.compute_dense()
            pruner.on_change = lambda: None
            self._attention.switch(False)

    def _may_be_sparse(self) -> bool:
        if not torch.accelerator.is_available() and (self._kernel != "dense" or self._always_attends):
            _native.keep_freed_memory()
        if self._kernel == "sparse" and torch.accelerator.is_available():
            raise UsageError('kernel "sparse" runs on CPUs: hide the accelerator, or use "auto"')
        return self._kernel != "dense" and not torch.accelerator.is_available()

    def _faster(self, pruner: Pruner) -> list[str]:
        """Layers that may compute sparse; of those that are still to be pruned, once few of their weights are left."""
        fit = {name: layer for name, layer in pruner.layers.items() if layer.weight.dtype == torch.float32}
        if self._kernel == "sparse":
            if unfit := pruner.layers.keys() - fit.keys():
                raise UsageError(
                    f'kernel "sparse" computes in float32, {min(unfit)} does not: load the model with dtype=float32'
                )
        elif pruner.schedule is None:
            return layers_faster_sparse(fit, self._autocast)
        elif self._autocast is not None:
            return layers_faster_sparse(fit, self._autocast, density=SPARSE_BELOW)
        return list(fit)


@contextlib.contextmanager
def sparse_training(model: Any, kernel: TrainingKernel = "auto") -> Iterator[Pruner]:
    """Lock the zeros of a transformers model and, on a CPU, let its layers compute and keep their non-zeros alone.

    Make the optimizer within: the parameters of such layers are one-dimensional there, and other objects than before
    and after. State dicts and saved folders have ordinary weights at any time. On leaving, the model is an ordinary one
    again, with every zero where it was.

    Memory that is freed within stays with the process from then on, for the tensors of the next step (glibc).

    kernel: "auto" takes the layers that gain, "sparse" all, "dense" masks them only. UsageError if the model has
    no zeros, for "sparse" beside an accelerator, or from the first step of an optimizer that was made before.

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
    with _locked(model, names, kernel) as pruner:
        yield pruner


@contextlib.contextmanager
def as_served(model: Any, layers: Mapping[str, LinearQuantization] | None = None) -> Iterator[None]:
    """Within it a model answers as it will when it serves: rounding as `layers` say, by its non-zeros alone on a CPU.

    A dense model, or one beside an accelerator, only rounds. Weights are the same afterwards, in new parameters. As in
    training, freed memory stays with the process (glibc). PruneonceError as of `quantized`.
    """
    names = [] if torch.accelerator.is_available() else names_with_zeros(model)
    with contextlib.ExitStack() as settings:
        if names:
            settings.enter_context(_locked(model, names))
        settings.enter_context(quantized(model, layers or {}))
        yield


def names_with_zeros(model: Any) -> list[str]:
    """Prunable linear layers of a transformers model that have been pruned."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return [
        name
        for name in family_of(model.config.model_type).prunable_linears(linears)
        if float((linears[name].weight == 0).float().mean()) >= LOCKED_FROM
    ]


@contextlib.contextmanager
def _locked(model: Any, names: list[str], kernel: TrainingKernel = "auto") -> Iterator[Pruner]:
    pruner = Pruner(model, names)
    try:
        with CpuTraining(model, pruner, kernel):
            yield pruner
    finally:
        pruner.bake()


@contextlib.contextmanager
def _refusing_optimizers_of_replaced_weights(pruner: Pruner) -> Iterator[None]:
    """A layer that keeps its non-zeros alone has another parameter: whoever holds the old one would train nothing."""
    # Weakly: a weight that nobody holds any more should not take its memory.
    before = {id(layer.trained): (name, layer, weakref.ref(layer.trained)) for name, layer in pruner.layers.items()}

    def check(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            name, layer, trained = before.get(id(parameter), ("", None, None))
            if layer is None or trained is None or trained() is not parameter:  # another's, at a freed one's address
                continue
            if all(parameter is not each for each in layer.parameters()):
                raise UsageError(
                    f"an optimizer holds {name}.weight, which has been replaced by its non-zeros, and would train "
                    "neither: make the optimizer within `with sparse_training(model):`, not before"
                )

    hook = register_optimizer_step_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()
