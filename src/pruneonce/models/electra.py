"""ELECTRA (Clark et al. 2020, arXiv 2003.10555): BERT whose tables may be narrower than its layers.

It was trained to tell which tokens a small generator has replaced. That head answers no task and is not computed here:
a published discriminator gives states, and whatever head it is fine-tuned with. The head for masks is the generator's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pruneonce.models.bert import BERT, CONFIG
from pruneonce.models.family import Family, Heads, MaskedLMHead, SequenceHead, Shape
from pruneonce.models.plan import EncoderPlan, nonlinearity, number, require_plain_encoder, small_number


def encoder_plan(config: Mapping[str, Any]) -> EncoderPlan:
    """The plan of a config.json; ValueError names the key that is wrong."""
    require_plain_encoder(config)
    hidden, width = number(config, CONFIG.hidden_size), number(config, "embedding_size", 128)
    return EncoderPlan(
        layers=number(config, CONFIG.layers),
        hidden_size=hidden,
        heads=number(config, CONFIG.heads),
        nonlinearity=nonlinearity(config, CONFIG.nonlinearity),
        norm_epsilon=small_number(config, "layer_norm_eps", 1e-12),
        max_tokens=number(config, CONFIG.max_positions, 512),
        embedding_size=None if width == hidden else width,
    )


ELECTRA = Family(
    model_type="electra",
    base="electra",
    config=CONFIG,
    special_tokens=BERT.special_tokens,
    embeddings=replace(BERT.embeddings, projection="embeddings_project"),
    layers=BERT.layers,
    layer=BERT.layer,
    final_norm=None,
    pooler=None,
    heads=Heads(
        sequence=SequenceHead(dense="classifier.dense", nonlinearity="gelu", out="classifier.out_proj"),
        tokens="classifier",
        spans="qa_outputs",
        masked_lm=MaskedLMHead(
            dense="generator_predictions.dense",
            norm="generator_predictions.LayerNorm",
            decoder="generator_lm_head",
            biases=("generator_lm_head.bias",),
            norm_epsilon=None,
            modules=("generator_predictions", "generator_lm_head"),
            nonlinearity="gelu",
        ),
        next_sentence=None,
        pretraining="Model",
    ),
    token_types=True,
    corpus_layout="document_sentences",
    shapes=(
        Shape("electra-small", layers=12, hidden_size=256, heads=4, intermediate_size=1024),
        Shape("electra-base", layers=12, hidden_size=768, heads=12, intermediate_size=3072),
        Shape("electra-large", layers=24, hidden_size=1024, heads=16, intermediate_size=4096),
    ),
    encoder_plan=encoder_plan,
)
