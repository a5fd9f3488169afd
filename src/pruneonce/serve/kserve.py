"""KServe's Open Inference Protocol, version 2: health, metadata and inference, with the binary tensors of Triton.

What each kind of model takes and gives is in `SIGNATURES`; strings travel as BYTES. One text, or one pair, per element.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

import pruneonce
from pruneonce.run.pipelines.text_model import Array, Asking, Wanted, asking
from pruneonce.serve.questions import ask_spans
from pruneonce.serve.refusal import Refusal
from pruneonce.serve.route import Body, Exchange, Reply, Route, json_bytes, read_json, require_texts
from pruneonce.serve.served_model import Question, ServedModel

HEADER = b"inference-header-content-length"  # of a body that is JSON and then tensors: how much is JSON
VERSION = "1"
DATATYPES = {"FP32": "<f4", "INT64": "<i8"}


class InferInput(Body):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] | None = None


class InferOutput(Body):
    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferBody(Body):
    id: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: list[InferInput]
    outputs: list[InferOutput] | None = None


Columns = dict[str, list[str]]  # the texts of each input
Tensors = dict[str, Array]  # of each output: float32, int64, or objects that are str


@dataclass(frozen=True)
class Signature:
    """What a kind of model takes and gives here."""

    inputs: tuple[str, ...]  # BYTES [n]
    optional: tuple[str, ...]
    outputs: Mapping[str, tuple[str, list[int]]]  # datatype, shape
    ask: Callable[[ServedModel, Columns], Asking[Any]]
    tensors: Callable[[ServedModel, Any], Tensors]


def _classify(model: ServedModel, columns: Columns) -> Asking[Any]:
    pairs = columns.get("text_pair") or [""] * len(columns["text"])
    rows = [{"text": text, "text_pair": pair} for text, pair in zip(columns["text"], pairs, strict=True)]
    return asking(model.pipelines["predict"].__call__, rows, top_k=None, truncation=True)


def _classes(model: ServedModel, answers: list[Any]) -> Tensors:
    """Scores in the order of the model's labels, and the best label."""
    scores = [{each["label"]: each["score"] for each in answer} for answer in answers]
    return {
        "scores": np.array([[row[label] for label in model.model.labels] for row in scores], np.float32),
        "label": np.array([answer[0]["label"] for answer in answers], object),
    }


def _ask(model: ServedModel, columns: Columns) -> Asking[Any]:
    rows = list(zip(columns["question"], columns["context"], strict=True))
    return ask_spans(model, rows)


def _spans(_: ServedModel, answers: list[Any]) -> Tensors:
    return {
        "answer": np.array([each["answer"] for each in answers], object),
        "score": np.array([each["score"] for each in answers], np.float32),
        "start": np.array([each["start"] for each in answers], np.int64),
        "end": np.array([each["end"] for each in answers], np.int64),
    }


def _embed(model: ServedModel, columns: Columns) -> Asking[Any]:
    return asking(model.pipelines["embed"].__call__, columns["text"])


def _vectors(_: ServedModel, vectors: Any) -> Tensors:
    return {"embedding": vectors}


def _rank(model: ServedModel, columns: Columns) -> Asking[Any]:
    pairs = list(zip(columns["query"], columns["text"], strict=True))
    return asking(model.pipelines["rerank"].__call__, pairs)


def _scores(_: ServedModel, scores: Any) -> Tensors:
    return {"score": scores}


SIGNATURES = {
    "embeddings": Signature(("text",), (), {"embedding": ("FP32", [-1, -1])}, _embed, _vectors),
    "text-ranking": Signature(("query", "text"), (), {"score": ("FP32", [-1])}, _rank, _scores),
    "text-classification": Signature(
        ("text",), ("text_pair",), {"scores": ("FP32", [-1, -1]), "label": ("BYTES", [-1])}, _classify, _classes
    ),
    "question-answering": Signature(
        ("question", "context"),
        (),
        {"answer": ("BYTES", [-1]), "score": ("FP32", [-1]), "start": ("INT64", [-1]), "end": ("INT64", [-1])},
        _ask,
        _spans,
    ),
}


