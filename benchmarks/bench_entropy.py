"""What a packed int8 file weighs, and what coding its values and embeddings by their frequencies would save.

    python benchmarks/bench_entropy.py FILE… [--json]          packed files with int8 values
    python benchmarks/bench_entropy.py --random bert-large     a known shape, 90 % zeros, random, int8 embeddings

An ideal coder with one table of frequencies per matrix reaches the entropy printed here (its table not counted).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce.convert.inspect_packed import inspect_packed
from pruneonce.convert.to_packed import export_packed
from pruneonce.formats.packed_file import read_packed
from pruneonce.formats.stored_tensors import Array, Int8Matrix

KINDS = ("encoder values", "embeddings")


def entropy(codes: Array) -> float:
    """Bits per number of an ideal coder that knows how often each occurs."""
    counts = np.bincount(codes.reshape(-1).astype(np.int16) + 128)
    shares = counts[counts > 0] / codes.size
    return float(-(shares * np.log2(shares)).sum())


def measure(file: Path) -> dict[str, Any]:
    """Sizes by part, and of values and embeddings the bits per number now and at best."""
    report, packed = inspect_packed(file), read_packed(file)
    kinds = {tensor.name: tensor.kind for tensor in report.tensors}
    numbers, bits = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0.0)
    for name, tensor in packed.tensors.items():
        codes = tensor.codes if isinstance(tensor, Int8Matrix) else getattr(tensor, "values", None)
        if kinds[name] in KINDS and codes is not None and codes.dtype == np.int8 and codes.size:
            numbers[kinds[name]] += codes.size
            bits[kinds[name]] += entropy(codes) * codes.size
    saved = {kind: round(numbers[kind] - bits[kind] / 8) for kind in KINDS}
    return {
        "file": file.name,
        "bytes": report.bytes,
        "bytes_by_kind": report.bytes_by_kind,
        "position_bits": report.position_bits,
        "ratio": report.ratio,
        "encoder_ratio": report.encoder_ratio,
        "encoder_ratio_of_numbers": report.encoder_ratio_of_numbers,
        "entropy_bits": {kind: bits[kind] / max(1, numbers[kind]) for kind in KINDS},
        "saved_bytes": saved,
        "bytes_if_coded": report.bytes - sum(saved.values()),
    }


def pack_random(shape: str, sparsity: float, folder: Path) -> Path:
    """A packed int8 file of a known shape with random weights; input scales are made up, they weigh the same."""
    import torch
    from safetensors.torch import load_file, save_file

    from pruneonce.bench.inference.subject import make_random
    from pruneonce.formats.model_folder import WEIGHTS_FILE, read_family
    from pruneonce.formats.scales_file import LinearQuantization, write_quantization
    from pruneonce.sparsity.fake_quant import weight_scale, whole_weight

    make_random(shape, "sequence-classification", sparsity, folder)
    weights, layers = load_file(folder / WEIGHTS_FILE), {}
    modules = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    for name in read_family(folder).prunable_linears(modules):
        weight = weights[f"{name}.weight"]
        scale = weight_scale(weight)
        weights[f"{name}.weight"] = torch.where(weight != 0, whole_weight(weight, scale) * scale[:, None], 0.0)
        layers[name] = LinearQuantization(scale.numpy(), np.ones(1, np.float32), np.full(1, 128, np.uint8))
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_quantization(folder, layers)
    file = folder / f"random-{shape}.pruneonce"
    export_packed(folder, file, embeddings="int8")
    return file


def show(record: dict[str, Any]) -> None:
    """A few lines for a person."""
    print(
        f"{record['file']}: {record['bytes'] / 1e6:.1f} MB, {record['position_bits']:.3f} bits of position per weight"
    )
    parts = ", ".join(f"{kind} {size / 1e6:.2f}" for kind, size in record["bytes_by_kind"].items())
    print(f"  MB: {parts}")
    print(
        f"  times smaller than dense fp32: file {record['ratio']:.1f}, encoder {record['encoder_ratio']:.1f}, "
        f"its numbers alone {record['encoder_ratio_of_numbers']:.1f}"
    )
    for kind in KINDS:
        print(
            f"  {kind}: entropy {record['entropy_bits'][kind]:.2f} of 8 bits, "
            f"{record['saved_bytes'][kind] / 1e6:.2f} MB to save"
        )
    print(f"  with both coded: {record['bytes_if_coded'] / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--random", action="append", default=[], metavar="SHAPE")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    records = [measure(file) for file in arguments.files]
    for shape in arguments.random:
        with tempfile.TemporaryDirectory() as folder:
            records.append(measure(pack_random(shape, arguments.sparsity, Path(folder))))
    if arguments.json:
        print(json.dumps(records, indent=2))
    else:
        for record in records:
            show(record)


if __name__ == "__main__":
    main()
