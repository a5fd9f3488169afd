"""The model as ONNX, for engines that read nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruneonce.bench.inference.cases import Batch
from pruneonce.bench.inference.subject import Subject
from pruneonce.convert.onnx_graph import NamedOutputs, write_graph

OPSET = 14  # the newest DeepSparse reads


class OneOutput(nn.Module):
    """A transformers model whose only output is what the benchmark compares."""

    def __init__(self, subject: Subject, attention: str) -> None:
        super().__init__()
        self.model = NamedOutputs(subject.folder, subject.head, attention)

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.model.inputs

    def forward(self, *tensors: Tensor) -> Tensor:
        """int64 [sequences, tokens] per name of `inputs` -> [sequences, labels] or [sequences, tokens, outputs]."""
        outputs = self.model(*tensors)
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs, -1)


def export_onnx(subject: Subject, file: Path, shape: tuple[int, int] | None = None) -> tuple[str, ...]:
    """Write `file` for one shape (sequences, tokens), or for any; returns the names of its inputs.

    DeepSparse finds the patterns it is fast at only in graphs of fixed shape.
    """
    module = OneOutput(subject, "eager").eval()
    write_graph(module, file, inputs=module.inputs, outputs={"output": ()}, opset=OPSET, shape=shape)
    return module.inputs


def quantize_onnx(file: Path, calibration: Sequence[Batch], shape: tuple[int, int], *, out: Path) -> None:
    """Write `out`: the model with its weight products in 8 bits, as operators. shape: of the texts that it is shown.

    Weights symmetric, activations asymmetric, ranges by `calibration`, whose texts fill the shape in turn.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    tokens = np.concatenate([sequence for batch in calibration for sequence in batch.sequences])

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = [each.name for each in onnx.load(str(file), load_external_data=False).graph.input]
            self.left = max(1, len(tokens) // (shape[0] * shape[1]))

        def get_next(self) -> dict[str, Any] | None:
            if self.left == 0:
                return None
            self.left -= 1
            ids = np.resize(np.roll(tokens, -self.left * shape[0] * shape[1]), shape)
            return dict(zip(self.inputs, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=False))

    logging.disable(logging.WARNING)  # advice that concerns convolutions
    try:
        quantize_static(
            file,
            out,
            Reader(),
            quant_format=QuantFormat.QOperator,
            op_types_to_quantize=["MatMul"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False, "MatMulConstBOnly": True},
        )
    finally:
        logging.disable(logging.NOTSET)
    model = onnx.load(str(out))
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    onnx.save(model, str(out))
