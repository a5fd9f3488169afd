"""Checkpoints that are whole or not there: a marker with every file's size is written last."""

from __future__ import annotations

import shutil
from pathlib import Path

from pruneonce.errors import PruneonceError
from pruneonce.files import read_json, settle, write_json

MARKER = "complete.json"
PREFIX = "checkpoint-"
PRUNER_FILE = "pruner.safetensors"  # beside masked weights: what they lose
QUANTIZER_FILE = "quantizer.safetensors"  # ranges that were seen
SPARSE_LAYERS_FILE = "sparse_layers.json"  # beside checkpoints: names of the layers that compute sparse


def mark_complete(checkpoint: Path) -> None:
    """Flush every file of `checkpoint` and then write the marker that makes it count."""
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file() and file.name != MARKER)
    for file in files:
        settle(file)
    write_json(checkpoint / MARKER, {str(file.relative_to(checkpoint)): file.stat().st_size for file in files})


def is_complete(checkpoint: Path) -> bool:
    """True if the marker is there and every file it lists has the recorded size."""
    try:
        sizes = read_json(checkpoint / MARKER)
    except PruneonceError:
        return False
    return isinstance(sizes, dict) and all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size for name, size in sizes.items()
    )


def latest_complete(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps; None if there is none."""
    found = [path for path in _checkpoints(folder) if is_complete(path)]
    return max(found, key=checkpoint_step, default=None)


def remove_incomplete(folder: Path) -> None:
    """Delete what a killed save left behind, so that it is neither resumed from nor counted."""
    for path in _checkpoints(folder):
        if not is_complete(path):
            shutil.rmtree(path)


def checkpoint_step(checkpoint: Path) -> int:
    """Optimizer steps completed when it was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
