"""A packed file as a model: token ids in, logits out, computed by native kernels; neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce import _native
from pruneonce._native import Activations, Codes
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.packed_file import PackedModel, labels_of, read_packed
from pruneonce.formats.stored_tensors import Array, DenseTensor, Int8Matrix, SparseMatrix, Tensor
from pruneonce.run.encoder import Embeddings, Encoder, Layer, LayerNorm, Linear
from pruneonce.run.weights import Int8Weight, weight_of

# Of one pass, per thread: activations then stay in the caches, and weights are read seldom enough. docs/kernels.md has
# the figures.
PASS_TOKENS = 128
INT8_PASS_TOKENS = 256  # codes take a quarter of the space

TASK_OF_HEAD = {
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "Model": "feature-extraction",
}

CLASSIFICATION = ("text-classification", "token-classification")

NONLINEARITIES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class _Family:
    """What a model family calls the parts that the engine computes; names are relative to the encoder (`base`)."""

    base: str
    layers: str
    query_key_value: tuple[str, str, str]
    attention_output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str
    # keys of config.json
    hidden_size: str
    layer_count: str
    head_count: str
    nonlinearity: str
    # heads; their names are not relative
    mlm_dense: str
    mlm_norm: str
    mlm_decoder: str
    mlm_biases: tuple[str, ...]
    classification_dense: str  # applied to the first token before the classifier


BERT = _Family(
    base="bert",
    layers="encoder.layer",
    query_key_value=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
    hidden_size="hidden_size",
    layer_count="num_hidden_layers",
    head_count="num_attention_heads",
    nonlinearity="hidden_act",
    mlm_dense="cls.predictions.transform.dense",
    mlm_norm="cls.predictions.transform.LayerNorm",
    mlm_decoder="cls.predictions.decoder.weight",
    mlm_biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
    classification_dense="bert.pooler.dense",
)

DISTILBERT = _Family(
    base="distilbert",
    layers="transformer.layer",
    query_key_value=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
    hidden_size="dim",
    layer_count="n_layers",
    head_count="n_heads",
    nonlinearity="activation",
    mlm_dense="vocab_transform",
    mlm_norm="vocab_layer_norm",
    mlm_decoder="vocab_projector.weight",
    mlm_biases=("vocab_projector.bias",),
    classification_dense="pre_classifier",
)

FAMILIES = {"bert": BERT, "distilbert": DISTILBERT}

# hidden states [hidden, tokens], valid until the thread's next call -> float32 [tokens, outputs]
Head = Callable[[Activations], Array]


class Model:
    """A model ready to run. Several threads may call it at once; `load_model` makes it."""

    def __init__(self, packed: PackedModel, *, isa: str | None = None) -> None:
        tensors = _Tensors(packed)
        family = tensors.family
        self.config = packed.config
        self.tokenizer = packed.tokenizer
        self.provenance = packed.provenance
        self.task = _task_of(packed)
        self.labels = tensors.labels() if self.task in CLASSIFICATION else packed.labels
        self.isa = isa or _native.choose_isa()
        self.encoder = _encoder(tensors, self.isa)
        self.hidden_size = self.encoder.hidden_size
        quantized = all(isinstance(layer.down.weight, Int8Weight) for layer in self.encoder.layers)
        self._pass_tokens = INT8_PASS_TOKENS if quantized else PASS_TOKENS
        self.max_tokens = len(self.encoder.embeddings.positions)
        self.vocabulary_size = self.encoder.embeddings.words.shape[0]
        self._head = _HEADS[self.task](tensors, family, self.isa)

    def __call__(
        self,
        token_ids: Sequence[Array],
        token_types: Sequence[Array] | None = None,
        *,
        positions: Sequence[Array] | None = None,
    ) -> Any:
        """Logits of a batch; nothing is padded, so sequences of any lengths cost what they hold.

        token_ids: one array of integers [tokens] per sequence, 1 to `max_tokens` each. token_types: likewise, segments
        (None: all 0). positions (fill-mask only): the tokens of each sequence whose logits are wanted, rising.

        Returns by task: text-classification float32 [sequences, labels]; else one float32 array per sequence:
        question-answering [tokens, 2] (start, end), token-classification [tokens, labels], fill-mask [tokens or
        positions, vocabulary], feature-extraction [tokens, hidden].
        UsageError if a sequence is empty or too long, or a number is none of the vocabulary's.
        """
        if positions is not None and self.task != "fill-mask":
            raise UsageError(f"positions are for fill-mask; this is a model for {self.task}")
        first_only = self.task == "text-classification"
        if first_only:
            positions = [np.zeros(1, np.int64)] * len(token_ids)
        outputs = self._run(self._head, token_ids, token_types, positions)
        if first_only:
            return np.concatenate(outputs) if outputs else np.zeros((0, len(self.labels)), np.float32)
        return outputs

    def hidden_states(self, token_ids: Sequence[Array], token_types: Sequence[Array] | None = None) -> list[Array]:
        """Last hidden states, whatever the task: one float32 [tokens, hidden] per sequence."""
        return self._run(_rows, token_ids, token_types, None)

    def _run(
        self,
        head: Head,
        token_ids: Sequence[Array],
        token_types: Sequence[Array] | None,
        positions: Sequence[Array] | None,
    ) -> list[Array]:
        ids = [self._checked(sequence, self.vocabulary_size, "token ids", i) for i, sequence in enumerate(token_ids)]
        for i, sequence in enumerate(ids):
            if not 1 <= len(sequence) <= self.max_tokens:
                raise UsageError(
                    f"sequence {i} has {len(sequence):,} tokens, this model takes 1 to {self.max_tokens}: "
                    "cut it, or share it out among windows"
                )
        types = self._checked_like(ids, token_types)
        kept = None
        if positions is not None:
            if len(positions) != len(ids):
                raise UsageError(f"positions are those of {len(positions)} sequences, token ids of {len(ids)}")
            kept = [self._checked(each, len(ids[i]), "positions", i) for i, each in enumerate(positions)]
            if any((np.diff(each) <= 0).any() for each in kept):
                raise UsageError("positions must rise within a sequence")
        outputs: list[Array] = []
        first = 0
        while first < len(ids):
            end = self._end_of_pass(ids, first)
            starts = np.cumsum([0, *(len(sequence) for sequence in ids[first:end])], dtype=np.int64)
            lengths, wanted = np.diff(starts), None
            if kept is not None:
                wanted = np.concatenate([each + start for each, start in zip(kept[first:end], starts, strict=False)])
                lengths = np.array([len(each) for each in kept[first:end]])
            if wanted is not None and not len(wanted):
                outputs += [np.zeros((0, self.vocabulary_size), np.float32)] * (end - first)
            else:
                hidden = self.encoder(np.concatenate(ids[first:end]), np.concatenate(types[first:end]), starts, wanted)
                outputs += np.split(head(hidden), np.cumsum(lengths)[:-1])
            first = end
        return outputs

    def _end_of_pass(self, ids: list[Array], first: int) -> int:
        at_once = self._pass_tokens * _native.num_threads()
        tokens, end = len(ids[first]), first + 1
        while end < len(ids) and tokens + len(ids[end]) <= at_once:
            tokens += len(ids[end])
            end += 1
        return end

    def _checked_like(self, ids: list[Array], token_types: Sequence[Array] | None) -> list[Array]:
        if token_types is None or self.encoder.embeddings.types is None:
            return [np.zeros(len(sequence), np.int64) for sequence in ids]
        kinds = len(self.encoder.embeddings.types)
        types = [self._checked(sequence, kinds, "token types", i) for i, sequence in enumerate(token_types)]
        if [len(each) for each in types] != [len(each) for each in ids]:
            raise UsageError("token types must have the lengths of the token ids, sequence by sequence")
        return types

    def _checked(self, numbers: Array, limit: int, what: str, sequence: int) -> Array:
        """int64 [n], each 0 <= number < limit."""
        numbers = np.asarray(numbers)
        if numbers.ndim != 1 or not (np.issubdtype(numbers.dtype, np.integer) or not numbers.size):
            raise UsageError(f"{what} of sequence {sequence} must be whole numbers in one dimension")
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < limit:
            raise UsageError(
                f"{what} of sequence {sequence} are {int(numbers.min())} to {int(numbers.max())}, "
                f"expected 0 to {limit - 1}"
            )
        return numbers.astype(np.int64)


def load_model(path: str | Path, *, isa: str | None = None) -> Model:
    """The model of a packed file (docs/format.md), checked and packed for this processor.

    isa: "scalar", "avx2", "avx512" or "avx512_vnni" instead of $PRUNEONCE_ISA or the best. PruneonceError names the
    file and what is wrong with it; UsageError if the processor lacks the instruction set.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(
            f"'{path}' is a model folder: make a packed file of it with `pruneonce export {path} --to packed`"
        )
    try:
        isa = _native.choose_isa(isa)
    except ValueError as error:
        raise UsageError(str(error)) from error
    packed = read_packed(path)
    try:
        return Model(packed, isa=isa)
    except ValueError as error:
        raise PruneonceError(f"{path}: {error}") from error


