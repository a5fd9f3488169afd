"""The tensors of a packed file by the names of its family, as layers ready to compute; shapes are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pruneonce.errors import UsageError
from pruneonce.formats.packed_file import PackedModel
from pruneonce.formats.scales_file import LARGEST_SCALE
from pruneonce.formats.stored_tensors import Array, DenseTensor, Int8Matrix, Quantization, SparseMatrix, Tensor
from pruneonce.machine import memory_bytes
from pruneonce.models import Family, family_of
from pruneonce.run.encoder import AttentionCodes, LayerNorm, Linear
from pruneonce.run.live_features import LiveFeatures, live_features
from pruneonce.run.weights import Kernels, Weight, weight_of

INT8_ATTENTION_TOKENS = 1 << 16  # of a sequence: what sums of 32 bits hold


class Tensors:
    """What the engine takes from a file; a missing or ill-shaped tensor is a ValueError with its name."""

    def __init__(self, packed: PackedModel, isa: str, kernels: Kernels) -> None:
        try:
            self.family: Family = family_of(packed.config.get("model_type"))
        except UsageError as error:
            raise ValueError(str(error)) from error
        self.config = packed.config
        self.plan = self.family.encoder_plan(packed.config)
        self.isa, self._kernels = isa, kernels
        self._all: Mapping[str, Tensor] = packed.tensors
        if kernels == "dense":
            _require_memory([each for each in packed.tensors.values() if isinstance(each, SparseMatrix)])
        has_base = any(name.startswith(self.family.base + ".") for name in packed.tensors)
        self._prefix = self.family.base + "." if has_base else ""

    def has(self, name: str) -> bool:
        return name in self._all

    def in_encoder(self, name: str) -> str:
        """A name relative to the encoder as this file has it: bare encoders have no prefix."""
        return self._prefix + name

    def get(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        """A tensor; None in `shape`: any size."""
        if name not in self._all:
            raise ValueError(f"tensor {name} is missing; config.json promises {self.config.get('architectures')}")
        tensor = self._all[name]
        if len(tensor.shape) != len(shape) or any(b not in (None, a) for a, b in zip(tensor.shape, shape, strict=True)):
            expected = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(f"tensor {name} has shape {list(tensor.shape)}, expected [{expected}]")
        return tensor

    def table(self, name: str, columns: int) -> DenseTensor | Int8Matrix:
        """Embeddings. Sparse they would be written out: few bytes, any number of rows."""
        tensor = self.get(name, (None, columns))
        if isinstance(tensor, SparseMatrix):
            raise ValueError(f"tensor {name} is stored sparse: embeddings are dense or int8")
        return tensor

    def vector(self, name: str, size: int) -> Array:
        """float32 [size]."""
        return np.ascontiguousarray(self.get(name, (size,)).to_dense())

    def linear(
        self,
        names: Sequence[str],
        rows: int | None,
        columns: int,
        *,
        biases: bool = True,
        row_order: Array | None = None,
        column_order: Array | None = None,
    ) -> Linear:
        """Layers of equally many inputs, as one; rows: of each, None for any. Orders: as of `weight_of`."""
        weights = [self.get(f"{name}.weight", (rows, columns)) for name in names]
        weight = weight_of(weights, self.isa, kernels=self._kernels, rows=row_order, columns=column_order)
        if not biases:
            return Linear(weight, None)
        vectors = [self.vector(f"{name}.bias", each.shape[0]) for name, each in zip(names, weights, strict=True)]
        bias = np.concatenate(vectors)
        return Linear(weight, bias if row_order is None else bias[row_order])

    def weight(self, tensors: Sequence[Tensor]) -> Weight:
        """Matrices of equally many columns, stacked and packed for a kernel."""
        return weight_of(tensors, self.isa, kernels=self._kernels)

    def live_features(self, names: Sequence[str]) -> LiveFeatures | None:
        """Of the layers that give queries, keys and values, in this order; None: all, or they cannot change places."""
        if len(names) != 3 or self.plan.rotary_base is not None or self.plan.local_rotary_base is not None:
            return None
        shape = (self.plan.hidden_size, self.plan.hidden_size)
        keys, values = (self.get(f"{name}.weight", shape) for name in names[1:])
        return live_features(keys, values, self.plan.heads)

    def attention_codes(self, names: Sequence[str]) -> AttentionCodes | None:
        """Of the layers that give queries, keys and values, in this order; None: attention is computed in floats."""
        found = [
            (float(quantization.attention_scale[0]), int(quantization.attention_zero_point[0]))
            for quantization in map(self._quantization, names)
            if quantization is not None
            and quantization.attention_scale is not None
            and quantization.attention_zero_point is not None
        ]
        if not found:
            return None
        if len(found) != 3:
            raise ValueError(f"tensor {names[0]}.weight: attention takes codes of queries, keys and values, or of none")
        if not self.plan.plain_attention or self.plan.max_tokens > INT8_ATTENTION_TOKENS:
            raise ValueError(
                f"tensor {names[0]}.weight: attention in 8 bits is computed over all of at most "
                f"{INT8_ATTENTION_TOKENS} tokens, without positions in its scores"
            )
        scales, zero_points = zip(*found, strict=True)
        if not scales[0] * scales[1] < LARGEST_SCALE:
            raise ValueError(f"tensor {names[0]}.weight: the scales of queries and keys are too large")
        return AttentionCodes(np.array(scales, np.float32), np.array(zero_points, np.uint8))

    def require_attention_codes_of_all(self, layers: Sequence[AttentionCodes | None]) -> None:
        """ValueError if some layers have codes and others not, or other matrices have scales of them."""
        quantizations = map(self._quantization, (name.removesuffix(".weight") for name in self._all))
        given = sum(each is not None and each.attention_scale is not None for each in quantizations)
        if given not in (0, 3 * len(layers)) or (given > 0 and None in layers):
            raise ValueError(
                f"{given} matrices have an attention_scale: queries, keys and values of all layers have one, or none"
            )

    def _quantization(self, name: str) -> Quantization | None:
        tensor = self._all.get(f"{name}.weight")
        return tensor.quantization if isinstance(tensor, SparseMatrix) else None

    def norm(self, name: str, epsilon: float, size: int | None = None) -> LayerNorm:
        """A layer norm over hidden states, or over so many features."""
        size = size or self.plan.hidden_size
        shifts = self.plan.norm_shifts
        shift = self.vector(f"{name}.bias", size) if shifts else np.zeros(size, np.float32)
        return LayerNorm(self.vector(f"{name}.weight", size), shift, epsilon)


def _require_memory(matrices: Sequence[SparseMatrix]) -> None:
    """ValueError for matrices that this machine cannot hold with their zeros: few bytes can stand for any number."""
    wanted, there = sum(4 * each.size for each in matrices), memory_bytes()
    if there and wanted > there:
        raise ValueError(
            f"as dense matrices its weights take {wanted / 1e9:.1f} GB, this machine has {there / 1e9:.1f}: leave out "
            'kernels="dense"'
        )
