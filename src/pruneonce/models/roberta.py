"""RoBERTa (Liu et al. 2019, arXiv 1907.11692), XLM-R (1911.02116) and CamemBERT (1911.03894): one graph.

It is BERT's, with positions that begin after the padding's, no meaning for token types, and a head over the first token
that needs no pooler. What differs among the three is the vocabulary: byte-level BPE, or Unigram with 250,000 rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pruneonce.models.bert import BERT, CONFIG
from pruneonce.models.family import Family, Heads, MaskedLMHead, SequenceHead, Shape, SpecialTokens
from pruneonce.models.plan import EncoderPlan, nonlinearity, number, require_plain_encoder, row_number, small_number

SPECIAL_TOKENS = SpecialTokens(pad="<pad>", unk="<unk>", cls="<s>", sep="</s>", mask="<mask>")
PADDING = 1  # transformers' default of pad_token_id
MASKED_LM = MaskedLMHead(
    dense="lm_head.dense",
    norm="lm_head.layer_norm",
    decoder="lm_head.decoder",
    biases=("lm_head.bias", "lm_head.decoder.bias"),
    norm_epsilon=None,
    modules=("lm_head",),
    nonlinearity="gelu",
)


def encoder_plan(config: Mapping[str, Any]) -> EncoderPlan:
    """The plan of a config.json; ValueError names the key that is wrong."""
    require_plain_encoder(config)
    first = row_number(config, "pad_token_id", PADDING) + 1
    return EncoderPlan(
        layers=number(config, CONFIG.layers),
        hidden_size=number(config, CONFIG.hidden_size),
        heads=number(config, CONFIG.heads),
        nonlinearity=nonlinearity(config, CONFIG.nonlinearity),
        norm_epsilon=small_number(config, "layer_norm_eps", 1e-12),
        max_tokens=number(config, CONFIG.max_positions, 512) - first,
        first_position=first,
    )


ROBERTA = Family(
    model_type="roberta",
    base="roberta",
    config=CONFIG,
    special_tokens=SPECIAL_TOKENS,
    embeddings=BERT.embeddings,
    layers=BERT.layers,
    layer=BERT.layer,
    final_norm=None,
    pooler="pooler.dense",
    heads=Heads(
        sequence=SequenceHead(dense="classifier.dense", nonlinearity="tanh", out="classifier.out_proj"),
        tokens="classifier",
        spans="qa_outputs",
        masked_lm=MASKED_LM,
        next_sentence=None,
    ),
    token_types=False,
    corpus_layout="document_sentences",
    shapes=(
        Shape("roberta-base", layers=12, hidden_size=768, heads=12, intermediate_size=3072),
        Shape("roberta-large", layers=24, hidden_size=1024, heads=16, intermediate_size=4096),
        Shape("distilroberta-base", layers=6, hidden_size=768, heads=12, intermediate_size=3072),
    ),
    encoder_plan=encoder_plan,
)

XLM_ROBERTA = replace(
    ROBERTA,
    model_type="xlm-roberta",
    shapes=(
        Shape("xlm-roberta-base", layers=12, hidden_size=768, heads=12, intermediate_size=3072),
        Shape("xlm-roberta-large", layers=24, hidden_size=1024, heads=16, intermediate_size=4096),
    ),
)

CAMEMBERT = replace(
    ROBERTA,
    model_type="camembert",
    shapes=(Shape("camembert-base", layers=12, hidden_size=768, heads=12, intermediate_size=3072),),
)
