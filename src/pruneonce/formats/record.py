"""`pruneonce.json`: what made a model folder, and the digests that prove its zeros are still its parent's."""

from __future__ import annotations

import typing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pruneonce.errors import PruneonceError
from pruneonce.files import check_format_version, read_json, write_json

FILE_NAME = "pruneonce.json"
FORMAT_VERSION = 1


@dataclass
class Provenance:
    """One stage's record. Written last: a folder without it is unfinished."""

    stage: str  # teacher | prune | finetune | quantize
    recipe: dict[str, Any]  # fully resolved
    inputs: dict[str, str]  # what the stage read: name -> digest
    seed: int
    steps: int  # optimizer steps
    metrics: dict[str, float]
    sparsity: dict[str, float] = field(default_factory=dict)  # pruned matrix -> fraction of zeros
    masks: dict[str, str] = field(default_factory=dict)  # pruned matrix -> mask digest
    versions: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)  # seconds
    rounded_to_zero: int = 0  # weights that quantisation made zeros
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Write the record into `folder`, atomically."""
        write_json(folder / FILE_NAME, asdict(self))


def read_provenance(folder: str | Path) -> Provenance | None:
    """The record of a folder; None where there is none (a foreign checkpoint, a Hub id, an unfinished run).

    PruneonceError if the file is no such record. What a record says is not checked, only of which types it is.
    """
    file = Path(folder) / FILE_NAME
    if not file.is_file():
        return None
    record = read_json(file)
    check_format_version(file, record.get("format_version") if isinstance(record, dict) else None, FORMAT_VERSION)
    try:
        found = Provenance(**record)
        _check_types(found)
        return found
    except TypeError as error:
        raise PruneonceError(f"{file} is not a record of pruneonce: {error}") from error


def _check_types(record: Provenance) -> None:
    """TypeError, which names the field, unless every value is of its field's type: the file may be anyone's."""
    for name, hint in typing.get_type_hints(Provenance).items():
        value = getattr(record, name)
        if typing.get_origin(hint) is not dict:
            if not _is_of(value, hint):
                raise TypeError(f"'{name}' must be of type {hint.__name__}, got {ascii(value)[:40]}")
            continue
        if not isinstance(value, dict):
            raise TypeError(f"'{name}' must be an object, got {ascii(value)[:40]}")
        inner = typing.get_args(hint)[1]
        for key, item in value.items():
            if not _is_of(item, inner):
                raise TypeError(f"'{name}.{key}' must be of type {inner.__name__}, got {ascii(item)[:40]}")


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of a type; integers that a float can hold exactly are floats too."""
    if hint is float and type(value) is int:
        return abs(value) <= 1 << 53
    return hint is Any or type(value) is hint


def check_masks(expected: dict[str, str], actual: dict[str, str], *, where: str) -> None:
    """Every matrix in `expected` that `actual` has must have the same zeros; the error names the first that has not.

    Matrices that `actual` lacks are no error: a task model may have dropped the pooler.
    """
    for name, digest in expected.items():
        found = actual.get(name)
        if found is not None and found != digest:
            raise PruneonceError(
                f"{where}: the zeros of {name}.weight are not the recorded ones (mask digest {found[:12]}…, expected "
                f"{digest[:12]}…). Something changed the pattern; start again from an intact folder."
            )
