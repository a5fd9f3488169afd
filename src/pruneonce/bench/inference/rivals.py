"""Every engine as a small class: `name`, `version`, and `prepare(batch)`, which gives the call to be timed.

Whatever can be done once per shape (compiling, converting inputs) is done in `prepare`, for every engine alike.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pruneonce import __version__, _native
from pruneonce.bench.inference.cases import Batch
from pruneonce.bench.inference.record import EMBEDDINGS
from pruneonce.bench.inference.subject import Subject
from pruneonce.bench.measure import Call, timed
from pruneonce.bench.worker import Worker
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import UsageError
from pruneonce.formats.stored_tensors import Array
from pruneonce.machine import instruction_sets
from pruneonce.privacy import silence_openvino

OURS, OURS_INT8 = "pruneonce", "pruneonce-int8"
# What --against may name -> the Python packages it needs.
PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": (),
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino", "nncf"),
    "deepsparse": ("onnx", "onnxruntime"),
}
CALIBRATION = (8, 128)  # samples, tokens each, for every int8 that is quantised here
DEEPSPARSE_HELP = (
    "it needs a Python of its own, 3.8 to 3.11: `python3.11 -m venv DIR`, `DIR/bin/pip install deepsparse==1.8.0 "
    "'numpy<2' 'setuptools<81'`, then --deepsparse-python DIR/bin/python"
)


class Engine(Protocol):
    """What is measured."""

    name: str
    version: str

    def prepare(self, batch: Batch) -> Call:
        """A Call on `batch` whose output is an array, or one array per sequence."""
        ...


def require(against: list[str], *, deepsparse_python: Path | None) -> None:
    """UsageError that says what to install, before anything costs time."""
    for name in against:
        if name not in PACKAGES:
            raise UsageError(f"--against '{name}' is unknown: expected some of {', '.join(PACKAGES)}")
        for package in ("torch", "transformers", *PACKAGES[name]):
            if importlib.util.find_spec(package) is None:
                raise UsageError(
                    f"{name} cannot be measured, {package} is not installed: `pip install 'pruneonce[bench]'`, or "
                    "leave it out of --against"
                )
    if "deepsparse" in against and (deepsparse_python is None or not deepsparse_python.is_file()):
        what = f"there is no {deepsparse_python}" if deepsparse_python else "--deepsparse-python is missing"
        raise UsageError(f"deepsparse cannot be measured, {what}: {DEEPSPARSE_HELP}")


@contextlib.contextmanager
def own_threads(threads: int) -> Iterator[None]:
    """`threads` for our kernels and PyTorch, whose number belongs to the whole process; afterwards as before."""
    import torch

    before = _native.num_threads(), torch.get_num_threads()
    try:
        _native.set_num_threads(threads)
        torch.set_num_threads(threads)
        yield
    finally:
        _native.set_num_threads(before[0])
        torch.set_num_threads(before[1])


class Ours:
    """The packed file in our engine: the model folder as it is, in floats or quantised."""

    def __init__(self, subject: Subject, work: Path, name: str = OURS) -> None:
        from pruneonce.run.model import load_model

        self.name = name
        file = work / f"{name}.pruneonce"
        export_packed(subject.folder, file, embeddings=EMBEDDINGS[name])
        self.file_bytes = file.stat().st_size
        self._model = load_model(file)
        self.version = f"{__version__} ({self._model.isa})"

    def prepare(self, batch: Batch) -> Call:
        return timed(lambda: self._model(batch.sequences, batch.types))


class Torch:
    """PyTorch, eager, with its fused attention; also the reference for everyone's outputs."""

    name = "torch"

    def __init__(self, subject: Subject) -> None:
        import torch

        from pruneonce.bench.inference.onnx_files import OneOutput

        self.version = str(torch.__version__)
        self._module = OneOutput(subject, "sdpa")

    def prepare(self, batch: Batch) -> Call:
        import torch

        tensors = [torch.from_numpy(array) for array in batch.padded()[: len(self._module.inputs)]]

        def run() -> Array:
            with torch.inference_mode():
                return self._module(*tensors).numpy()

        return timed(run)


class OnnxRuntime:
    """ONNX Runtime: the fp32 model, or its own dynamic int8 quantisation of it."""

    def __init__(self, onnx_file: Path, threads: int, *, int8: bool = False) -> None:
        import onnxruntime

        self.name = "onnxruntime-int8" if int8 else "onnxruntime"
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")  # after a call, on others' cores
        file = _quantized(onnx_file) if int8 else onnx_file
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def prepare(self, batch: Batch) -> Call:
        names = [each.name for each in self._session.get_inputs()]
        feed = dict(zip(names, batch.padded(), strict=False))
        return timed(lambda: self._session.run(None, feed)[0])


