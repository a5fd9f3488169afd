"""What a stage begins with: its inputs, each read once, and the run that is built from them.

`open_inputs` reads little and finds what is wrong; `build` loads models and makes everything that training needs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from pruneonce.data.corpus import Corpus
from pruneonce.errors import UsageError
from pruneonce.evaluation.evaluate import evaluate_hidden_states, evaluate_language_model
from pruneonce.evaluation.scoring import score
from pruneonce.files import sha256_file
from pruneonce.formats.model_folder import folder_digest
from pruneonce.formats.sentence_folder import read_sentence_folder, write_sentence_folder
from pruneonce.models import family_of
from pruneonce.models.hub import load_config
from pruneonce.models.sentence import EmbeddingPlan
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids
from pruneonce.progress import counting
from pruneonce.recipe import (
    Distillation,
    FinetuneRecipe,
    PruneRecipe,
    Pruning,
    QuantizeRecipe,
    TaskData,
    TeacherRecipe,
    Training,
)
from pruneonce.sparsity.layers import linear_names
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.quantizer import (
    Quantizer,
    observing,
    quantizable_linears,
    quantize_layers,
    require_int8_attention,
)
from pruneonce.stages.options import StageOptions
from pruneonce.stages.pruning import learning_rate_factor, lock_zeros, scheduled_pruner
from pruneonce.tasks import EmbeddingTask, Task
from pruneonce.tasks.recipe_data import (
    max_tokens_of,
    sample,
    task_of,
    train_source,
    validation_examples,
    validation_sources,
    with_pooling_of,
)
from pruneonce.train.dropout import set_dropout
from pruneonce.train.encoder_model import load_encoder_model
from pruneonce.train.heads import head_of
from pruneonce.train.language_model import load_language_model
from pruneonce.train.losses import HiddenStatesLoss
from pruneonce.train.objectives import HiddenStatesObjective, Objective, PretrainingObjective, TaskObjective
from pruneonce.train.processes import world_size
from pruneonce.train.task_model import load_task_model, match_vocabulary, takes_token_types, torch_predict
from pruneonce.train.teacher import Teacher
from pruneonce.train.teacher_answers import HIDDEN_BYTES_KEPT, answers_pay, hidden_states_bytes, teacher_answers
from pruneonce.train.trainer import TrainingRun, WorkingModel, accumulation_for, autocast_of, checkpoints_folder

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusInputs:
    """What teacher preparation and pruning read."""

    stage: str
    recipe: TeacherRecipe | PruneRecipe
    config: Any  # of the recipe's model
    distillation: Distillation | None  # its teacher by name
    corpus: Corpus
    held_out: Corpus
    digests: dict[str, str]  # of what is read, by role

    @functools.cached_property
    def special_ids(self) -> dict[str, int]:
        """Of the model's tokenizer; UsageError unless the corpus was built with one of the same vocabulary."""
        tokenizer = load_tokenizer(self.recipe.model)
        if tokenizer.get_vocab_size() != self.corpus.vocab_size:
            raise UsageError(
                f"{self.recipe.model} has a vocabulary of {tokenizer.get_vocab_size()}, the corpus was built with "
                f"{self.corpus.vocab_size}: build the corpus with this model's tokenizer"
            )
        return special_token_ids(tokenizer)

    def score(self, work: WorkingModel, options: StageOptions) -> dict[str, float]:
        """Metrics on the documents held out."""
        assert isinstance(work, TrainingRun)
        objective, examples = work.objective, self.recipe.validation_examples
        model: Any = work.model
        scored = counting(options.on_progress, "scored")
        if isinstance(objective, HiddenStatesObjective):
            held_out = replace(objective, corpus=self.held_out)
            return evaluate_hidden_states(model, held_out, examples=examples, on_progress=scored)
        assert isinstance(objective, PretrainingObjective)
        questions = replace(objective, corpus=self.held_out, teacher=None, distillation=None)
        return evaluate_language_model(model, questions, examples=examples, on_progress=scored)


