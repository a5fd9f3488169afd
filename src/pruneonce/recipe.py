"""Recipes: what a stage reads and how it trains, from TOML into typed dataclasses.

An unknown key is an error that names it and the nearest known one; so is a value of the wrong type. Paths are
relative to the folder the command runs in.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, overload

from pruneonce.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Section = TypeVar("Section")
TrainingKernel = Literal["auto", "dense", "sparse"]
AttentionNumbers = Literal["fp32", "int8"]
SHORTEST_WINDOW = 16  # tokens that text is matched on
SEEDS = 1 << 32  # numpy's old generator, which transformers seeds too, takes 32 bits


@dataclass(frozen=True)
class Training:
    """How long and how fast to train. Defaults are those of the original code unless a line says otherwise."""

    learning_rate: float  # peak
    steps: int | None = None  # optimizer steps; either this or epochs
    epochs: float | None = None  # passes over the training examples
    batch_size: int = 32  # examples per optimizer step, summed over all processes and accumulation
    micro_batch_size: int | None = None  # examples per forward pass and process at most; None: the whole share
    head_learning_rate: float | None = None  # peak for heads that the checkpoint did not have; None: learning_rate
    warmup_ratio: float = 0.01
    weight_decay: float = 0.01  # not on biases and layer norms
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    dropout: float | None = None  # hidden and attention dropout; None: as the checkpoint's config says
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    # Of layers with zeros, on CPUs: sparse computes the non-zeros alone, and keeps no others if zeros are locked; while
    # they are still being found, from 80 % of them on. auto: where that is faster.
    kernel: TrainingKernel = "auto"
    group_by_length: bool = True  # batches of similar lengths, so that little padding is computed
    log_steps: int | None = None  # optimizer steps between log lines; None: a hundredth of all
    checkpoint_steps: int | None = None  # optimizer steps between checkpoints; None: a tenth of all
    dataloader_workers: int = 0  # processes that prepare batches beside each training process
    tensorboard: bool = False  # write event files too (needs the tensorboard extra)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise UsageError("training needs either steps or epochs, not both (--set training.epochs=false drops one)")
        _positive(self, "learning_rate", "head_learning_rate", "batch_size", "micro_batch_size", "steps", "epochs")
        _positive(self, "log_steps", "checkpoint_steps", "max_grad_norm")
        _fraction(self, "warmup_ratio", "dropout")

    def total_steps(self, examples: int) -> int:
        """Optimizer steps over a data set of `examples`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * examples / self.batch_size))


@dataclass(frozen=True)
class Pruning:
    """Target and schedule. Steps left out follow the original's proportions of `training.steps`."""

    sparsity: float = 0.9  # of every pruned matrix
    pattern: Literal["unstructured", "1x4"] = "unstructured"  # 1x4: blocks of four neighbouring inputs (ours)
    # What a weight is worth: its magnitude, as in the paper; or its sensitivity, which is that times what comes in and
    # what depends on the output (ours, sparsity/sensitivity.py; of `compress`, where hidden states are matched).
    criterion: Literal["magnitude", "sensitivity"] = "magnitude"
    allocation: Literal["uniform", "global"] = "uniform"  # of the zeros: alike in every matrix; or as if all were one
    targets: dict[str, float] = field(
        default_factory=dict
    )  # by role ("query", "down", …) another sparsity than the rest
    initial_sparsity: float = 0.0  # where the schedule starts; above 0 the first update goes straight there
    schedule: Literal["cubic", "one-shot"] = "cubic"  # one-shot: all at once before the first step, then locked
    pooler: bool = True  # prune BERT's pooler as the original does; False: the encoder only
    begin_step: int = 0
    end_step: int | None = None  # last mask update; None: 80 % of the steps
    policy_begin_step: int = 0
    policy_end_step: int | None = None  # final sparsity reached; None: 50 % of the steps
    frequency_steps: int | None = None  # steps between mask updates; None: 1 % of the steps
    rewind: Literal["exact", "original", "off"] = "exact"  # learning rate rewinding; "original" overshoots by 2 %

    def __post_init__(self) -> None:
        if not 0.0 < self.sparsity < 1.0:
            raise UsageError(f"pruning.sparsity must be between 0 and 1 (0.9 for 90 %), got {self.sparsity}")
        if not 0.0 <= self.initial_sparsity <= self.sparsity:
            raise UsageError(
                f"pruning.initial_sparsity must be from 0 to pruning.sparsity ({self.sparsity}), got "
                f"{self.initial_sparsity}"
            )
        for role, target in self.targets.items():
            if not 0.0 <= target < 1.0:
                raise UsageError(f"pruning.targets.{role} must be at least 0 and below 1, got {target}")
        if self.targets and self.allocation == "global":
            raise UsageError(
                'pruning.targets says how many zeros matrices get, and so does allocation = "global": drop one'
            )


