"""ModernBERT (Warner et al. 2024, arXiv 2412.13663): rotary positions, windows in two layers of three, gated units."""

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
    Transform,
)
from pruneonce.models.plan import (
    EncoderPlan,
    flag,
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
    nonlinearity="hidden_activation",
    max_positions="max_position_embeddings",
)
GLOBAL, LOCAL = "full_attention", "sliding_attention"  # as layer_types and rope_parameters call them
POOLINGS = {"cls": "first", "mean": "mean"}


def encoder_plan(config: Mapping[str, Any]) -> EncoderPlan:
    """The plan of a config.json, of transformers 4 or 5; ValueError names the key that is wrong."""
    require_plain_encoder(config)
    layers = number(config, CONFIG.layers)
    rope = {} if config.get("rope_parameters") is None else config["rope_parameters"]
    if not isinstance(rope, Mapping):
        raise ValueError("config.json: rope_parameters must be an object, of the kinds of layers")
    if config.get("rope_scaling") is not None:
        raise ValueError("config.json: rope_scaling is not computed: only plain rotary positions are")
    pooling = config.get("classifier_pooling", "cls")
    if not isinstance(pooling, str) or pooling not in POOLINGS:
        raise ValueError(
            f"config.json: classifier_pooling is {str(pooling)[:40]!a}, one of {', '.join(POOLINGS)} is expected"
        )
    window = number(config, "local_attention", 128) // 2
    if not window:
        raise ValueError("config.json: local_attention is 1, a window of 2 tokens or more is expected")
    return EncoderPlan(
        layers=layers,
        hidden_size=number(config, CONFIG.hidden_size),
        heads=number(config, CONFIG.heads),
        nonlinearity=nonlinearity(config, CONFIG.nonlinearity),
        norm_epsilon=small_number(config, "norm_eps", 1e-5),
        max_tokens=number(config, CONFIG.max_positions, 8192),
        first_position=None,
        norm_placement="pre",
        first_attention_norm=False,
        final_norm=True,
        norm_shifts=flag(config, "norm_bias", False),
        attention_biases=flag(config, "attention_bias", False),
        feed_forward_biases=flag(config, "mlp_bias", False),
        gated=True,
        rotary_base=rotary_base(rope.get(GLOBAL, config.get("global_rope_theta")), 160_000.0),
        local_rotary_base=rotary_base(rope.get(LOCAL, config.get("local_rope_theta")), 10_000.0),
        local_window=window,
        local_layers=_local_layers(config, layers),
        head_biases=flag(config, "classifier_bias", False),
        decoder_bias=flag(config, "decoder_bias", True),
        head_nonlinearity=nonlinearity(config, "classifier_activation"),
        classifier_pooling="mean" if POOLINGS[pooling] == "mean" else "first",
    )


def _local_layers(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    types = config.get("layer_types")
    if types is None:
        every = number(config, "global_attn_every_n_layers", 3)
        return tuple(layer for layer in range(layers) if layer % every)
    if not isinstance(types, list) or len(types) != layers or any(each not in (GLOBAL, LOCAL) for each in types):
        raise ValueError(f"config.json: layer_types must be {layers} of {GLOBAL} and {LOCAL}")
    return tuple(layer for layer, each in enumerate(types) if each == LOCAL)


MODERNBERT = Family(
    model_type="modernbert",
    base="model",
    config=CONFIG,
    special_tokens=SpecialTokens(pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]"),
    embeddings=EmbeddingNames(
        prefix="embeddings.",
        words="embeddings.tok_embeddings",
        positions=None,
        types=None,
        norm="embeddings.norm",
    ),
    layers="layers",
    layer=LayerNames(
        attention="attn",
        query=None,
        key=None,
        value=None,
        query_key_value="attn.Wqkv",
        attention_output="attn.Wo",
        attention_norm="attn_norm",
        up=None,
        gate_up="mlp.Wi",
        down="mlp.Wo",
        output_norm="mlp_norm",
    ),
    final_norm="final_norm",
    pooler=None,
    heads=Heads(
        sequence=SequenceHead(dense="head.dense", nonlinearity="gelu", norm="head.norm", out="classifier"),
        tokens="classifier",
        spans="classifier",
        masked_lm=MaskedLMHead(
            dense="head.dense",
            norm="head.norm",
            decoder="decoder",
            biases=("decoder.bias",),
            norm_epsilon=None,
            modules=("head", "decoder"),
        ),
        next_sentence=None,
        transform=Transform(dense="head.dense", norm="head.norm"),
    ),
    token_types=False,
    corpus_layout="document_sentences",
    shapes=(
        Shape("modernbert-base", layers=22, hidden_size=768, heads=12, intermediate_size=1152),
        Shape("modernbert-large", layers=28, hidden_size=1024, heads=16, intermediate_size=2624),
    ),
    encoder_plan=encoder_plan,
)