@dataclass(frozen=True)
class TaskInputs:
    """What fine-tuning and quantisation read."""

    stage: str
    recipe: FinetuneRecipe | QuantizeRecipe
    config: Any  # of the recipe's model
    task: Task
    validation: Mapping[str, Sequence[Any]]  # suffix of the metric names -> examples
    digests: dict[str, str]  # of what is read, by role

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.recipe.model)

    @functools.cached_property
    def training_examples(self) -> Sequence[Any]:
        """All of the training file."""
        return self.task.read(train_source(self.recipe.task), training=True)

    def features(self, count: int | None) -> Sequence[Any]:
        """`count` of the training examples, drawn with the seed, as the model takes them; None: all."""
        examples = sample(self.training_examples, count, self.recipe.seed)
        return self.task.features(examples, self.tokenizer, max_tokens_of(self.recipe.task))

    @property
    def pad_id(self) -> int:
        return special_token_ids(self.tokenizer)["pad"]

    def save_use(self, folder: Path) -> None:
        """Beside a model of vectors, what sentence-transformers loads it by: pooling, length, the prompts it had."""
        if not isinstance(self.task, EmbeddingTask):
            return
        before = read_sentence_folder(Path(self.recipe.model)) if Path(self.recipe.model).is_dir() else None
        had = before.plan if before is not None and isinstance(before.plan, EmbeddingPlan) else EmbeddingPlan()
        plan = replace(had, pooling=self.task.pooling, normalize=True, max_tokens=max_tokens_of(self.recipe.task))
        write_sentence_folder(folder, plan, self.config.hidden_size)

    def score(self, work: WorkingModel, options: StageOptions) -> dict[str, float]:
        """Metrics on the validation data; the answers are kept in the run's folder."""
        data, examples = self.recipe.task, self.validation
        scored = counting(options.on_progress, "scored")
        return score(
            work.hub_model,
            self.task,
            data,
            self.tokenizer,
            examples=examples,
            keep_in=options.out,
            on_progress=scored,
        )


def open_inputs(
    stage: str, recipe: TeacherRecipe | PruneRecipe | FinetuneRecipe | QuantizeRecipe
) -> CorpusInputs | TaskInputs:
    """Find what the recipe of a stage names, and read what it is scored on; UsageError or PruneonceError if it cannot.

    Before anything else: hours later is late for a wrong name.
    """
    if isinstance(recipe, (TeacherRecipe, PruneRecipe)):
        return _open_corpus(stage, recipe)
    task = task_of(with_pooling_of(recipe.task, recipe.model))
    validation = validation_examples(recipe.task, task)
    digests = _task_digests(recipe, task)
    config = load_config(recipe.model)
    if isinstance(recipe, QuantizeRecipe) and recipe.attention == "int8":
        require_int8_attention(config)
    _check_teacher(config, recipe.distillation)
    _check_vectors(config, task, recipe.distillation)
    return TaskInputs(stage, recipe, config, task, validation, digests)


def build(inputs: CorpusInputs | TaskInputs, options: StageOptions) -> WorkingModel:
    """Models, objective, masks and rounding of a stage: a `TrainingRun`, unless the recipe trains nothing."""
    if isinstance(inputs, CorpusInputs):
        return _build_pretraining(inputs, options)
    if inputs.recipe.training is None:
        return _build_untrained(inputs)
    calibrating = inputs.recipe if isinstance(inputs.recipe, QuantizeRecipe) else None
    features = None if calibrating is None else _calibration_features(inputs)  # first of all: are there any?
    run = _build_task(inputs, inputs.recipe.training, options)
    if features is None:
        return run
    return replace(run, quantizer=_calibrated(run.hub_model, inputs, features))


def training_run(
    model: nn.Module,
    objective: Objective,
    training: Training,
    steps: int,
    seed: int,
    options: StageOptions,
    pruner: Pruner | None = None,
    pruning: Pruning | None = None,
) -> TrainingRun:
    """How `steps` of an objective are trained: dropout, learning rate and masks as a recipe says.

    pruning: how zeros come, where `pruner` does not only lock them.
    """
    set_dropout(model, training.dropout)
    return TrainingRun(
        model=model,
        hub_model=model,
        objective=objective,
        training=training,
        steps=steps,
        seed=seed,
        folder=options.out,
        learning_rate_factor=learning_rate_factor(training, steps, pruning),
        pruner=pruner,
        on_progress=options.on_progress,
    )


