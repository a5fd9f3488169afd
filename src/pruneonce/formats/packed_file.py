"""The packed file: a whole sparse model in one file. docs/format.md is the specification.

Everything is checked when a file is read; what `read_packed` returns can be trusted by native code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pruneonce.errors import PruneonceError
from pruneonce.files import check_format_version, replacing
from pruneonce.formats.nonzero_codes import ENCODINGS, MAX_RICE_BITS, Array, Positions
from pruneonce.formats.safetensors_file import (
    NAME,
    Container,
    is_shape,
    number_in,
    open_container,
    strict_json,
    write_container,
)
from pruneonce.formats.stored_tensors import (
    FLOAT_TYPES,
    INT8,
    DenseTensor,
    Int8Matrix,
    Quantization,
    SparseMatrix,
    Tensor,
)
from pruneonce.hub_files import local_path
from pruneonce.models.sentence import SentencePlan, plan_of

FORMAT_VERSION = 4
SUFFIX = ".pruneonce"

# Keys of the container's metadata; all values are text.
VERSION = "format_version"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
PROVENANCE = "pruneonce.json"
SENTENCE = "sentence.json"
TENSORS = "tensors"
ATTENTION = "attention"  # of a tensor's entry
REQUIRED = {VERSION, CONFIG, TOKENIZER, TENSORS}
# Of all matrices, zeros after their last weights: they take no byte, and readers that write matrices out would have to
# believe any number of them. BERT-large has 300 million weights.
MAX_TAILS = 1 << 30
FLOAT_OF_CONTAINER = {kind.container: kind for kind in FLOAT_TYPES.values()}

Parts = dict[str, tuple[str, Array]]  # name in the container -> (its dtype there, array)


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A model as a packed file holds it."""

    config: dict[str, Any]  # config.json
    tokenizer: str  # text of tokenizer.json
    tensors: dict[str, Tensor]  # by their names in the Hugging Face checkpoint
    provenance: dict[str, Any] | None = None  # pruneonce.json, mask digests included
    sentence: SentencePlan | None = None  # what becomes of its states or its logit, where the model says so
    version: int | None = None  # of the format, in the file that it was read from; None: it was made in memory

    @property
    def labels(self) -> list[str]:
        """Class names by their number; empty if the config has none."""
        return labels_of(self.config)


def write_packed(path: str | Path, model: PackedModel) -> None:
    """Write `model` to `path`, all or nothing: it is read back and checked before it takes the name `path`."""
    path = Path(path)
    parts: Parts = {}
    for name, tensor in model.tensors.items():
        own = _parts(name, tensor)
        if taken := own.keys() & parts.keys():
            raise PruneonceError(f"{path}: two tensors would be stored under the name {min(taken)}: rename one")
        parts.update(own)
    metadata = _metadata(path, model)
    with replacing(path) as temporary:
        write_container(temporary, parts, metadata)
        try:
            read_packed(temporary)
        except PruneonceError as error:
            raise PruneonceError(str(error).replace(str(temporary), str(path))) from error


def read_packed(path: str | Path) -> PackedModel:
    """Map a packed file and check every rule of docs/format.md; arrays are read-only views of the mapped file.

    path: of a file here, or hf://owner/name[@revision][/file].

    PruneonceError names the file, the tensor and the rule; for a newer format, both version numbers.
    """
    container = open_container(local_path(path))
    version = check_version(container)
    texts = container.metadata
    if unknown := texts.keys() - REQUIRED - {PROVENANCE, SENTENCE}:
        _refuse(container, f"the metadata key {min(unknown)[:40]!a} is not one of the format's")
    if missing := REQUIRED - texts.keys():
        _refuse(container, f"the metadata has no {min(missing)}")
    config = _json_object(container, CONFIG)
    _json_object(container, TOKENIZER)
    provenance = _json_object(container, PROVENANCE) if PROVENANCE in texts else None
    try:
        labels_of(config)
    except ValueError as error:
        _refuse(container, f"{CONFIG}: {error}")
    sentence = None
    if SENTENCE in texts:
        try:
            sentence = plan_of(_json_object(container, SENTENCE))
        except ValueError as error:
            _refuse(container, f"the metadata's {SENTENCE}: {error}")
    return PackedModel(config, texts[TOKENIZER], _read_tensors(container), provenance, sentence, version)


def check_version(container: Container) -> int:
    """The container's version; PruneonceError unless it is a packed file of one that we read."""
    version = container.metadata.get(VERSION)
    if version is None:
        _refuse(container, f"not a packed model: its metadata has no {VERSION}. `pruneonce export` makes packed files")
    return check_format_version(container.path, number_in(version), FORMAT_VERSION)