@dataclass(frozen=True)
class Distillation:
    """Loss = hard_weight x loss on labels + kd_weight x KL to the teacher's logits + hidden_weight x hidden states.

    In pruning, hidden_weight alone trains on plain text, without labels or heads: the teacher may be any body.
    """

    teacher: str = ""  # model folder or Hub id; pruning takes `model` when empty
    hard_weight: float = 0.5
    kd_weight: float = 0.5
    temperature: float = 2.0
    kd_tokens: float = 1.0  # share of real tokens whose vocabulary distribution is matched (pre-training only)
    # Of the relative squared error of hidden states at all real tokens; the paper has none (SquareHead: 1.0 beside the
    # hard loss, Kurtic et al. 2023, arXiv:2310.06927). The teacher then has the student's layers and hidden size.
    hidden_weight: float = 0.0
    hidden_layers: tuple[int, ...] = ()  # 0: embeddings, 1: first transformer layer …; empty: every transformer layer
    # On a task: hidden states come first and alone, labels and logits after this share of the steps.
    hidden_first: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, "temperature")
        if not 0.0 <= self.hidden_first < 1.0:
            raise UsageError(f"distillation.hidden_first must be at least 0 and below 1, got {self.hidden_first}")
        if self.hidden_first and (self.hidden_weight == 0 or self.hidden_alone):
            raise UsageError(
                "distillation.hidden_first says when labels and logits join the hidden states: it needs hidden_weight "
                "and one of hard_weight and kd_weight"
            )
        weights = {name: getattr(self, name) for name in ("hard_weight", "kd_weight", "hidden_weight")}
        if min(weights.values()) < 0 or not any(weights.values()):
            given = ", ".join(f"{name} {weight}" for name, weight in weights.items())
            raise UsageError(f"distillation weights must not be negative, nor all 0; got {given}")
        _layers(self.hidden_layers, "distillation")
        if not 0.0 < self.kd_tokens <= 1.0:
            raise UsageError(f"distillation.kd_tokens must be above 0 and at most 1, got {self.kd_tokens}")

    @property
    def hidden_alone(self) -> bool:
        """Nothing but hidden states is matched."""
        return self.hard_weight == self.kd_weight == 0


@dataclass(frozen=True)
class TaskData:
    """Which task, and where its examples are."""

    # A GLUE task, "squad"; or for your own files "classification", "regression", "question_answering", "embedding",
    # "ranking".
    name: str
    train: str = ""  # file; empty: the task's split on the Hub
    validation: str = ""
    text: str = ""  # column names of your own files
    text_pair: str = ""
    label: str = ""
    labels: tuple[str, ...] = ()  # in the order of their ids; empty: found in the training file
    negative: str = ""  # embedding: column of texts that do not belong to the first of a pair
    label_max: float | None = None  # embedding, ranking: the largest label there is (5 for STS-B); None: 1
    pooling: tuple[str, ...] = ()  # embedding: as "mean", "cls"; empty: as the model's folder says, else the mean
    max_tokens: int | None = None  # per example or window; None: 384 for question answering, else 128
    stride_tokens: int | None = None  # overlap of question answering windows; None: 128
    train_examples: int | None = None  # use this many, drawn with the seed; None: all
    validation_examples: int | None = None


