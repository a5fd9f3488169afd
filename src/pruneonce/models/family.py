"""The record of a model family: everything that is to be known of it, as data. One file per family fills one in.

Prunable are the linear layers of the encoder, and BERT's pooler as in the original work; embeddings, task heads
and the masked-LM head (its decoder is tied to the embeddings) never are.

Names of tensors and modules are those of a Hugging Face checkpoint. The encoder's are relative to it (`base`), so that
they are the same in a bare encoder ("encoder.layer.0…") and in every head model ("bert.encoder.layer.0…"); a head's
are those in the head model. The names of modules serve as attribute paths of a transformers model as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pruneonce.models.plan import EncoderPlan

# Roles of an encoder's linear layers: what they compute, whatever a family calls them.
ATTENTION_ROLES = ("query", "key", "value", "query_key_value", "attention_output")
FEED_FORWARD_ROLES = ("gate", "up", "gate_up", "down")
POOLER_ROLE = "pooler"

# A class in config.json ends with the key -> what its answers are for.
TASK_OF_HEAD = {
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
    "Model": "feature-extraction",
}

INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # of a transformers model, in the order of its forward


@dataclass(frozen=True)
class SpecialTokens:
    """What a family's vocabulary calls the tokens that no text holds."""

    pad: str
    unk: str
    cls: str  # first of every sequence
    sep: str  # last of every text
    mask: str


@dataclass(frozen=True)
class ConfigKeys:
    """Keys of config.json."""

    hidden_size: str
    layers: str
    heads: str
    intermediate_size: str
    nonlinearity: str
    max_positions: str


@dataclass(frozen=True)
class EmbeddingNames:
    """Tables and what follows them; all names begin with `prefix`."""

    prefix: str
    words: str
    positions: str | None
    types: str | None
    norm: str
    projection: str | None = None  # to the hidden size, where the tables are narrower


@dataclass(frozen=True)
class LayerNames:
    """Parts of one transformer layer, relative to it."""

    attention: str  # the module that holds scores and softmax
    query: str | None  # None: query, key and value are one layer
    key: str | None
    value: str | None
    attention_output: str
    attention_norm: str  # after attention, or before it
    up: str | None  # None: gate and up are one layer
    down: str
    output_norm: str  # after the feed-forward, or before it
    gate: str | None = None
    query_key_value: str | None = None  # their rows one after another
    gate_up: str | None = None  # likewise

    @property
    def reading_states(self) -> tuple[str, ...]:
        """The layers whose rows, one after another, are queries, keys and values."""
        fused = self.query_key_value
        return (fused,) if fused is not None else tuple(filter(None, (self.query, self.key, self.value)))

    @property
    def widening(self) -> tuple[str, ...]:
        """The layers whose rows, one after another, are the gates, if there are any, and what is gated."""
        return (self.gate_up,) if self.gate_up is not None else tuple(filter(None, (self.gate, self.up)))


@dataclass(frozen=True)
class SequenceHead:
    """A text's classes: out(norm(nonlinearity(dense x))), x the state of the first token, or the mean of all."""

    dense: str
    nonlinearity: Literal["tanh", "relu", "gelu"]
    out: str
    norm: str | None = None


@dataclass(frozen=True)
class Transform:
    """What a family has between states and outputs: norm(nonlinearity(dense x)), as in its head for masks."""

    dense: str
    norm: str


@dataclass(frozen=True)
class MaskedLMHead:
    """Words in place of masks: decoder · norm(nonlinearity(dense x)) + bias."""

    dense: str
    norm: str
    decoder: str  # tied to the words' embeddings, and mostly not stored
    biases: tuple[str, ...]  # tensors, the first that is there holds; of the same parameter
    norm_epsilon: float | None  # None: that of the encoder
    modules: tuple[str, ...]  # what computes the head in transformers' model, called one after another
    nonlinearity: str | None = None  # of models.plan.NONLINEARITIES' values; None: that of the encoder

    def has(self, tensor: str) -> bool:
        """Whether a tensor is part of this head."""
        return tensor in self.biases or tensor.startswith(tuple(f"{m}." for m in (self.dense, self.norm, self.decoder)))


@dataclass(frozen=True)
class Heads:
    """Where the task heads are."""

    sequence: SequenceHead
    tokens: str
    spans: str | None  # start and end of an answer; None: transformers has no such model of the family
    masked_lm: MaskedLMHead
    next_sentence: str | None  # reads the pooler's output; None: the family has no such task
    transform: Transform | None = None  # before `tokens` and `spans`
    pretraining: Literal["ForMaskedLM", "Model"] = "ForMaskedLM"  # what transformers' ForPreTraining is computed as


@dataclass(frozen=True)
class StoredNames:
    """How files of a family call what transformers' model has under other names, or as several tensors."""

    renamed: tuple[tuple[str, str], ...] = ()  # part of a name in a file -> what it is in the model
    stacked: tuple[tuple[str, tuple[str, ...]], ...] = ()  # likewise -> the parts whose rows lie one after another


@dataclass(frozen=True)
class Shape:
    """Sizes of a published model, by which costs are estimated and benchmarks made without its files."""

    name: str  # part of the names that it goes by, as in "bert-base-uncased"
    layers: int
    hidden_size: int
    heads: int
    intermediate_size: int


