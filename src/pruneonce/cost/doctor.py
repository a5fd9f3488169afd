"""What this machine has: processor, instruction sets, memory, measured speed. Needs no torch."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruneonce.machine import available_cores, instruction_sets, library_versions, memory_bytes, processor_name

PROBE_SECONDS = 1.0  # how long the matrix product is timed
PROBE_SIZE = 1024  # its side: large enough for full speed, small enough for any cache
BUSY_SHARE = 0.5  # of the cores: a load average above it disturbs what is timed


@dataclass(frozen=True)
class Diagnosis:
    """What `pruneonce doctor` says without a recipe."""

    processor: str
    cores: int
    isa: tuple[str, ...]
    memory_bytes: int
    free_disk_bytes: int
    matmul_gflops: float  # fp32, all cores, measured with numpy
    accelerators: tuple[str, ...]
    versions: dict[str, str]


def describe_machine(folder: Path = Path()) -> Diagnosis:
    """Measure this machine; `folder` is where runs would be written."""
    return Diagnosis(
        processor=processor_name(),
        cores=available_cores(),
        isa=instruction_sets(),
        memory_bytes=memory_bytes(),
        free_disk_bytes=shutil.disk_usage(folder).free,
        matmul_gflops=_matmul_gflops(),
        accelerators=_accelerators(),
        versions=library_versions(),
    )


def _matmul_gflops() -> float:
    """Best rate of an fp32 matrix product over `PROBE_SECONDS`."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((PROBE_SIZE, PROBE_SIZE), dtype=np.float32) for _ in range(2))
    best = np.inf
    deadline = time.perf_counter() + PROBE_SECONDS
    while time.perf_counter() < deadline:
        begun = time.perf_counter()
        np.matmul(a, b)
        best = min(best, time.perf_counter() - begun)
    return 2 * PROBE_SIZE**3 / best / 1e9


def others_note() -> str:
    """A warning if other programs keep this machine busy, for what is timed now will be too slow; else ""."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = available_cores()
    if load < BUSY_SHARE * cores:
        return ""
    return f"load average {load:.1f}, cores for this: {cores}. Beside other work all times are longer than alone"


def _accelerators() -> tuple[str, ...]:
    try:
        import torch
    except ImportError:
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
