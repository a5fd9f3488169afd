"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108): BERT without token types, pooler and next sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruneonce.models.family import (
    ConfigKeys,
    EmbeddingNames,
    Family,
    Heads,
    LayerNames,
    MaskedLMHead,
    SequenceHead,
    Shape,
    SpecialTokens,
)
from pruneonce.models.plan import EncoderPlan, nonlinearity, number, require_plain_encoder

CONFIG = ConfigKeys(
    layers="n_layers",
    hidden_size="dim",
    heads="n_heads",
    intermediate_size="hidden_dim",
    nonlinearity="activation",
    max_positions="max_position_embeddings",
)
NORM_EPSILON = 1e-12  # a constant of transformers' code: the config says nothing of it


def encoder_plan(config: Mapping[str, Any]) -> EncoderPlan:
    """The plan of a config.json; ValueError names the key that is wrong."""
    require_plain_encoder(config)
    return EncoderPlan(
        layers=number(config, CONFIG.layers),
        hidden_size=number(config, CONFIG.hidden_size),
        heads=number(config, CONFIG.heads),
        nonlinearity=nonlinearity(config, CONFIG.nonlinearity),
        norm_epsilon=NORM_EPSILON,
        max_tokens=number(config, CONFIG.max_positions, 512),
    )


DISTILBERT = Family(
    model_type="distilbert",
    base="distilbert",
    config=CONFIG,
    special_tokens=SpecialTokens(pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]"),
    embeddings=EmbeddingNames(
        prefix="embeddings.",
        words="embeddings.word_embeddings",
        positions="embeddings.position_embeddings",
        types=None,
        norm="embeddings.LayerNorm",
    ),
    layers="transformer.layer",
    layer=LayerNames(
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        output_norm="output_layer_norm",
    ),
    final_norm=None,
    pooler=None,
    heads=Heads(
        sequence=SequenceHead(dense="pre_classifier", nonlinearity="relu", out="classifier"),
        tokens="classifier",
        spans="qa_outputs",
        masked_lm=MaskedLMHead(
            dense="vocab_transform",
            norm="vocab_layer_norm",
            decoder="vocab_projector",
            biases=("vocab_projector.bias",),
            norm_epsilon=NORM_EPSILON,
            modules=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        ),
        next_sentence=None,
    ),
    token_types=False,
    corpus_layout="document_sentences",
    shapes=(Shape("distilbert", layers=6, hidden_size=768, heads=12, intermediate_size=3072),),
    encoder_plan=encoder_plan,
)
