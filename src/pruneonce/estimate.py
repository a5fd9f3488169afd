"""What a recipe would cost here: one real forward and backward pass of its model, scaled to the whole run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, BertConfig, DistilBertConfig

from pruneonce.architectures import prunable_linears
from pruneonce.data.pretraining import Corpus
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.language_model import LanguageModel, load_config
from pruneonce.objectives import round_up
from pruneonce.pruning.pruner import Pruner
from pruneonce.recipe import Distillation, FinetuneRecipe, PruneRecipe, QuantizeRecipe, Recipe, TeacherRecipe
from pruneonce.task_data import max_tokens_of, sample, task_of
from pruneonce.tokenization import load_tokenizer
from pruneonce.training import CHECKPOINTS_KEPT, accumulation_for

# Shapes of the published models, by a part of their names: an estimate needs neither the network nor the folder of a
# stage that has not run yet ("runs/bert-large/teacher").
KNOWN_SHAPES: dict[str, Callable[[], Any]] = {
    "distilbert": DistilBertConfig,
    "bert-large": lambda: BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
    "bert-base": BertConfig,
}
# Training examples of the public tasks, for recipes that count in epochs (GLUE and SQuAD 1.1 as distributed).
KNOWN_TRAINING_EXAMPLES = {
    "cola": 8_551,
    "mnli": 392_702,
    "mrpc": 3_668,
    "qnli": 104_743,
    "qqp": 363_846,
    "rte": 2_490,
    "squad": 87_599,
    "sst2": 67_349,
    "stsb": 5_749,
}
TYPICAL_EXAMPLES = 256  # of a training file, tokenised to find how long they are
UNBUILT_CORPUS_TOKENS = 512  # per example, while there is no corpus to measure
# Examples timed beside 1, so that what a pass costs by itself is told apart from its examples: at least so many, and
# at least so many tokens, for short examples are cheaper in company.
PROBE_EXAMPLES = 3
PROBE_TOKENS = 1024
PROBE_REPEATS = 4
LONG_PASS_SECONDS = 1.0  # a longer one is repeated once
TASK_RECIPES = (FinetuneRecipe, QuantizeRecipe)
ADAM_PROBE_SIZE = 4_000_000  # parameters; well beyond any cache


@dataclass(frozen=True)
class Estimate:
    """Cost of one process of a run; the tokens are an upper bound where the data is not there to measure."""

    steps: int
    tokens_per_step: int
    seconds_per_step: float
    hours: float  # of training
    evaluation_hours: float  # of the final scoring
    memory_bytes: int
    disk_bytes: int
    probe: str  # what was timed


def estimate(recipe: Recipe, *, unbuilt_corpus_tokens: int = UNBUILT_CORPUS_TOKENS) -> Estimate:
    """Time a pass of the recipe's model with random weights here, and scale it. Nothing is trained or written.

    unbuilt_corpus_tokens: per example, for a corpus that is not there yet.
    """
    training = recipe.training
    if training is None:
        raise UsageError("nothing to estimate: the recipe trains nothing")
    examples, tokens = _data_size(recipe, unbuilt_corpus_tokens)
    steps = training.steps or max(1, round((training.epochs or 0) * examples / training.batch_size))
    model = _random_model(recipe)
    distillation = getattr(recipe, "distillation", None)
    probe = _probe(recipe, model, tokens, distillation)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    prunable = sum(module.weight.numel() for _, module in _prunable(recipe, model))
    passes = accumulation_for(training, 1)
    micro = -(-training.batch_size // passes)
    seconds = passes * probe.seconds_per_pass + training.batch_size * probe.seconds_per_example
    seconds += _adam_seconds_per_parameter() * parameters
    return Estimate(
        steps=steps,
        tokens_per_step=tokens * training.batch_size,
        seconds_per_step=seconds,
        hours=steps * seconds / 3600,
        evaluation_hours=_validation_examples(recipe) * probe.seconds_per_answer / 3600,
        memory_bytes=_memory(parameters, prunable, distillation, micro * probe.activation_bytes),
        # A checkpoint holds weights and two moments; the latents behind the zeros come on top while pruning.
        disk_bytes=4 * parameters + CHECKPOINTS_KEPT * (12 * parameters + 4 * prunable),
        probe=f"{probe.seconds_per_example * 1e3:.0f} ms for an example of {tokens} tokens",
    )


@dataclass(frozen=True)
class _Probe:
    """A forward and backward pass, with the teacher's forward, takes seconds_per_pass + n x seconds_per_example."""

    seconds_per_pass: float  # what does not depend on the examples: masks above all
    seconds_per_example: float
    seconds_per_answer: float  # a forward pass of one example, among others
    activation_bytes: int  # of one example, kept for the backward pass