class OpenVino:
    """OpenVINO, compiled for each shape: the fp32 model, or int8 by nncf's post-training quantisation."""

    def __init__(self, onnx_file: Path, threads: int, *, calibration: list[Batch] | None = None) -> None:
        silence_openvino()
        import openvino

        self.name = "openvino-int8" if calibration else "openvino"
        self.version = openvino.__version__.split("-")[0]
        self._core = openvino.Core()
        self._model = self._core.read_model(str(onnx_file))
        if calibration:
            self._model = _nncf_int8(self._model, calibration)
        self._compiled: tuple[tuple[int, int], Any] | None = None  # the last shape, and the request for it
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def prepare(self, batch: Batch) -> Call:
        names = [each.any_name for each in self._model.inputs]
        feed = dict(zip(names, batch.padded(), strict=False))
        if self._compiled is None or self._compiled[0] != batch.shape:
            self._model.reshape({name: list(batch.shape) for name in names})
            compiled = self._core.compile_model(self._model, "CPU", self._settings)
            self._compiled = batch.shape, compiled.create_infer_request()
        request = self._compiled[1]

        def run() -> Array:
            request.infer(feed, share_inputs=True)
            return request.get_output_tensor(0).data.copy()

        return timed(run)


class DeepSparse:
    """DeepSparse, which uses the zeros too. Abandoned and held to old packages, so in a Python of its own.

    It times its calls itself: the pipe between us is not its fault. With `calibration` in 8 bits, by ONNX Runtime's
    static quantisation in the form that it is fast at (operators instead of pairs of quantise and de-quantise).
    """

    def __init__(
        self, subject: Subject, work: Path, threads: int, python: Path, *, calibration: list[Batch] | None = None
    ) -> None:
        self.name = "deepsparse-int8" if calibration else "deepsparse"
        self._subject, self._work, self._threads, self._calibration = subject, work, threads, calibration
        self._loaded: tuple[tuple[int, int], tuple[str, ...]] | None = None  # shape, names of inputs
        script = Path(__file__).with_name("deepsparse_worker.py")
        self._worker = Worker(
            "deepsparse",
            [str(python), "-I", str(script)],
            work / f"{self.name}.log",
            advice=f"Check its installation: {DEEPSPARSE_HELP}",
        )
        self.version = str(self._worker.answer()[0]["version"])

    def prepare(self, batch: Batch) -> Call:
        if self._loaded is None or self._loaded[0] != batch.shape:
            self._loaded = batch.shape, self._load(batch.shape)
        self._worker.ask({"inputs": True}, batch.padded()[: len(self._loaded[1])])

        def call() -> tuple[float, Array]:
            message, arrays = self._worker.ask({"run": True})
            return float(message["seconds"]), arrays[0]

        return call

    def _load(self, shape: tuple[int, int]) -> tuple[str, ...]:
        from pruneonce.bench.inference.onnx_files import export_onnx

        file = self._work / f"{self.name}.onnx"  # it writes into its input, so it never gets a file of someone else
        inputs = export_onnx(self._subject, file, shape)
        if self._calibration is not None:
            from pruneonce.bench.inference.onnx_files import quantize_onnx

            file = quantize_onnx(file, inputs, self._calibration, shape)
        self._worker.ask({"load": str(file), "batch": shape[0], "cores": self._threads})
        return inputs

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def make_rivals(
    against: list[str],
    subject: Subject,
    work: Path,
    threads: int,
    *,
    calibration: list[Batch] | None,
    deepsparse_python: Path | None,
) -> list[Engine]:
    """The engines that --against names, torch left out (it is always there, as the reference).

    calibration: texts that set the ranges of the int8 ones; None leaves these out.
    """
    engines: list[Engine] = []
    if {"onnxruntime", "openvino"} & set(against):
        from pruneonce.bench.inference.onnx_files import export_onnx

        onnx_file = work / "model.onnx"
        export_onnx(subject, onnx_file)
    if "onnxruntime" in against:
        engines.append(OnnxRuntime(onnx_file, threads))
        if calibration:
            engines.append(OnnxRuntime(onnx_file, threads, int8=True))
    if "openvino" in against:
        engines.append(OpenVino(onnx_file, threads))
        if calibration:
            engines.append(OpenVino(onnx_file, threads, calibration=calibration))
    if "deepsparse" in against:
        assert deepsparse_python is not None
        engines.append(DeepSparse(subject, work, threads, deepsparse_python))
        if calibration:
            engines.append(DeepSparse(subject, work, threads, deepsparse_python, calibration=calibration))
    return engines


def rows(output: Any, lengths: list[int]) -> list[Array]:
    """An engine's output as one array per sequence, of its real tokens only."""
    if isinstance(output, list):
        return [np.asarray(row) for row in output]
    return [row[:length] if row.ndim == 2 else row for row, length in zip(output, lengths, strict=True)]


def _quantized(onnx_file: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = onnx_file.with_suffix(".int8.onnx")
    # Without VNNI, sums of two products overflow 16 bits unless weights have 7 bits.
    narrow = "avx512_vnni" not in instruction_sets()
    logging.disable(logging.WARNING)  # advice that concerns convolutions
    try:
        quantize_dynamic(
            onnx_file, file, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"], reduce_range=narrow
        )
    finally:
        logging.disable(logging.NOTSET)
    return file


def _nncf_int8(model: Any, calibration: list[Batch]) -> Any:
    import nncf

    nncf.set_log_level(40)  # errors
    names = [each.any_name for each in model.inputs]
    dataset = nncf.Dataset([dict(zip(names, batch.padded(), strict=False)) for batch in calibration])
    with contextlib.redirect_stdout(io.StringIO()):  # four bars of its own; what goes wrong it raises
        quantize: Callable[..., Any] = nncf.quantize
        return quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration))
