"""The forward pass of BERT and DistilBERT over native kernels, for sequences of any lengths laid end to end."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from pruneonce._native import Activations, Codes, attention, embed, layer_norm, multiply, multiply_to_codes
from pruneonce.formats.stored_tensors import Array, DenseTensor, Int8Matrix
from pruneonce.run.weights import Int8Weight, Weight


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer: x -> weight · x + bias."""

    weight: Weight
    bias: Array  # float32 [rows]

    def __call__(
        self,
        x: Activations,
        out: Activations,
        codes: Codes,
        *,
        residual: Activations | None = None,
        nonlinearity: str = "none",
    ) -> None:
        """out = nonlinearity(weight · x + bias + residual); codes: space for x where the weight is quantised."""
        if isinstance(self.weight, Int8Weight):
            codes.quantize(x, self.weight)
            multiply(self.weight, codes, out=out, bias=self.bias, residual=residual, nonlinearity=nonlinearity)
        else:
            multiply(self.weight, x, out=out, bias=self.bias, residual=residual, nonlinearity=nonlinearity)


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Scale and shift of a layer norm."""

    scale: Array  # float32 [hidden]
    shift: Array  # float32 [hidden]
    epsilon: float

    def __call__(self, x: Activations) -> None:
        layer_norm(x, scale=self.scale, shift=self.shift, epsilon=self.epsilon)


@dataclass(frozen=True, eq=False)
class Layer:
    """One transformer layer."""

    query_key_value: Linear  # the three matrices as one: x is read once
    attention_output: Linear
    attention_norm: LayerNorm
    up: Linear
    down: Linear
    output_norm: LayerNorm


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Word embeddings as stored; position and type embeddings float32."""

    words: DenseTensor | Int8Matrix  # [vocabulary, hidden]
    positions: Array  # float32 [max tokens, hidden]
    types: Array | None  # float32 [types, hidden]; DistilBERT has none
    norm: LayerNorm

    def __call__(self, token_ids: Array, token_types: Array, positions: Array, out: Activations) -> None:
        """out = their sum, normalised: [hidden, tokens]. Only the words in use are decoded."""
        words = self.words
        table, kind, scale = (
            (words.codes, "int8", words.scale)
            if isinstance(words, Int8Matrix)
            else (words.data.view("<u2") if words.type.itemsize == 2 else words.data, words.type.name, None)
        )
        embed(
            table,
            kind,
            scale=scale,
            positions=self.positions,
            types=self.types,
            token_ids=token_ids,
            position_ids=positions,
            token_types=token_types,
            out=out,
        )
        self.norm(out)


class Encoder:
    """Embeddings and layers. Several threads may call it at once."""

    def __init__(
        self, embeddings: Embeddings, layers: list[Layer], *, heads: int, nonlinearity: str, isa: str | None = None
    ) -> None:
        self.embeddings, self.layers, self.heads = embeddings, layers, heads
        self.nonlinearity = nonlinearity
        self.hidden_size = embeddings.positions.shape[1]
        self._isa = isa
        self._of_thread = threading.local()

    def __call__(self, token_ids: Array, token_types: Array, starts: Array, kept: Array | None = None) -> Activations:
        """Last hidden states [hidden, tokens], valid until the thread's next call.

        token_ids, token_types: int64 [tokens], the sequences laid end to end; starts: int64 [sequences + 1], where each
        begins, and the end. kept: int64, the tokens whose states are wanted (None: all); the last layer computes no
        other.
        """
        space = self._workspace()
        hidden, attended, codes = space.hidden, space.attended, space.codes
        positions = np.arange(len(token_ids)) - np.repeat(starts[:-1], np.diff(starts))
        self.embeddings(token_ids, token_types, positions, hidden)
        for layer in self.layers:
            layer.query_key_value(hidden, space.query_key_value, codes)
            attention(space.query_key_value, starts=starts, heads=self.heads, out=space.context)
            if layer is self.layers[-1] and kept is not None and len(kept) < len(token_ids):
                for states in (space.context, hidden):
                    states.take(kept)
            layer.attention_output(space.context, attended, codes, residual=hidden)
            layer.attention_norm(attended)
            self._feed_forward(layer, attended, hidden, space)
            layer.output_norm(hidden)
        return hidden

    def _feed_forward(self, layer: Layer, x: Activations, out: Activations, space: _Workspace) -> None:
        """out = down(nonlinearity(up(x))) + x; the many floats between two quantised layers are never stored."""
        up, down = layer.up, layer.down
        if isinstance(up.weight, Int8Weight) and isinstance(down.weight, Int8Weight):
            space.codes.quantize(x, up.weight)
            codes = space.intermediate_codes
            multiply_to_codes(
                up.weight,
                space.codes,
                out=codes,
                next=down.weight,
                bias=up.bias,
                nonlinearity=self.nonlinearity,
            )
            multiply(down.weight, codes, out=out, bias=down.bias, residual=x)
        else:
            between = space.intermediate[up.weight.rows]
            up(x, between, space.codes, nonlinearity=self.nonlinearity)
            down(between, out, space.codes, residual=x)

    def _workspace(self) -> _Workspace:
        if not hasattr(self._of_thread, "workspace"):
            intermediate = {layer.up.weight.rows for layer in self.layers}
            self._of_thread.workspace = _Workspace(self.hidden_size, intermediate, self._isa)
        workspace: _Workspace = self._of_thread.workspace
        return workspace


class _Workspace:
    """A thread's activations; their memory grows to the largest batch and stays, since fresh pages cost time."""

    def __init__(self, hidden_size: int, intermediate_sizes: set[int], isa: str | None) -> None:
        self.hidden = Activations(hidden_size, isa=isa)
        self.query_key_value = Activations(3 * hidden_size, isa=isa)
        self.context = Activations(hidden_size, isa=isa)
        self.attended = Activations(hidden_size, isa=isa)
        self.intermediate = {size: Activations(size, isa=isa) for size in intermediate_sizes}  # layers may differ
        self.codes, self.intermediate_codes = Codes(isa=isa), Codes(isa=isa)
