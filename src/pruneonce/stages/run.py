"""The four stages: each opens its inputs, builds the run and completes it."""

from __future__ import annotations

import contextlib
import time

from pruneonce.errors import UsageError
from pruneonce.folder_lock import filling
from pruneonce.formats.record import Provenance
from pruneonce.recipe import FinetuneRecipe, PruneRecipe, QuantizeRecipe, Recipe, TeacherRecipe
from pruneonce.stages.lifecycle import begin_stage, clear_leftovers, complete_stage
from pruneonce.stages.setup import StageOptions, build, open_inputs
from pruneonce.train.processes import is_main_process, world_size
from pruneonce.train.trainer import TrainingRun


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


def _run(stage: str, recipe: Recipe, options: StageOptions) -> Provenance:
    inputs = open_inputs(stage, recipe)
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