class _Tensors:
    """The tensors that the engine needs; a missing or ill-shaped one is a ValueError with its name."""

    def __init__(self, packed: PackedModel) -> None:
        model_type = packed.config.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise ValueError(f"model type {str(model_type)[:40]!a} is not one of {', '.join(FAMILIES)}")
        self.config = packed.config
        self.family = FAMILIES[model_type]
        self._all: Mapping[str, Tensor] = packed.tensors
        has_base = any(name.startswith(self.family.base + ".") for name in packed.tensors)
        self._prefix = self.family.base + "." if has_base else ""

    def number(self, key: str) -> int:
        value = self.config.get(key)
        if type(value) is not int or not 0 < value < 2**20:
            raise ValueError(f"config.json: {key} is {str(value)[:40]!a}, a whole number is expected")
        return value

    def has(self, name: str) -> bool:
        return name in self._all

    def encoder_name(self, name: str) -> str:
        """A name relative to the encoder as this file has it: bare encoders have no prefix."""
        return self._prefix + name

    def get(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        if name not in self._all:
            raise ValueError(f"tensor {name} is missing; config.json promises {self.config.get('architectures')}")
        tensor = self._all[name]
        if len(tensor.shape) != len(shape) or any(b not in (None, a) for a, b in zip(tensor.shape, shape, strict=True)):
            expected = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(f"tensor {name} has shape {list(tensor.shape)}, expected [{expected}]")
        return tensor

    def table(self, name: str, columns: int) -> DenseTensor | Int8Matrix:
        """Embeddings. Sparse they would be written out: few bytes, any number of rows."""
        tensor = self.get(name, (None, columns))
        if isinstance(tensor, SparseMatrix):
            raise ValueError(f"tensor {name} is stored sparse: embeddings are dense or int8")
        return tensor

    def labels(self) -> list[str]:
        """Class names, one for each of the classifier's rows; ValueError if the config has more or fewer."""
        rows = self.get("classifier.weight", (None, self.number(self.family.hidden_size))).shape[0]
        labels = labels_of(self.config) or [f"LABEL_{number}" for number in range(rows)]  # as transformers does
        if len(labels) != rows or not rows:
            raise ValueError(f"config.json: id2label names {len(labels)} classes, classifier.weight has {rows} rows")
        return labels

    def vector(self, name: str, size: int) -> Array:
        return np.ascontiguousarray(self.get(name, (size,)).to_dense())

    def linear(self, names: Sequence[str], rows: int | None, columns: int, isa: str) -> Linear:
        """Layers of equally many inputs, as one; rows: of each, None for any."""
        weights = [self.get(f"{name}.weight", (rows, columns)) for name in names]
        biases = [self.vector(f"{name}.bias", weight.shape[0]) for name, weight in zip(names, weights, strict=True)]
        return Linear(weight_of(weights, isa), np.concatenate(biases))

    def norm(self, name: str, size: int, epsilon: float) -> LayerNorm:
        return LayerNorm(self.vector(f"{name}.weight", size), self.vector(f"{name}.bias", size), epsilon)

    def nonlinearity(self) -> str:
        name = self.config.get(self.family.nonlinearity, "gelu")
        if not isinstance(name, str) or name not in NONLINEARITIES:
            raise ValueError(
                f"config.json: {self.family.nonlinearity} {str(name)[:40]!a} is not one of {', '.join(NONLINEARITIES)}"
            )
        return NONLINEARITIES[name]

    def epsilon(self) -> float:
        value = self.config.get("layer_norm_eps", 1e-12)
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"config.json: layer_norm_eps is {str(value)[:40]!a}, a small number is expected")
        return float(value)


