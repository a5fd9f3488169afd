"""A data folder while it is being filled: whose it is, and what a killed run has left in it.

`building.json` is the first file of such a folder and goes when all others are there. Only in a folder that has it is
anything ever deleted, and only files of the names that its maker gives them. What making one answers is `Built`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneonce import files, folder_lock
from pruneonce.errors import PruneonceError, UsageError

FILE_NAME = "building.json"


@dataclass(frozen=True)
class Built:
    """A finished data folder: its manifest, and what must not be in that because it differs from run to run."""

    manifest: dict[str, Any]
    seconds: float  # wall clock of this call
    reused: bool  # the folder was already finished, so nothing was done


def claim(out: Path, identity: dict[str, Any], made: Sequence[str], *, resumable: bool) -> None:
    """Reserve `out`, a new or an empty folder or an unfinished one of the same "format", for what `identity` says.

    made: patterns of the files that are made in it. Those that a killed run left are deleted, but for finished files
        of a `resumable` run with an equal identity. UsageError if the folder holds anything else.
    """
    building = out / FILE_NAME
    if not building.exists():
        _refuse_other_files(out)
    else:
        found = files.read_json(building)
        if not isinstance(found, dict) or found.get("format") != identity["format"]:
            raise UsageError(f"{out} is being filled with something else ({building}): choose another folder")
        _delete(out, [f".{pattern}.*.tmp" for pattern in made])
        if resumable and found == identity:
            return
        _delete(out, made)
    files.write_json(building, identity)


def release(out: Path) -> None:
    """`out` is finished."""
    (out / FILE_NAME).unlink()


def tidy(out: Path, made: Sequence[str]) -> None:
    """Remove what a run that was killed at its very end has left in a folder that is finished.

    made: as of `claim`. Where another process is at it, or nothing may be removed, it stays.
    """
    if not any((out / name).exists() for name in (FILE_NAME, folder_lock.FILE_NAME)):
        return
    with contextlib.suppress(PruneonceError, OSError), folder_lock.filling(out):
        if (out / FILE_NAME).exists():
            _delete(out, [f".{pattern}.*.tmp" for pattern in made])
            release(out)


def _refuse_other_files(out: Path) -> None:
    present = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    others = [name for name in present if not name.startswith(f".{FILE_NAME}.") and name != folder_lock.FILE_NAME]
    if others:
        listed = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise UsageError(f"{out} holds other files ({listed}): choose a folder that is new or empty")


def _delete(out: Path, patterns: Sequence[str]) -> None:
    for leftover in itertools.chain.from_iterable(out.glob(pattern) for pattern in patterns):
        leftover.unlink()
