"""A model that answers for long: its memory does not grow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from campaign.case import Case
from campaign.models import made, make_tiny
from pruneonce.run.model import load_model
from pruneonce.run.pipelines import pipeline

CALLS = 1000  # of an attempt
GROWTH_BYTES = 4 << 20  # after two attempts' calls, over all others
SAME = "1,000 calls in the same memory"


@dataclass
class Asked:
    ask: Any
    resident_bytes: int


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def call(ask: Any, generator: np.random.Generator) -> None:
    """Texts of all lengths, alone and in company."""
    words = "the old city was a good film of water and music".split()
    for _ in range(CALLS):
        ask([" ".join(generator.choice(words, generator.integers(1, 29))) for _ in range(generator.integers(1, 5))])


def _asked(scratch: Path) -> Asked:
    model = load_model(made(scratch.parent / "tiny", make_tiny) / "classes.pruneonce", kernels="sparse")
    ask = pipeline(None, model)
    for seed in range(2):
        call(ask, np.random.default_rng(seed))
    return Asked(ask, resident_bytes())


def use(given: Asked, seed: int) -> str:
    call(given.ask, np.random.default_rng(seed))
    grown = resident_bytes() - given.resident_bytes
    assert grown <= GROWTH_BYTES, f"{grown / 1e6:.1f} MB more than after the first calls"
    return SAME


CASES = [
    Case(
        "a thousand calls of a pipeline, again and again",
        f"no more than {GROWTH_BYTES >> 20} MiB of growth over all of them",
        100,
        (SAME,),
        _asked,
        use,
        300,
        slice_seconds=900,
    )
]
