"""What a model folder or a packed file holds, whichever it is."""

from __future__ import annotations

from pathlib import Path

from pruneonce.convert.inspect_folder import Inspection, inspect_folder
from pruneonce.convert.inspect_packed import PackedInspection, inspect_packed
from pruneonce.hub_files import on_hub


def inspect(path: str | Path) -> Inspection | PackedInspection:
    """Measure a model: a folder (or Hub id), or a packed file. Errors are those of the two functions."""
    return inspect_packed(path) if on_hub(path) or Path(path).is_file() else inspect_folder(path)
