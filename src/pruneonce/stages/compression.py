"""The stage `compress`: a model is pruned by matching the model itself on plain text."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pruneonce.data.corpus import Corpus
from pruneonce.data.windows import Windows, windows_for
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.model_folder import folder_digest
from pruneonce.formats.sentence_folder import read_sentence_folder
from pruneonce.models import encoder_plan_of
from pruneonce.models.hub import load_config
from pruneonce.models.sentence import EmbeddingPlan, Pooling
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import CompressRecipe
from pruneonce.sparsity.native_attention import NativeAttention
from pruneonce.sparsity.sensitivity import Sensitivity
from pruneonce.stages.options import StageOptions
from pruneonce.stages.pruning import scheduled_pruner
from pruneonce.stages.setup import training_run
from pruneonce.train.encoder_model import load_encoder_model
from pruneonce.train.heads import HEADS, Head
from pruneonce.train.matching import MatchingObjective, held_out_error
from pruneonce.train.teacher import Teacher
from pruneonce.train.trainer import TrainingRun, WorkingModel, autocast_of


@dataclass(frozen=True)
class TextInputs:
    """What compression reads."""

    recipe: CompressRecipe
    config: Any  # of the recipe's model
    corpus: Corpus
    held_out: Corpus
    digests: dict[str, str]  # of what is read, by role
    stage: str = "compress"

    def windows(self) -> Windows:
        """Of the texts that are trained on; UsageError unless their tokenizer had a vocabulary of the model's size."""
        tokenizer = load_tokenizer(self.recipe.model)
        if tokenizer.get_vocab_size() != self.corpus.vocab_size:
            raise UsageError(
                f"{self.recipe.model} has a vocabulary of {tokenizer.get_vocab_size()}, the corpus was built with "
                f"{self.corpus.vocab_size}: build the corpus with this model's tokenizer"
            )
        return windows_for(self.corpus, tokenizer, self.recipe.matching.pairs)

    def score(self, work: WorkingModel, options: StageOptions) -> dict[str, float]:
        """How far the model is from the original on the documents held out."""
        assert isinstance(work, TrainingRun)
        assert isinstance(work.objective, MatchingObjective)
        windows = replace(work.objective.windows, corpus=self.held_out)
        return held_out_error(work.model, replace(work.objective, windows=windows), self.recipe.validation_examples)


def open_texts(recipe: CompressRecipe) -> TextInputs:
    """Find what the recipe names; UsageError or PruneonceError if it cannot be."""
    config = load_config(recipe.model)  # first of all: is this a model we know?
    corpus, held_out = Corpus(recipe.corpus, "train"), Corpus(recipe.corpus, "validation")
    given = recipe.matching
    longest = max(*given.lengths, *given.late_lengths)
    positions = encoder_plan_of(config.to_dict(), recipe.model).max_tokens
    if longest > positions:
        raise UsageError(f"matching asks for windows of {longest} tokens, {recipe.model} takes {positions} at most")
    if max(given.hidden_layers, default=config.num_hidden_layers) != config.num_hidden_layers:
        raise UsageError(
            f"matching.hidden_layers must end at the last layer, {config.num_hidden_layers}: those above the last that "
            f"is matched would be pruned without a loss; got {list(given.hidden_layers)}"
        )
    if recipe.pruning.pooler:
        raise UsageError("no hidden state reaches a pooler: set pruning.pooler = false to leave it dense")
    if given.logits_weight > 0 and _head_of(config) is None:
        raise UsageError(
            f"matching.logits_weight matches what a head says of a whole text, and {recipe.model} has none: set it to 0"
        )
    digests = {"model": folder_digest(recipe.model), "corpus": corpus.digest}
    return TextInputs(recipe, config, corpus, held_out, digests)


def build_matching(inputs: TextInputs, options: StageOptions) -> TrainingRun:
    """The model, its original as a teacher, and masks that grow."""
    recipe, matching = inputs.recipe, inputs.recipe.matching
    windows = inputs.windows()
    torch.manual_seed(recipe.seed)
    autocast = autocast_of(recipe.training)
    model: Any = load_encoder_model(recipe.model)
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise PruneonceError(f"{recipe.model}: {name} is not finite, so there is nothing to match: get it again")
    model.model.get_input_embeddings().weight.requires_grad_(matching.train_word_embeddings)
    original = load_encoder_model(recipe.model)
    NativeAttention(original.model).switch(not torch.accelerator.is_available())
    steps = recipe.training.total_steps(_windows_in(inputs))
    objective = MatchingObjective(
        windows=windows,
        pad_id=windows.special_ids["pad"],
        teacher=Teacher(original, autocast),
        matching=matching,
        seed=recipe.seed,
        steps=steps,
        places=recipe.training.batch_size,
        head=_head_of(inputs.config),
        pooling=_pooling_of(recipe.model),
    )
    pruner = scheduled_pruner(model.model, recipe.pruning, steps)
    criterion = pruner.criterion
    run = training_run(model, objective, recipe.training, steps, recipe.seed, options, pruner, recipe.pruning)
    return replace(
        run,
        hub_model=model.model,
        teacher=objective.teacher,
        native_attention=True,
        measure=functools.partial(objective.measure, model, criterion, dict(pruner.layers), autocast)
        if isinstance(criterion, Sensitivity)
        else None,
    )


def _windows_in(inputs: TextInputs) -> int:
    """Windows of the shortest length that the corpus makes: what an epoch is counted in."""
    return max(1, int(inputs.corpus.lengths.sum()) // min(inputs.recipe.matching.lengths))


def _head_of(config: Any) -> Head | None:
    """By which the model answers whole texts; None for a bare one, and for heads that answer every token."""
    named = str((config.architectures or [""])[0])
    if named.endswith("ForQuestionAnswering"):
        return HEADS["question_answering"]
    if named.endswith("ForSequenceClassification"):
        return HEADS["classification" if config.num_labels > 1 else "regression"]
    return None


def _pooling_of(model: str) -> tuple[Pooling, ...]:
    """As the folder says, if it is one of sentence-transformers; else the mean."""
    found = read_sentence_folder(Path(model)) if Path(model).is_dir() else None
    return found.plan.pooling if found is not None and isinstance(found.plan, EmbeddingPlan) else ("mean",)
