"""From a transformers model in memory to a packed file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import UsageError
from pruneonce.formats.packed_file import PackedModel
from pruneonce.formats.scales_file import LinearQuantization, write_quantization


def export(
    model: Any,
    out: str | Path,
    tokenizer: Any = None,
    scales: Mapping[str, LinearQuantization] | None = None,
    *,
    embeddings: str = "fp16",
    values: str = "fp32",
) -> PackedModel:
    """Pack a model into the one file `out`, which the engine runs without torch (docs/format.md).

    model: a model folder, which has its tokenizer and scales; or a transformers model, with its tokenizer beside it.
    Bake masks first (`Pruner.bake`). scales: what `quantize_` returned. embeddings, values: as in `export_packed`.
    UsageError if something is missing or given twice; PruneonceError as of `export_packed`.
    """
    if isinstance(model, (str, Path)):
        if tokenizer is not None or scales is not None:
            raise UsageError(f"{model} is a folder, which has its own tokenizer and scales: give the model alone")
        return export_packed(model, out, embeddings=embeddings, values=values)
    if tokenizer is None:
        raise UsageError("export needs the model's tokenizer: without it nothing can read text")
    from pruneonce.sparsity.layers import WorkingLinear  # torch, which is here if a model is

    changed = [name for name, module in model.named_modules() if isinstance(module, WorkingLinear)]
    if changed:
        raise UsageError(f"{changed[0]} still has its mask: call bake() on the pruner before the export")
    with tempfile.TemporaryDirectory(prefix="pruneonce-") as name:
        folder = Path(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if scales is not None:
            write_quantization(folder, dict(scales))
        return export_packed(folder, out, embeddings=embeddings, values=values)