def _task_of(packed: PackedModel) -> str:
    names = packed.config.get("architectures") or []
    name = names[0] if isinstance(names, list) and names else None
    for head, task in TASK_OF_HEAD.items():
        if isinstance(name, str) and name.endswith(head):
            return task
    raise ValueError(
        f"config.json: architectures is {str(names)[:60]!a}; expected a name that ends with {', '.join(TASK_OF_HEAD)}"
    )


def _encoder(tensors: _Tensors, isa: str) -> Encoder:
    family, config = tensors.family, tensors.config
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        raise ValueError("only encoders with absolute positions are supported")
    hidden, heads = tensors.number(family.hidden_size), tensors.number(family.head_count)
    if hidden % heads:
        raise ValueError(f"config.json: {hidden} hidden units cannot be shared out among {heads} heads")
    epsilon = tensors.epsilon()
    name = tensors.encoder_name
    types = name("embeddings.token_type_embeddings.weight")
    embeddings = Embeddings(
        words=tensors.table(name("embeddings.word_embeddings.weight"), hidden),
        positions=tensors.table(name("embeddings.position_embeddings.weight"), hidden).to_dense(),
        types=tensors.table(types, hidden).to_dense() if tensors.has(types) else None,
        norm=tensors.norm(name("embeddings.LayerNorm"), hidden, epsilon),
    )
    if not min(embeddings.words.shape[0], len(embeddings.positions)):
        raise ValueError("the embeddings are empty")
    layers = []
    for number in range(tensors.number(family.layer_count)):
        layer = name(f"{family.layers}.{number}.")
        up = tensors.linear([layer + family.up], None, hidden, isa)
        layers.append(
            Layer(
                query_key_value=tensors.linear([layer + part for part in family.query_key_value], hidden, hidden, isa),
                attention_output=tensors.linear([layer + family.attention_output], hidden, hidden, isa),
                attention_norm=tensors.norm(layer + family.attention_norm, hidden, epsilon),
                up=up,
                down=tensors.linear([layer + family.down], hidden, up.weight.rows, isa),
                output_norm=tensors.norm(layer + family.output_norm, hidden, epsilon),
            )
        )
    return Encoder(embeddings, layers, heads=heads, nonlinearity=tensors.nonlinearity(), isa=isa)


