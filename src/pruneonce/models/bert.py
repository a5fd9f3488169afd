"""BERT (Devlin et al. 2019, arXiv 1810.04805), and models of its shape: MiniLM among them."""

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
from pruneonce.models.plan import EncoderPlan, nonlinearity, number, require_plain_encoder, small_number

CONFIG = ConfigKeys(
    layers="num_hidden_layers",
    hidden_size="hidden_size",
    heads="num_attention_heads",
    intermediate_size="intermediate_size",
    nonlinearity="hidden_act",
    max_positions="max_position_embeddings",
)


def encoder_plan(config: Mapping[str, Any]) -> EncoderPlan:
    """The plan of a config.json; ValueError names the key that is wrong."""
    require_plain_encoder(config)
    return EncoderPlan(
        layers=number(config, CONFIG.layers),
        hidden_size=number(config, CONFIG.hidden_size),
        heads=number(config, CONFIG.heads),
        nonlinearity=nonlinearity(config, CONFIG.nonlinearity),
        norm_epsilon=small_number(config, "layer_norm_eps", 1e-12),
        max_tokens=number(config, CONFIG.max_positions, 512),
    )


BERT = Family(
    model_type="bert",
    base="bert",
    config=CONFIG,
    special_tokens=SpecialTokens(pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]"),
    embeddings=EmbeddingNames(
        prefix="embeddings.",
        words="embeddings.word_embeddings",
        positions="embeddings.position_embeddings",
        types="embeddings.token_type_embeddings",
        norm="embeddings.LayerNorm",
    ),
    layers="encoder.layer",
    layer=LayerNames(
        attention="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        up="intermediate.dense",
        down="output.dense",
        output_norm="output.LayerNorm",
    ),
    final_norm=None,
    pooler="pooler.dense",
    heads=Heads(
        sequence=SequenceHead(dense="bert.pooler.dense", nonlinearity="tanh", out="classifier"),
        tokens="classifier",
        spans="qa_outputs",
        masked_lm=MaskedLMHead(
            dense="cls.predictions.transform.dense",
            norm="cls.predictions.transform.LayerNorm",
            decoder="cls.predictions.decoder",
            biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
            norm_epsilon=None,
            modules=("cls.predictions",),
        ),
        next_sentence="cls.seq_relationship",
    ),
    token_types=True,
    corpus_layout="segment_pair_nsp",
    shapes=(
        Shape("bert-base", layers=12, hidden_size=768, heads=12, intermediate_size=3072),
        Shape("bert-large", layers=24, hidden_size=1024, heads=16, intermediate_size=4096),
        Shape("minilm", layers=6, hidden_size=384, heads=12, intermediate_size=1536),
    ),
    encoder_plan=encoder_plan,
)
