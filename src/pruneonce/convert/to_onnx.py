"""A model folder as an ONNX file that other engines run, compared with PyTorch before it takes its name."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pruneonce.convert.runnable import config_as_served, require_runnable
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import cannot_write, read_json, replacing, require_unicode_name, scratch_folder
from pruneonce.formats.model_folder import read_family, require_folder
from pruneonce.formats.scales_file import read_quantization
from pruneonce.models.family import TASK_OF_HEAD
from pruneonce.models.tokenizer import load_tokenizer, special_token_ids

OPSET = 20  # the newest that PyTorch's tracer writes: layer norm and GELU are one operator each
LARGEST_FILE = (1 << 31) - (1 << 20)  # a protobuf has less than 2 GiB; beyond, the weights go into a file beside it
LARGEST_DIFFERENCE = 1e-4  # from PyTorch's outputs, relative to the largest of them or 1; rounding stays below a tenth
# What is compared: alone and padded in a batch, one text and a pair, of different lengths.
SAMPLES: tuple[str | tuple[str, str], ...] = (
    "What a lovely film.",
    ("Who wrote it?", "Ada Lovelace wrote it in 1843, as notes to an article on Babbage's engine."),
    "Two hours of my life that I will not get back, and the ending was worse than the beginning.",
)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class OnnxFile:
    """What was written."""

    file: str
    bytes: int  # with the file of weights, if there is one
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_difference: float  # from PyTorch's outputs on SAMPLES, in ONNX Runtime
    dequantized: bool  # the folder is one of int8 weights: the file holds them as floats


def export_onnx(model: str | Path, out: str | Path) -> OnnxFile:
    """Write a model folder as `out`, for any number of sequences and tokens, with the outputs of its head by name.

    An int8 folder becomes its de-quantised weights. UsageError for what cannot be exported; PruneonceError, with
    nothing left behind, if ONNX Runtime answers SAMPLES otherwise than PyTorch.
    """
    folder, out = require_folder(model), Path(out)
    if out.is_dir():
        raise UsageError(f"'{out}' is a folder: the name of a file is expected")
    require_unicode_name(out)
    for package in ("torch", "transformers", "onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"ONNX export needs {package}, which is not installed: `pip install 'pruneonce[train,onnxruntime]'`"
            )
    head = head_of(folder)
    require_runnable(folder, read_family(folder))
    from pruneonce.convert.onnx_graph import NamedOutputs, write_graph

    module = NamedOutputs(folder, head)
    outputs = dict.fromkeys(module.head.outputs, module.head.axes)
    try:
        with scratch_folder(out) as scratch:
            written = scratch / out.name
            write_graph(module, written, inputs=module.inputs, outputs=outputs, opset=OPSET, fold_constants=False)
            files = _divided(written)
            difference = _check(module, written, folder)
            for file in reversed(files):  # the graph last: it is what names the other
                with replacing(out.with_name(file.name)) as temporary:
                    file.replace(temporary)
    except OSError as error:
        raise cannot_write(out, error) from error
    return OnnxFile(
        file=str(out),
        bytes=sum(out.with_name(file.name).stat().st_size for file in files),
        opset=OPSET,
        inputs=module.inputs,
        outputs=module.head.outputs,
        max_difference=difference,
        dequantized=read_quantization(folder) is not None,
    )


def head_of(folder: Path) -> str:
    """The head of a folder's class, a key of HEADS; UsageError for another."""
    from pruneonce.convert.onnx_graph import HEADS

    family = read_family(folder)
    try:
        task = family.task_of(config_as_served(folder, family))
    except ValueError as error:
        raise UsageError(f"{folder}: {error}; one of {', '.join(HEADS)} is expected") from error
    return next(head for head in HEADS if TASK_OF_HEAD[head] == task)


def _divided(graph: Path) -> list[Path]:
    """The file, and the file of its weights if it would be too large for one."""
    import onnx

    beside = [file for file in graph.parent.iterdir() if file != graph]  # what PyTorch has moved out, one per weight
    if not beside and graph.stat().st_size <= LARGEST_FILE:
        return [graph]
    weights = f"{graph.name}.data"
    loaded = onnx.load(graph)
    for file in beside:
        file.unlink()
    onnx.save(loaded, graph, save_as_external_data=True, all_tensors_to_one_file=True, location=weights)
    return [graph, graph.with_name(weights)]


def _check(module: Any, graph: Path, folder: Path) -> float:
    """The largest difference between ONNX Runtime's outputs and PyTorch's; PruneonceError if it is not rounding."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    largest = 0.0
    for arrays in sample_batches(folder):
        feed = {name: arrays[name] for name in module.inputs}
        with torch.no_grad():
            expected = module(*(torch.from_numpy(array) for array in feed.values()))
        for name, found, tensor in zip(module.head.outputs, session.run(None, feed), expected, strict=True):
            reference = tensor.numpy()
            difference = np.abs(found - reference) if found.shape == reference.shape else np.array(np.inf)
            if not difference.max() <= LARGEST_DIFFERENCE * max(1.0, float(np.abs(reference).max())):  # or NaN
                raise PruneonceError(
                    f"{folder}: ONNX Runtime's {name} differ from PyTorch's by {difference.max():.1e} on sample text: "
                    "nothing was written; please report it with the versions of torch and onnxruntime"
                )
            largest = max(largest, float(difference.max()))
    return largest


def sample_batches(folder: Path) -> Iterator[dict[str, Array]]:
    """SAMPLES as the model takes them, int64 [sequences, tokens] by name: each alone, then all in a padded batch."""
    tokenizer = load_tokenizer(folder)
    try:
        plan = read_family(folder).encoder_plan(read_json(folder / "config.json"))
    except ValueError as error:
        raise PruneonceError(f"{folder}: {error}") from error
    tokenizer.enable_truncation(plan.max_tokens)
    batches = [tokenizer.encode_batch([sample]) for sample in SAMPLES]
    tokenizer.enable_padding(pad_id=special_token_ids(tokenizer)["pad"])
    for batch in (*batches, tokenizer.encode_batch(list(SAMPLES))):
        yield {
            "input_ids": np.array([each.ids for each in batch], np.int64),
            "attention_mask": np.array([each.attention_mask for each in batch], np.int64),
            "token_type_ids": np.array([each.type_ids for each in batch], np.int64),
        }
