"""What a recipe would cost here: real forward and backward passes of its model, scaled to the whole run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pruneonce.convert.inspect_folder import inspect_folder
from pruneonce.cost.probe import TASK_RECIPES, Probe, config_of, probe
from pruneonce.data.corpus import Corpus
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.models.tokenizer import load_tokenizer
from pruneonce.recipe import (
    CompressRecipe,
    EvaluateRecipe,
    FinetuneRecipe,
    PruneRecipe,
    Pruning,
    QuantizeRecipe,
    Recipe,
    TeacherRecipe,
    Training,
)
from pruneonce.sparsity.cpu_training import LOCKED_FROM
from pruneonce.sparsity.patterns import pruned_count
from pruneonce.sparsity.schedules import schedule_of
from pruneonce.sparsity.training_kernel import few_left
from pruneonce.tasks.recipe_data import max_tokens_of, sample, task_of
from pruneonce.train.objectives import round_up
from pruneonce.train.teacher_answers import answers_pay, hidden_states_bytes
from pruneonce.train.trainer import CHECKPOINTS_KEPT, accumulation_for

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
ASSUMED_SPARSITY = 0.9  # of a pruned model that is not there to be measured


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


def estimate(
    recipe: Recipe, *, sparsity: float | None = None, unbuilt_corpus_tokens: int = UNBUILT_CORPUS_TOKENS
) -> Estimate:
    """Time a pass of the recipe's model with random weights here, and scale it. Nothing is trained or written.

    sparsity: that the recipe's model will have, where it has not been pruned yet; otherwise its folder is measured.
    unbuilt_corpus_tokens: per example, for a corpus that is not there yet.
    """
    training = recipe.training
    if training is None:
        raise UsageError("nothing to estimate: the recipe trains nothing")
    if isinstance(recipe, CompressRecipe):
        recipe = _of_typical_windows(recipe)
        training = recipe.training
    examples, tokens = _data_size(recipe, unbuilt_corpus_tokens)
    steps = training.total_steps(examples)
    locked = _locked_sparsity(recipe, sparsity)
    pruning = getattr(recipe, "pruning", None)
    found = probe(recipe, tokens, locked)
    seconds = _seconds_per_step(training, found)
    if pruning is not None:
        late = late_share(pruning, steps)
        pruned = probe(recipe, tokens, pruned=pruning.sparsity)
        seconds = (1 - late) * seconds + late * _seconds_per_step(training, pruned)
    trained_on = steps * training.batch_size
    task = isinstance(recipe, TASK_RECIPES)
    stored = (
        task and examples and answers_pay(trained_on, examples, hidden_bytes=_hidden_bytes(recipe, examples * tokens))
    )
    taught = examples if stored else trained_on
    seconds += taught * found.seconds_per_taught_example / steps
    # Held out text is answered by the original as well.
    seconds_per_answer = found.seconds_per_answer
    if isinstance(recipe, CompressRecipe):
        seconds_per_answer += found.seconds_per_taught_example
    latent = found.masked_parameters if pruning is not None else 0
    how = f"{1e3 * found.seconds_per_example:.0f} ms for an example of {tokens} tokens"
    return Estimate(
        steps=steps,
        tokens_per_step=tokens * training.batch_size,
        seconds_per_step=seconds,
        hours=steps * seconds / 3600,
        evaluation_hours=_validation_examples(recipe) * seconds_per_answer / 3600,
        memory_bytes=found.memory_bytes,
        disk_bytes=4 * found.parameters
        + CHECKPOINTS_KEPT * (4 * found.parameters + 8 * found.trained_parameters + 4 * latent),
        probe=how if locked is None else f"{how}, {locked:.0%} of the weights locked at 0",
    )


def _of_typical_windows(recipe: CompressRecipe) -> CompressRecipe:
    """All its windows of about the mean length, and as many in a batch as make the same tokens."""
    matching, training = recipe.matching, recipe.training
    shortest = min(matching.lengths)
    early, late = (sum(lengths) / len(lengths) for lengths in (matching.lengths, matching.late_lengths))
    mean = (1 - matching.late_share) * early + matching.late_share * late
    times = min(
        (each for each in range(1, training.batch_size + 1) if training.batch_size % each == 0),
        # Not longer than any window: the model might not take it.
        key=lambda each: (
            each * shortest > max(*matching.lengths, *matching.late_lengths),
            abs(each * shortest - mean),
        ),
    )
    micro = training.micro_batch_size and max(1, training.micro_batch_size // times)
    return replace(
        recipe,
        training=replace(training, batch_size=training.batch_size // times, micro_batch_size=micro),
        matching=replace(matching, lengths=(times * shortest,)),
    )


def _seconds_per_step(training: Training, found: Probe) -> float:
    passes = accumulation_for(training, 1)
    examples = training.batch_size * found.seconds_per_example
    return passes * found.seconds_per_pass + examples + found.seconds_per_update


def _hidden_bytes(recipe: Recipe, tokens: int) -> int:
    """What the hidden states that a teacher is asked for would take."""
    distillation = getattr(recipe, "distillation", None)
    if distillation is None or distillation.hidden_weight == 0:
        return 0
    config = config_of(recipe.model)
    layers = len(distillation.hidden_layers) or config.num_hidden_layers
    return hidden_states_bytes(tokens, layers, config.hidden_size)


def late_share(pruning: Pruning, steps: int) -> float:
    """Share of the steps in which so few weights are left that layers may multiply them alone."""
    schedule = schedule_of(pruning, steps)
    size = 1_000_000  # of a matrix whose zeros are counted, as its mask's are
    late = [
        few_left((size - pruned_count(size, schedule.sparsity_at(step))) / size)
        for step in range(0, steps, max(1, steps // 1000))
    ]
    return sum(late) / len(late)


def _locked_sparsity(recipe: Recipe, known: float | None) -> float | None:
    """Share of zeros that the recipe's model comes with and keeps; None if it has none, or they are not locked."""
    if not isinstance(recipe, TASK_RECIPES) or recipe.lock == "off" or getattr(recipe, "pruning", None) is not None:
        return None
    if known is not None:
        return known
    if Path(recipe.model).is_dir():
        found = inspect_folder(recipe.model).prunable.sparsity
        return found if found >= LOCKED_FROM else None
    return ASSUMED_SPARSITY if recipe.lock == "require" else None