@dataclass(frozen=True)
class Family:
    """All that tells one model family from another."""

    model_type: str  # in config.json, and transformers' name for the family
    base: str  # attribute of every head model that holds the encoder
    config: ConfigKeys
    special_tokens: SpecialTokens
    embeddings: EmbeddingNames
    layers: str  # list of transformer layers
    layer: LayerNames
    final_norm: str | None
    pooler: str | None  # linear layer over the first token that comes with the encoder
    heads: Heads
    token_types: bool  # transformers' model is told which of two texts a token is of
    corpus_layout: str  # how the family was pre-trained: a layout of `data.corpus`
    shapes: tuple[Shape, ...]
    encoder_plan: Callable[[Mapping[str, Any]], EncoderPlan]  # from config.json; ValueError names the key
    stored: StoredNames = StoredNames()
    relative_bias: str | None = None  # table of biases on attention scores, [buckets, heads], of all layers

    @property
    def inputs(self) -> tuple[str, ...]:
        """Of INPUTS, what transformers' model takes."""
        return INPUTS if self.token_types else INPUTS[:2]

    @property
    def embedding_tables(self) -> tuple[str, ...]:
        """Tensors of the tables, relative to the encoder."""
        tables = (self.embeddings.words, self.embeddings.positions, self.embeddings.types)
        return tuple(f"{name}.weight" for name in tables if name is not None)

    def task_of(self, config: Mapping[str, Any]) -> str:
        """What a model of this config answers, of TASK_OF_HEAD; ValueError for a head that we do not compute."""
        names = config.get("architectures") or []
        name = names[0] if isinstance(names, list) and names else None
        if isinstance(name, str) and name.endswith("ForPreTraining"):
            name = self.heads.pretraining
        task = next(
            (task for head, task in TASK_OF_HEAD.items() if isinstance(name, str) and name.endswith(head)), None
        )
        if task is None:
            known = ", ".join([*TASK_OF_HEAD, "ForPreTraining"])
            raise ValueError(
                f"config.json: architectures is {str(names)[:60]!a}; expected a name that ends with {known}"
            )
        if task == "question-answering" and self.heads.spans is None:
            raise ValueError(f"{self.model_type} has no head for question answering")
        return task

    def head_weight(self, task: str) -> str | None:
        """A tensor without which there is no head for a task of TASK_OF_HEAD; None: the task needs none."""
        layers = {
            "text-classification": self.heads.sequence.out,
            "token-classification": self.heads.tokens,
            "question-answering": self.heads.spans,
            "fill-mask": self.heads.masked_lm.dense,
        }
        return f"{layers[task]}.weight" if task in layers else None

    def names_of_stored(self, name: str) -> tuple[str, ...]:
        """What the model calls a file's tensor: one name, or those that its rows are shared out among, alike many each.

        A name of the model is its own.
        """
        for stored, present in self.stored.renamed:
            name = name.replace(stored, present)
        for stored, parts in self.stored.stacked:
            if stored in name:
                return tuple(name.replace(stored, part) for part in parts)
        return (name,)

    def encoder_name(self, name: str) -> str:
        """A name within the encoder: the same for the bare encoder and every head model built on it."""
        return name.removeprefix(self.base + ".")

    def role_of(self, module: str) -> str | None:
        """What a linear layer of the encoder computes, of the roles above; None for any other module."""
        name = self.encoder_name(module)
        if name == self.pooler:
            return POOLER_ROLE
        inner = self.name_in_layer(module)
        if inner is None:
            return None
        names = asdict(self.layer)
        return next((role for role in (*ATTENTION_ROLES, *FEED_FORWARD_ROLES) if names[role] == inner), None)

    def name_in_layer(self, module: str) -> str | None:
        """A module's name within its transformer layer; None outside of them."""
        name = self.encoder_name(module)
        if not name.startswith(self.layers + "."):
            return None
        number, _, inner = name.removeprefix(self.layers + ".").partition(".")
        return inner if number.isdigit() else None

    def is_prunable(self, tensor: str, *, pooler: bool = True) -> bool:
        """Whether a tensor is a matrix that may be pruned. pooler: count the pooler's."""
        role = self.role_of(tensor.removesuffix(".weight")) if tensor.endswith(".weight") else None
        return role is not None and (pooler or role != POOLER_ROLE)

    def prunable_linears(self, modules: Iterable[str], *, pooler: bool = True) -> list[str]:
        """The prunable ones among a model's modules, in model order."""
        return [name for name in modules if self.is_prunable(f"{name}.weight", pooler=pooler)]

    def part_of(self, tensor: str) -> Literal["embeddings", "encoder", "heads"]:
        """Which part of the model a tensor is of; the pooler counts as the encoder's."""
        name = self.encoder_name(tensor)
        if name.startswith((self.embeddings.prefix, f"{self.embeddings.projection}.")):
            return "embeddings"
        own = (self.layers, self.pooler, self.final_norm, self.relative_bias)
        inside = [part for part in own if part is not None]
        return "encoder" if name.startswith(tuple(f"{part}." for part in inside)) else "heads"

    def config_of(self, shape: Shape) -> dict[str, Any]:
        """What config.json says of a shape; transformers has defaults for the rest."""
        keys = ("layers", "hidden_size", "heads", "intermediate_size")
        return {getattr(self.config, key): getattr(shape, key) for key in keys}
