"""The five stages: each opens its inputs, builds the run and completes it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from pruneonce.errors import UsageError
from pruneonce.folder_lock import filling
from pruneonce.formats.record import Provenance
from pruneonce.recipe import CompressRecipe, FinetuneRecipe, PruneRecipe, QuantizeRecipe, TeacherRecipe
from pruneonce.stages.compression import build_matching, open_texts
from pruneonce.stages.lifecycle import begin_stage, clear_leftovers, complete_stage
from pruneonce.stages.options import StageOptions
from pruneonce.stages.setup import build, open_inputs
from pruneonce.train.processes import is_main_process, world_size
from pruneonce.train.trainer import TrainingRun, WorkingModel


def run_teacher(recipe: TeacherRecipe, options: StageOptions) -> Provenance:
    """Teacher preparation: continue dense pre-training on the corpus that pruning will use."""
    return _run("teacher", recipe, options)


def run_prune(recipe: PruneRecipe, options: StageOptions) -> Provenance:
    """Gradual pruning during pre-training, distilled from the dense model it starts from."""
    return _run("prune", recipe, options)


def run_finetune(recipe: FinetuneRecipe, options: StageOptions) -> Provenance:
    """Fine-tune, distilling from a task teacher if the recipe names one, and score on the validation data."""
    return _run("finetune", recipe, options)


def run_quantize(recipe: QuantizeRecipe, options: StageOptions) -> Provenance:
    """Calibrate, train if the recipe says so, and save de-quantised weights beside their scales."""
    if world_size() > 1:
        raise UsageError("quantize runs in one process: the ranges of others would not be its own")
    return _run("quantize", recipe, options)


def run_compress(recipe: CompressRecipe, options: StageOptions) -> Provenance:
    """Gradual pruning of any supported model by matching the model itself on plain text."""
    return _complete(open_texts(recipe), build_matching, options)


def _run(
    stage: str, recipe: TeacherRecipe | PruneRecipe | FinetuneRecipe | QuantizeRecipe, options: StageOptions
) -> Provenance:
    return _complete(open_inputs(stage, recipe), build, options)


def _complete(inputs: Any, build: Callable[[Any, StageOptions], WorkingModel], options: StageOptions) -> Provenance:
    """Whatever `build` makes of the inputs, trained, scored and saved; or what an identical finished run was."""
    with filling(options.out) if is_main_process() else contextlib.nullcontext():
        done = begin_stage(inputs, options.out)
        if is_main_process():
            clear_leftovers(options)
        if done is not None:
            return done
        begun = time.monotonic()
        work = build(inputs, options)
        # Where nothing is trained, calibration is all there is.
        spent = 0.0 if isinstance(work, TrainingRun) else time.monotonic() - begun
        return complete_stage(inputs, work, options, spent)
