"""The model under test as a Hugging Face folder: given, or built with random weights and zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pruneonce.errors import UsageError
from pruneonce.files import read_json
from pruneonce.formats.model_folder import read_architecture, read_matrices, require_folder
from pruneonce.models.family import architecture_of, encoder_name, prunable_linears

# Heads that can be measured: how the class in config.json ends.
MEASURED = ("ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification", "Model")
HEADS = {"sequence-classification": "ForSequenceClassification", "question-answering": "ForQuestionAnswering"}
# Model type and sizes: layers, hidden size, heads, intermediate size.
SHAPES = {
    "bert-base": ("bert", 12, 768, 12, 3072),
    "bert-large": ("bert", 24, 1024, 16, 4096),
    "distilbert": ("distilbert", 6, 768, 12, 3072),
    "minilm": ("bert", 6, 384, 12, 1536),
}
PATTERNS = ("unstructured", "1x4")
VOCABULARY = 30522


@dataclass(frozen=True)
class Subject:
    """What the report says of the model, and what counts its work."""

    name: str
    folder: str
    head: str  # of MEASURED
    layers: int
    hidden_size: int
    max_tokens: int
    prunable: int  # weights in prunable matrices
    nonzeros_per_token: int  # of the encoder's matrices: multiply-adds per token
    nonzeros_per_sequence: int  # of the pooler
    shape: str = ""  # of a random model: key of SHAPES
    pattern: str = ""  # of its zeros: of PATTERNS

    @property
    def sparsity(self) -> float:
        return 1 - (self.nonzeros_per_token + self.nonzeros_per_sequence) / self.prunable

    def useful_flops(self, lengths: Sequence[int]) -> int:
        """Floating point operations no exact engine can avoid: non-zero weights, and attention over real tokens."""
        weights = self.nonzeros_per_token * sum(lengths) + self.nonzeros_per_sequence * len(lengths)
        attention = 2 * self.layers * self.hidden_size * sum(length**2 for length in lengths)
        return 2 * (weights + attention)

    @property
    def weight_bytes(self) -> int:
        """Of the non-zero values as float32: the least a forward pass reads if no cache holds them."""
        return 4 * (self.nonzeros_per_token + self.nonzeros_per_sequence)


def read_subject(folder: str | Path, name: str = "") -> Subject:
    """Describe a model folder; UsageError for a folder that cannot be benchmarked."""
    path = require_folder(folder)
    family, config = read_architecture(path), read_json(path / "config.json")
    if not (path / "tokenizer.json").is_file():
        raise UsageError(f"{path} has no tokenizer.json: save its tokenizer there, the packed file needs it")
    classes = config.get("architectures") or ["none"]
    head = next((head for head in MEASURED if str(classes[0]).endswith(head)), None)
    if head is None:
        raise UsageError(f"{path} holds a {classes[0]}: bench expects one of {', '.join(MEASURED)}; fine-tune it first")
    pooled = token = size = 0
    for matrix in read_matrices(path):
        if matrix.prunable:
            size += matrix.size
            if encoder_name(matrix.name.removesuffix(".weight"), family) == family.pooler:
                pooled += matrix.size - matrix.zeros
            else:
                token += matrix.size - matrix.zeros
    return Subject(
        name=name or path.resolve().name,
        folder=str(path),
        head=head,
        layers=config.get("num_hidden_layers") or config["n_layers"],
        hidden_size=config.get("hidden_size") or config["dim"],
        max_tokens=config["max_position_embeddings"],
        prunable=size,
        nonzeros_per_token=token,
        nonzeros_per_sequence=pooled,
    )


def make_random(
    shape: str, head: str, sparsity: float, folder: Path, *, pattern: str = "unstructured", seed: int = 0
) -> Subject:
    """A model folder of a known shape: weights normal(0, 0.02), the least magnitudes of every prunable matrix zero.

    pattern: of PATTERNS, as in a recipe's [pruning].
    """
    for option, value, known in (
        ("--random", shape, SHAPES),
        ("--head", head, HEADS),
        ("--pattern", pattern, PATTERNS),
    ):
        if value not in known:
            raise UsageError(f"{option} '{value}' is unknown: expected one of {', '.join(known)}")
    if not 0 <= sparsity < 1:
        raise UsageError(f"--sparsity {sparsity}: expected at least 0 and less than 1")
    import torch
    import transformers

    from pruneonce.convert import onnx_graph
    from pruneonce.sparsity.masks import magnitude_mask
    from pruneonce.sparsity.patterns import PatternName

    family = architecture_of(SHAPES[shape][0])
    torch.manual_seed(seed)
    model = getattr(transformers, onnx_graph.HEADS[HEADS[head]].loader).from_config(_config(shape))
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name in prunable_linears(modules, family):
            weight: Any = modules[name].weight
            weight.mul_(magnitude_mask(weight, sparsity, cast("PatternName", pattern)))
    model.save_pretrained(folder)
    _tokenizer().save(str(folder / "tokenizer.json"))
    zeros = f"{sparsity:.0%} zeros" + (" in blocks of 1x4" if pattern == "1x4" else "")
    return replace(read_subject(folder, f"random {shape}, {zeros}, {head}"), shape=shape, pattern=pattern)


def _config(shape: str) -> Any:
    from transformers import BertConfig, DistilBertConfig

    model_type, layers, hidden, heads, intermediate = SHAPES[shape]
    if model_type == "distilbert":
        return DistilBertConfig(n_layers=layers, dim=hidden, n_heads=heads, hidden_dim=intermediate)
    return BertConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=intermediate
    )


def _tokenizer() -> Tokenizer:
    """As many words as BERT has, none of them real: random ids need a vocabulary, not a language."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *(f"w{number}" for number in range(VOCABULARY - len(special)))]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token=special[1]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    return tokenizer
