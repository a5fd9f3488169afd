"""A model in training, in the process that `worker` is: steps, what they take, and what they hold."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruneonce.bench.inference.cases import FIRST_WORD
from pruneonce.bench.inference.resident_memory import peak_bytes, reset_peak, resident_bytes
from pruneonce.bench.training.case import TrainingCase
from pruneonce.bench.training.parts import part_clock
from pruneonce.models import family_of
from pruneonce.models.hub import quiet_transformers
from pruneonce.recipe import Training
from pruneonce.sparsity.cpu_training import names_with_zeros
from pruneonce.sparsity.layers import Masked, Sparse, WorkingLinear
from pruneonce.sparsity.pruner import Pruner
from pruneonce.stages.setup import StageOptions, training_run
from pruneonce.tasks import ClassificationTask, class_of, get_task
from pruneonce.train.heads import HEADS, head_of
from pruneonce.train.losses import Batch
from pruneonce.train.objectives import TaskObjective
from pruneonce.train.task_model import load_task_model, takes_token_types
from pruneonce.train.trainer import TrainingRun, computing, parameter_groups

LABELS = ("negative", "positive")


class TrainingSubject:
    """One of `training_case.SUBJECTS`: "dense" is PyTorch as it comes, the others what `finetune` makes of the model.

    Its settings are the process's, so there is one subject to a process.
    """

    def __init__(self, name: str, case: TrainingCase) -> None:
        torch.set_num_threads(case.threads)
        quiet_transformers()
        gc.collect()
        self._resident_before = resident_bytes()
        self._run, self._settings = _prepare(name, case)
        training = self._run.training
        self.model: Any = self._run.hub_model
        self._optimizer = torch.optim.AdamW(
            parameter_groups(self._run),
            betas=(training.adam_beta1, training.adam_beta2),
            eps=training.adam_epsilon,
            fused=True,
        )
        self._batch = random_batch(case, int(self.model.config.vocab_size))
        self._totals = self._run.objective.counts(self._batch)
        self._steps_done = 0
        self._peak_since_step = False
        self.model.train()
        gc.collect()

    def close(self) -> None:
        """Give torch's threads back."""
        self._settings.close()

    def step(self) -> dict[str, float]:
        """One step: its loss, and the seconds of each phase. Gradients stay until the next one."""
        return self._step(dict)[0]

    def step_by_parts(self) -> dict[str, dict[str, float]]:
        """One step, by part: seconds of the forward and of the backward pass."""
        with part_clock(self.model, family_of(self.model.config.model_type)) as clock:
            _, forward, backward = self._step(clock.lap)
        return {part: {"forward": forward[part], "backward": backward[part]} for part in forward}

    def _step(self, lap: Callable[[], dict[str, float]]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """(seconds and loss, the lap of the forward pass, that of the backward pass)."""
        torch.manual_seed(self._run.seed + self._steps_done)  # of dropout
        self._steps_done += 1
        clearing = time.perf_counter()
        self._optimizer.zero_grad()
        cleared = time.perf_counter()
        lap()
        going = time.perf_counter()
        loss = self._run.objective.loss(self.model, self._batch, self._totals)
        gone = time.perf_counter()
        forward = lap()
        returning = time.perf_counter()
        loss.backward()
        returned = time.perf_counter()
        backward = lap()
        updating = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._run.training.max_grad_norm)
        self._optimizer.step()
        updated = time.perf_counter()
        seconds = {
            "forward": gone - going,
            "backward": returned - returning,
            "optimizer": cleared - clearing + updated - updating,
            "loss": float(loss.detach()),
        }
        return seconds, forward, backward

    def forget_peak(self) -> None:
        """The peak that `memory` reports is that of the steps from here on."""
        self._peak_since_step = reset_peak()

    def memory(self) -> dict[str, Any]:
        """Bytes after a step: counted from the tensors, and resident beyond what there was before the model.

        peak_of_steps: whether `peak` is that of the steps alone; otherwise it is the process's, loading included.
        """
        parameters = list(self.model.parameters())
        forms = [layer.form for layer in self.model.modules() if isinstance(layer, WorkingLinear)]
        patterns = (form.pattern_bytes for form in forms if isinstance(form, Sparse))
        masks = (form.mask for form in forms if isinstance(form, Masked))
        states = (value for state in self._optimizer.state.values() for value in state.values())
        return {
            "weights": _bytes(parameters),
            "gradients": _bytes(parameter.grad for parameter in parameters if parameter.grad is not None),
            "optimizer": _bytes(value for value in states if isinstance(value, Tensor)),
            "patterns": sum(patterns),
            "masks": _bytes(masks),
            "peak": peak_bytes() - self._resident_before,
            "peak_of_steps": self._peak_since_step,
        }

    def kernels(self) -> dict[str, Any]:
        """How the layers with zeros compute: how many sparse and dense, and the names of the dense ones."""
        pruner = self._run.pruner
        layers = pruner.layers if pruner is not None else {}
        family = family_of(self.model.config.model_type)
        dense = [family.encoder_name(name) for name, layer in layers.items() if not layer.computes_sparse]
        return {"layers": len(layers), "sparse": len(layers) - len(dense), "dense": dense}


def random_batch(case: TrainingCase, vocabulary: int) -> Batch:
    """Random words and labels, the same for every subject: sequences without padding."""
    random = np.random.default_rng(case.seed)
    shape = case.sequences, case.tokens
    batch = {
        "input_ids": random.integers(min(FIRST_WORD, vocabulary // 2), vocabulary, shape),
        "attention_mask": np.ones(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }
    batch |= HEADS[case.task].random_labels(random, case.sequences, case.tokens, len(LABELS))
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def _prepare(name: str, case: TrainingCase) -> tuple[TrainingRun, contextlib.ExitStack]:
    """The model as `finetune` would train it, and the settings of the process that hold meanwhile."""
    task = _task(case.task)
    torch.manual_seed(case.seed)  # of a head that the folder lacks
    model, new_parameters = load_task_model(case.folder, task)
    training = Training(
        learning_rate=case.learning_rate,
        steps=1,
        dropout=case.dropout,
        kernel=case.kernel if name == "ours" else "dense",
    )
    objective = TaskObjective((), head_of(task), pad_id=0, token_types=takes_token_types(model))
    pruner = Pruner(model, names_with_zeros(model)) if name != "dense" else None
    run = training_run(model, objective, training, 1, case.seed, StageOptions(Path()), pruner)
    run = replace(run, new_parameters=new_parameters)
    settings = contextlib.ExitStack()
    if name != "dense":
        settings.enter_context(computing(run))
    return run, settings


def _task(name: str) -> Any:
    return get_task(name, labels=LABELS if class_of(name) is ClassificationTask else ())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
