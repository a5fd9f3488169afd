"""Pruning within transformers' own Trainer: a callback over a `Pruner`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import replacing
from pruneonce.sparsity.pruner import Pruner
from pruneonce.train.checkpoints import PRUNER_FILE


class PruneCallback(TrainerCallback):
    """Lets a Trainer prune, or train with zeros locked: `Trainer(..., callbacks=[PruneCallback(prune_(model, ...))])`.

    Masks are recomputed when the pruner's schedule says so, as a function of the global step. A checkpoint holds masked
    weights, so that it loads anywhere and is sparse, and what they lack to go on from (`pruner.safetensors`):
    `trainer.train(resume_from_checkpoint=...)` goes on bit for bit. At the end the zeros are in the weights and the
    model is an ordinary one.

    resume_from: the checkpoint that training goes on from, if it is not in the Trainer's output folder. UsageError,
    when training begins, for an optimizer that holds other parameters than the model has; PruneonceError for a
    checkpoint without the pruner's state.
    """

    def __init__(self, pruner: Pruner, resume_from: str | Path | None = None) -> None:
        self.pruner = pruner
        self._resume_from = None if resume_from is None else Path(resume_from)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        check_optimizer(self.pruner, kwargs["optimizer"])
        if state.global_step:
            self._load(self._resume_from or _checkpoint(args, state))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.pruner.update(state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.pruner.observe()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        folder, model = _checkpoint(args, state), kwargs["model"]
        model.save_pretrained(folder, state_dict=self.pruner.masked_state(model.state_dict()))
        with replacing(folder / PRUNER_FILE) as temporary:
            save_file(self.pruner.state(), temporary)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load(Path(state.best_model_checkpoint))  # its weights are loaded by now, and go with its masks
        self.pruner.bake()

    def _load(self, checkpoint: Path) -> None:
        file = checkpoint / PRUNER_FILE
        if not file.is_file():
            raise PruneonceError(
                f"{checkpoint} has no {PRUNER_FILE}: it was saved without PruneCallback, or saving was interrupted; "
                "go on from an earlier checkpoint, and name it in resume_from where it is not in the output folder"
            )
        self.pruner.load_state(load_file(file))


def check_optimizer(pruner: Pruner, optimizer: torch.optim.Optimizer | Any) -> None:
    """UsageError unless the optimizer trains the weights that the pruner's layers have now."""
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        raise UsageError(f"PruneCallback expects a torch optimizer with param_groups, got {type(optimizer).__name__}")
    held = {id(parameter) for group in groups for parameter in group["params"]}
    for name, layer in pruner.layers.items():
        trained: nn.Parameter | Any = layer.trained
        if trained.requires_grad and id(trained) not in held:
            raise UsageError(
                f"the optimizer does not hold {name}.weight as the model has it: it was made for another model, or "
                "before its layers were changed; make it anew from model.parameters()"
            )


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
