"""Checkpoints in a layout that nothing reads any more, as ordinary model folders. Neither torch nor pickle."""

from __future__ import annotations

import enum
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import making_folder, read_json, write_json
from pruneonce.formats.model_folder import INDEX_FILE, TOKENIZER_FILES, require_folder
from pruneonce.formats.safetensors_file import Container, open_container, write_container
from pruneonce.formats.sparse_bitmask import PARTS, Array, decode

LIBRARY = "compressed-tensors"
SECTIONS = ("quantization_config", "compression_config")  # of config.json: since 0.7; before
FLOATS = ("F32", "F16", "BF16")  # types of weights that are not quantised
# Copied as they are. A checkpoint's own code and pickles stay behind.
COPIED = (*TOKENIZER_FILES, "added_tokens.json", "generation_config.json", "README.md", "LICENSE")
# In quantization_config, what there is only in a model that is more than sparse.
MORE_THAN_SPARSE = ("config_groups", "kv_cache_scheme", "transform_config")


class Format(enum.Enum):
    """Values of sparsity_config's "format" that we know; a name from a file is never looked up anywhere else."""

    SPARSE_BITMASK = "sparse-bitmask"
    DENSE = "dense"  # zeros stored as they are: only the config is the library's
    SPARSE_24_BITMASK = "sparse-24-bitmask"


@dataclass(frozen=True)
class Imported:
    """What came out."""

    folder: str
    tensors: int
    decompressed: int  # of the tensors
    sparsity: float  # of what was decompressed
    bytes_before: int  # of the weights' files
    bytes_after: int


@dataclass
class _Tensor:
    """A tensor of the new folder: whole (the part "") or in the four parts of a bitmask, maybe in several files."""

    name: str
    parts: dict[str, tuple[Container, str]]  # part -> (file, name there)

    @property
    def home(self) -> Container:
        """The file whose successor the tensor goes into."""
        return self._values[0]

    @property
    def _values(self) -> tuple[Container, str]:
        return self.parts["compressed" if "compressed" in self.parts else ""]

    def read(self) -> tuple[str, Array]:
        """(type, dense array)"""
        container, stored = self._values
        dtype = container.entries[stored].dtype
        if dtype not in FLOATS:
            raise PruneonceError(
                f"{container.path}: tensor {stored} is {dtype}; a model that is not quantised has {', '.join(FLOATS)}"
            )
        if "" in self.parts:
            return dtype, container.array(stored)
        try:
            return dtype, decode(**{part: file.array(name) for part, (file, name) in self.parts.items()})
        except ValueError as error:
            raise PruneonceError(f"{container.path}: tensor {self.name}: {error}") from error


def import_checkpoint(checkpoint: str | Path, out: str | Path) -> Imported:
    """Write a `sparse-bitmask` checkpoint of compressed-tensors as a model folder; `out` appears when it is whole.

    Values keep their type and bits. Memory: the largest of the checkpoint's files, decompressed. PruneonceError names
    the file, the tensor and the rule that is broken; UsageError for another layout, or an `out` that holds something.
    """
    source, out = require_folder(checkpoint), Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder: choose another --out, nothing is overwritten")
    config = read_json(source / "config.json")
    _check_config(source / "config.json", config)
    containers = _open_all(source)
    tensors = _collect(containers)
    with making_folder(out) as folder:
        zeros, size = _write_weights(folder, containers, tensors)
        for name in COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        write_json(folder / "config.json", {key: value for key, value in config.items() if key not in SECTIONS})
    return Imported(
        folder=str(out),
        tensors=len(tensors),
        decompressed=sum("" not in tensor.parts for tensor in tensors),
        sparsity=zeros / size if size else 0.0,
        bytes_before=sum(container.file_bytes for container in containers),
        bytes_after=sum(file.stat().st_size for file in out.glob("model*.safetensors")),
    )


