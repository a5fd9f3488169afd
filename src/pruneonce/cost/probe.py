"""Time a pass of a recipe's model here, with random weights and the kernels that its training would use."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruneonce.models import family_of, known_shape
from pruneonce.models.hub import config_for, load_config, random_hub_model
from pruneonce.recipe import CompressRecipe, Distillation, FinetuneRecipe, QuantizeRecipe, Recipe, TeacherRecipe
from pruneonce.sparsity.cpu_training import CpuTraining, as_served
from pruneonce.sparsity.layers import Masked, Sparse, WorkingLinear
from pruneonce.sparsity.native_attention import NativeAttention
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.quantizer import quantize_layers
from pruneonce.sparsity.schedules import PruningSchedule
from pruneonce.train.dropout import set_dropout
from pruneonce.train.language_model import LanguageModel, pretraining_class
from pruneonce.train.trainer import accumulation_for, autocast_of

# Examples timed beside 1, so that what a pass costs by itself is told apart from its examples: at least so many, and
# at least so many tokens, for short examples are cheaper in company.
PROBE_EXAMPLES = 3
PROBE_TOKENS = 1024
PROBE_REPEATS = 4
LONG_PASS_SECONDS = 1.0  # a longer one is repeated once
TASK_RECIPES = (FinetuneRecipe, QuantizeRecipe)
ADAM_PROBE_SIZE = 4_000_000  # parameters; well beyond any cache
MLM_SHARE = 0.15  # of tokens, that have a vocabulary's logits computed


@dataclass(frozen=True)
class Probe:
    """A forward and backward pass takes seconds_per_pass + n x seconds_per_example."""

    seconds_per_pass: float  # what does not depend on the examples: masks above all
    seconds_per_example: float
    seconds_per_taught_example: float  # a dense teacher's forward pass
    seconds_per_answer: float  # of the trained model, scored
    seconds_per_update: float  # AdamW over all that is trained
    memory_bytes: int  # weights, gradients, moments, masks or patterns, and the activations of a micro-batch
    parameters: int  # as saved, zeros included
    trained_parameters: int  # non-zeros alone where layers compute so
    masked_parameters: int  # weights of layers that are multiplied by masks


def probe(recipe: Recipe, tokens: int, locked: float | None = None, pruned: float | None = None) -> Probe:
    """Time the training of `recipe` on examples of `tokens`. Nothing is trained or written.

    locked: share of zeros that the model comes with and keeps; None if it is dense, or to be pruned. pruned: share of
    zeros that pruning has come to.
    """
    assert recipe.training is not None
    autocast = autocast_of(recipe.training)
    distilled = is_distilled(recipe)
    logits = 1 if isinstance(recipe, TASK_RECIPES) else _logits_per_example(recipe, tokens)
    many = max(PROBE_EXAMPLES, PROBE_TOKENS // tokens)
    model = _random_model(recipe)
    set_dropout(model.model, recipe.training.dropout)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    inputs = _random_inputs(model, many, tokens, logits)
    with _native_attention(recipe, model):
        taught = _time_answers(model, inputs, autocast) / many if distilled else 0.0  # dense as yet
    with _as_trained(recipe, model, locked, pruned):
        model.train()
        one = _time_steps(model, _random_inputs(model, 1, tokens, logits), autocast)
        more = _time_steps(model, inputs, autocast)
        per_example = max(more - one, 0.0) / (many - 1) or more / many
        micro = -(-recipe.training.batch_size // accumulation_for(recipe.training, 1))
        activations = micro * _activation_bytes(model, _random_inputs(model, 1, tokens, logits))
        trained = sum(parameter.numel() for parameter in model.parameters())
        forms = [layer.form for layer in model.modules() if isinstance(layer, WorkingLinear)]
        masked = sum(form.mask.numel() for form in forms if isinstance(form, Masked))
        patterns = sum(form.pattern_bytes for form in forms if isinstance(form, Sparse))
        # Weights, gradients and two moments; a mask and a masked copy, or patterns.
        memory = 16 * trained + 5 * masked + patterns + activations
    with as_served(model.model):
        answers = _time_answers(model, inputs, None) / many
    return Probe(
        seconds_per_pass=max(one - per_example, 0.0),
        seconds_per_example=per_example,
        seconds_per_taught_example=taught,
        seconds_per_answer=answers,
        seconds_per_update=_adam_seconds_per_parameter() * trained,
        memory_bytes=memory + (4 * parameters if distilled else 0),
        parameters=parameters,
        trained_parameters=trained,
        masked_parameters=masked,
    )


def is_distilled(recipe: Recipe) -> bool:
    """Whether a teacher answers too: a named one, or the model's own original."""
    return isinstance(recipe, CompressRecipe) or getattr(recipe, "distillation", None) is not None


