"""The model families we know, as a table: which matrices may be pruned, and where heads and poolers are.

Prunable are the linear layers of the encoder, and BERT's pooler as in the original work; embeddings, task heads
and the masked-LM head (its decoder is tied to the embeddings) never are.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from pruneonce.errors import UsageError

EMBEDDING_MARK = "embeddings."  # in the names of the embeddings' tensors, in every family


@dataclass(frozen=True)
class Architecture:
    """Names of one family's parts. Module paths are relative to the encoder (`base`)."""

    model_type: str  # `model_type` in config.json
    base: str  # attribute of every head model that holds the encoder
    layers: str  # list of transformer layers
    linears: tuple[str, ...]  # linear layers of one transformer layer
    pooler: str | None  # linear layer over the first token, if the family has one
    corpus_layout: str  # how this family was pre-trained
    mlm_head: str  # prefix of the masked-LM head in the head model


BERT = Architecture(
    model_type="bert",
    base="bert",
    layers="encoder.layer",
    linears=(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),
    pooler="pooler.dense",
    corpus_layout="segment_pair_nsp",
    mlm_head="cls.predictions",
)

DISTILBERT = Architecture(
    model_type="distilbert",
    base="distilbert",
    layers="transformer.layer",
    linears=("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"),
    pooler=None,
    corpus_layout="document_sentences",
    mlm_head="vocab_",
)

ARCHITECTURES = {family.model_type: family for family in (BERT, DISTILBERT)}


def architecture_of(model_type: str) -> Architecture:
    """The table row of a config's `model_type`; UsageError for a family we do not know."""
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    near = difflib.get_close_matches(model_type, ARCHITECTURES, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UsageError(
        f"model type '{model_type}' is not supported: expected one of {', '.join(sorted(ARCHITECTURES))}.{hint}"
    )


def prunable_linears(module_names: Iterable[str], architecture: Architecture, *, pooler: bool = True) -> list[str]:
    """The prunable ones among a model's module (or `….weight` stripped tensor) names, in model order.

    Works for head models ("bert.encoder.layer.0…") and bare encoders ("encoder.layer.0…").
    """
    return [name for name in module_names if _is_prunable(encoder_name(name, architecture), architecture, pooler)]


def encoder_name(name: str, architecture: Architecture) -> str:
    """A module's name within the encoder: the same for the bare encoder and every head model built on it."""
    return name.removeprefix(architecture.base + ".")


def _is_prunable(name: str, architecture: Architecture, pooler: bool) -> bool:
    if name == architecture.pooler:
        return pooler
    if not name.startswith(architecture.layers + "."):
        return False
    number, _, linear = name.removeprefix(architecture.layers + ".").partition(".")
    return number.isdigit() and linear in architecture.linears