def signature_of(model: ServedModel) -> Signature:
    """Refusal for a kind of model whose answers are no tensors."""
    if model.task not in SIGNATURES:
        raise Refusal(f"{model.name} is a model for {model.task}, which has no tensors here: use its own route")
    return SIGNATURES[model.task]


def _model(exchange: Exchange) -> ServedModel:
    version = exchange.path_parameters.get("version", VERSION)
    if version != VERSION:
        raise Refusal(f"there is no version {version[:50]!a}, but {VERSION}", status=404)
    return exchange.models.named(exchange.path_parameters["name"])


async def server(_: Exchange, __: None) -> Reply:
    told = {"name": "pruneonce", "version": pruneonce.__version__, "extensions": ["binary_tensor_data"]}
    return Reply(json_bytes(told))


async def live(_: Exchange, __: None) -> Reply:
    return Reply(json_bytes({"live": True}))


async def ready(exchange: Exchange, _: None) -> Reply:
    is_ready = exchange.ready and not any(model.failed for model in exchange.models.by_name.values())
    return Reply(json_bytes({"ready": is_ready}), status=200 if is_ready else 503)


async def model_ready(exchange: Exchange, _: None) -> Reply:
    model = _model(exchange)
    is_ready = exchange.ready and not model.failed
    return Reply(json_bytes({"name": model.name, "ready": is_ready}), status=200 if is_ready else 503)


async def metadata(exchange: Exchange, _: None) -> Reply:
    model = _model(exchange)
    signature = SIGNATURES.get(model.task)
    names = (*signature.inputs, *signature.optional) if signature else ()
    outputs = signature.outputs if signature else {}
    told = {
        "name": model.name,
        "versions": [VERSION],
        "platform": "pruneonce",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names],
        "outputs": [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in outputs.items()],
    }
    return Reply(json_bytes(told), model=model.name)


@dataclass(frozen=True)
class Inference:
    """A request, its binary tensors apart."""

    body: InferBody
    binary: bytes


def read_inference(content: bytes, headers: Mapping[bytes, bytes]) -> Inference:
    given = headers.get(HEADER)
    if given is None:
        return Inference(read_json(InferBody, content), b"")
    if not given.isdigit() or len(given) > 12 or int(given) > len(content):
        raise Refusal(
            f"{HEADER.decode()} is {given[:30].decode('latin-1')!a}: the bytes of JSON are expected", status=400
        )
    return Inference(read_json(InferBody, content[: int(given)]), content[int(given) :])


async def infer(exchange: Exchange, inference: Inference) -> Reply:
    model = _model(exchange)
    signature, body = signature_of(model), inference.body
    columns = _columns(signature, inference)
    rows = len(columns[signature.inputs[0]])
    require_texts(columns[signature.inputs[0]], exchange.limits)
    for name, column in columns.items():
        if len(column) != rows:
            raise Refusal(f"input {name} has {len(column)} elements, {signature.inputs[0]} has {rows}")
    wanted = {each.name: each.parameters for each in body.outputs or ()} or {name: {} for name in signature.outputs}
    for name in wanted:
        if name not in signature.outputs:
            raise Refusal(f"there is no output {name[:100]!a}: expected {', '.join(signature.outputs)}")
    all_binary = body.parameters.get("binary_data_output") is True
    json_size = 0

    def respond(answers: Any, _: Wanted) -> bytes:
        nonlocal json_size
        tensors = signature.tensors(model, answers)
        outputs, binaries = [], []
        for name, parameters in wanted.items():
            datatype = signature.outputs[name][0]
            told: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(tensors[name].shape)}
            if parameters.get("binary_data", all_binary) is True:
                binaries.append(_packed(tensors[name], datatype))
                told["parameters"] = {"binary_data_size": len(binaries[-1])}
            else:
                told["data"] = tensors[name].ravel().tolist()
            outputs.append(told)
        head = json_bytes({"model_name": model.name, "model_version": VERSION, "id": body.id or "", "outputs": outputs})
        json_size = len(head) if binaries else 0
        return b"".join([head, *binaries])

    texts = [text for column in columns.values() for text in column]
    reply = await exchange.ask(model, Question(lambda: signature.ask(model, columns), texts, respond, cuts=True))
    if json_size:
        reply.content_type = "application/octet-stream"
        reply.headers[HEADER.decode()] = str(json_size)
    return reply


