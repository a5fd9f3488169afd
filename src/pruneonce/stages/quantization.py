"""Quantising a fine-tuned model to 8 bits, in training or after it, with its zeros locked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pruneonce.errors import UsageError
from pruneonce.evaluation.scoring import score
from pruneonce.formats.record import Provenance
from pruneonce.models import family_of
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids
from pruneonce.recipe import QuantizeRecipe
from pruneonce.sparsity.quantizer import Quantizer, observing, quantizable_linears, quantize_layers
from pruneonce.stages.finetuning import lock_zeros, prepare_run, task_inputs
from pruneonce.stages.lifecycle import (
    Outcome,
    StageOptions,
    begin_stage,
    complete_stage,
    linear_names,
    save_outcome,
)
from pruneonce.tasks import Task
from pruneonce.tasks.recipe_data import max_tokens_of, sample, task_of, train_source, validation_examples
from pruneonce.train.processes import world_size
from pruneonce.train.task_model import load_task_model, torch_predict


def run_quantize(recipe: QuantizeRecipe, options: StageOptions) -> Provenance:
    """Calibrate, train if the recipe says so, and save de-quantised weights beside their scales."""
    if world_size() > 1:
        raise UsageError("quantize runs in one process: the ranges of others would not be its own")
    task = task_of(recipe.task)
    examples = validation_examples(recipe.task, task)
    inputs = task_inputs(recipe, task)
    if (done := begin_stage("quantize", recipe, inputs, options.out)) is not None:
        return done
    features = _calibration_features(recipe, task)
    if recipe.training is None:
        return _after_training(recipe, task, inputs, features, examples, options)
    run, tokenizer = prepare_run(recipe, recipe.training, task, options)
    quantizer = _calibrated(run.hub_model, recipe, task, features)
    run = replace(run, quantizer=quantizer)

    def score_validation() -> dict[str, float]:
        return score(run.hub_model, task, recipe.task, tokenizer, examples=examples, keep_in=options.out)

    return complete_stage("quantize", recipe, inputs, run, options, score_validation)


def _after_training(
    recipe: QuantizeRecipe,
    task: Task,
    inputs: dict[str, str],
    features: Sequence[Any],
    examples: dict[str, list[Any]],
    options: StageOptions,
) -> Provenance:
    begun = time.monotonic()
    model, _ = load_task_model(recipe.model, task, trained=True)
    pruner = lock_zeros(model, recipe)
    quantizer = _calibrated(model, recipe, task, features)
    outcome = Outcome(model, pruner, quantizer, steps=0, log=[], seconds=time.monotonic() - begun)
    tokenizer = load_tokenizer(recipe.model)
    return save_outcome(
        "quantize",
        recipe,
        inputs,
        outcome,
        options,
        lambda: score(model, task, recipe.task, tokenizer, examples=examples, keep_in=options.out),
    )


def _calibrated(model: Any, recipe: QuantizeRecipe, task: Task, features: Sequence[Any]) -> Quantizer:
    """The model's layers made to round, their ranges set by `features`."""
    names = quantizable_linears(linear_names(model), family_of(model.config.model_type), recipe.preset)
    quantizer = quantize_layers(model, names, preset=recipe.preset, begin_step=recipe.begin_step)
    with observing(quantizer):
        torch_predict(model, task, special_token_ids(load_tokenizer(recipe.model))["pad"])(features)
    return quantizer


def _calibration_features(recipe: QuantizeRecipe, task: Task) -> Sequence[Any]:
    examples = sample(task.read(train_source(recipe.task), training=True), recipe.calibration_examples, recipe.seed)
    features: Sequence[Any] = task.features(examples, load_tokenizer(recipe.model), max_tokens_of(recipe.task))
    if not len(features):
        raise UsageError(f"{train_source(recipe.task)} holds no examples to calibrate with")
    return features
