"""The model as ONNX, for engines that read nothing else."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pruneonce.bench.subject import Subject
from pruneonce.onnx_graph import NamedOutputs, write_graph

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
