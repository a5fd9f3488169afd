"""The model under test in 8 bits and in floats, whichever of the two its folder holds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pruneonce.bench.inference.cases import Batch
from pruneonce.bench.inference.subject import Subject
from pruneonce.formats.scales_file import FILE_NAME, read_quantization, write_quantization
from pruneonce.models import family_of
from pruneonce.sparsity.layers import linear_names


def is_int8(subject: Subject) -> bool:
    """Whether the folder was quantised."""
    return read_quantization(subject.folder) is not None


def float_subject(subject: Subject, folder: Path) -> Subject:
    """The subject itself, or of a quantised one a `folder` with its de-quantised weights alone."""
    if not is_int8(subject):
        return subject
    folder.mkdir()
    for file in Path(subject.folder).iterdir():
        if file.is_file() and file.name != FILE_NAME:
            (folder / file.name).symlink_to(file.resolve())
    return replace(subject, folder=str(folder))


def int8_subject(subject: Subject, folder: Path, calibration: Sequence[Batch]) -> Subject:
    """The subject itself if it was quantised, or a `folder` with it quantised after training, ranges by `calibration`.

    The same way as `pruneonce quantize` with method "ptq".
    """
    if is_int8(subject):
        return subject
    import torch

    from pruneonce.convert.onnx_graph import NamedOutputs
    from pruneonce.sparsity.quantizer import observing, quantizable_linears, quantize_layers

    module = NamedOutputs(subject.folder, subject.head, "sdpa")
    names = quantizable_linears(linear_names(module.model), family_of(module.model.config.model_type), "default")
    quantizer = quantize_layers(module.model, names)
    with observing(quantizer), torch.inference_mode():
        for batch in calibration:
            module(*(torch.from_numpy(array) for array in batch.padded()[: len(module.inputs)]))
    layers, _ = quantizer.bake()
    module.model.save_pretrained(folder)
    shutil.copy(Path(subject.folder) / "tokenizer.json", folder)
    write_quantization(folder, layers)
    return replace(subject, folder=str(folder))
