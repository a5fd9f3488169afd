"""What a model folder holds: zeros, mask digest and bytes of every matrix, and the totals people quote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruneonce.convert.runnable import obstacle_of
from pruneonce.formats.model_folder import Matrix, mask_digests, read_family, read_matrices, require_folder
from pruneonce.formats.record import Provenance, read_provenance


@dataclass(frozen=True)
class Total:
    """Sums over some tensors. Bytes are as stored, zeros included."""

    parameters: int
    zeros: int
    bytes: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class Inspection:
    """The answer of `pruneonce inspect`."""

    folder: str
    matrices: list[Matrix]
    prunable: Total  # encoder linears, and BERT's pooler
    without_embeddings: Total
    everything: Total
    stage: str | None  # from pruneonce.json, if it is there
    lock_intact: bool | None  # zeros are the recorded ones; None without a record
    obstacle: str | None  # why the engine would not run it; None: it would

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        record = asdict(self)
        for matrix, values in zip(self.matrices, record["matrices"], strict=True):
            values["sparsity"] = matrix.sparsity
        for name in ("prunable", "without_embeddings", "everything"):
            record[name]["sparsity"] = getattr(self, name).sparsity
        return record


def inspect_folder(path: str | Path) -> Inspection:
    """Measure every tensor of a local model folder. UsageError if it is not one."""
    folder = require_folder(path)
    matrices = list(read_matrices(folder))
    family = read_family(folder)
    obstacle = obstacle_of(folder, family)
    digests = mask_digests(matrices, family)
    record = read_provenance(folder)
    return Inspection(
        folder=str(folder),
        matrices=matrices,
        prunable=_total(matrix for matrix in matrices if matrix.prunable),
        without_embeddings=_total(matrix for matrix in matrices if family.part_of(matrix.name) != "embeddings"),
        everything=_total(matrices),
        stage=record.stage if record else None,
        lock_intact=record.masks.items() <= digests.items() if record and record.masks else None,
        obstacle=obstacle,
    )


def _total(matrices: Iterable[Matrix]) -> Total:
    parameters = zeros = size = 0
    for matrix in matrices:
        parameters += matrix.size
        zeros += matrix.zeros
        size += matrix.bytes
    return Total(parameters, zeros, size)


def total_of_pruned(folder: str | Path, record: Provenance) -> Total:
    """Of the matrices that a run has pruned or locked, counted in the saved file."""
    family = read_family(Path(folder))
    return _total(
        matrix
        for matrix in read_matrices(Path(folder))
        if family.encoder_name(matrix.name.removesuffix(".weight")) in record.masks
    )


def zeros_of_pruned(folder: str | Path, record: Provenance) -> float:
    """Share of zeros in them."""
    return total_of_pruned(folder, record).sparsity
