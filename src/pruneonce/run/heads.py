"""From hidden states to a task's answers: a class for each kind of head, where the family says its tensors are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pruneonce._native import Activations
from pruneonce.formats.stored_tensors import Array
from pruneonce.run.encoder import LayerNorm, Linear
from pruneonce.run.tensors import Tensors
from pruneonce.run.workspace import Workspace


class Head(Protocol):
    """Hidden states [hidden, tokens] -> float32 [tokens, outputs]. `space` is the pass's own."""

    def __call__(self, states: Activations, space: Workspace) -> Array: ...


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """No head: the states as they are."""

    def __call__(self, states: Activations, space: Workspace) -> Array:
        return rows_of(states)


@dataclass(frozen=True, eq=False)
class StateTransform:
    """What stands before the outputs: norm(nonlinearity(dense x))."""

    dense: Linear
    nonlinearity: str
    norm: LayerNorm

    def __call__(self, states: Activations, space: Workspace) -> Activations:
        transformed = _apply(self.dense, states, space, "transformed", self.nonlinearity)
        self.norm(transformed)
        return transformed


@dataclass(frozen=True, eq=False)
class TokenOutputs:
    """A linear layer over each token: classes, or start and end of an answer."""

    linear: Linear
    transform: StateTransform | None = None

    def __call__(self, states: Activations, space: Workspace) -> Array:
        if self.transform is not None:
            states = self.transform(states, space)
        return rows_of(_apply(self.linear, states, space, "outputs"))


@dataclass(frozen=True, eq=False)
class TextClasses:
    """A text's classes: two layers over the states of first tokens, or over the means of all."""

    dense: Linear
    nonlinearity: str
    out: Linear
    norm: LayerNorm | None = None

    def __call__(self, states: Activations, space: Workspace) -> Array:
        if self.nonlinearity == "tanh":  # no kernel has it, and one token of a text is little work
            pooled = np.tanh(rows_of(_apply(self.dense, states, space, "pooled")))
            first = space.activations("tanh", self.dense.weight.rows)
            first.load(pooled)
        else:
            first = _apply(self.dense, states, space, "pooled", self.nonlinearity)
        if self.norm is not None:
            self.norm(first)
        return rows_of(_apply(self.out, first, space, "outputs"))


@dataclass(frozen=True, eq=False)
class MaskedWords:
    """A vocabulary's logits."""

    transform: StateTransform
    decoder: Linear

    def __call__(self, states: Activations, space: Workspace) -> Array:
        return rows_of(_apply(self.decoder, self.transform(states, space), space, "outputs"))


def head_of(task: str, tensors: Tensors) -> Head:
    """The head of a task, of those that `Family.task_of` gives; ValueError if the file lacks a tensor."""
    heads, hidden, plan = tensors.family.heads, tensors.plan.hidden_size, tensors.plan
    if task == "text-classification":
        sequence = heads.sequence
        return TextClasses(
            dense=tensors.linear([sequence.dense], hidden, hidden, biases=plan.head_biases),
            nonlinearity=plan.head_nonlinearity or sequence.nonlinearity,
            out=tensors.linear([sequence.out], None, hidden),
            norm=None if sequence.norm is None else tensors.norm(sequence.norm, plan.norm_epsilon),
        )
    if task == "question-answering":
        assert heads.spans is not None  # `task_of` gives no such task otherwise
        return TokenOutputs(tensors.linear([heads.spans], 2, hidden), _before_outputs(tensors))
    if task == "token-classification":
        return TokenOutputs(tensors.linear([heads.tokens], None, hidden), _before_outputs(tensors))
    return _masked_lm(tensors) if task == "fill-mask" else HiddenStates()


def classes_of(task: str, tensors: Tensors) -> tuple[str, int] | None:
    """The matrix whose rows are a task's classes, and how many; None for a task without classes."""
    names = {"text-classification": tensors.family.heads.sequence.out}
    names["token-classification"] = tensors.family.heads.tokens
    if task not in names:
        return None
    name = f"{names[task]}.weight"
    return name, tensors.get(name, (None, tensors.plan.hidden_size)).shape[0]


def rows_of(states: Activations) -> Array:
    """float32 [tokens, features]."""
    rows = np.empty((states.tokens, states.features), np.float32)
    states.store(rows)
    return rows


def _before_outputs(tensors: Tensors) -> StateTransform | None:
    names, plan = tensors.family.heads.transform, tensors.plan
    if names is None:
        return None
    dense = tensors.linear([names.dense], plan.hidden_size, plan.hidden_size, biases=plan.head_biases)
    norm = tensors.norm(names.norm, plan.norm_epsilon)
    return StateTransform(dense, plan.head_nonlinearity or plan.nonlinearity, norm)


def _masked_lm(tensors: Tensors) -> MaskedWords:
    head, plan = tensors.family.heads.masked_lm, tensors.plan
    tied, own = tensors.in_encoder(f"{tensors.family.embeddings.words}.weight"), f"{head.decoder}.weight"
    epsilon = plan.norm_epsilon if head.norm_epsilon is None else head.norm_epsilon
    width = plan.embedding_size or plan.hidden_size
    dense = tensors.linear([head.dense], width, plan.hidden_size, biases=plan.head_biases)
    norm = tensors.norm(head.norm, epsilon, width)
    decoder = tensors.get(own if tensors.has(own) else tied, (None, width))
    name = next((name for name in head.biases if tensors.has(name)), head.biases[0])
    bias = tensors.vector(name, decoder.shape[0]) if plan.decoder_bias else None
    words = Linear(tensors.weight([decoder]), bias)
    nonlinearity = plan.head_nonlinearity or head.nonlinearity or plan.nonlinearity
    return MaskedWords(StateTransform(dense, nonlinearity, norm), words)


def _apply(linear: Linear, x: Activations, space: Workspace, purpose: str, nonlinearity: str = "none") -> Activations:
    out = space.activations(purpose, linear.weight.rows)
    linear(x, out, space.codes, nonlinearity=nonlinearity)
    return out
