"""Every engine as a small class: `name`, `version`, and `prepare(batch)`, which gives the call to be timed.

Whatever can be done once per shape (compiling, converting inputs) is done in `prepare`, for every engine alike.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
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
IN_INT8 = {
    "onnxruntime": ("onnxruntime-int8", "onnxruntime-static-int8"),
    "openvino": ("openvino-int8",),
    "deepsparse": ("deepsparse-int8",),
}
# What else computes encoders on CPUs, and why no row shows it.
ABSENT = {
    "torch.compile int8": "needs a C++ compiler where it runs, and minutes for every shape",
    "CTranslate2": "reads no classifier's or reader's head",
    "llama.cpp": "its wheels cannot make a GGUF file of a BERT",
    "fastembed": "takes texts, not tokens: docs/serving.md has it",
    "kjarni": "takes texts, not tokens",
    "MKL CSR": "is no encoder: docs/kernels.md compares its products",
}
ONNX_FILE = "model.onnx"
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


def pack(subject: Subject, work: Path, name: str = OURS) -> Path:
    """The packed file of one of our engines: the model folder as it is, in floats or quantised."""
    file = work / f"{name}.pruneonce"
    export_packed(subject.folder, file, embeddings=EMBEDDINGS[name])
    return file


class Ours:
    """The packed file in our engine."""

    def __init__(self, file: Path, name: str = OURS) -> None:
        from pruneonce.run.model import load_model

        self.name = name
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
    """ONNX Runtime: the fp32 model, or what its own quantiser made of it."""

    def __init__(self, onnx_file: Path, threads: int, name: str = "onnxruntime") -> None:
        import onnxruntime

        self.name = name
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")  # after a call, on others' cores
        self._session = onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])

    def prepare(self, batch: Batch) -> Call:
        names = [each.name for each in self._session.get_inputs()]
        feed = dict(zip(names, batch.padded(), strict=False))
        return timed(lambda: self._session.run(None, feed)[0])


class OpenVino:
    """OpenVINO, compiled for each shape: the fp32 model, or what nncf's post-training quantisation made of it."""

    def __init__(self, file: Path, threads: int, name: str = "openvino") -> None:
        silence_openvino()
        import openvino

        self.name = name
        self.version = openvino.__version__.split("-")[0]
        self._core = openvino.Core()
        self._model = self._core.read_model(str(file))
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

            quantized = file.with_suffix(".int8.onnx")
            quantize_onnx(file, self._calibration, shape, out=quantized)
            file = quantized
        self._worker.ask({"load": str(file), "batch": shape[0], "cores": self._threads})
        return inputs

    @property
    def pid(self) -> int:
        return self._worker.pid

    def close(self) -> None:
        """End the process."""
        self._worker.close()


@dataclass(frozen=True)
class EngineSettings:
    """What every engine is made from: the model, and the folder with the files that `write_files` wrote."""

    subject: Subject
    work: str
    threads: int
    deepsparse_python: str = ""

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EngineSettings:
        return cls(**{**value, "subject": Subject(**value["subject"])})


def engine_names(against: Sequence[str], *, int8: bool) -> list[str]:
    """Those that --against names, and ours; each in 8 bits too where that is wanted and it can."""
    names = [OURS, *([OURS_INT8] if int8 else [])]
    for name in ("torch", "onnxruntime", "openvino", "deepsparse"):
        if name in against:
            names += [name, *(IN_INT8.get(name, ()) if int8 else ())]
    return names


def write_files(names: Sequence[str], settings: EngineSettings, calibration: Sequence[Batch]) -> None:
    """What rivals read, made here: their processes then hold and time what serves alone.

    calibration: texts that set the ranges of those in 8 bits.
    """
    work, subject = Path(settings.work), settings.subject
    file = work / ONNX_FILE
    if any(name.startswith(("onnxruntime", "openvino")) for name in names):
        from pruneonce.bench.inference.onnx_files import export_onnx

        export_onnx(subject, file)
    if "onnxruntime-int8" in names:
        _quantize(file, work / "onnxruntime-int8.onnx")
    if "onnxruntime-static-int8" in names:
        from pruneonce.bench.inference.onnx_files import quantize_onnx

        shape = (1, min(CALIBRATION[1], subject.max_tokens))
        quantize_onnx(file, calibration, shape, out=work / "onnxruntime-static-int8.onnx")
    if "openvino-int8" in names:
        _nncf_int8(file, work / "openvino-int8.xml", list(calibration))


def make_engine(name: str, settings: EngineSettings) -> Engine:
    """One of `engine_names`, but DeepSparse, from the files that there are for it."""
    work = Path(settings.work)
    if name in (OURS, OURS_INT8):
        return Ours(work / f"{name}.pruneonce", name)
    if name == "torch":
        import torch

        torch.set_num_threads(settings.threads)
        return Torch(settings.subject)
    if name.startswith("onnxruntime"):
        return OnnxRuntime(work / (ONNX_FILE if name == "onnxruntime" else f"{name}.onnx"), settings.threads, name)
    if name.startswith("openvino"):
        return OpenVino(work / (ONNX_FILE if name == "openvino" else f"{name}.xml"), settings.threads, name)
    raise UsageError(f"the engine '{name}' is unknown")


def rows(output: Any, lengths: list[int]) -> list[Array]:
    """An engine's output as one array per sequence, of its real tokens only."""
    if isinstance(output, list):
        return [np.asarray(row) for row in output]
    return [row[:length] if row.ndim == 2 else row for row, length in zip(output, lengths, strict=True)]


def _quantize(onnx_file: Path, out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Without VNNI, sums of two products overflow 16 bits unless weights have 7 bits.
    narrow = "avx512_vnni" not in instruction_sets()
    logging.disable(logging.WARNING)  # advice that concerns convolutions
    try:
        quantize_dynamic(
            onnx_file, out, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"], reduce_range=narrow
        )
    finally:
        logging.disable(logging.NOTSET)


def _nncf_int8(onnx_file: Path, out: Path, calibration: list[Batch]) -> None:
    silence_openvino()
    import nncf
    import openvino

    model = openvino.Core().read_model(str(onnx_file))
    nncf.set_log_level(40)  # errors
    names = [each.any_name for each in model.inputs]
    dataset = nncf.Dataset([dict(zip(names, batch.padded(), strict=False)) for batch in calibration])
    with contextlib.redirect_stdout(io.StringIO()):  # four bars of its own; what goes wrong it raises
        quantize: Callable[..., Any] = nncf.quantize
        quantized = quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration))
    openvino.save_model(quantized, str(out), compress_to_fp16=False)