@dataclass(frozen=True)
class Matching:
    """What a compressed model is to have in common with its original, and on which windows of text.

    A step reads training.batch_size x the shortest length tokens, in windows of one length that is drawn for it.
    """

    hidden_weight: float = 1.0  # of the relative squared error of hidden states, as in [distillation]
    hidden_layers: tuple[int, ...] = ()  # as in [distillation]
    vectors_weight: float = 0.0  # of the squared distance of texts' vectors, of length 1 and pooled as the model's
    similarities_weight: float = 0.0  # of the relative squared error of the cosines between a step's texts
    logits_weight: float = 0.0  # of the divergence of what the model's head answers, where it has one for whole texts
    temperature: float = 1.0  # of those answers
    lengths: tuple[int, ...] = (32, 64, 128, 192)  # tokens of a window, special tokens included
    late_lengths: tuple[int, ...] = (128, 384)  # in the last part: as long as texts will be in use
    late_share: float = 0.33  # of the steps
    pairs: float = 0.5  # share of windows of two texts, a sentence and a passage, as questions and answers come
    # Of MiniLM, half of what an optimizer step writes, and nothing is gained by it (docs/compress.md).
    train_word_embeddings: bool = False

    def __post_init__(self) -> None:
        _positive(self, "hidden_weight", "temperature")
        _layers(self.hidden_layers, "matching")
        for name in ("vectors_weight", "similarities_weight", "logits_weight"):
            if getattr(self, name) < 0:
                raise UsageError(f"matching.{name} must not be negative, got {getattr(self, name)}")
        if not self.lengths or not self.late_lengths or min(*self.lengths, *self.late_lengths) < SHORTEST_WINDOW:
            raise UsageError(
                f"matching.lengths and late_lengths must be lists of numbers from {SHORTEST_WINDOW} on, got "
                f"{list(self.lengths)} and {list(self.late_lengths)}"
            )
        for name in ("late_share", "pairs"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"matching.{name} must be from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class CompressRecipe:
    """Prune a model by matching the model itself on plain text: no labels, no language model's heads."""

    model: str  # bare or with a task's head, of any supported family
    corpus: str  # texts as `data pretraining --layout document_sentences` makes them
    training: Training
    pruning: Pruning = field(default_factory=lambda: Pruning(pooler=False))
    matching: Matching = field(default_factory=Matching)
    seed: int = 42
    validation_examples: int = 512  # windows of the corpus's validation split, for the final metrics
    published: dict[str, float] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True)
class TeacherRecipe:
    """Continue pre-training a dense checkpoint on the corpus that pruning will use."""

    model: str
    corpus: str
    training: Training
    seed: int = 42
    mlm_probability: float = 0.15
    validation_examples: int = 1000  # of the corpus's validation split, for the final metrics
    published: dict[str, float] = field(default_factory=dict)  # results this run should reach, if any are known
    source: str = ""  # where the hyper-parameters come from

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True)
class PruneRecipe:
    """Prune a language model during pre-training, with distillation and learning rate rewinding."""

    model: str
    corpus: str
    training: Training
    pruning: Pruning = field(default_factory=Pruning)
    distillation: Distillation | None = field(default_factory=Distillation)
    seed: int = 42
    mlm_probability: float = 0.15
    validation_examples: int = 1000
    published: dict[str, float] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True)
