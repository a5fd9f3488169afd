"""Teacher preparation and pruning: both continue pre-training on a corpus, one dense, one towards zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pruneonce.data.corpus import Corpus
from pruneonce.errors import UsageError
from pruneonce.evaluation.evaluate import evaluate_language_model
from pruneonce.formats.model_folder import folder_digest
from pruneonce.formats.record import Provenance
from pruneonce.models import family_of
from pruneonce.models.hub import load_config, random_hub_model
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids
from pruneonce.recipe import PruneRecipe, Pruning, TeacherRecipe, Training
from pruneonce.sparsity.patterns import PATTERNS
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.schedules import PruningSchedule, linear_factor, rewinding_factor, warmup_steps_from_ratio
from pruneonce.stages.lifecycle import (
    StageOptions,
    begin_stage,
    complete_stage,
    linear_names,
    set_dropout,
    total_steps,
)
from pruneonce.train.language_model import load_language_model, pretraining_class
from pruneonce.train.objectives import PretrainingObjective
from pruneonce.train.teacher import Teacher
from pruneonce.train.trainer import TrainingRun, autocast_of


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


def run_teacher(recipe: TeacherRecipe, options: StageOptions) -> Provenance:
    """Teacher preparation: continue dense pre-training on the corpus that pruning will use."""
    return _run_pretraining("teacher", recipe, options)


def run_prune(recipe: PruneRecipe, options: StageOptions) -> Provenance:
    """Gradual magnitude pruning during pre-training, distilled from the dense model it starts from."""
    return _run_pretraining("prune", recipe, options)


def pruning_schedule(pruning: Pruning, steps: int) -> PruningSchedule:
    """The schedule of a recipe; steps it leaves out follow the original's proportions (50 %, 80 % and 1 % of all)."""
    if pruning.schedule == "one-shot":
        return PruningSchedule.one_shot(pruning.sparsity)
    policy_end = pruning.policy_end_step if pruning.policy_end_step is not None else steps // 2
    end = pruning.end_step if pruning.end_step is not None else max(policy_end, steps * 4 // 5)
    if end >= steps:
        raise UsageError(
            f"pruning.end_step ({end}) must be below training.steps ({steps}): the last mask needs training"
        )
    try:
        return PruningSchedule(
            final_sparsity=pruning.sparsity,
            begin_step=pruning.begin_step,
            end_step=end,
            policy_begin_step=pruning.policy_begin_step,
            policy_end_step=policy_end,
            frequency_steps=pruning.frequency_steps or max(1, steps // 100),
            initial_sparsity=pruning.initial_sparsity,
        )
    except ValueError as error:
        raise UsageError(f"pruning: {error}") from error


def scheduled_pruner(model: nn.Module, pruning: Pruning, steps: int) -> Pruner:
    """Masks on a Hugging Face model that grow by magnitude in the course of `steps`."""
    config: Any = model.config
    names = family_of(config.model_type).prunable_linears(linear_names(model), pooler=pruning.pooler)
    _check_pattern(model, names, pruning)
    return Pruner(model, names, pruning_schedule(pruning, steps), pruning.pattern)


def learning_rate_factor(training: Training, steps: int, pruning: Pruning | None = None) -> Callable[[int], float]:
    """step -> fraction of the peak rate: linear, or rewound along the pruning schedule."""
    warmup = warmup_steps_from_ratio(training.warmup_ratio, steps)
    if pruning is None or pruning.schedule == "one-shot":
        return lambda step: linear_factor(step, total_steps=steps, warmup_steps=warmup)
    schedule = pruning_schedule(pruning, steps)

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


def plan_pruning(recipe: PruneRecipe) -> list[PlannedMatrix]:
    """Every linear layer of the recipe's model with its target; reads the config, not the weights."""
    from accelerate import init_empty_weights

    config = load_config(recipe.model)
    family = family_of(config.model_type)
    with init_empty_weights():
        model = random_hub_model(pretraining_class(nsp=family.heads.next_sentence is not None), config)
    names = linear_names(model)
    pruned = family.prunable_linears(names, pooler=recipe.pruning.pooler)
    _check_pattern(model, pruned, recipe.pruning)
    pattern = PATTERNS[recipe.pruning.pattern]
    rows = []
    for name in names:
        rows_out, columns = model.get_submodule(name).weight.shape
        target = recipe.pruning.sparsity if name in pruned else 0.0
        zeros = pattern.zeros((rows_out, columns), target) if name in pruned else 0
        rows.append(PlannedMatrix(name, (rows_out, columns), target, zeros))
    return rows


def _check_pattern(model: nn.Module, names: Iterable[str], pruning: Pruning) -> None:
    """UsageError names a matrix that cannot have the pattern."""
    for name in names:
        weight: Any = model.get_submodule(name).weight
        try:
            PATTERNS[pruning.pattern].zeros(tuple(weight.shape), pruning.sparsity)
        except ValueError as error:
            raise UsageError(
                f'pruning.pattern "{pruning.pattern}": {name}.weight of {error}: set pruning.pattern = "unstructured"'
            ) from error


def _run_pretraining(stage: str, recipe: TeacherRecipe | PruneRecipe, options: StageOptions) -> Provenance:
    load_config(recipe.model)  # first of all: is this a model we know?
    pruning = recipe.pruning if isinstance(recipe, PruneRecipe) else None
    distillation = recipe.distillation if isinstance(recipe, PruneRecipe) else None
    if distillation is not None and not distillation.teacher:
        distillation = replace(distillation, teacher=recipe.model)
    corpus, held_out = Corpus(recipe.corpus, "train"), Corpus(recipe.corpus, "validation")
    inputs = {"model": folder_digest(recipe.model), "corpus": corpus.digest}
    if distillation is not None:
        inputs["teacher"] = folder_digest(distillation.teacher)
    if (done := begin_stage(stage, recipe, inputs, options.out)) is not None:
        return done

    nsp = corpus.layout == "segment_pair_nsp"
    special_ids = _corpus_special_ids(recipe.model, corpus)
    torch.manual_seed(recipe.seed)
    model, new_parameters = load_language_model(recipe.model, nsp=nsp, token_counts=corpus.token_counts)
    set_dropout(model, recipe.training.dropout)
    teacher = None
    if distillation is not None:
        teacher = _load_pretraining_teacher(distillation.teacher, nsp, autocast_of(recipe.training))
    objective = PretrainingObjective(
        corpus=corpus,
        special_ids=special_ids,
        seed=recipe.seed,
        nsp=nsp,
        mlm_probability=recipe.mlm_probability,
        teacher=teacher,
        distillation=distillation,
    )
    steps = total_steps(recipe.training, len(corpus))
    pruner = None
    if pruning is not None:
        pruner = scheduled_pruner(model.model, pruning, steps)
    run = TrainingRun(
        model=model,
        hub_model=model.model,
        objective=objective,
        training=recipe.training,
        steps=steps,
        seed=recipe.seed,
        folder=options.out,
        learning_rate_factor=learning_rate_factor(recipe.training, steps, pruning),
        pruner=pruner,
        teacher=teacher,
        new_parameters=new_parameters,
        on_progress=options.on_progress,
    )

    def score() -> dict[str, float]:
        questions = replace(objective, corpus=held_out, teacher=None, distillation=None)
        return evaluate_language_model(model, questions, examples=recipe.validation_examples)

    return complete_stage(stage, recipe, inputs, run, options, score)


def _load_pretraining_teacher(path: str, nsp: bool, autocast: torch.dtype | None) -> Teacher:
    teacher, missing = load_language_model(path, nsp=nsp)
    if missing:
        raise UsageError(
            f"the teacher {path} has no pre-training heads (missing {missing[0]}): run `pruneonce teacher` on it first"
        )
    return Teacher(teacher, autocast)


def _corpus_special_ids(model: str, corpus: Corpus) -> dict[str, int]:
    tokenizer = load_tokenizer(model)
    if tokenizer.get_vocab_size() != corpus.vocab_size:
        raise UsageError(
            f"{model} has a vocabulary of {tokenizer.get_vocab_size()}, the corpus was built with {corpus.vocab_size}: "
            "build the corpus with this model's tokenizer"
        )
    return special_token_ids(tokenizer)