# ---------------------------------------------------------------------------------------------------- pre-training


def _open_corpus(stage: str, recipe: TeacherRecipe | PruneRecipe) -> CorpusInputs:
    config = load_config(recipe.model)  # first of all: is this a model we know?
    distillation = recipe.distillation if isinstance(recipe, PruneRecipe) else None
    if distillation is not None and not distillation.teacher:
        distillation = replace(distillation, teacher=recipe.model)
    corpus, held_out = Corpus(recipe.corpus, "train"), Corpus(recipe.corpus, "validation")
    digests = {"model": folder_digest(recipe.model), "corpus": corpus.digest}
    if distillation is not None:
        digests["teacher"] = folder_digest(distillation.teacher)
    _check_teacher(config, distillation)
    if distillation is not None and distillation.hidden_alone:
        last = max(distillation.hidden_layers, default=config.num_hidden_layers)
        if last < config.num_hidden_layers:
            raise UsageError(
                f"distillation.hidden_layers ends at layer {last} of {config.num_hidden_layers}: those above would be "
                f"pruned without a loss; add {config.num_hidden_layers}"
            )
    return CorpusInputs(stage, recipe, config, distillation, corpus, held_out, digests)


def _build_pretraining(inputs: CorpusInputs, options: StageOptions) -> TrainingRun:
    recipe, corpus, distillation = inputs.recipe, inputs.corpus, inputs.distillation
    special_ids = inputs.special_ids
    torch.manual_seed(recipe.seed)
    autocast = autocast_of(recipe.training)
    model: Any
    objective: HiddenStatesObjective | PretrainingObjective
    new_parameters: Sequence[str] = ()
    teacher = None
    if distillation is not None and distillation.hidden_alone:
        model = load_encoder_model(recipe.model)
        teacher = Teacher(load_encoder_model(distillation.teacher), autocast)
        objective = HiddenStatesObjective(
            corpus, special_ids["pad"], teacher, distillation.hidden_layers, distillation.hidden_weight
        )
    else:
        nsp = corpus.layout == "segment_pair_nsp"
        model, new_parameters = load_language_model(recipe.model, nsp=nsp, token_counts=corpus.token_counts)
        if distillation is not None:
            teacher = _pretraining_teacher(distillation.teacher, nsp, autocast)
        objective = PretrainingObjective(
            corpus=corpus,
            special_ids=special_ids,
            seed=recipe.seed,
            nsp=nsp,
            mlm_probability=recipe.mlm_probability,
            teacher=teacher,
            distillation=distillation,
        )
    steps = recipe.training.total_steps(len(corpus))
    pruning = recipe.pruning if isinstance(recipe, PruneRecipe) else None
    pruner = None
    if pruning is not None:
        pruner = scheduled_pruner(model.model, pruning, steps)
        _check_reached(pruner, distillation)
    run = training_run(model, objective, recipe.training, steps, recipe.seed, options, pruner, pruning)
    return replace(run, hub_model=model.model, teacher=teacher, new_parameters=new_parameters)


def _pretraining_teacher(path: str, nsp: bool, autocast: torch.dtype | None) -> Teacher:
    teacher, missing = load_language_model(path, nsp=nsp)
    if missing:
        raise UsageError(
            f"the teacher {path} has no pre-training heads (missing {missing[0]}): run `pruneonce teacher` on it first"
        )
    return Teacher(teacher, autocast)


def _check_reached(pruner: Pruner, distillation: Distillation | None) -> None:
    """UsageError for weights that would be pruned and never trained: no hidden state depends on a pooler."""
    if distillation is None or not distillation.hidden_alone:
        return
    for name, layer in pruner.layers.items():
        if not next(layer.parameters()).requires_grad:
            raise UsageError(f"no loss on hidden states reaches {name}: set pruning.pooler = false to leave it dense")