class FinetuneRecipe:
    """Fine-tune for a task. Zeros are locked when the model has them, or made on the way by magnitude."""

    model: str
    task: TaskData
    training: Training
    lock: Literal["auto", "require", "off"] = "auto"  # require: a model without zeros is an error; off: zeros may grow
    pruning: Pruning | None = None  # prune while fine-tuning; the model's own zeros are then not locked
    distillation: Distillation | None = None
    seed: int = 42
    published: dict[str, float] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.pruning is not None and self.lock == "require":
            raise UsageError('lock = "require" keeps the zeros of a pruned model, [pruning] makes others: choose one')


@dataclass(frozen=True)
class QuantizeRecipe:
    """Quantise a fine-tuned model to 8 bits, in training (qat) or after it (ptq). Zeros stay locked."""

    model: str
    task: TaskData
    training: Training | None = None  # qat only
    method: Literal["qat", "ptq"] = "qat"
    preset: Literal["default", "paper"] = "default"  # paper: a scale per matrix, all layers, some outputs too
    attention: AttentionNumbers = "fp32"  # int8: its products too, by rounded queries, keys, values and probabilities
    calibration_examples: int = 256  # of the training examples, drawn with the seed: they set the ranges of inputs
    begin_step: int = 0  # optimizer steps before rounding begins; ranges are observed from the first
    lock: Literal["auto", "require", "off"] = "auto"
    distillation: Distillation | None = None
    seed: int = 42
    published: dict[str, float] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.calibration_examples < 1:
            raise UsageError(f"calibration_examples must be above 0, got {self.calibration_examples}")
        if (self.training is None) != (self.method == "ptq"):
            raise UsageError('method "qat" needs a section [training]; "ptq" trains nothing and has none')
        if self.method == "ptq" and (self.distillation is not None or self.begin_step):
            raise UsageError('method "ptq" trains nothing: it has neither [distillation] nor begin_step')
        if self.attention == "int8" and self.preset == "paper":
            raise UsageError('attention = "int8" is for preset = "default": the paper\'s has it in floats')
        if self.begin_step < 0:
            raise UsageError(f"begin_step must not be negative, got {self.begin_step}")


@dataclass(frozen=True)
class EvaluateRecipe:
    """Score a model on a task, as it is: a stage of studies."""

    model: str
    task: TaskData
    seed: int = 42  # nothing is drawn; that of the cell
    published: dict[str, float] = field(default_factory=dict)
    source: str = ""

    training: ClassVar[None] = None

    def __post_init__(self) -> None:
        check_seed(self.seed)


Recipe = EvaluateRecipe | TeacherRecipe | PruneRecipe | CompressRecipe | FinetuneRecipe | QuantizeRecipe
STAGES: dict[str, type[Recipe]] = {
    "teacher": TeacherRecipe,
    "compress": CompressRecipe,
    "prune": PruneRecipe,
    "finetune": FinetuneRecipe,
    "quantize": QuantizeRecipe,
    "evaluate": EvaluateRecipe,
}