def _logits_per_example(recipe: Recipe, tokens: int) -> int:
    """Tokens of an example that pre-training computes a vocabulary's logits of."""
    distillation: Distillation | None = getattr(recipe, "distillation", None)
    if isinstance(recipe, CompressRecipe):
        return 0
    if distillation is not None and distillation.hidden_alone:
        return 0
    share = MLM_SHARE if distillation is None else max(MLM_SHARE, distillation.kd_tokens)
    return max(1, round(share * tokens))


def _random_model(recipe: Recipe) -> LanguageModel:
    config = config_of(recipe.model)
    nsp = family_of(config.model_type).heads.next_sentence is not None
    return LanguageModel(random_hub_model(pretraining_class(nsp=nsp), config), nsp=nsp)


def config_of(model: str) -> Any:
    """The config of a recipe's model."""
    # A published model's shape needs neither the network nor the folder of a stage that has not run yet
    # ("runs/bert-large/teacher").
    known = None if Path(model).is_dir() else known_shape(model)
    if known is None:
        return load_config(model)
    family, shape = known
    return config_for(family, family.config_of(shape))


@contextlib.contextmanager
def _as_trained(recipe: Recipe, model: LanguageModel, locked: float | None, pruned: float | None) -> Iterator[None]:
    """Within it the model's layers are what the recipe trains: plain, masked, or sparse. Zeros stay in the weights."""
    dense = isinstance(recipe, FinetuneRecipe) and recipe.pruning is None and locked is None
    if isinstance(recipe, TeacherRecipe) or dense:
        yield
        return
    assert recipe.training is not None
    linears = {name: module for name, module in model.model.named_modules() if isinstance(module, nn.Linear)}
    pruning = getattr(recipe, "pruning", None)
    names = model.family.prunable_linears(linears, pooler=pruning is None or pruning.pooler)
    if locked is not None:
        with torch.no_grad():
            for name in names:
                linears[name].weight[torch.rand_like(linears[name].weight) < locked] = 0.0
    at_once = None if pruned is None else PruningSchedule.one_shot(pruned)
    pruner = Pruner(model.model, names, at_once)
    quantizer = quantize_layers(model.model, names) if isinstance(recipe, QuantizeRecipe) else None
    with contextlib.ExitStack() as settings:
        if locked is not None or pruned is not None:
            training = recipe.training
            settings.enter_context(CpuTraining(model.model, pruner, training.kernel, autocast_of(training)))
            pruner.update(0)
        settings.enter_context(_native_attention(recipe, model))
        if quantizer is not None:
            quantizer.update(quantizer.begin_step)
        yield
    if quantizer is not None:
        quantizer.bake()
    pruner.bake()


@contextlib.contextmanager
def _native_attention(recipe: Recipe, model: LanguageModel) -> Iterator[None]:
    """Within it attention is by our kernels if the recipe's is from the first step on."""
    attention = NativeAttention(model.model)
    if isinstance(recipe, CompressRecipe):
        attention.switch(True)
    try:
        yield
    finally:
        attention.switch(False)


def _random_inputs(model: LanguageModel, examples: int, tokens: int, logits: int) -> dict[str, Tensor]:
    shape = (examples, tokens)
    return {
        "input_ids": torch.randint(model.config.vocab_size, shape),
        "attention_mask": torch.ones(shape, dtype=torch.int64),
        "token_type_ids": torch.zeros(shape, dtype=torch.int64),
        "positions": torch.arange(examples * logits),
    }


def _time_steps(model: LanguageModel, inputs: dict[str, Tensor], autocast: torch.dtype | None) -> float:
    """Least seconds of a forward and backward pass."""

    def step() -> None:
        with _precision(autocast):
            loss = _some_loss(model, inputs)
        loss.backward()
        model.zero_grad()

    return _least_seconds(step)


def _time_answers(model: LanguageModel, inputs: dict[str, Tensor], autocast: torch.dtype | None) -> float:
    """Least seconds of a forward pass."""
    model.eval()

    def answer() -> None:
        with torch.no_grad(), _precision(autocast):
            model(**inputs)

    return _least_seconds(answer)


def _least_seconds(action: Callable[[], None]) -> float:
    best = _seconds(action)
    for _ in range(PROBE_REPEATS - 1 if best < LONG_PASS_SECONDS else 1):
        best = min(best, _seconds(action))
    return best


def _seconds(action: Callable[[], None]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def _precision(autocast: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if autocast is None else torch.autocast("cpu", autocast)


def _activation_bytes(model: LanguageModel, inputs: dict[str, Tensor]) -> int:
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that kept its own output would keep itself

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _some_loss(model, inputs)
    return sum(size for address, size in kept.items() if address not in weights)


def _some_loss(model: LanguageModel, inputs: dict[str, Tensor]) -> Tensor:
    return torch.stack([logits.float().square().sum() for logits in model(**inputs).values()]).sum()


def _adam_seconds_per_parameter() -> float:
    weight = nn.Parameter(torch.zeros(ADAM_PROBE_SIZE))
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()
    return _seconds(optimizer.step) / ADAM_PROBE_SIZE
