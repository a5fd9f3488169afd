"""A transformers model as an ONNX graph, traced with its inputs and outputs by name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruneonce.models import family_of
from pruneonce.models.hub import load_hub_model

AXES = ("sequences", "tokens")
UNSEEN = -1e9  # added to the score of a token that is not seen


@dataclass(frozen=True)
class Head:
    """What a model gives."""

    loader: str  # transformers' class
    outputs: tuple[str, ...]
    axes: tuple[str, ...] = AXES  # the outputs' first ones


# Head of the class in config.json -> what it gives.
HEADS = {
    "ForSequenceClassification": Head("AutoModelForSequenceClassification", ("logits",), AXES[:1]),
    "ForQuestionAnswering": Head("AutoModelForQuestionAnswering", ("start_logits", "end_logits")),
    "ForTokenClassification": Head("AutoModelForTokenClassification", ("logits",)),
    "ForMaskedLM": Head("AutoModelForMaskedLM", ("logits",)),
    "Model": Head("AutoModel", ("last_hidden_state",)),
}


class NamedOutputs(nn.Module):
    """A transformers model that takes tensors by position and gives its head's outputs as a tuple."""

    def __init__(self, folder: str | Path, head: str, attention: str = "eager") -> None:
        """head: a key of HEADS. attention: "eager" can be traced, "sdpa" is faster."""
        super().__init__()
        self.head = HEADS[head]
        options = {"dtype": torch.float32, "attn_implementation": attention}
        self.model: Any = load_hub_model(self.head.loader, folder, **options)
        family = family_of(self.model.config.model_type)
        self._plan = family.encoder_plan(self.model.config.to_dict())
        # Of the encoder alone: a head that takes the mean of its states needs to know the real ones.
        encoder = getattr(self.model, family.base, self.model)
        encoder.register_forward_pre_hook(self._add_masks, with_kwargs=True)
        self.eval()  # not the model alone: the exporter puts back what the outermost module was

    @property
    def inputs(self) -> tuple[str, ...]:
        return family_of(self.model.config.model_type).inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """int64 [sequences, tokens] per name of `inputs` -> float32 per name of the head's outputs."""
        named = dict(zip(self.inputs, tensors, strict=True))
        output = self.model(**named)
        return tuple(output[name] for name in self.head.outputs)

    def _add_masks(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """Masks as the sums that attention adds: transformers' own code for them does not trace with free sizes."""
        real = named["attention_mask"]
        padding = (1.0 - real[:, None, None, :].float()) * UNSEEN
        if not self._plan.local_window:
            return inputs, {**named, "attention_mask": padding}
        places = torch.cumsum(torch.ones_like(real[:1]), 1)[0]
        outside = (places[:, None] - places).abs() > self._plan.local_window
        windows = torch.minimum(padding, outside.float()[None, None] * UNSEEN)
        return inputs, {**named, "attention_mask": {"full_attention": padding, "sliding_attention": windows}}


def write_graph(
    module: nn.Module,
    file: Path,
    *,
    inputs: tuple[str, ...],
    outputs: dict[str, tuple[str, ...]],
    opset: int,
    shape: tuple[int, int] | None = None,
    fold_constants: bool = True,
) -> None:
    """Trace `module` and write `file`, for one shape (sequences, tokens) or, without, for any.

    module: int64 [sequences, tokens] per input -> a tensor, or a tuple of them. outputs: name -> names of its first
    axes. fold_constants: store weights as the operators take them, which keeps a tied one twice.
    """
    example = torch.ones(shape or (2, 8), dtype=torch.int64)
    tensors = tuple(example * (name == "attention_mask") for name in inputs)
    free = {name: dict(enumerate(axes)) for name, axes in {**dict.fromkeys(inputs, AXES), **outputs}.items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, about shapes we fix or free on purpose
        torch.onnx.export(
            module,
            tensors,
            str(file),
            dynamo=False,
            opset_version=opset,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=None if shape else free,
            do_constant_folding=fold_constants,
        )