@overload
def load_recipe(path: str | Path, stage: Literal["teacher"], overrides: Sequence[str] = ...) -> TeacherRecipe: ...
@overload
def load_recipe(path: str | Path, stage: Literal["prune"], overrides: Sequence[str] = ...) -> PruneRecipe: ...
@overload
def load_recipe(path: str | Path, stage: Literal["compress"], overrides: Sequence[str] = ...) -> CompressRecipe: ...
@overload
def load_recipe(path: str | Path, stage: Literal["finetune"], overrides: Sequence[str] = ...) -> FinetuneRecipe: ...
@overload
def load_recipe(path: str | Path, stage: Literal["quantize"], overrides: Sequence[str] = ...) -> QuantizeRecipe: ...
@overload
def load_recipe(path: str | Path, stage: str, overrides: Sequence[str] = ...) -> Recipe: ...
def load_recipe(path: str | Path, stage: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file for `stage` and apply `key=value` overrides (dotted keys, TOML values or bare words)."""
    return parse_recipe(read_toml(Path(path)), stage, overrides, where=str(path))


def load_recipes(path: str | Path, stage: str, overrides: Sequence[str] = ()) -> list[Recipe]:
    """As `load_recipe`, for a file that may say `seeds = [1, 2, 3]`: one recipe per seed, or the only one."""
    values = apply_overrides(read_toml(Path(path)), overrides)
    seeds = values.pop("seeds", None)
    if seeds is None or seeds is False:  # --set seeds=false goes back to one run
        return [parse_recipe(values, stage, where=str(path))]
    if "seed" in values:
        raise UsageError(f"{path}: 'seed' and 'seeds' are both given: keep one (--set seeds=false drops the list)")
    return [parse_recipe(values | {"seed": seed}, stage, where=str(path)) for seed in checked_seeds(seeds, str(path))]


def checked_seeds(seeds: Any, where: str) -> list[int]:
    """`seeds` if it is a list of different seeds; else a UsageError."""
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise UsageError(f"{where}: 'seeds' must be a list of integers such as [1, 2, 3], got {seeds!r}")
    for seed in seeds:
        try:
            check_seed(seed, "seeds")
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"{where}: 'seeds' names a seed twice: {seeds}")
    return seeds


def check_seed(seed: int, key: str = "seed") -> None:
    """UsageError unless every generator of random numbers takes `seed`."""
    if not 0 <= seed < SEEDS:
        raise UsageError(f"'{key}' must be at least 0 and below {SEEDS:,}, got {seed}")


def stage_of(path: str | Path) -> str:
    """The stage that a recipe file is for."""
    stage = read_toml(Path(path)).get("stage")
    if not isinstance(stage, str) or stage not in STAGES:
        raise UsageError(f"{path}: 'stage' must be one of {', '.join(STAGES)}, got {stage!r}")
    return str(stage)


@overload
def parse_recipe(
    values: Mapping[str, Any], stage: Literal["teacher"], overrides: Sequence[str] = ..., *, where: str = ...
) -> TeacherRecipe: ...
@overload
def parse_recipe(
    values: Mapping[str, Any], stage: Literal["prune"], overrides: Sequence[str] = ..., *, where: str = ...
) -> PruneRecipe: ...
@overload
def parse_recipe(
    values: Mapping[str, Any], stage: Literal["compress"], overrides: Sequence[str] = ..., *, where: str = ...
) -> CompressRecipe: ...
@overload
def parse_recipe(
    values: Mapping[str, Any], stage: Literal["finetune"], overrides: Sequence[str] = ..., *, where: str = ...
) -> FinetuneRecipe: ...
@overload
def parse_recipe(
    values: Mapping[str, Any], stage: Literal["quantize"], overrides: Sequence[str] = ..., *, where: str = ...
) -> QuantizeRecipe: ...
@overload
def parse_recipe(
    values: Mapping[str, Any], stage: str, overrides: Sequence[str] = ..., *, where: str = ...
) -> Recipe: ...
def parse_recipe(
    values: Mapping[str, Any], stage: str, overrides: Sequence[str] = (), *, where: str = "recipe"
) -> Recipe:
    """A mapping as read from TOML -> the dataclass of `stage`. UsageError for anything that does not fit."""
    merged = apply_overrides(dict(values), overrides)
    if "seeds" in merged:
        raise UsageError(f"{where} asks for several runs (seeds = {merged['seeds']}), one is expected here: set `seed`")
    written_for = merged.pop("stage", stage)
    if written_for != stage:
        raise UsageError(f"{where} is a recipe for `pruneonce {written_for}`, not for `pruneonce {stage}`")
    try:
        return build(STAGES[stage], merged)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a mapping; UsageError if it is not one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"recipe {path} does not exist") from error
    except RecursionError:
        raise UsageError(f"recipe {path} cannot be read: lists or tables are nested too deeply") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, not TOML, or an integer of thousands of digits
        raise UsageError(f"recipe {path} cannot be read: {error}") from error


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with every `key=value` put in; sections on the way are copied, not changed."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes key=value, got '{override}'")
        *sections, last = key.strip().split(".")
        target = values
        for section in sections:
            inner = target.get(section, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--set {key}: '{section}' is a value, not a section")
            target[section] = target = dict(inner)
        target[last] = _toml_value(text)
    return values


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text  # a bare word: --set model=runs/teacher needs no quotes


def build(section: type[Section], values: Mapping[str, Any], *, prefix: str = "") -> Section:
    """The dataclass `section` from a mapping; UsageError for a key or value that does not fit, named with `prefix`."""
    assert dataclasses.is_dataclass(section)
    names = {item.name for item in dataclasses.fields(section)}
    hints = {name: hint for name, hint in typing.get_type_hints(section).items() if name in names}
    for key in values:
        if key not in hints:
            raise UsageError(_unknown_key(prefix, key, hints))
    arguments = {key: _convert(value, hints[key], prefix + key) for key, value in values.items()}
    for item in dataclasses.fields(section):
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and item.name not in arguments:
            raise UsageError(f"'{prefix}{item.name}' is missing")
    return section(**arguments)


def _unknown_key(prefix: str, key: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{prefix}{near[0]}'?" if near else f"expected one of {', '.join(known)}"
    return f"unknown key '{prefix}{key}': {hint}"


def _convert(value: Any, hint: Any, key: str) -> Any:
    """Check `value` against a field's type; integers are accepted where a float is expected, nothing else bends."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in options:
            raise UsageError(f"'{key}' must be one of {', '.join(map(repr, options))}, got {value!r}")
        return value
    if origin in (types.UnionType, typing.Union):
        (hint,) = (option for option in options if option is not type(None))
        # TOML has no null: "" and false switch an optional section or value off.
        return None if value is None or (value is False and hint is not bool) else _convert(value, hint, key)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UsageError(f"'{key}' must be a section [{key}], got {value!r}")
        return build(typing.cast(type, hint), value, prefix=f"{key}.")
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"'{key}' must be a list, got {value!r}")
        return tuple(_convert(item, options[0], key) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"'{key}' must be a section [{key}], got {value!r}")
        return {name: _convert(item, options[1], f"{key}.{name}") for name, item in value.items()}
    if type(value) is int and not -1 << 63 <= value < 1 << 63:
        raise UsageError(f"'{key}' does not fit 64 bits: {str(value)[:40]}")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UsageError(f"'{key}' must be of type {hint.__name__}, got {value!r}")
    if hint is float and not math.isfinite(value):
        raise UsageError(f"'{key}' must be a finite number, got {value}")
    return value