def _data_size(recipe: Recipe, unbuilt_corpus_tokens: int) -> tuple[int, int]:
    """(training examples, tokens per example)."""
    if isinstance(recipe, CompressRecipe):
        (tokens,) = recipe.matching.lengths
        try:
            return int(Corpus(recipe.corpus, "train").lengths.sum()) // tokens, tokens
        except PruneonceError:
            return 0, tokens
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


def _measured(recipe: EvaluateRecipe | FinetuneRecipe | QuantizeRecipe) -> tuple[int, int]:
    """(training examples, windows counted; tokens of a typical one, padding to a multiple of 8 included)."""
    task = task_of(recipe.task)
    examples = task.read(recipe.task.train, training=True)
    some = sample(examples, TYPICAL_EXAMPLES, recipe.seed)
    features = task.features(some, load_tokenizer(recipe.model), max_tokens_of(recipe.task))
    lengths = [len(feature.input_ids) for feature in features]
    return round(len(examples) * len(features) / len(some)), round_up(round(sum(lengths) / len(lengths)), 8)


def _validation_examples(recipe: Recipe) -> int:
    """How many examples the final scoring reads; 0 where that is not known."""
    if isinstance(recipe, (TeacherRecipe, PruneRecipe, CompressRecipe)):
        return recipe.validation_examples
    file = recipe.task.validation
    found = len(task_of(recipe.task).read(file)) if file and Path(file).is_file() else 0
    return min(found, recipe.task.validation_examples or found)
