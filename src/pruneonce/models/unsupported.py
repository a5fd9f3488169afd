"""Encoders that people ask for and that are not computed here: why, and which family of ours is the nearest."""

from __future__ import annotations

# Model type in config.json -> the nearest family's, and what it has that ours has not.
NOT_COMPUTED: dict[str, tuple[str, str]] = {
    "albert": ("bert", "all of its layers share one set of weights"),
    "big_bird": ("roberta", "its attention is in random and neighbouring blocks"),
    "convbert": ("bert", "half of its heads are convolutions"),
    "deberta": ("roberta", "its attention compares contents with relative positions"),
    "deberta-v2": ("roberta", "its attention compares contents with relative positions"),
    "ernie": ("bert", "it adds an embedding of the task"),
    "eurobert": ("modernbert", "it is built of a decoder's blocks"),
    "flaubert": ("bert", "its layers are XLM's, with norms before and languages"),
    "funnel": ("bert", "it shortens its sequence from block to block"),
    "gemma3_text": ("modernbert", "it is built of a decoder's blocks"),
    "gpt2": ("bert", "it is a decoder"),
    "jina_bert": ("bert", "its attention has ALiBi's slopes for positions"),
    "llama": ("modernbert", "it is a decoder"),
    "longformer": ("roberta", "its attention is in windows with global tokens that the input names"),
    "luke": ("roberta", "it reads entities beside words"),
    "mistral": ("modernbert", "it is a decoder"),
    "mobilebert": ("bert", "its layers have bottlenecks and stacked feed-forwards"),
    "modernbert-decoder": ("modernbert", "it is a decoder"),
    "new": ("nomic_bert", "it is code of its own that comes with the model, and no code of a folder is run"),
    "qwen2": ("modernbert", "it is a decoder"),
    "qwen3": ("modernbert", "it is a decoder"),
    "rembert": ("bert", "the tables of its input and output differ"),
    "roberta-prelayernorm": ("roberta", "its layer norms stand before attention and feed-forward"),
    "roformer": ("nomic_bert", "it turns interleaved pairs of features by their positions"),
    "squeezebert": ("bert", "its linear layers are grouped convolutions"),
    "t5": ("mpnet", "it is an encoder with a decoder"),
    "xlm": ("bert", "its layers have languages, and norms elsewhere"),
    "xlm-roberta-xl": ("xlm-roberta", "its layer norms stand before attention and feed-forward"),
    "xlnet": ("mpnet", "it reads its text in permuted orders, with two streams"),
}