def labels_of(config: Mapping[str, Any]) -> list[str]:
    """Class names of a config's `id2label`, by number; ValueError unless the numbers are 0, 1, 2, …"""
    labels = config.get("id2label") or {}
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise ValueError("id2label must map numbers to names")
    if labels.keys() != {str(number) for number in range(len(labels))}:
        raise ValueError("the numbers in id2label must be 0, 1, 2, … without a gap")
    return [labels[str(number)] for number in range(len(labels))]


def _metadata(path: Path, model: PackedModel) -> dict[str, str]:
    objects = {CONFIG: model.config, TENSORS: {name: _describe(tensor) for name, tensor in model.tensors.items()}}
    if model.provenance is not None:
        objects[PROVENANCE] = model.provenance
    if model.sentence is not None:
        objects[SENTENCE] = model.sentence.as_json()
    texts = {VERSION: str(_version(model)), TOKENIZER: model.tokenizer}
    for key, value in objects.items():
        try:
            texts[key] = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            texts[key].encode()
        except ValueError as error:  # UnicodeEncodeError, of half a surrogate pair, is one
            raise PruneonceError(f"{path}: {key} cannot be written as JSON: {error}") from error
    return dict(sorted(texts.items()))


def _version(model: PackedModel) -> int:
    """The lowest version that has all the model uses: older readers then read what they can."""
    if any(is_for_attention(tensor) for tensor in model.tensors.values()):
        return 4
    if model.sentence is not None:
        return 3
    newer = any(
        isinstance(tensor, SparseMatrix) and (tensor.encoding == "rice" or tensor.quantization is not None)
        for tensor in model.tensors.values()
    )
    return 2 if newer else 1


def is_for_attention(tensor: Tensor) -> bool:
    """Whether attention is computed by codes of what the matrix gives."""
    return (
        isinstance(tensor, SparseMatrix)
        and tensor.quantization is not None
        and tensor.quantization.attention_scale is not None
    )


def _describe(tensor: Tensor) -> dict[str, Any]:
    """A tensor's entry in the metadata; the shape only where the stored parts do not show it."""
    if isinstance(tensor, SparseMatrix):
        rice = {"bits": tensor.positions.bits} if tensor.encoding == "rice" else {}
        attention = {ATTENTION: "int8"} if is_for_attention(tensor) else {}
        return {"encoding": tensor.encoding, "shape": list(tensor.shape), **rice, **attention}
    return {"encoding": tensor.encoding}


def _parts(name: str, tensor: Tensor) -> Parts:
    if isinstance(tensor, DenseTensor):
        return {name: (tensor.type.container, tensor.data)}
    if isinstance(tensor, Int8Matrix):
        return {f"{name}.codes": ("I8", tensor.codes), f"{name}.scale": ("F32", tensor.scale)}
    parts = {f"{name}.values": (tensor.type.container, tensor.values)}
    if tensor.quantization is not None:
        parts[f"{name}.scale"] = ("F32", tensor.quantization.scale)
        parts[f"{name}.input_scale"] = ("F32", tensor.quantization.input_scale)
        parts[f"{name}.input_zero_point"] = ("U8", tensor.quantization.input_zero_point)
        if tensor.quantization.attention_scale is not None and tensor.quantization.attention_zero_point is not None:
            parts[f"{name}.attention_scale"] = ("F32", tensor.quantization.attention_scale)
            parts[f"{name}.attention_zero_point"] = ("U8", tensor.quantization.attention_zero_point)
    return {**parts, f"{name}.{tensor.encoding}": ("U8", tensor.positions.data)}


def _read_tensors(container: Container) -> dict[str, Tensor]:
    unclaimed = set(container.entries)

    def take(name: str, dtypes: tuple[str, ...]) -> tuple[str, Array]:
        if name not in container.entries:
            _refuse(container, f"tensor {name} is in the metadata's list, but not in the file")
        if name not in unclaimed:
            _refuse(container, f"tensor {name} is part of two tensors of the metadata's list")
        unclaimed.remove(name)
        entry = container.entries[name]
        itemsize = container.array(name).itemsize
        if entry.dtype not in dtypes:
            _refuse(container, f"tensor {name}: its dtype must be {' or '.join(dtypes)}, not {entry.dtype}")
        if entry.begin % itemsize:
            _refuse(container, f"tensor {name}: it begins at byte {entry.begin:,}, not at a multiple of {itemsize}")
        return entry.dtype, container.array(name)

    tensors: dict[str, Tensor] = {}
    for name, description in _json_object(container, TENSORS).items():
        tensors[name] = _assemble(name, _check_description(container, name, description), take)
        try:
            tensors[name].check()
        except ValueError as error:
            _refuse(container, f"tensor {name}: {error}")
    _check_tails(container, [each for each in tensors.values() if isinstance(each, SparseMatrix)])
    if unclaimed:
        _refuse(container, f"tensor {min(unclaimed)} is not part of anything in the metadata's list")
    return tensors