def _columns(signature: Signature, inference: Inference) -> Columns:
    columns: Columns = {}
    place = 0
    for each in inference.body.inputs:
        if each.name not in (*signature.inputs, *signature.optional) or each.name in columns:
            expected = ", ".join((*signature.inputs, *signature.optional))
            raise Refusal(f"input {each.name[:100]!a} is not expected, or comes twice: the inputs are {expected}")
        if each.datatype != "BYTES":
            raise Refusal(f"input {each.name} is {each.datatype[:20]!a}: BYTES is expected")
        size = each.parameters.get("binary_data_size")
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(inference.binary) - place:
                raise Refusal(f"input {each.name}: its binary_data_size is not that of the data", status=400)
            column = _unpacked(inference.binary[place : place + size], each.name)
            place += size
        else:
            column = _flat(each.data or [], each.name)
        if len(column) != int(np.prod(each.shape, dtype=object)) or any(each_ < 0 for each_ in each.shape):
            raise Refusal(f"input {each.name} has {len(column)} elements, its shape is {each.shape[:8]}")
        columns[each.name] = column
    if place != len(inference.binary):
        raise Refusal(f"{len(inference.binary) - place} bytes of binary data belong to no input", status=400)
    for name in signature.inputs:
        if name not in columns:
            raise Refusal(f"input {name} is missing")
    return columns


def _flat(data: list[Any], name: str) -> list[str]:
    """Strings, of data that may be nested as its shape is."""
    while data and all(isinstance(each, list) for each in data):
        data = [inner for each in data for inner in each]
    if not all(isinstance(each, str) for each in data):
        raise Refusal(f"input {name}: its data are strings, or lists of strings")
    return data


def _unpacked(data: bytes, name: str) -> list[str]:
    """Strings behind their lengths, each four bytes."""
    texts, place = [], 0
    while place < len(data):
        if len(data) - place < 4:
            raise Refusal(f"input {name}: its binary data end within a length", status=400)
        (length,) = struct.unpack_from("<I", data, place)
        place += 4
        if length > len(data) - place:
            raise Refusal(f"input {name}: a string of {length:,} bytes is longer than its data", status=400)
        try:
            texts.append(data[place : place + length].decode())
        except UnicodeDecodeError as error:
            raise Refusal(f"input {name}: a string is not UTF-8") from error
        place += length
    return texts


def _packed(tensor: Array, datatype: str) -> bytes:
    if datatype == "BYTES":
        texts = [str(text).encode() for text in tensor.ravel()]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.ascontiguousarray(tensor, DATATYPES[datatype]).tobytes()


MODEL = "/v2/models/{name}"
ROUTES = [
    Route("GET", "/v2", server, "What runs here", dict[str, Any]),
    Route("GET", "/v2/health/live", live, "Whether the server runs", dict[str, bool], is_open=True),
    Route("GET", "/v2/health/ready", ready, "Whether all models answer", dict[str, bool], is_open=True),
]
for path in (MODEL, MODEL + "/versions/{version}"):
    ROUTES += [
        Route("GET", path, metadata, "What a model takes and gives", dict[str, Any]),
        Route("GET", path + "/ready", model_ready, "Whether a model answers", dict[str, Any], is_open=True),
        Route("POST", path + "/infer", infer, "Tensors in, tensors out", dict[str, Any], InferBody, read_inference),
    ]