def _probe(recipe: Recipe, model: LanguageModel, tokens: int, distillation: Distillation | None) -> _Probe:
    model.train()
    share = 0.15 if distillation is None else max(0.15, distillation.kd_tokens)
    logits = 1 if isinstance(recipe, TASK_RECIPES) else max(1, round(share * tokens))  # per example

    def seconds(examples: int) -> float:
        inputs = _random_inputs(model, examples, tokens, logits)
        best = _time_pass(model, inputs, distillation)
        for _ in range(PROBE_REPEATS - 1 if best < LONG_PASS_SECONDS else 1):
            best = min(best, _time_pass(model, inputs, distillation))
        return best

    many = max(PROBE_EXAMPLES, PROBE_TOKENS // tokens)
    one, more = seconds(1), seconds(many)
    per_example = max(more - one, 0.0) / (many - 1) or more / many
    activations = _activation_bytes(model, _random_inputs(model, 1, tokens, logits))
    with torch.no_grad():
        inputs = _random_inputs(model, many, tokens, logits)
        begun = time.perf_counter()
        model(**inputs)
        answer = (time.perf_counter() - begun) / many
    return _Probe(max(one - per_example, 0.0), per_example, answer, activations)


def _random_inputs(model: LanguageModel, examples: int, tokens: int, logits: int) -> dict[str, torch.Tensor]:
    shape = (examples, tokens)
    return {
        "input_ids": torch.randint(model.config.vocab_size, shape),
        "attention_mask": torch.ones(shape, dtype=torch.int64),
        "token_type_ids": torch.zeros(shape, dtype=torch.int64),
        "positions": torch.arange(examples * logits),
    }


def _time_pass(model: LanguageModel, inputs: dict[str, torch.Tensor], distillation: Distillation | None) -> float:
    begun = time.perf_counter()
    _some_loss(model, inputs).backward()
    if distillation is not None:
        with torch.no_grad():
            model(**inputs)
    elapsed = time.perf_counter() - begun
    model.zero_grad()
    return elapsed


def _activation_bytes(model: LanguageModel, inputs: dict[str, torch.Tensor]) -> int:
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _some_loss(model, inputs)
    return sum(size for address, size in kept.items() if address not in weights)


def _some_loss(model: LanguageModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([logits.square().mean() for logits in model(**inputs).values()]).sum()


def _random_model(recipe: Recipe) -> LanguageModel:
    config = _config(recipe.model)
    nsp = config.model_type == "bert"
    loader = AutoModelForPreTraining if nsp else AutoModelForMaskedLM
    model = LanguageModel(loader.from_config(config), nsp=nsp)
    if not isinstance(recipe, TeacherRecipe):
        Pruner(model.model, [name for name, _ in _prunable(recipe, model)])
    return model


def _config(model: str) -> Any:
    if not Path(model).is_dir():
        for name, shape in KNOWN_SHAPES.items():
            if name in model:
                return shape()
    return load_config(model)


def _prunable(recipe: Recipe, model: LanguageModel) -> list[tuple[str, nn.Linear]]:
    if isinstance(recipe, TeacherRecipe):
        return []
    linears = {name: module for name, module in model.model.named_modules() if isinstance(module, nn.Linear)}
    return [(name, linears[name]) for name in prunable_linears(linears, model.architecture)]


def _data_size(recipe: Recipe, unbuilt_corpus_tokens: int) -> tuple[int, int]:
    """(training examples, tokens per example)."""
    if isinstance(recipe, (TeacherRecipe, PruneRecipe)):
        try:
            corpus = Corpus(recipe.corpus, "train")
        except PruneonceError:
            return 0, unbuilt_corpus_tokens
        return len(corpus), max(1, round(float(corpus.lengths.mean())))
    task = recipe.task
    tokens = max_tokens_of(task)
    if task.train and Path(task.train).is_file() and Path(recipe.model).is_dir():
        examples, tokens = _measured(recipe)
    elif task.train and Path(task.train).is_file():  # without the model's tokenizer: rows, at the longest they may be
        with open(task.train, "rb") as stream:
            examples = max(1, sum(1 for _ in stream) - 1)
    else:
        examples = KNOWN_TRAINING_EXAMPLES.get(task.name, 0)
    if task.train_examples is not None:
        examples = min(examples or task.train_examples, task.train_examples)
    if not examples and recipe.training is not None and recipe.training.steps is None:
        raise UsageError(
            f"training.epochs of '{task.name}' cannot be estimated: {task.train or 'no file'} is not there"
        )
    return examples, tokens


def _measured(recipe: FinetuneRecipe | QuantizeRecipe) -> tuple[int, int]:
    """(training examples, windows counted; tokens of a typical one, padding to a multiple of 8 included)."""
    task = task_of(recipe.task)
    examples = task.read(recipe.task.train, training=True)
    some = sample(examples, TYPICAL_EXAMPLES, recipe.seed)
    features = task.features(some, load_tokenizer(recipe.model), max_tokens_of(recipe.task))
    lengths = [len(feature.input_ids) for feature in features]
    return round(len(examples) * len(features) / len(some)), round_up(round(sum(lengths) / len(lengths)), 8)


def _validation_examples(recipe: Recipe) -> int:
    """How many examples the final scoring reads; 0 where that is not known."""
    if isinstance(recipe, (TeacherRecipe, PruneRecipe)):
        return recipe.validation_examples
    file = recipe.task.validation
    found = len(task_of(recipe.task).read(file)) if file and Path(file).is_file() else 0
    return min(found, recipe.task.validation_examples or found)


def _memory(parameters: int, prunable: int, distillation: Distillation | None, activations: int) -> int:
    """Weights, gradients and two Adam moments; mask and masked copy of what is pruned; the teacher; activations."""
    teacher = 4 * parameters if distillation is not None else 0
    return 16 * parameters + 5 * prunable + teacher + activations


def _adam_seconds_per_parameter() -> float:
    weight = nn.Parameter(torch.zeros(ADAM_PROBE_SIZE))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()
    begun = time.perf_counter()
    optimizer.step()
    return (time.perf_counter() - begun) / ADAM_PROBE_SIZE
