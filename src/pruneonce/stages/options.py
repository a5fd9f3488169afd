"""What the caller of a stage decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pruneonce.progress import Advance


@dataclass(frozen=True)
class StageOptions:
    """What the caller decides about a run, beside its recipe."""

    out: Path
    keep_checkpoints: bool = False
    on_progress: Advance | None = None
