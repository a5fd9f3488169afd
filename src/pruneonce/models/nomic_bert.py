"""NomicBERT (Nussbaum et al. 2024, arXiv 2402.01613): BERT with rotary positions and SwiGLU, and without biases.

Configs are those of transformers, or those of the code that came with the published models, which transformers' own
files still take their tensors' names from.
"""

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
    StoredNames,
)
from pruneonce.models.plan import (
    EncoderPlan,
    nonlinearity,
    number,
    require_plain_encoder,
    rotary_base,
    small_number,
)

CONFIG = ConfigKeys(
    layers="num_hidden_layers",
    hidden_size="hidden_size",
    heads="num_attention_heads",
    intermediate_size="intermediate_size",
    nonlinearity="hidden_act",
    max_positions="max_position_embeddings",
)
PUBLISHED = {  # key of transformers' config -> that of the published models' own
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
    "rope_parameters": "rotary_emb_base",
}
# What the published code can also compute, and the value by which a model is one of these.
PLAIN = {
    "activation_function": "swiglu",
    "prenorm": False,
    "use_rms_norm": False,
    "parallel_block": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "causal": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
}
BASE = 1_000.0
UNSCALED_TOKENS = 2048  # of the published models' training


def encoder_plan(config: Mapping[str, Any]) -> EncoderPlan:
    """The plan of a config.json, transformers' or a published one; ValueError names the key that is wrong."""
    require_plain_encoder(config)
    if config.get("num_experts") or config.get("moe_every_n_layers"):
        raise ValueError("config.json: num_experts: feed-forwards that are mixtures of experts are not computed")
    for key, value in PLAIN.items():
        if config.get(key, value) != value:
            raise ValueError(f"config.json: {key} is {str(config[key])[:40]!a}, only {value!r} is computed")
    names = {published: key for key, published in PUBLISHED.items() if published in config and key not in config}
    config = {names.get(key, key): value for key, value in config.items()}
    hidden_size, heads = number(config, CONFIG.hidden_size, 768), number(config, CONFIG.heads, 12)
    if config.get("head_dim") not in (None, hidden_size // heads):
        raise ValueError(f"config.json: head_dim is {str(config['head_dim'])[:40]!a}, hidden_size / heads is expected")
    max_tokens = number(config, CONFIG.max_positions, 2048)
    if config.get("rotary_scaling_factor") is not None:  # longer texts would be scaled
        max_tokens = min(max_tokens, number(config, "max_trained_positions", UNSCALED_TOKENS))
    return EncoderPlan(
        layers=number(config, CONFIG.layers, 12),
        hidden_size=hidden_size,
        heads=heads,
        nonlinearity=nonlinearity({"hidden_act": "silu", **config}, CONFIG.nonlinearity),
        norm_epsilon=small_number(config, "layer_norm_eps", 1e-12),
        max_tokens=max_tokens,
        first_position=None,
        attention_biases=False,
        feed_forward_biases=False,
        gated=True,
        rotary_base=rotary_base(config.get("rope_parameters"), BASE),
    )


NOMIC_BERT = Family(
    model_type="nomic_bert",
    base="nomic_bert",
    config=CONFIG,
    special_tokens=SpecialTokens(pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]"),
    embeddings=EmbeddingNames(
        prefix="embeddings.",
        words="embeddings.word_embeddings",
        positions=None,
        types="embeddings.token_type_embeddings",
        norm="embeddings.LayerNorm",
    ),
    layers="layers",
    layer=LayerNames(
        attention="self_attn",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        attention_output="self_attn.o_proj",
        attention_norm="post_attention_layernorm",
        gate="mlp.gate_proj",
        up="mlp.up_proj",
        down="mlp.down_proj",
        output_norm="post_mlp_layernorm",
    ),
    final_norm=None,
    pooler="pooler.dense",
    heads=Heads(
        sequence=SequenceHead(dense="nomic_bert.pooler.dense", nonlinearity="tanh", out="classifier"),
        tokens="classifier",
        spans=None,
        masked_lm=MaskedLMHead(
            dense="cls.predictions.transform.dense",
            norm="cls.predictions.transform.layer_norm",
            decoder="cls.predictions.decoder",
            biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
            norm_epsilon=None,
            modules=("cls.predictions",),
        ),
        next_sentence=None,
    ),
    token_types=True,
    corpus_layout="document_sentences",
    shapes=(Shape("nomic", layers=12, hidden_size=768, heads=12, intermediate_size=3072),),
    encoder_plan=encoder_plan,
    stored=StoredNames(
        renamed=(
            ("encoder.layers.", "layers."),
            ("emb_ln.", "embeddings.LayerNorm."),
            ("attn.out_proj.", "self_attn.o_proj."),
            ("mlp.fc11.", "mlp.up_proj."),
            ("mlp.fc12.", "mlp.gate_proj."),
            ("mlp.fc2.", "mlp.down_proj."),
            ("norm1.", "post_attention_layernorm."),
            ("norm2.", "post_mlp_layernorm."),
        ),
        stacked=((".attn.Wqkv.", (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")),),
    ),
)