# ----------------------------------------------------------------------------------------------------------- tasks


def _build_task(inputs: TaskInputs, training: Training, options: StageOptions) -> TrainingRun:
    """Everything that training on a task needs: zeros locked, or pruned on the way."""
    recipe, task, pad_id = inputs.recipe, inputs.task, inputs.pad_id
    features = inputs.features(recipe.task.train_examples)
    _check_losses(task, features, training, recipe.distillation)
    torch.manual_seed(recipe.seed)
    model, new_parameters = load_task_model(recipe.model, task)
    steps = training.total_steps(len(features))
    pruning = recipe.pruning if isinstance(recipe, FinetuneRecipe) else None
    pruner = lock_zeros(model, recipe) if pruning is None else scheduled_pruner(model, pruning, steps)
    distillation, teacher, stored = recipe.distillation, None, None
    if distillation is not None:
        loaded, _ = load_task_model(distillation.teacher, task, trained=True)
        match_vocabulary(model, loaded, distillation.teacher)
        if distillation.hidden_alone and new_parameters:
            raise UsageError(
                f"{recipe.model} has no head for the task (missing {new_parameters[0]}), and hidden states alone train "
                "none: set distillation.kd_weight or hard_weight as well"
            )
        teacher = Teacher(loaded, autocast_of(training))
        if _store_answers(inputs, steps * training.batch_size, features, distillation):
            hidden = HiddenStatesLoss(distillation.hidden_weight, distillation.hidden_layers)
            stored = teacher_answers(
                teacher,
                task,
                features,
                pad_id,
                checkpoints_folder(options.out),
                hidden if hidden.weight > 0 else None,
                on_progress=counting(options.on_progress, "answers"),
            )
            teacher = None
    objective = TaskObjective(
        features=features,
        head=head_of(task),
        pad_id=pad_id,
        token_types=takes_token_types(model),
        teacher=teacher,
        distillation=distillation,
        stored=stored,
        hidden_steps=0 if distillation is None else round(distillation.hidden_first * steps),
    )
    run = training_run(model, objective, training, steps, recipe.seed, options, pruner, pruning)
    return replace(run, teacher=teacher, new_parameters=new_parameters)


def _store_answers(
    inputs: TaskInputs, examples_trained: int, features: Sequence[Any], distillation: Distillation
) -> bool:
    """Whether the teacher answers beforehand; says why not where only the size of its hidden states speaks against."""
    asked = examples_trained, len(features), world_size()
    hidden_bytes = 0
    if distillation.hidden_weight > 0:
        tokens = sum(len(feature.input_ids) for feature in features)
        layers = len(distillation.hidden_layers) or inputs.config.num_hidden_layers
        hidden_bytes = hidden_states_bytes(tokens, layers, inputs.config.hidden_size)
    pays = answers_pay(*asked, hidden_bytes)
    if answers_pay(*asked) and not pays:
        _log.warning(
            "the teacher is asked in every step: its hidden states of all examples would take %.1f GB, and at most "
            "%.1f GB are kept",
            hidden_bytes / 1e9,
            HIDDEN_BYTES_KEPT / 1e9,
        )
    return pays


def _build_untrained(inputs: TaskInputs) -> WorkingModel:
    """Quantised after training."""
    features = _calibration_features(inputs)
    model, _ = load_task_model(inputs.recipe.model, inputs.task, trained=True)
    pruner = lock_zeros(model, inputs.recipe)
    return WorkingModel(hub_model=model, pruner=pruner, quantizer=_calibrated(model, inputs, features))


def _calibration_features(inputs: TaskInputs) -> Sequence[Any]:
    assert isinstance(inputs.recipe, QuantizeRecipe)
    features = inputs.features(inputs.recipe.calibration_examples)
    if not len(features):
        raise UsageError(f"{train_source(inputs.recipe.task)} holds no examples to calibrate with")
    return features