def _layers(numbers: Sequence[int], section: str) -> None:
    if min(numbers, default=0) < 0 or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"{section}.hidden_layers must be different numbers from 0 (the embeddings) on, got {list(numbers)}"
        )


def _positive(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and not value > 0:  # NaN neither
            raise UsageError(f"{type(section).__name__.lower()}.{name} must be above 0, got {value}")


def _fraction(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and not 0.0 <= value < 1.0:
            raise UsageError(f"{type(section).__name__.lower()}.{name} must be at least 0 and below 1, got {value}")


# --------------------------------------------------------------------------------- where recipes and runs are
RUNS = Path("runs")


def recipes_folder() -> Path:
    """The folder of shipped recipes: inside the installed package, or at the top of a checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"


def default_output(recipe: Path) -> Path:
    """`recipes/bert-base/prune-90.toml` -> `runs/bert-base/prune-90`; a recipe elsewhere goes by its name alone.

    >>> default_output(Path("recipes/bert-base/prune-90.toml")).as_posix(), default_output(Path("my.toml")).as_posix()
    ('runs/bert-base/prune-90', 'runs/my')
    """
    parts = recipe.with_suffix("").parts
    if "recipes" in parts:
        last = len(parts) - 1 - parts[::-1].index("recipes")
        return RUNS.joinpath(*parts[last + 1 :])
    return RUNS / recipe.stem
