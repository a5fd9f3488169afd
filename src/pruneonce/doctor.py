"""What this machine has: processor, instruction sets, memory, measured speed. Needs no torch."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruneonce.provenance import library_versions

PROBE_SECONDS = 1.0  # how long the matrix product is timed
PROBE_SIZE = 1024  # its side: large enough for full speed, small enough for any cache
BUSY_SHARE = 0.5  # of the cores: a load average above it disturbs what is timed
# The instruction sets that decide how fast a sparse kernel can be, fastest last.
ISA_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8")


@dataclass(frozen=True)
class Machine:
    """What `pruneonce doctor` says without a recipe."""

    processor: str
    cores: int
    isa: tuple[str, ...]
    memory_bytes: int
    free_disk_bytes: int
    matmul_gflops: float  # fp32, all cores, measured with numpy
    accelerators: tuple[str, ...]
    versions: dict[str, str]


def describe_machine(folder: Path = Path()) -> Machine:
    """Measure this machine; `folder` is where runs would be written."""
    return Machine(
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


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def others_note() -> str:
    """A warning if other programs keep this machine busy, for what is timed now will be too slow; else ""."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = available_cores()
    if load < BUSY_SHARE * cores:
        return ""
    return f"load average {load:.1f}, cores for this: {cores}. Beside other work all times are longer than alone"


def processor_name() -> str:
    """As the system calls it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Those of ISA_FLAGS that the processor has."""
    flags = _cpuinfo("flags").split()
    return tuple(flag for flag in ISA_FLAGS if flag in flags)


def _cpuinfo(key: str) -> str:
    """A field of the first processor; "" where the system has no such file (macOS, Windows)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def memory_bytes() -> int:
    """Memory of the machine; 0 where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def _accelerators() -> tuple[str, ...]:
    try:
        import torch
    except ImportError:
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
