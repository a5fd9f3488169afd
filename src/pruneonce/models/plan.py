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
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class EncoderPlan:
    """Sizes and choices of one encoder; the defaults are those of the original transformer's encoder and of BERT.

    Every plan can be computed by the engine. ValueError for sizes that cannot be.
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
    first_attention_norm: bool = True  # "pre" only: the first layer's attention has a norm before it too
    attention_biases: bool = True  # the linear layers of attention add one
    feed_forward_biases: bool = True
    gated: bool = False  # the feed-forward is down(nonlinearity(gate x) * (up x))
    relative_buckets: int = 0  # of a bias on attention scores by distance, one table for all layers; 0: none
    relative_max_distance: int = 128  # from which on distances share the last bucket
    rotary_base: float | None = None  # theta of rotary positions in layers that see all tokens; None: none
    local_rotary_base: float | None = None  # theta in layers that see a window
    local_window: int = 0  # tokens on either side that a local layer sees; 0: every layer sees all
    local_layers: tuple[int, ...] = ()  # that see their window; the others see all tokens
    head_biases: bool = True  # the linear layer before a head's outputs adds one
    decoder_bias: bool = True  # that of words in place of masks does
    head_nonlinearity: str | None = None  # of what stands before a head's outputs; None: as the family says
    classifier_pooling: Literal["first", "mean"] = "first"  # what a text's classes are read from: its tokens' states

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads:
            raise ValueError(
                f"config.json: {self.hidden_size} hidden units cannot be shared out among {self.heads} heads"
            )
        if (self.hidden_size // self.heads) % 2 and not {None} >= {self.rotary_base, self.local_rotary_base}:
            raise ValueError(
                f"config.json: rotary positions turn pairs, a head of {self.hidden_size // self.heads} is odd"
            )
        if self.max_tokens < 1:
            raise ValueError("config.json: the position table has no row for a first token")

    @property
    def plain_attention(self) -> bool:
        """Whether all layers' scores are products of queries and keys alone, of all tokens: no positions in them."""
        return (
            not self.relative_buckets and not self.local_layers and {self.rotary_base, self.local_rotary_base} <= {None}
        )


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


def flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """A choice in a config; ValueError unless it is true or false."""
    value = config.get(key, default)
    if type(value) is not bool:
        raise ValueError(f"config.json: {key} is {str(value)[:40]!a}, true or false is expected")
    return value


def rotary_base(parameters: Any, default: float) -> float:
    """Theta of a config's `rope_parameters` (None: the default); ValueError for positions that are scaled or partial.

    transformers' older keys hold theta alone.
    """
    value = parameters
    if isinstance(parameters, Mapping):
        kind = parameters.get("rope_type", "default")
        if kind != "default" or parameters.get("partial_rotary_factor", 1) != 1:
            raise ValueError(
                f"config.json: rotary positions of type {str(kind)[:40]!a} are not computed: only plain ones"
            )
        value = parameters.get("rope_theta")
    value = default if value is None else value
    if type(value) not in (int, float) or not 1 < value < 1e12:
        raise ValueError(f"config.json: rotary positions have theta {str(value)[:40]!a}, a number above 1 is expected")
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
