"""The model under test as a Hugging Face folder: given, or built with random weights and zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pruneonce.errors import UsageError
from pruneonce.files import read_json
from pruneonce.formats.model_folder import read_family, read_matrices, require_folder
from pruneonce.models import FAMILIES, Family
from pruneonce.models.family import POOLER_ROLE

# Heads that can be measured: how the class in config.json ends.
MEASURED = ("ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification", "Model")
HEADS = {"sequence-classification": "ForSequenceClassification", "question-answering": "ForQuestionAnswering"}
SHAPES = {shape.name: (family, shape) for family in FAMILIES.values() for shape in family.shapes}
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
    local_layers: int = 0  # whose tokens see `window` others on either side, not all
    window: int = 0

    @property
    def sparsity(self) -> float:
        return 1 - (self.nonzeros_per_token + self.nonzeros_per_sequence) / self.prunable

    def useful_flops(self, lengths: Sequence[int]) -> int:
        """Floating point operations no exact engine can avoid: non-zero weights, and attention over real tokens."""
        weights = self.nonzeros_per_token * sum(lengths) + self.nonzeros_per_sequence * len(lengths)
        everywhere = (self.layers - self.local_layers) * sum(length**2 for length in lengths)
        in_windows = self.local_layers * sum(_seen_pairs(length, self.window) for length in lengths)
        attention = 2 * self.hidden_size * (everywhere + in_windows)
        return 2 * (weights + attention)

    @property
    def weight_bytes(self) -> int:
        """Of the non-zero values as float32: the least a forward pass reads if no cache holds them."""
        return 4 * (self.nonzeros_per_token + self.nonzeros_per_sequence)


def read_subject(folder: str | Path, name: str = "") -> Subject:
    """Describe a model folder; UsageError for a folder that cannot be benchmarked."""
    path = require_folder(folder)
    family, config = read_family(path), read_json(path / "config.json")
    try:
        plan = family.encoder_plan(config)
    except ValueError as error:
        raise UsageError(f"{path} cannot be benchmarked: {error}") from error
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
            if family.role_of(matrix.name.removesuffix(".weight")) == POOLER_ROLE:
                pooled += matrix.size - matrix.zeros
            else:
                token += matrix.size - matrix.zeros
    return Subject(
        name=name or path.resolve().name,
        folder=str(path),
        head=head,
        layers=plan.layers,
        hidden_size=plan.hidden_size,
        max_tokens=plan.max_tokens,
        prunable=size,
        nonzeros_per_token=token,
        nonzeros_per_sequence=pooled,
        local_layers=len(plan.local_layers),
        window=plan.local_window,
    )


def _seen_pairs(tokens: int, window: int) -> int:
    """Pairs of a sequence's tokens, each with itself too, that are no further apart than the window."""
    furthest = min(window, tokens - 1)
    return tokens + 2 * furthest * tokens - furthest * (furthest + 1)


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

    from pruneonce.convert import onnx_graph
    from pruneonce.models.hub import config_for, random_hub_model
    from pruneonce.sparsity.masks import magnitude_mask
    from pruneonce.sparsity.patterns import PatternName

    family, sizes = SHAPES[shape]
    torch.manual_seed(seed)
    model = random_hub_model(onnx_graph.HEADS[HEADS[head]].loader, config_for(family, family.config_of(sizes)))
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name in family.prunable_linears(modules):
            weight: Any = modules[name].weight
            weight.mul_(magnitude_mask(weight, sparsity, cast("PatternName", pattern)))
    model.save_pretrained(folder)
    _tokenizer(family).save(str(folder / "tokenizer.json"))
    zeros = f"{sparsity:.0%} zeros" + (" in blocks of 1x4" if pattern == "1x4" else "")
    return replace(read_subject(folder, f"random {shape}, {zeros}, {head}"), shape=shape, pattern=pattern)


def _tokenizer(family: Family) -> Tokenizer:
    """As many words as BERT has, none of them real: random ids need a vocabulary, not a language."""
    special = list(asdict(family.special_tokens).values())
    words = [*special, *(f"w{number}" for number in range(VOCABULARY - len(special)))]
    tokenizer = Tokenizer(
        models.WordPiece({word: index for index, word in enumerate(words)}, unk_token=family.special_tokens.unk)
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special)
    return tokenizer
