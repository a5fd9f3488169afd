"""Fine-tuning for a task, with the zeros of the model locked, or pruned on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from pruneonce.errors import UsageError
from pruneonce.evaluation.scoring import score
from pruneonce.files import sha256_file
from pruneonce.formats.model_folder import folder_digest
from pruneonce.formats.record import Provenance, check_masks, read_provenance
from pruneonce.models import family_of
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids
from pruneonce.recipe import FinetuneRecipe, QuantizeRecipe, Training
from pruneonce.sparsity.cpu_training import LOCKED_FROM, names_with_zeros
from pruneonce.sparsity.pruner import Pruner
from pruneonce.stages.lifecycle import (
    StageOptions,
    begin_stage,
    complete_stage,
    linear_names,
    set_dropout,
    total_steps,
)
from pruneonce.stages.pretraining import learning_rate_factor, scheduled_pruner
from pruneonce.tasks import Task
from pruneonce.tasks.recipe_data import (
    max_tokens_of,
    sample,
    task_of,
    train_source,
    validation_examples,
    validation_sources,
)
from pruneonce.train.objectives import TaskObjective
from pruneonce.train.processes import world_size
from pruneonce.train.task_model import load_task_model, match_vocabulary, takes_token_types
from pruneonce.train.teacher import Teacher
from pruneonce.train.teacher_logits import answers_pay, teacher_logits
from pruneonce.train.trainer import TrainingRun, autocast_of, checkpoints_folder


def run_finetune(recipe: FinetuneRecipe, options: StageOptions) -> Provenance:
    """Fine-tune, distilling from a task teacher if the recipe names one, and score on the validation data."""
    task = task_of(recipe.task)
    examples = validation_examples(recipe.task, task)  # before anything else: hours later is late for a wrong name
    inputs = task_inputs(recipe, task)
    if (done := begin_stage("finetune", recipe, inputs, options.out)) is not None:
        return done

    run, tokenizer = prepare_run(recipe, recipe.training, task, options)

    def score_validation() -> dict[str, float]:
        return score(run.hub_model, task, recipe.task, tokenizer, examples=examples, keep_in=options.out)

    return complete_stage("finetune", recipe, inputs, run, options, score_validation)


def prepare_run(
    recipe: FinetuneRecipe | QuantizeRecipe, training: Training, task: Task, options: StageOptions
) -> tuple[TrainingRun, Tokenizer]:
    """Everything that training on a task needs, zeros locked, and the tokenizer."""
    tokenizer = load_tokenizer(recipe.model)
    max_tokens = max_tokens_of(recipe.task)
    train_examples = sample(
        task.read(train_source(recipe.task), training=True), recipe.task.train_examples, recipe.seed
    )
    features = task.features(train_examples, tokenizer, max_tokens)
    torch.manual_seed(recipe.seed)
    model, new_parameters = load_task_model(recipe.model, task)
    set_dropout(model, training.dropout)
    steps = total_steps(training, len(features))
    pruning = recipe.pruning if isinstance(recipe, FinetuneRecipe) else None
    pruner = lock_zeros(model, recipe) if pruning is None else scheduled_pruner(model, pruning, steps)
    distillation = recipe.distillation
    teacher = None
    if distillation is not None:
        teacher = Teacher(load_task_model(distillation.teacher, task, trained=True)[0], autocast_of(training))
        match_vocabulary(model, teacher, distillation.teacher)
    pad_id = special_token_ids(tokenizer)["pad"]
    taught = None
    if teacher is not None and answers_pay(steps * training.batch_size, len(features), world_size()):
        taught = teacher_logits(
            teacher,
            task,
            features,
            pad_id,
            checkpoints_folder(options.out),
            on_progress=options.on_progress,
        )
        teacher = None
    objective = TaskObjective(
        features=features,
        kind=task.kind,
        pad_id=pad_id,
        token_types=takes_token_types(model),
        teacher=teacher,
        distillation=distillation,
        taught=taught,
    )
    run = TrainingRun(
        model=model,
        hub_model=model,
        objective=objective,
        training=training,
        steps=steps,
        seed=recipe.seed,
        folder=options.out,
        learning_rate_factor=learning_rate_factor(training, steps, pruning),
        pruner=pruner,
        teacher=teacher,
        new_parameters=new_parameters,
        on_progress=options.on_progress,
    )
    return run, tokenizer


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


def task_inputs(recipe: FinetuneRecipe | QuantizeRecipe, task: Task) -> dict[str, str]:
    """Digests of what the stage reads, by role."""
    sources = {"train": train_source(recipe.task)}
    sources |= {f"validation{name}": source for name, source in validation_sources(recipe.task, task).items()}
    inputs = {name: sha256_file(Path(source)) if Path(source).is_file() else source for name, source in sources.items()}
    inputs["model"] = folder_digest(recipe.model)
    if recipe.distillation is not None:
        if not recipe.distillation.teacher:
            raise UsageError("distillation.teacher is missing: a model folder that was fine-tuned for this task")
        inputs["teacher"] = folder_digest(recipe.distillation.teacher)
    return inputs
