"""Where the bytes of a packed file go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruneonce.formats.model_folder import mask_digest_of_array
from pruneonce.formats.nonzero_codes import ENCODINGS
from pruneonce.formats.packed_file import PackedModel, is_for_attention, read_packed
from pruneonce.formats.stored_tensors import FLOAT_TYPES, INT8, Int8Matrix, SparseMatrix, Tensor
from pruneonce.hub_files import local_path
from pruneonce.models import Family, family_of

KINDS = ("encoder values", "encoder positions", "embeddings", "heads", "other", "header")
FP32_BYTES = 4
NUMBER_TYPES = FLOAT_TYPES | {INT8.name: INT8}


@dataclass(frozen=True)
class PackedTensor:
    """One tensor as stored."""

    name: str
    shape: tuple[int, ...]
    encoding: str  # dense | int8 | one of positions.ENCODINGS
    type: str  # fp32 | fp16 | bf16 | int8
    kind: str  # which of KINDS its values count as; its positions, if any, are "encoder positions"
    value_bytes: int
    position_bytes: int
    stored: int  # values in the file
    mask_digest: str  # empty unless prunable

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def sparse(self) -> bool:
        return self.encoding in ENCODINGS

    @property
    def sparsity(self) -> float:
        """Share of elements that the file leaves out."""
        return 1 - self.stored / self.size if self.size else 0.0

    @property
    def number_bytes(self) -> int:
        """Of the stored values alone: neither positions nor scales."""
        return self.stored * NUMBER_TYPES[self.type].itemsize

    @property
    def position_bits(self) -> float:
        """Bits of position per element of the dense matrix."""
        return 8 * self.position_bytes / self.size if self.size else 0.0


@dataclass(frozen=True)
class PackedInspection:
    """The answer of `pruneonce inspect` for a packed file."""

    file: str
    format_version: int
    bytes: int
    bytes_by_kind: dict[str, int]  # keys: KINDS; adds up to `bytes`
    dense_bytes: int  # of the same tensors as float32, zeros included
    position_bits: float  # per element, over all sparse matrices
    tensors: list[PackedTensor]
    attention: str  # numbers that its products are computed in: fp32 or int8
    stage: str | None  # from the record, if there is one
    lock_intact: bool | None  # zeros are the recorded ones; None without a record

    @property
    def ratio(self) -> float:
        """How many times smaller than dense float32."""
        return self.dense_bytes / self.bytes

    @property
    def encoder_ratio(self) -> float:
        """How many times smaller than dense float32 the encoder's matrices are, positions and scales included."""
        stored = self.bytes_by_kind["encoder values"] + self.bytes_by_kind["encoder positions"]
        return self._dense_encoder_bytes / max(1, stored)

    @property
    def encoder_ratio_of_numbers(self) -> float:
        """As papers count ("40x"): dense float32 over the non-zero numbers alone, as if placing them cost nothing."""
        return self._dense_encoder_bytes / max(1, sum(tensor.number_bytes for tensor in self._encoder))

    @property
    def _encoder(self) -> list[PackedTensor]:
        return [tensor for tensor in self.tensors if tensor.kind == "encoder values"]

    @property
    def _dense_encoder_bytes(self) -> int:
        return FP32_BYTES * sum(tensor.size for tensor in self._encoder)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("ratio", "encoder_ratio", "encoder_ratio_of_numbers")
        record = asdict(self) | {name: getattr(self, name) for name in names}
        for tensor, values in zip(self.tensors, record["tensors"], strict=True):
            values |= {"sparsity": tensor.sparsity, "position_bits": tensor.position_bits}
        return record


def inspect_packed(path: str | Path) -> PackedInspection:
    """Read a packed file, checking all of it, and measure every tensor."""
    path = local_path(path)
    model = read_packed(path)
    assert model.version is not None
    family = family_of(model.config.get("model_type"))
    tensors = [_measure(name, tensor, family) for name, tensor in model.tensors.items()]
    sparse = [tensor for tensor in tensors if tensor.sparse]
    by_kind = {kind: sum(tensor.value_bytes for tensor in tensors if tensor.kind == kind) for kind in KINDS}
    by_kind["encoder positions"] = sum(tensor.position_bytes for tensor in sparse)
    size = path.stat().st_size
    by_kind["header"] = size - sum(by_kind.values())
    return PackedInspection(
        file=str(path),
        format_version=model.version,
        bytes=size,
        bytes_by_kind=by_kind,
        dense_bytes=FP32_BYTES * sum(tensor.size for tensor in tensors),
        position_bits=8 * by_kind["encoder positions"] / max(1, sum(tensor.size for tensor in sparse)),
        tensors=tensors,
        attention="int8" if any(map(is_for_attention, model.tensors.values())) else "fp32",
        stage=str(model.provenance.get("stage")) if model.provenance else None,
        lock_intact=_lock_intact(model, tensors, family),
    )


def _measure(name: str, tensor: Tensor, family: Family) -> PackedTensor:
    prunable = family.is_prunable(name)
    position_bytes = tensor.positions.nbytes if isinstance(tensor, SparseMatrix) else 0
    return PackedTensor(
        name=name,
        shape=tensor.shape,
        encoding=tensor.encoding,
        type="int8" if isinstance(tensor, Int8Matrix) else tensor.type.name,
        kind=_kind(name, prunable or isinstance(tensor, SparseMatrix), family),
        value_bytes=tensor.nbytes - position_bytes,
        position_bytes=position_bytes,
        stored=tensor.values.size if isinstance(tensor, SparseMatrix) else math.prod(tensor.shape),
        mask_digest=mask_digest_of_array(tensor.to_dense()) if prunable else "",
    )


def _kind(name: str, matrix: bool, family: Family) -> str:
    return "encoder values" if matrix else {"encoder": "other"}.get(part := family.part_of(name), part)


def _lock_intact(model: PackedModel, tensors: list[PackedTensor], family: Family) -> bool | None:
    masks = model.provenance.get("masks") if model.provenance else None
    if not isinstance(masks, Mapping) or not masks:
        return None
    actual = {
        family.encoder_name(tensor.name.removesuffix(".weight")): tensor.mask_digest
        for tensor in tensors
        if tensor.mask_digest
    }
    # A task model may have dropped the pooler.
    return all(actual.get(name, digest) == digest for name, digest in masks.items())
