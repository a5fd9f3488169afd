"""A model folder's tokenizer, as the `tokenizers` library's object: the same text rules for training and engine."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from pruneonce.errors import UsageError


def load_tokenizer(model: str | Path) -> Tokenizer:
    """The fast tokenizer of a model folder (or Hub id), with padding and truncation off.

    A folder with `tokenizer.json` needs nothing else; older ones (only `vocab.txt`) and Hub ids are converted by
    transformers. "[MASK]" and the like in a text are ordinary characters: text cannot forge special tokens.
    """
    file = Path(model) / "tokenizer.json"
    if file.is_file():
        tokenizer = Tokenizer.from_file(str(file))
    else:
        tokenizer = _convert(str(model))
    return _plain(tokenizer)


def tokenizer_from_text(text: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`'s text, as a packed file holds it. UsageError if it is none."""
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise UsageError(f"the tokenizer cannot be read: {error}") from error
    return _plain(tokenizer)


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def special_token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the BERT vocabulary's special tokens: keys `pad`, `unk`, `cls`, `sep`, `mask`. UsageError if one lacks."""
    ids = {}
    for name in ("pad", "unk", "cls", "sep", "mask"):
        token_id = tokenizer.token_to_id(f"[{name.upper()}]")
        if token_id is None:
            raise UsageError(f"this tokenizer has no [{name.upper()}]: a BERT or DistilBERT vocabulary is expected")
        ids[name] = token_id
    return ids


def _convert(model: str) -> Tokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError(
            f"{model} holds no tokenizer.json; converting an older tokenizer needs `pip install pruneonce[train]`"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UsageError(f"no tokenizer found for '{model}': {first_line}") from error
    backend: Tokenizer = tokenizer.backend_tokenizer
    return backend
