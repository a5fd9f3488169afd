"""MPNet (Song et al. 2020, arXiv 2004.09297): RoBERTa without token types, and a bias on scores by distance.

One table of biases serves all layers; its rows are T5's buckets of distances. Its vocabulary is BERT's pieces under
RoBERTa's special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pruneonce.models.bert import BERT, CONFIG
from pruneonce.models.family import Family, LayerNames, Shape
from pruneonce.models.plan import EncoderPlan, nonlinearity, number, require_plain_encoder, small_number
from pruneonce.models.roberta import ROBERTA

FIRST_POSITION = 2  # a constant of transformers' code, whatever the config calls its padding
BUCKETS = 32  # likewise


def encoder_plan(config: Mapping[str, Any]) -> EncoderPlan:
    """The plan of a config.json; ValueError names the key that is wrong."""
    require_plain_encoder(config)
    if (buckets := number(config, "relative_attention_num_buckets", BUCKETS)) != BUCKETS:
        raise ValueError(f"config.json: relative_attention_num_buckets is {buckets}, transformers computes {BUCKETS}")
    return EncoderPlan(
        layers=number(config, CONFIG.layers),
        hidden_size=number(config, CONFIG.hidden_size),
        heads=number(config, CONFIG.heads),
        nonlinearity=nonlinearity(config, CONFIG.nonlinearity),
        norm_epsilon=small_number(config, "layer_norm_eps", 1e-12),
        max_tokens=number(config, CONFIG.max_positions, 512) - FIRST_POSITION,
        first_position=FIRST_POSITION,
        relative_buckets=BUCKETS,
    )


MPNET = Family(
    model_type="mpnet",
    base="mpnet",
    config=CONFIG,
    special_tokens=replace(ROBERTA.special_tokens, unk="[UNK]"),
    embeddings=replace(BERT.embeddings, types=None),
    layers=BERT.layers,
    layer=LayerNames(
        attention="attention.attn",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        attention_norm="attention.LayerNorm",
        up=BERT.layer.up,
        down=BERT.layer.down,
        output_norm=BERT.layer.output_norm,
    ),
    final_norm=None,
    pooler="pooler.dense",
    heads=ROBERTA.heads,
    token_types=False,
    corpus_layout="document_sentences",
    shapes=(Shape("mpnet-base", layers=12, hidden_size=768, heads=12, intermediate_size=3072),),
    encoder_plan=encoder_plan,
    relative_bias="encoder.relative_attention_bias",
)
