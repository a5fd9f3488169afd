"""Model folders on disk: digest, sparsity of every matrix, and saving without ever showing half a model."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from pruneonce.errors import PruneonceError, UsageError, in_one_line
from pruneonce.files import cannot_write, fsync, read_json, replacing, settle, sha256_file, system_error
from pruneonce.formats.safetensors_file import Container, open_container
from pruneonce.models import Family, family_of
from pruneonce.models.hub import load_hub_tokenizer
from pruneonce.models.tokenizer import load_tokenizer

WEIGHTS_FILE = "model.safetensors"
STAGING = ".saving-"  # what a folder in which a model is being saved begins with
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Matrix:
    """One tensor of a folder as stored."""

    name: str  # of the tensor, as transformers' model calls it
    shape: tuple[int, ...]
    bytes: int
    zeros: int
    prunable: bool
    mask_digest: str  # empty unless prunable

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def sparsity(self) -> float:
        return self.zeros / self.size if self.size else 0.0


def require_folder(path: str | Path) -> Path:
    """`path` if it is a model folder with safetensors weights; else a UsageError that says what is missing."""
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"'{path}' is not a folder: a local model folder is expected here")
    for name in ("config.json", WEIGHTS_FILE):
        if not (folder / name).is_file() and not (name == WEIGHTS_FILE and (folder / INDEX_FILE).is_file()):
            raise UsageError(f"{folder} is not a model folder: it has no {name}")
    return folder


def folder_digest(path: str | Path) -> str:
    """What identifies a model as an input: digest of a folder's config, weights and tokenizer; "hub:ID" otherwise."""
    folder = Path(path)
    if not folder.is_dir():
        return f"hub:{path}"
    digest = hashlib.sha256()
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    for file in sorted([*weights, folder / "config.json", *map(folder.joinpath, TOKENIZER_FILES)]):
        if file.is_file():
            digest.update(f"{file.name}:{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def read_family(folder: Path) -> Family:
    """The family of a folder's config."""
    config = read_json(folder / "config.json")
    return family_of(config.get("model_type") if isinstance(config, dict) else None)


def read_matrices(folder: Path) -> Iterator[Matrix]:
    """Every tensor of a folder, one at a time (memory: the largest tensor). PruneonceError as of `open_container`.

    What a file stacks in one tensor is several here, as it is in transformers' model.
    """
    family = read_family(folder)
    for file in sorted(folder.glob("model*.safetensors")):
        container = open_container(file)
        for name, entry in container.entries.items():
            names = family.names_of_stored(name)
            for part, present in enumerate(names):
                tensor = rows_of_part(container, name, part, len(names))
                if entry.dtype == "BF16":  # its bits: without the sign, zero is zero
                    tensor = tensor & 0x7FFF
                yield _measure(present, tensor, family)


def rows_of_part(container: Container, name: str, part: int, parts: int) -> np.ndarray:
    """Some of a stored tensor's rows: the `part`-th of so many alike. PruneonceError if they cannot be shared out."""
    tensor = container.array(name)
    if parts == 1:
        return tensor
    if tensor.ndim == 0 or tensor.shape[0] % parts:
        raise PruneonceError(
            f"{container.path}: tensor {name} of shape {list(tensor.shape)} must be {parts} matrices of as many rows"
        )
    rows = tensor.shape[0] // parts
    return tensor[part * rows : (part + 1) * rows]


def mask_digests(matrices: Iterable[Matrix], family: Family) -> dict[str, str]:
    """Mask digest of every prunable matrix, by its name within the encoder."""
    return {
        family.encoder_name(matrix.name.removesuffix(".weight")): matrix.mask_digest
        for matrix in matrices
        if matrix.prunable
    }


def save_model_folder(model: Any, tokenizer_from: str | Path, folder: Path) -> None:
    """Write config, weights and tokenizer into `folder`; each file is whole or absent, and old ones are replaced.

    model: a transformers model. Raises PruneonceError when the disk refuses; files that were there stay.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=STAGING))
        try:
            model.save_pretrained(staging)
            _save_tokenizer(tokenizer_from, staging)
            for file in sorted(staging.iterdir()):
                settle(file)
                file.replace(folder / file.name)
            fsync(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, system_error(error, folder)) from error


def mask_digest_of_array(weight: np.ndarray) -> str:
    """SHA-256, hexadecimal, over the shape and the zero pattern of numbers or of a mask: equal means the same zeros."""
    shape = "x".join(str(size) for size in weight.shape)
    return hashlib.sha256(shape.encode() + b":" + np.packbits(weight != 0).tobytes()).hexdigest()


def _measure(name: str, tensor: np.ndarray, family: Family) -> Matrix:
    prunable = family.is_prunable(name)
    return Matrix(
        name=name,
        shape=tensor.shape,
        bytes=tensor.nbytes,
        zeros=int(tensor.size - np.count_nonzero(tensor)),
        prunable=prunable,
        mask_digest=mask_digest_of_array(tensor) if prunable else "",
    )


def _save_tokenizer(source: str | Path, folder: Path) -> None:
    try:
        load_hub_tokenizer(source).save_pretrained(folder)
        # Some published tokenizers carry a padding or truncation length that would silently cut every text.
        with replacing(folder / "tokenizer.json") as temporary:
            load_tokenizer(folder).save(str(temporary))
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise OSError(in_one_line(error)) from error  # the tokenizers library has no other class for a refused write
