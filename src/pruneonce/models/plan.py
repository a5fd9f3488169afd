"""What an encoder computes, in terms that no model family is named by: a family reads its plan from config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# The names of transformers' activations -> those of the native kernels.
NONLINEARITIES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class EncoderPlan:
    """Sizes and choices of one encoder; the defaults are those of the original transformer's encoder and of BERT.

    Not every plan can be computed: `run.encoder.require_computable` says which. ValueError for sizes that cannot be.
    """

    layers: int
    hidden_size: int
    heads: int
    nonlinearity: str  # of the feed-forward: a value of NONLINEARITIES
    norm_epsilon: float
    max_tokens: int  # of one sequence, special tokens included
    embedding_size: int | None = None  # of the tables, where it is not the hidden size: they are projected
    first_position: int | None = 0  # row of the position table that the first token takes; None: there is no table
    norm_placement: Literal["post", "pre"] = "post"  # after the residual sum, or before attention and feed-forward
    final_norm: bool = False  # one more norm after the last layer
    norm_shifts: bool = True  # layer norms add something after they have scaled
    biases: bool = True  # linear layers add one
    gated: bool = False  # the feed-forward is down(nonlinearity(gate x) * (up x))
    relative_buckets: int = 0  # of a bias on attention scores by distance, one table for all layers; 0: none
    relative_max_distance: int = 128  # from which on distances share the last bucket
    rotary_base: float | None = None  # theta of rotary positions in layers that see all tokens; None: none
    local_rotary_base: float | None = None  # theta in layers that see a window
    local_window: int = 0  # tokens on either side that a local layer sees; 0: every layer sees all
    global_every: int = 1  # layers 0, n, 2n, … see all tokens, the others their window

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ValueError(
                f"config.json: {self.hidden_size} hidden units cannot be shared out among {self.heads} heads"
            )
        if self.max_tokens < 1:
            raise ValueError("config.json: the position table has no row for a first token")


def number(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A size in a config; ValueError unless it is a whole number of 1 to 2^20."""
    value = config.get(key, default)
    if type(value) is not int or not 0 < value < 2**20:
        raise ValueError(f"config.json: {key} is {str(value)[:40]!a}, a whole number is expected")
    return value


def row_number(config: Mapping[str, Any], key: str, default: int) -> int:
    """A number of a table's row in a config; ValueError unless it is a whole number of 0 to below 2^20."""
    value = default if config.get(key) is None else config[key]
    if type(value) is not int or not 0 <= value < 2**20:
        raise ValueError(f"config.json: {key} is {str(value)[:40]!a}, the number of a row is expected")
    return value


def small_number(config: Mapping[str, Any], key: str, default: float) -> float:
    """An epsilon in a config; ValueError unless it is a number from 0 to below 1."""
    value = config.get(key, default)
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"config.json: {key} is {str(value)[:40]!a}, a small number is expected")
    return float(value)


def nonlinearity(config: Mapping[str, Any], key: str) -> str:
    """The native name of a config's activation; ValueError for one that no kernel computes."""
    name = config.get(key, "gelu")
    if not isinstance(name, str) or name not in NONLINEARITIES:
        raise ValueError(f"config.json: {key} {str(name)[:40]!a} is not one of {', '.join(NONLINEARITIES)}")
    return NONLINEARITIES[name]


def require_plain_encoder(config: Mapping[str, Any]) -> None:
    """ValueError for a decoder, or for the relative positions that a BERT's config may ask for."""
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        raise ValueError("only encoders with absolute positions are supported")
