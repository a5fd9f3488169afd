"""The matrix kernels on BERT's shapes, beside the processor's measured peak.

    python benchmarks/bench_spmm.py [--sparsity 0.9] [--block 4] [--tokens 128] [--threads 1 2] [--isa avx2] [--json]

Rounds are interleaved over shapes, kernels and thread counts; the best time of each counts, and beside it the median.
Peak: fp32 multiply-adds on registers alone, in the same rounds; int8 kernels may exceed it. Their x is coded before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from pruneonce import _native

SHAPES = {
    "attention output": (768, 768),
    "query, key, value": (2304, 768),
    "up": (3072, 768),
    "down": (768, 3072),
    "large: attention output": (1024, 1024),
    "large: up": (4096, 1024),
}
PEAK_ITERATIONS = 300_000


def csr(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, cols = np.nonzero(weight)
    pointers = np.zeros(len(weight) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(weight)), out=pointers[1:])
    return pointers, cols.astype(np.int32), weight[rows, cols]


def int8_kernels(weight: np.ndarray, isa: str) -> list[tuple[str, object, int]]:
    """(name, kernel, weights that count as work) of the three int8 kernels."""
    codes = np.rint(weight * (127 / np.abs(weight).max())).astype(np.int8)
    pointers, columns, _ = csr(codes)
    scale, options = np.ones(len(weight), np.float32), {"input_scale": 0.03, "input_zero_point": 128, "isa": isa}
    sparse = {
        fours: _native.Int8Weight(
            pointers, columns, codes[codes != 0], scale, cols=weight.shape[1], fours=fours, **options
        )
        for fours in ("any", "neighbours")
    }
    dense = _native.Int8DenseWeight(codes, scale, **options)
    return [
        *((f"int8 {name}", each, each.nonzeros) for name, each in sparse.items()),
        ("int8 dense", dense, codes.size),
    ]


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--block", type=int, default=1, help="neighbouring columns that are zero together")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--isa")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    isa = _native.choose_isa(options.isa)
    generator = np.random.default_rng(0)

    cases = []
    for name, (rows, cols) in SHAPES.items():
        weight = generator.normal(size=(rows, cols)).astype(np.float32)
        zeros = generator.random((rows, cols // options.block)) < options.sparsity
        weight[np.repeat(zeros, options.block, axis=1)] = 0
        x, out = _native.Activations(cols, isa=isa), _native.Activations(rows, isa=isa)
        x.load(generator.normal(size=(options.tokens, cols)).astype(np.float32))
        sparse = _native.PackedWeight(*csr(weight), cols=cols, isa=isa)
        dense = _native.DenseWeight(weight, isa=isa)
        for kernel, kind, weights in ((sparse, "sparse", sparse.nonzeros), (dense, "dense", weight.size)):
            call = lambda kernel=kernel, x=x, out=out: _native.multiply(kernel, x, out=out)  # noqa: E731
            cases.append((name, kind, 2 * weights * options.tokens, call))
        for kind, kernel, weights in int8_kernels(weight, isa):
            codes = _native.Codes(isa=isa)
            codes.quantize(x, kernel)
            call = lambda kernel=kernel, codes=codes, out=out: _native.multiply(kernel, codes, out=out)  # noqa: E731
            cases.append((name, kind, 2 * weights * options.tokens, call))

    times: dict[tuple[str, str, int], list[float]] = {}
    peaks: dict[int, float] = {}
    for round_number in range(options.rounds + 1):
        for threads in options.threads:
            _native.set_num_threads(threads)
            _native.run_multiply_adds(1000, isa=isa)  # starts the threads
            begun = time.perf_counter()
            operations = _native.run_multiply_adds(PEAK_ITERATIONS, isa=isa)
            peaks[threads] = max(peaks.get(threads, 0), operations / (time.perf_counter() - begun))
            for name, kind, _, call in cases:
                call()
                elapsed = seconds(call)
                if round_number:
                    times.setdefault((name, kind, threads), []).append(elapsed)

    results = [
        {
            "layer": name,
            "kernel": kind,
            "threads": threads,
            "best_ms": min(times[name, kind, threads]) * 1e3,
            "median_ms": statistics.median(times[name, kind, threads]) * 1e3,
            "giga_operations_per_s": operations / min(times[name, kind, threads]) / 1e9,
            "share_of_peak": operations / min(times[name, kind, threads]) / peaks[threads],
        }
        for threads in options.threads
        for name, kind, operations, _ in cases
    ]
    if options.as_json:
        print(json.dumps({"isa": isa, "tokens": options.tokens, "peaks": peaks, "results": results}, indent=1))
        return
    for threads, peak in peaks.items():
        print(f"{isa}, {threads} threads: peak {peak / 1e9:.0f} GFLOP/s")
    for result in results:
        print(
            f"{result['layer']:24} {result['kernel']:15} {result['threads']} threads  "
            f"best {result['best_ms']:7.3f} ms  median {result['median_ms']:7.3f} ms  "
            f"{result['giga_operations_per_s']:6.0f} G/s  {result['share_of_peak']:.1%} of peak"
        )
    base = options.threads[0]
    for threads in options.threads[1:]:
        ratios = [
            one / many
            for name, kind, _, _ in cases
            if kind == "sparse"
            for one, many in zip(times[name, kind, base], times[name, kind, threads], strict=True)
        ]
        print(f"sparse, {threads} threads against {base}: median of paired ratios {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
