"""A BERT tokenizer small enough to build in a test: letters, digits, punctuation and a few words."""

from __future__ import annotations

import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CLS, SEP = 2, 3


def tiny_tokenizer(words: int = 100) -> Tokenizer:
    """Lower-case WordPiece; w0 ... w<words - 1> are one token each, other words are spelt."""
    characters = string.ascii_lowercase + string.digits
    pieces = [*SPECIAL, *string.punctuation, *characters, *(f"##{c}" for c in characters)]
    vocabulary = [*pieces, *(f"w{i}" for i in range(words))]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def save_tiny_tokenizer(folder: Path, words: int = 100) -> Path:
    """Write `tokenizer.json` to `folder`, which then passes for a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(words).save(str(folder / "tokenizer.json"))
    return folder
