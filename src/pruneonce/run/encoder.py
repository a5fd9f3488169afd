"""The forward pass of an encoder over native kernels, for sequences of any lengths laid end to end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruneonce._native import (
    Activations,
    Codes,
    attention,
    copy,
    embed,
    gate,
    int8_attention,
    layer_norm,
    multiply,
    multiply_to_codes,
    rotate,
)
from pruneonce.formats.stored_tensors import Array, DenseTensor, Int8Matrix
from pruneonce.models.plan import EncoderPlan
from pruneonce.run.live_features import LiveFeatures
from pruneonce.run.rotary import Rotary
from pruneonce.run.weights import Int8Weight, Weight
from pruneonce.run.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer: x -> weight · x + bias."""

    weight: Weight
    bias: Array | None  # float32 [rows]

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
class AttentionCodes:
    """The codes of queries, keys and values, by which attention is computed in 8 bits."""

    scales: Array  # float32 [3]
    zero_points: Array  # uint8 [3]


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
    attention_norm: LayerNorm | None  # None: this layer attends to what it is given
    up: Linear  # of a gated feed-forward: the gates first
    down: Linear
    output_norm: LayerNorm
    attention_codes: AttentionCodes | None = None  # None: attention in floats
    live: LiveFeatures | None = None  # of attention's heads; None: all


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Word embeddings as stored; position and type embeddings float32."""

    words: DenseTensor | Int8Matrix  # [vocabulary, width], the width that of the hidden states or the projection's
    positions: Array | None  # float32 [max tokens, width]; None: positions are not in the embeddings
    types: Array | None  # float32 [types, width]; None: the family has none
    norm: LayerNorm
    projection: Linear | None = None  # to the hidden size

    def __call__(
        self, token_ids: Array, token_types: Array, positions: Array, out: Activations, space: Workspace
    ) -> None:
        """out = their sum, normalised and projected: [hidden, tokens]. Only the words in use are decoded."""
        summed = out if self.projection is None else space.activations("embedded", self.projection.weight.cols)
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
            out=summed,
        )
        self.norm(summed)
        if self.projection is not None:
            self.projection(summed, out, space.codes)


class Encoder:
    """Embeddings and layers, as a plan says. Several threads may call it at once, each with a workspace of its own."""

    def __init__(
        self,
        embeddings: Embeddings,
        layers: list[Layer],
        plan: EncoderPlan,
        final_norm: LayerNorm | None = None,
        distance_biases: Array | None = None,
    ) -> None:
        """distance_biases: of attention's scores, float32 [heads, 2 · reach + 1], for distances of -reach … reach."""
        self.embeddings, self.layers, self.plan, self.final_norm = embeddings, layers, plan, final_norm
        self._biases = distance_biases
        self._windows = [plan.local_window if layer in plan.local_layers else 0 for layer in range(plan.layers)]
        bases = [plan.local_rotary_base if window else plan.rotary_base for window in self._windows]
        tables = {base: Rotary(base, plan.hidden_size // plan.heads) for base in bases if base is not None}
        self._rotary = [None if base is None else tables[base] for base in bases]

    def __call__(
        self, token_ids: Array, token_types: Array, starts: Array, space: Workspace, kept: Array | None = None
    ) -> Activations:
        """Last hidden states [hidden, tokens], valid until the next call with this workspace.

        token_ids, token_types: int64 [tokens], the sequences laid end to end; starts: int64 [sequences + 1], where each
        begins, and the end. kept: int64, the tokens whose states are wanted (None: all); the last layer computes no
        other.
        """
        size = self.plan.hidden_size
        hidden, attended = space.activations("hidden", size), space.activations("attended", size)
        context, query_key_value = space.activations("context", size), space.activations("query_key_value", 3 * size)
        places = np.arange(len(token_ids)) - np.repeat(starts[:-1], np.diff(starts))
        self.embeddings(token_ids, token_types, places + (self.plan.first_position or 0), hidden, space)
        before = self.plan.norm_placement == "pre"
        for layer, window, rotary in zip(self.layers, self._windows, self._rotary, strict=True):
            x = _normed(layer.attention_norm, hidden, space) if before else hidden
            layer.query_key_value(x, query_key_value, space.codes)
            if rotary is not None:
                cosines, sines = rotary.tables(int(np.diff(starts).max()))
                rotate(query_key_value, positions=places, heads=self.plan.heads, cosines=cosines, sines=sines)
            live = layer.live
            if (codes := layer.attention_codes) is not None:
                int8_attention(
                    query_key_value,
                    starts=starts,
                    heads=self.plan.heads,
                    scales=codes.scales,
                    zero_points=codes.zero_points,
                    scored=None if live is None else live.scored,
                    out=context,
                )
            else:
                attention(
                    query_key_value,
                    starts=starts,
                    heads=self.plan.heads,
                    window=window,
                    bias=self._biases,
                    scored=None if live is None else live.scored,
                    mixed=None if live is None else live.mixed,
                    out=context,
                )
            if layer is self.layers[-1] and kept is not None and len(kept) < len(token_ids):
                for states in (context, hidden):
                    states.take(kept)
            layer.attention_output(context, attended, space.codes, residual=hidden)
            if before:
                x = _normed(layer.output_norm, attended, space)
                self._feed_forward(layer, x, attended, hidden, space)
            else:
                if layer.attention_norm is not None:
                    layer.attention_norm(attended)
                self._feed_forward(layer, attended, attended, hidden, space)
                layer.output_norm(hidden)
        if self.final_norm is not None:
            self.final_norm(hidden)
        return hidden

    def _feed_forward(
        self, layer: Layer, x: Activations, residual: Activations, out: Activations, space: Workspace
    ) -> None:
        """out = down(nonlinearity(up(x))) + residual; the many floats between two quantised layers are never stored."""
        up, down, nonlinearity = layer.up, layer.down, self.plan.nonlinearity
        if self.plan.gated:
            both, gated = up.weight.rows, down.weight.cols
            gates_and_up, between = space.activations("gate and up", both), space.activations("intermediate", gated)
            up(x, gates_and_up, space.codes)
            gate(gates_and_up, out=between, nonlinearity=nonlinearity)
            down(between, out, space.codes, residual=residual)
        elif isinstance(up.weight, Int8Weight) and isinstance(down.weight, Int8Weight):
            space.codes.quantize(x, up.weight)
            codes = space.intermediate_codes
            multiply_to_codes(
                up.weight,
                space.codes,
                out=codes,
                next=down.weight,
                bias=up.bias,
                nonlinearity=nonlinearity,
            )
            multiply(down.weight, codes, out=out, bias=down.bias, residual=residual)
        else:
            between = space.activations("intermediate", up.weight.rows)  # layers may differ
            up(x, between, space.codes, nonlinearity=nonlinearity)
            down(between, out, space.codes, residual=residual)


def _normed(norm: LayerNorm | None, x: Activations, space: Workspace) -> Activations:
    """x itself without a norm; else a copy that is normalised, since x is added later."""
    if norm is None:
        return x
    normed = space.activations("normed", x.features)
    copy(x, to=normed)
    norm(normed)
    return normed
