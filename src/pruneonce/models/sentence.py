"""What becomes of an encoder's states: one vector per text, or one score per pair. Data, as files hold it.

The choices are those of sentence-transformers' modules, under their names there (Reimers & Gurevych 2019, arXiv
1908.10084). A plan from a file is a stranger's: `plan_of` believes nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
POOLINGS: tuple[Pooling, ...] = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "dot", "euclidean", "manhattan")
PROJECTION_NONLINEARITIES = ("none", "tanh", "relu", "gelu")
ACTIVATIONS = ("sigmoid", "none")

# No published model comes near these; a file that goes beyond them is no model.
MOST_PROJECTIONS = 8
MOST_PROMPTS = 64
LONGEST_PROMPT = 4096  # characters
MOST_TOKENS = 1 << 20
LONGEST_NAME = 64  # of a projection
NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


@dataclass(frozen=True)
class Projection:
    """A linear layer over the pooled vector: nonlinearity(linear x), plus x or `residual` x where `residual` is set."""

    name: str  # its tensors are NAME.linear.weight [out, in], NAME.linear.bias, and NAME.residual.weight if out != in
    nonlinearity: str = "none"  # of PROJECTION_NONLINEARITIES
    residual: bool = False


@dataclass(frozen=True)
class EmbeddingPlan:
    """A text's vector: its tokens' states pooled, projected, made of length 1.

    The defaults are what sentence-transformers does with an encoder that says nothing of it.
    """

    pooling: tuple[Pooling, ...] = ("mean",)  # several are laid end to end
    projections: tuple[Projection, ...] = ()
    normalize: bool = False
    max_tokens: int | None = None  # texts are cut to so many; None: to what the encoder takes
    prompts: Mapping[str, str] = field(default_factory=dict)  # by name, what goes before a text
    default_prompt: str | None = None  # the name of the one that goes before every text
    include_prompt: bool = True  # its tokens are pooled too
    similarity: Similarity = "cosine"  # what the vectors were trained to be compared by

    def as_json(self) -> dict[str, Any]:
        """What `plan_of` reads."""
        return {"kind": "embeddings", **asdict(self), "pooling": list(self.pooling)}


@dataclass(frozen=True)
class RankingPlan:
    """A pair's score: the one logit of a classifier."""

    activation: Literal["sigmoid", "none"] = "sigmoid"
    max_tokens: int | None = None  # of a pair; None: what the encoder takes
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def as_json(self) -> dict[str, Any]:
        """What `plan_of` reads."""
        return {"kind": "ranking", **asdict(self)}


SentencePlan = EmbeddingPlan | RankingPlan


def plan_of(value: Any) -> SentencePlan:
    """The plan that `as_json` wrote; ValueError names the key that is wrong."""
    kinds: dict[str, type[EmbeddingPlan] | type[RankingPlan]] = {"embeddings": EmbeddingPlan, "ranking": RankingPlan}
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or value["kind"] not in kinds:
        raise ValueError(f"kind must be one of {', '.join(kinds)}")
    given = {key: each for key, each in value.items() if key != "kind"}
    made = kinds[value["kind"]]
    if unknown := given.keys() ^ {each.name for each in fields(made)}:
        raise ValueError(f"{min(unknown)[:40]!a} is missing, or not one of its keys")
    _check(given["max_tokens"] is None or _is_number(given["max_tokens"]), "max_tokens", f"1 to {MOST_TOKENS} or null")
    _check(_are_prompts(given["prompts"]), "prompts", f"at most {MOST_PROMPTS} names, each with a text")
    _check(given["default_prompt"] in (None, *given["prompts"]), "default_prompt", "the name of a prompt, or null")
    if made is RankingPlan:
        _check(given["activation"] in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}")
        return RankingPlan(**given)
    pooling = given["pooling"]
    _check(_are_poolings(pooling), "pooling", f"a list of {', '.join(POOLINGS)}, each once")
    for name in ("normalize", "include_prompt"):
        _check(type(given[name]) is bool, name, "true or false")
    _check(given["similarity"] in SIMILARITIES, "similarity", f"one of {', '.join(SIMILARITIES)}")
    projections = given["projections"]
    _check(isinstance(projections, list) and len(projections) <= MOST_PROJECTIONS, "projections", "a short list")
    made_of = tuple(_projection(each) for each in projections)
    names = [each.name for each in made_of]
    _check(len(set(names)) == len(names), "projections", "of different names")
    return EmbeddingPlan(**{**given, "pooling": tuple(pooling), "projections": made_of})


def is_projection_name(name: Any) -> bool:
    """Whether a projection's tensors may be called so: no dots, so that no tensor of the encoder is meant."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and set(name) <= NAME_LETTERS


def _projection(value: Any) -> Projection:
    keys = {each.name for each in fields(Projection)}
    _check(isinstance(value, dict) and value.keys() == keys, "projections", f"objects with {', '.join(sorted(keys))}")
    _check(is_projection_name(value["name"]), "projections", "with names of letters, digits, _ and -")
    known = ", ".join(PROJECTION_NONLINEARITIES)
    _check(value["nonlinearity"] in PROJECTION_NONLINEARITIES, "projections", f"with a nonlinearity of {known}")
    _check(type(value["residual"]) is bool, "projections", "with residual true or false")
    return Projection(**value)


def _are_poolings(value: Any) -> bool:
    named = isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)
    return named and set(value) <= set(POOLINGS) and len(set(value)) == len(value)


def _are_prompts(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MOST_PROMPTS
        and all(isinstance(text, str) and len(text) <= LONGEST_PROMPT for text in value.values())
        and all(0 < len(name) <= LONGEST_PROMPT for name in value)
    )


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST_TOKENS


def _check(right: bool, key: str, expected: str) -> None:
    if not right:
        raise ValueError(f"{key} must be {expected}")
