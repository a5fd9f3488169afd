"""From a model folder to files that run without torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import normalizers

from pruneonce.convert.runnable import config_as_served, require_runnable
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.model_folder import mask_digest_of_array, read_family, require_folder, rows_of_part
from pruneonce.formats.nonzero_codes import Array
from pruneonce.formats.packed_file import FLOAT_OF_CONTAINER, PackedModel, write_packed
from pruneonce.formats.record import Provenance, check_masks, read_provenance
from pruneonce.formats.safetensors_file import Container, open_container
from pruneonce.formats.scales_file import read_quantization
from pruneonce.formats.sentence_folder import read_projections, read_sentence_folder
from pruneonce.formats.stored_tensors import Quantization, Tensor, decode_floats, dense, pack, pack_int8, quantize_rows
from pruneonce.models import Family
from pruneonce.models.tokenizer import load_tokenizer

VALUES = ("fp32", "fp16", "bf16")  # what the encoder's matrices may be stored as
DEFAULT_EMBEDDINGS = "fp16"
EMBEDDINGS = (*VALUES, "int8")  # what the embeddings may be stored as


def export_packed(
    model: str | Path, out: str | Path, *, embeddings: str = DEFAULT_EMBEDDINGS, values: str = "fp32"
) -> PackedModel:
    """Pack a model folder, its tokenizer and its record into the one file `out` (docs/format.md).

    embeddings: type of the embedding matrices, of EMBEDDINGS. values: type of the encoder's matrices, of VALUES.
    Matrices of a quantised folder are stored as their int8 values. Everything else stays float32. PruneonceError if the
    engine would not run the file, found out first, or the zeros are not those that the folder's record promises.
    """
    _require_choice("embeddings", embeddings, EMBEDDINGS)
    _require_choice("values", values, VALUES)
    folder, out = require_folder(model), Path(out)
    if out.is_dir():
        raise UsageError(f"'{out}' is a folder: the name of a file is expected")
    family, record = read_family(folder), read_provenance(folder)
    require_runnable(folder, family)
    config = config_as_served(folder, family)
    hidden_size = family.encoder_plan(config).hidden_size
    weights = _Weights(folder, family)
    quantization = _quantization(folder, weights)
    if record:
        _check_masks(weights, family, record, folder)
    sentence = read_sentence_folder(folder)
    projections = {} if sentence is None else read_projections(folder, sentence.plan, hidden_size)
    tensors: dict[str, Tensor] = {name: dense(weight) for name, weight in projections.items()}
    for name in weights.names:
        try:
            if name in quantization:
                tensors[name] = pack_int8(weights.read(name), quantization[name])
            else:
                tensors[name] = _pack(name, weights.read(name), family, embeddings, values)
        except ValueError as error:
            raise PruneonceError(f"{folder}: tensor {name}: {error}") from error
    packed = PackedModel(
        config=config,
        tokenizer=_tokenizer(folder, lower_case=sentence is not None and sentence.lower_case),
        tensors=tensors,
        provenance=asdict(record) if record else None,
        sentence=None if sentence is None else sentence.plan,
    )
    write_packed(out, packed)
    return packed


def _tokenizer(folder: Path, *, lower_case: bool) -> str:
    tokenizer = load_tokenizer(folder)
    if lower_case:
        before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    text: str = tokenizer.to_str(pretty=False)
    return text


class _Place(NamedTuple):
    """Where a tensor is: some of the rows of one in a file."""

    container: Container
    name: str  # there
    part: int
    parts: int


class _Weights:
    """The tensors of a folder under their present names, mapped, without those that transformers derives itself."""

    def __init__(self, folder: Path, family: Family) -> None:
        self._folder, self._family = folder, family
        self._where: dict[str, _Place] = {}  # by present name
        for file in sorted(folder.glob("model*.safetensors")):
            self._add(open_container(file))
        words = f"{family.base}.{family.embeddings.words}.weight"
        decoder = f"{family.heads.masked_lm.decoder}.weight"
        if {words, decoder} <= self._where.keys() and self._same(decoder, words):
            del self._where[decoder]  # tied: transformers stores it once, older tools twice

    @property
    def names(self) -> list[str]:
        return list(self._where)

    def read(self, name: str) -> Array:
        """A tensor as float32, exact."""
        place = self._where[name]
        container = place.container
        dtype = container.entries[place.name].dtype
        if dtype not in FLOAT_OF_CONTAINER:
            raise PruneonceError(
                f"{container.path}: tensor {place.name} is {dtype}; {', '.join(FLOAT_OF_CONTAINER)} are expected"
            )
        part = rows_of_part(container, place.name, place.part, place.parts)
        return decode_floats(np.ascontiguousarray(part), FLOAT_OF_CONTAINER[dtype])

    def _add(self, container: Container) -> None:
        for stored_name in container.entries:
            if stored_name.endswith("position_ids"):
                continue  # 0, 1, 2, …, saved by older transformers
            names = self._family.names_of_stored(_present_name(stored_name))
            for part, name in enumerate(names):
                if name in self._where:
                    raise PruneonceError(f"{self._folder}: tensor {name} is in two of its safetensors files")
                self._where[name] = _Place(container, stored_name, part, len(names))

    def _same(self, name: str, other: str) -> bool:
        shapes = [each.container.entries[each.name].shape for each in (self._where[name], self._where[other])]
        return shapes[0] == shapes[1] and np.array_equal(self.read(name), self.read(other))


def _quantization(folder: Path, weights: _Weights) -> dict[str, Quantization]:
    """Of the quantised matrices, by the names of their tensors; PruneonceError if the engine cannot compute them."""
    found = {}
    for module, layer in (read_quantization(folder) or {}).items():
        name = f"{module}.weight"
        if name not in weights.names:
            raise PruneonceError(f"{folder}: {module} is quantised, but the folder has no tensor {name}")
        if layer.output_scale is not None:
            raise PruneonceError(
                f"{folder}: the output of {module} is quantised too, which the engine does not compute: quantise with "
                'preset = "default"'
            )
        found[name] = Quantization(
            layer.weight_scale,
            layer.input_scale,
            layer.input_zero_point,
            layer.attention_scale,
            layer.attention_zero_point,
        )
    return found


def _require_choice(option: str, choice: str, choices: tuple[str, ...]) -> None:
    if choice not in choices:
        raise UsageError(f"{option} cannot be '{choice}': expected one of {', '.join(choices)}")


def _present_name(name: str) -> str:
    """Checkpoints converted from TensorFlow still call a layer norm's parameters gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _check_masks(weights: _Weights, family: Family, record: Provenance, folder: Path) -> None:
    modules = [name.removesuffix(".weight") for name in weights.names if name.endswith(".weight")]
    actual = {
        family.encoder_name(module): mask_digest_of_array(weights.read(f"{module}.weight"))
        for module in family.prunable_linears(modules)
        if family.encoder_name(module) in record.masks
    }
    check_masks(record.masks, actual, where=str(folder))


def _pack(name: str, tensor: Array, family: Family, embeddings: str, values: str) -> Tensor:
    if family.is_prunable(name):
        return pack(tensor, values)
    if family.encoder_name(name) in family.embedding_tables:
        return quantize_rows(tensor) if embeddings == "int8" else dense(tensor, embeddings)
    return dense(tensor)