def _calibrated(model: Any, inputs: TaskInputs, features: Sequence[Any]) -> Quantizer:
    """The model's layers made to round, their ranges set by `features`."""
    recipe = inputs.recipe
    assert isinstance(recipe, QuantizeRecipe)
    names = quantizable_linears(linear_names(model), family_of(model.config.model_type), recipe.preset)
    quantizer = quantize_layers(
        model, names, preset=recipe.preset, begin_step=recipe.begin_step, attention=recipe.attention
    )
    with observing(quantizer):
        torch_predict(model, inputs.task, inputs.pad_id)(features)
    return quantizer


def _task_digests(recipe: FinetuneRecipe | QuantizeRecipe, task: Task) -> dict[str, str]:
    """Digests of what the stage reads, by role."""
    sources = {"train": train_source(recipe.task)}
    sources |= {f"validation{name}": source for name, source in validation_sources(recipe.task, task).items()}
    digests = {
        name: sha256_file(Path(source)) if Path(source).is_file() else source for name, source in sources.items()
    }
    digests["model"] = folder_digest(recipe.model)
    if isinstance(task, EmbeddingTask):
        digests["pooling"] = "+".join(task.pooling)  # may be the model folder's, in a file that no digest covers
    if recipe.distillation is not None:
        if not recipe.distillation.teacher:
            raise UsageError("distillation.teacher is missing: a model folder that was fine-tuned for this task")
        digests["teacher"] = folder_digest(recipe.distillation.teacher)
    return digests


def _check_vectors(config: Any, task: Task, distillation: Distillation | None) -> None:
    """UsageError for a teacher whose vectors cannot be compared with the student's."""
    if not isinstance(task, EmbeddingTask) or distillation is None or distillation.kd_weight == 0:
        return
    theirs = load_config(distillation.teacher).hidden_size
    if theirs != config.hidden_size:
        raise UsageError(
            f"teacher {distillation.teacher} has vectors of {theirs}, the model of {config.hidden_size}: take a "
            "teacher of the same size, or set distillation.kd_weight = 0"
        )
    data = with_pooling_of(TaskData("embedding"), distillation.teacher)
    if data.pooling and data.pooling != task.pooling:
        raise UsageError(
            f"teacher {distillation.teacher} pools {' + '.join(data.pooling)}, the model {' + '.join(task.pooling)}: "
            f"set task.pooling = {list(data.pooling)}"
        )


def _check_losses(task: Task, features: Sequence[Any], training: Training, distillation: Distillation | None) -> None:
    """UsageError for texts without a loss, and for parts of a batch that would not see each other's texts."""
    if not isinstance(task, EmbeddingTask) or (distillation is not None and distillation.hard_weight == 0):
        return
    if len(features) and len(features[0].sequences) == 1:
        raise UsageError(
            f"{task.text} alone says nothing of which texts belong together: add a column {task.text_pair}, or give a "
            "teacher, and set distillation.hard_weight = 0"
        )
    if not task.label and (world_size() > 1 or accumulation_for(training, 1) > 1):
        raise UsageError(
            "pairs are told from the others of their batch, which must be in one place: train in one process, and "
            "without training.micro_batch_size"
        )


def _check_teacher(config: Any, distillation: Distillation | None) -> None:
    """UsageError for a teacher whose hidden states are of another shape than the student's, or layers it has not."""
    if distillation is None or distillation.hidden_weight == 0:
        return
    layers = config.num_hidden_layers
    if max(distillation.hidden_layers, default=0) > layers:
        raise UsageError(
            f"distillation.hidden_layers names layer {max(distillation.hidden_layers)}, the model has {layers}"
        )
    theirs = load_config(distillation.teacher)
    found = theirs.num_hidden_layers, theirs.hidden_size, theirs.vocab_size
    wanted = layers, config.hidden_size, config.vocab_size
    if found != wanted:
        shapes = ["{} layers of {} with a vocabulary of {}".format(*shape) for shape in (found, wanted)]
        raise UsageError(
            f"teacher {distillation.teacher} has {shapes[0]}, the model {shapes[1]}: to match hidden states they must "
            "be the same; take another teacher, or set distillation.hidden_weight = 0"
        )