def _rows(hidden: Activations) -> Array:
    rows = np.empty((hidden.tokens, hidden.features), np.float32)
    hidden.store(rows)
    return rows


def _apply(linear: Linear, x: Activations, nonlinearity: str = "none") -> Activations:
    out = Activations(linear.weight.rows, isa=linear.weight.isa)
    linear(x, out, Codes(isa=linear.weight.isa), nonlinearity=nonlinearity)
    return out


def _classification_head(tensors: _Tensors, family: _Family, isa: str) -> Head:
    hidden = tensors.number(family.hidden_size)
    before = tensors.linear([family.classification_dense], hidden, hidden, isa)
    classifier = tensors.linear(["classifier"], None, hidden, isa)

    def head(states: Activations) -> Array:
        if family is not BERT:
            return _rows(_apply(classifier, _apply(before, states, "relu")))
        pooled = np.tanh(_rows(_apply(before, states)))
        first = Activations(hidden, isa=isa)
        first.load(pooled)
        return _rows(_apply(classifier, first))

    return head


def _per_token_head(name: str) -> Callable[[_Tensors, _Family, str], Head]:
    def make(tensors: _Tensors, family: _Family, isa: str) -> Head:
        rows = 2 if name == "qa_outputs" else None
        linear = tensors.linear([name], rows, tensors.number(family.hidden_size), isa)
        return lambda states: _rows(_apply(linear, states))

    return make


def _mlm_head(tensors: _Tensors, family: _Family, isa: str) -> Head:
    hidden = tensors.number(family.hidden_size)
    transform = tensors.linear([family.mlm_dense], hidden, hidden, isa)
    # DistilBERT's head always has this epsilon in transformers, whatever the config says
    norm = tensors.norm(family.mlm_norm, hidden, tensors.epsilon() if family is BERT else 1e-12)
    tied = tensors.encoder_name("embeddings.word_embeddings.weight")
    decoder = tensors.get(family.mlm_decoder if tensors.has(family.mlm_decoder) else tied, (None, hidden))
    bias_name = next((name for name in family.mlm_biases if tensors.has(name)), family.mlm_biases[0])
    vocabulary = Linear(weight_of([decoder], isa), tensors.vector(bias_name, decoder.shape[0]))
    nonlinearity = tensors.nonlinearity()

    def head(states: Activations) -> Array:
        transformed = _apply(transform, states, nonlinearity)
        norm(transformed)
        return _rows(_apply(vocabulary, transformed))

    return head


_HEADS: dict[str, Callable[[_Tensors, _Family, str], Head]] = {
    "text-classification": _classification_head,
    "question-answering": _per_token_head("qa_outputs"),
    "token-classification": _per_token_head("classifier"),
    "fill-mask": _mlm_head,
    "feature-extraction": lambda tensors, family, isa: _rows,
}
