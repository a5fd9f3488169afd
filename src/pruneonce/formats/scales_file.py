"""`quantization.safetensors`: how the linear layers of a model folder are quantised, beside its de-quantised weights.

transformers loads the folder without it, as a float model; whoever reads it knows that every weight is a whole number
of -127 to 127 times the scale of its row, and into which codes of 8 bits the layer's input is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pruneonce.errors import PruneonceError
from pruneonce.files import check_format_version, replacing
from pruneonce.formats.safetensors_file import number_in

FILE_NAME = "quantization.safetensors"
FORMAT_VERSION = 2  # 1 where attention is not quantised
REQUIRED = {"weight_scale": "float32", "input_scale": "float32", "input_zero_point": "uint8"}
OPTIONAL = {
    "output_scale": "float32",
    "output_zero_point": "uint8",
    "attention_scale": "float32",
    "attention_zero_point": "uint8",
}
LARGEST_SCALE = 1e30  # and the inverse of the smallest: products with codes and each other stay finite

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class LinearQuantization:
    """Of one layer: weight = whole number * scale of its row; input = (code - zero point) * scale, code 0..255."""

    weight_scale: Array  # float32 [rows]
    input_scale: Array  # float32 [1]
    input_zero_point: Array  # uint8 [1]
    output_scale: Array | None = None  # float32 [1]: the layer's output is rounded likewise
    output_zero_point: Array | None = None  # uint8 [1]
    attention_scale: Array | None = None  # float32 [1]: of the output's codes, by which attention is computed
    attention_zero_point: Array | None = None  # uint8 [1]

    def check(self) -> None:
        """ValueError unless shapes and types are those above and every scale is a positive number."""
        for name, kind in {**REQUIRED, **OPTIONAL}.items():
            value = getattr(self, name)
            if value is None:
                continue
            if value.dtype != kind or value.ndim != 1 or (name != "weight_scale" and value.shape != (1,)):
                raise ValueError(f"{name} is {value.dtype} of shape {value.shape}")
            if kind == "float32" and not ((value >= 1 / LARGEST_SCALE) & (value <= LARGEST_SCALE)).all():
                raise ValueError(f"{name} holds what is no positive number")
        for kind in ("output", "attention"):
            if (getattr(self, f"{kind}_scale") is None) != (getattr(self, f"{kind}_zero_point") is None):
                raise ValueError(f"{kind}_scale and {kind}_zero_point belong together")
        if self.output_scale is not None and self.attention_scale is not None:
            raise ValueError("an output is rounded once: for attention, or for whatever reads it")


def write_quantization(folder: Path, layers: dict[str, LinearQuantization]) -> None:
    """Write the file into `folder`; keys are names of modules in the checkpoint."""
    tensors: dict[str, Array] = {}
    version = 2 if any(layer.attention_scale is not None for layer in layers.values()) else 1
    for module, layer in layers.items():
        layer.check()
        parts = {name: getattr(layer, name) for name in (*REQUIRED, *OPTIONAL)}
        tensors |= {f"{module}.{name}": value for name, value in parts.items() if value is not None}
    with replacing(folder / FILE_NAME) as temporary:
        save_file(tensors, temporary, metadata={"format_version": str(version)})


def read_quantization(folder: str | Path) -> dict[str, LinearQuantization] | None:
    """What `write_quantization` got; None where there is no such file. PruneonceError says what is wrong with it."""
    file = Path(folder) / FILE_NAME
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="np") as tensors:
            version = (tensors.metadata() or {}).get("format_version")
            check_format_version(file, number_in(version), FORMAT_VERSION)
            parts: dict[str, dict[str, Array]] = {}
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                module, _, part = name.rpartition(".")
                parts.setdefault(module, {})[part] = tensors.get_tensor(name)
    except (SafetensorError, TypeError, ValueError) as error:  # numpy refuses types that it does not have
        raise PruneonceError(f"{file} is not a safetensors file of numbers: {error}") from error
    layers = {}
    for module, found in parts.items():
        if not REQUIRED.keys() <= found.keys() or found.keys() - REQUIRED.keys() - OPTIONAL.keys():
            raise PruneonceError(f"{file}: {module} has {', '.join(sorted(found))}; {', '.join(REQUIRED)} are expected")
        layers[module] = LinearQuantization(**found)
        try:
            layers[module].check()
        except ValueError as error:
            raise PruneonceError(f"{file}: {module}: {error}") from error
    return layers
