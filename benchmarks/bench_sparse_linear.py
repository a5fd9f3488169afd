"""The kernels of sparse training on BERT's shapes, beside torch's dense products and the processor's measured peak.

    python benchmarks/bench_sparse_linear.py [--sparsity 0.9] [--tokens 2048] [--threads 2] [--isa avx2] [--json]

Rounds are interleaved; the best time of each counts. Rates count the non-zeros' work alone; torch's all of its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from pruneonce import _native
from pruneonce.sparsity.torch_threads import torch_threads

SHAPES = {"attention": (768, 768), "up": (3072, 768), "down": (768, 3072)}
PEAK_ITERATIONS = 300_000


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def cases_of(
    rows: int, cols: int, sparsity: float, tokens: int, isa: str
) -> dict[str, tuple[int, Callable[[], object]]]:
    """Name -> (floating point operations, call)."""
    generator = np.random.default_rng(0)
    normal = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731
    weight = normal(rows, cols)
    weight[generator.random(weight.shape) < sparsity] = 0
    at_row, columns = np.nonzero(weight)
    pointers = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(at_row, minlength=rows), out=pointers[1:])
    values = weight[at_row, columns]
    linear = _native.SparseLinear(pointers, columns.astype(np.int32), cols=cols, isa=isa)
    x, dy, bias = normal(tokens, cols), normal(tokens, rows), normal(rows)
    y, dx, dvalues, dbias = np.empty_like(dy), np.empty_like(x), np.empty_like(values), np.empty_like(bias)
    dense_w, dense_x, dense_dy, dense_bias = map(torch.from_numpy, (weight, x, dy, bias))
    one, dense = 2 * len(values) * tokens, 2 * weight.size * tokens
    return {
        "forward": (one, lambda: linear.forward(values, bias, x, y=y)),
        "dx": (one, lambda: linear.backward(values, x, dy, dx=dx)),
        "dW at non-zeros": (one, lambda: linear.backward(values, x, dy, dvalues=dvalues)),
        "backward": (2 * one, lambda: linear.backward(values, x, dy, dx=dx, dvalues=dvalues, dbias=dbias)),
        "torch forward": (dense, lambda: torch.nn.functional.linear(dense_x, dense_w, dense_bias)),
        "torch backward": (2 * dense, lambda: (dense_dy @ dense_w, dense_dy.T @ dense_x, dense_dy.sum(0))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--isa")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    isa = _native.choose_isa(options.isa)
    torch.set_num_threads(options.threads)
    cases = {
        (layer, name): case
        for layer, (rows, cols) in SHAPES.items()
        for name, case in cases_of(rows, cols, options.sparsity, options.tokens, isa).items()
    }
    best: dict[tuple[str, str], float] = {}
    peak = 0.0
    with torch_threads():
        for _ in range(options.rounds + 1):
            begun = time.perf_counter()
            operations = _native.run_multiply_adds(PEAK_ITERATIONS, isa=isa)
            peak = max(peak, operations / (time.perf_counter() - begun))
            for key, (_, call) in cases.items():
                best[key] = min(best.get(key, float("inf")), seconds(call))
    results = [
        {
            "layer": layer,
            "operation": name,
            "best_ms": best[layer, name] * 1e3,
            "giga_operations_per_s": operations / best[layer, name] / 1e9,
            "share_of_peak": operations / best[layer, name] / peak,
        }
        for (layer, name), (operations, _) in cases.items()
    ]
    if options.as_json:
        print(json.dumps({"isa": isa, "threads": options.threads, "peak": peak, "results": results}, indent=2))
        return
    print(f"{options.threads} threads, {isa}, peak {peak / 1e9:.0f} GFLOP/s, {options.tokens} tokens")
    for each in results:
        print(
            f"{each['layer']:<10}{each['operation']:<17}{each['best_ms']:8.2f} ms"
            f"{each['giga_operations_per_s']:8.0f} GFLOP/s{each['share_of_peak']:6.0%} of peak"
        )


if __name__ == "__main__":
    main()
