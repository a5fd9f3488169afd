"""The model as ONNX, for engines that read nothing else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from pruneonce.bench.cases import Batch
from pruneonce.bench.subject import LOADERS, Subject

OPSET = 14  # the newest DeepSparse reads
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # the last one not for DistilBERT


class OneOutput(nn.Module):
    """A transformers model whose only output is what the benchmark compares."""

    def __init__(self, subject: Subject, attention: str) -> None:
        super().__init__()
        loader = getattr(transformers, LOADERS[subject.head])
        self.model: Any = loader.from_pretrained(
            subject.folder, dtype=torch.float32, attn_implementation=attention
        ).eval()
        self.head = subject.head

    @property
    def inputs(self) -> tuple[str, ...]:
        return INPUTS if self.model.config.model_type == "bert" else INPUTS[:2]

    def forward(self, *tensors: Tensor) -> Tensor:
        """int64 [sequences, tokens] per name of `inputs` -> [sequences, labels] or [sequences, tokens, outputs]."""
        named = dict(zip(self.inputs, tensors, strict=True))
        # As the sum that attention adds: transformers' own mask code does not trace with free sizes.
        named["attention_mask"] = (1.0 - named["attention_mask"][:, None, None, :].float()) * -1e9
        output = self.model(**named)
        if self.head == "ForQuestionAnswering":
            return torch.stack((output.start_logits, output.end_logits), -1)
        return output.last_hidden_state if self.head == "Model" else output.logits


def export_onnx(subject: Subject, file: Path, shape: tuple[int, int] | None = None) -> tuple[str, ...]:
    """Write `file` for one shape (sequences, tokens), or for any; returns the names of its inputs.

    DeepSparse finds the patterns it is fast at only in graphs of fixed shape.
    """
    module = OneOutput(subject, "eager").eval()
    example = torch.ones(shape or (2, min(8, subject.max_tokens)), dtype=torch.int64)
    tensors = tuple(example * (name == "attention_mask") for name in module.inputs)
    free = {name: {0: "sequences", 1: "tokens"} for name in module.inputs}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, about shapes we fix or free on purpose
        torch.onnx.export(
            module,
            tensors,
            str(file),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(module.inputs),
            output_names=["output"],
            dynamic_axes=None if shape else free,
        )
    return module.inputs


def quantize_onnx(file: Path, inputs: Sequence[str], calibration: Sequence[Batch], shape: tuple[int, int]) -> Path:
    """A model of fixed shape with its weight products in 8 bits, as DeepSparse reads them; the path of the new file.

    Weights symmetric, activations asymmetric, ranges by `calibration`, whose texts fill the shape in turn.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    tokens = np.concatenate([sequence for batch in calibration for sequence in batch.sequences])

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = max(1, len(tokens) // (shape[0] * shape[1]))

        def get_next(self) -> dict[str, Any] | None:
            if self.left == 0:
                return None
            self.left -= 1
            ids = np.resize(np.roll(tokens, -self.left * shape[0] * shape[1]), shape)
            return dict(zip(inputs, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=False))

    quantized = file.with_suffix(".int8.onnx")
    logging.disable(logging.WARNING)  # advice that concerns convolutions
    try:
        quantize_static(
            file,
            quantized,
            Reader(),
            quant_format=QuantFormat.QOperator,
            op_types_to_quantize=["MatMul"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False, "MatMulConstBOnly": True},
        )
    finally:
        logging.disable(logging.NOTSET)
    model = onnx.load(str(quantized))
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    onnx.save(model, str(quantized))
    return quantized
