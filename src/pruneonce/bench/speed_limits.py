"""What the numbers were measured on: processor, load, versions, and the two limits no kernel can pass."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from pruneonce import _native
from pruneonce.machine import available_cores, instruction_sets, memory_bytes, processor_name

PROBE_ITERATIONS = 20_000_000  # about 0.1 s of multiply-adds
PROBE_RUNS = 5
COPY_BYTES = 128 << 20  # per thread: larger than any cache


@dataclass(frozen=True)
class SpeedLimits:
    """The machine during one benchmark, and what it allows at best."""

    processor: str
    isa: tuple[str, ...]  # of the processor
    native_isa: str  # what our kernels use
    cores: int
    memory_bytes: int
    peak_gflops: float  # fp32 multiply-adds on registers, on the benchmark's threads
    bandwidth_gb_per_s: float  # memory read + written by copying, on the benchmark's threads
    load_average: float  # of the last minute, before the first measurement


def measure_limits(threads: int) -> SpeedLimits:
    """Measure this machine with `threads` threads (about two seconds)."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return SpeedLimits(
        processor=processor_name(),
        isa=instruction_sets(),
        native_isa=_native.choose_isa(),
        cores=available_cores(),
        memory_bytes=memory_bytes(),
        peak_gflops=peak_gflops(),
        bandwidth_gb_per_s=_bandwidth(threads),
        load_average=load,
    )


def best_of(first: SpeedLimits, second: SpeedLimits) -> SpeedLimits:
    """The higher limits of two descriptions; on a shared machine either may have been disturbed."""
    return replace(
        first,
        peak_gflops=max(first.peak_gflops, second.peak_gflops),
        bandwidth_gb_per_s=max(first.bandwidth_gb_per_s, second.bandwidth_gb_per_s),
    )


def peak_gflops() -> float:
    """Multiply-adds in float32 on registers that this machine's cores do at most, in about half a second."""
    iterations, rates = 1000, [0.0]
    while iterations < PROBE_ITERATIONS:  # grow until one run is long enough to time
        if _seconds_of(iterations)[0] > 0.05:
            break
        iterations *= 4
    for _ in range(PROBE_RUNS):
        seconds, flops = _seconds_of(iterations)
        rates.append(flops / seconds)
    return max(rates) / 1e9


def _seconds_of(iterations: int) -> tuple[float, float]:
    begun = time.perf_counter()
    flops = _native.run_multiply_adds(iterations)
    return time.perf_counter() - begun, float(flops)


def _bandwidth(threads: int) -> float:
    """GB/s, the best of a few copies; numpy lets go of the interpreter while it copies."""
    sources = [np.ones(COPY_BYTES // 8) for _ in range(threads)]
    targets = [np.zeros_like(source) for source in sources]
    best = np.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(PROBE_RUNS):
            begun = time.perf_counter()
            list(pool.map(np.copyto, targets, sources))
            best = min(best, time.perf_counter() - begun)
    return 2 * COPY_BYTES * threads / float(best) / 1e9