def _check_tails(container: Container, matrices: list[SparseMatrix]) -> None:
    if sum(each.size for each in matrices) <= MAX_TAILS:
        return  # the usual case, in which nothing need be decoded
    tails = sum(each.tail for each in matrices)
    if tails > MAX_TAILS:
        _refuse(container, f"its matrices end in {tails:,} zeros that take no byte; at most {MAX_TAILS:,} are allowed")


class _Description(NamedTuple):
    """A tensor's entry in the metadata."""

    encoding: str
    shape: tuple[int, int] = (0, 0)  # of a sparse matrix
    bits: int = 0  # of a remainder, in rice codes
    for_attention: bool = False  # whether attention is computed by codes of what the matrix gives


def _check_description(container: Container, name: str, description: Any) -> _Description:
    if not NAME.fullmatch(name):
        _refuse(container, f"the metadata lists {name[:40]!a}, which is no name of a tensor")
    what = f"tensor {name}"
    encoding = description.get("encoding") if isinstance(description, dict) else None
    if encoding in ("dense", "int8"):
        if description.keys() != {"encoding"}:
            _refuse(container, f"{what}: {encoding} has no attributes")
        return _Description(encoding)
    if not isinstance(encoding, str) or encoding not in ENCODINGS:
        known = ", ".join(("dense", "int8", *ENCODINGS))
        _refuse(container, f"{what}: encoding {ascii(encoding)[:40]} is not one of {known}")
    attributes = ["shape", "bits"] if encoding == "rice" else ["shape"]
    if description.keys() - {ATTENTION} != {"encoding", *attributes}:
        noun = "attribute" if len(attributes) == 1 else "attributes"
        _refuse(container, f"{what}: {encoding} has the {noun} {' and '.join(attributes)}, and no other")
    shape, bits = description["shape"], description.get("bits", 0)
    if not is_shape(shape) or len(shape) != 2:
        _refuse(container, f"{what}: the shape must be two sizes below 2^31")
    if type(bits) is not int or not 0 <= bits <= MAX_RICE_BITS:
        _refuse(container, f"{what}: bits must be a whole number of 0 to {MAX_RICE_BITS}")
    if description.get(ATTENTION, "int8") != "int8":
        _refuse(container, f"{what}: {ATTENTION} is {ascii(description[ATTENTION])[:40]}, 'int8' is expected")
    return _Description(encoding, (shape[0], shape[1]), bits, ATTENTION in description)


def _assemble(name: str, description: _Description, take: Any) -> Tensor:
    encoding, shape, bits, for_attention = description
    floats = tuple(FLOAT_OF_CONTAINER)
    if encoding == "dense":
        dtype, data = take(name, floats)
        return DenseTensor(data, FLOAT_OF_CONTAINER[dtype])
    if encoding == "int8":
        return Int8Matrix(take(f"{name}.codes", ("I8",))[1], take(f"{name}.scale", ("F32",))[1])
    dtype, values = take(f"{name}.values", (INT8.container,) if for_attention else (*floats, INT8.container))
    positions = Positions(encoding, take(f"{name}.{encoding}", ("U8",))[1], bits)
    if dtype != INT8.container:
        return SparseMatrix(shape, values, FLOAT_OF_CONTAINER[dtype], positions)
    parts = [("scale", "F32"), ("input_scale", "F32"), ("input_zero_point", "U8")]
    if for_attention:
        parts += [("attention_scale", "F32"), ("attention_zero_point", "U8")]
    quantization = Quantization(*(take(f"{name}.{part}", (kind,))[1] for part, kind in parts))
    return SparseMatrix(shape, values, INT8, positions, quantization)


def _json_object(container: Container, key: str) -> dict[str, Any]:
    try:
        value = strict_json(container.metadata[key], f"the metadata's {key}")
    except ValueError as error:
        _refuse(container, str(error))
    if not isinstance(value, dict):
        _refuse(container, f"the metadata's {key} is not a JSON object")
    return value


def _refuse(container: Container, rule: str) -> NoReturn:
    raise PruneonceError(f"{container.path}: {rule}")