def _check_config(file: Path, config: Any) -> None:
    """UsageError unless the layout is one that we read."""
    found = {name: config[name] for name in SECTIONS if isinstance(config, dict) and config.get(name) is not None}
    if len(found) != 1:
        raise UsageError(
            f"{file} has {' and '.join(found) or 'no quantization_config'}: a sparse checkpoint of compressed-tensors "
            f"has one of {', '.join(SECTIONS)}"
        )
    (name, section), *_ = found.items()
    if not isinstance(section, dict) or section.get("quant_method", LIBRARY) != LIBRARY:
        raise UsageError(f"{file}: {name} is not one of {LIBRARY}")
    if more := [key for key in MORE_THAN_SPARSE if section.get(key)]:
        raise UsageError(
            f"{file}: the model is quantised by {LIBRARY} as well ({name}.{more[0]} is set), which import does not "
            "undo: decompress it with the version of the library that wrote it"
        )
    sparsity = section.get("sparsity_config")
    wanted = sparsity.get("format") if isinstance(sparsity, dict) else None
    known = [each for each in Format if each.value == wanted]
    if known not in ([Format.SPARSE_BITMASK], [Format.DENSE]):
        raise UsageError(
            f"{file}: sparsity_config.format is {ascii(wanted)[:40]}; '{Format.SPARSE_BITMASK.value}' is expected"
        )


def _open_all(source: Path) -> list[Container]:
    """The weights' files; PruneonceError if the index names others."""
    files = sorted(source.glob("model*.safetensors"))
    if (source / INDEX_FILE).is_file():
        index = read_json(source / INDEX_FILE)
        named = index.get("weight_map") if isinstance(index, dict) else None
        missing = set(map(str, named.values() if isinstance(named, dict) else [named])) - {file.name for file in files}
        if missing:
            raise PruneonceError(f"{source / INDEX_FILE} names {ascii(min(missing))[:60]}, which is not in the folder")
    return [open_container(file) for file in files]


def _collect(containers: list[Container]) -> list[_Tensor]:
    """All tensors in the order of the files; PruneonceError for one that is there twice or in part."""
    # Until 0.8 every tensor was compressed, under its own name; since 0.9 "….weight" goes by "…" and biases are plain.
    whole_names = any(name.endswith(".weight.bitmask") for container in containers for name in container.entries)
    tensors: dict[str, _Tensor] = {}
    for container in containers:
        for stored in container.entries:
            name, _, part = stored.rpartition(".")
            if part not in PARTS:
                name, part = stored, ""
            elif not whole_names:
                name += ".weight"
            if name.endswith("position_ids"):
                continue  # 0, 1, 2, …, saved by older transformers
            tensor = tensors.setdefault(name, _Tensor(name, {}))
            if part in tensor.parts or ("" in (part, *tensor.parts) and tensor.parts):
                raise PruneonceError(f"{container.path}: tensor {name} is in the checkpoint twice")
            tensor.parts[part] = (container, stored)
    for tensor in tensors.values():
        if lacking := [part for part in PARTS if part not in tensor.parts and "" not in tensor.parts]:
            container, stored = next(iter(tensor.parts.values()))
            raise PruneonceError(f"{container.path}: tensor {tensor.name} has {stored}, but no {lacking[0]}")
    return list(tensors.values())


def _write_weights(folder: Path, containers: list[Container], tensors: list[_Tensor]) -> tuple[int, int]:
    """A file for each old one, and the index if there are several; zeros and elements of what was compressed."""
    zeros = size = total = 0
    homes: dict[str, str] = {}
    for container in containers:
        arrays = {tensor.name: tensor.read() for tensor in tensors if tensor.home is container}
        if not arrays:
            continue  # all its tensors' values are in another file
        for tensor in tensors:
            if tensor.name in arrays and "" not in tensor.parts:
                values = arrays[tensor.name][1]
                zeros, size = zeros + values.size - int(np.count_nonzero(values)), size + values.size
        write_container(folder / container.path.name, arrays, {"format": "pt"})
        homes |= dict.fromkeys(arrays, container.path.name)
        total += sum(array.nbytes for _, array in arrays.values())
    if len(containers) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(homes.items()))}
        write_json(folder / INDEX_FILE, index)
    return zeros, size
