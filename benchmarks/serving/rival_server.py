"""Another library behind the same ASGI stack as `pruneonce serve`: run in that library's own Python.

python rival_server.py torch|onnx-int8|openvino-int8|fastembed FOLDER --port N --threads N
python rival_server.py prepare FOLDER onnx-int8|openvino-int8 TEXTS.json      # writes the quantised file, once

FOLDER is one of sentence-transformers. Requests are OpenAI's, answered in base64. As in our own server whatever waits
goes into the next batch, so that a library is not measured by how it was wrapped.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import queue
import threading
from pathlib import Path

ONNX_INT8 = "onnx/model_qint8_avx512_vnni.onnx"
OPENVINO_INT8 = "openvino/openvino_model_qint8_quantized.xml"
BATCH_TEXTS = 32  # the default of sentence-transformers' encode, which sorts by length and pads


def encoder_of(engine: str, folder: str, threads: int):
    """(a function of texts that gives float32 vectors of length 1, the version of its library)."""
    if engine == "fastembed":
        return _fastembed(folder, threads)
    import sentence_transformers
    import torch

    torch.set_num_threads(threads)
    options = {}
    if engine == "onnx-int8":
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = threads
        options = {
            "backend": "onnx",
            "model_kwargs": {
                "file_name": ONNX_INT8,
                "provider": "CPUExecutionProvider",
                "session_options": session,
                "export": False,
            },
        }
    elif engine == "openvino-int8":
        settings = {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY"}
        options = {
            "backend": "openvino",
            "model_kwargs": {"file_name": OPENVINO_INT8, "ov_config": settings, "export": False},
        }
    model = sentence_transformers.SentenceTransformer(folder, device="cpu", **options)
    version = f"sentence-transformers {sentence_transformers.__version__}"

    def encode(texts):
        return model.encode(texts, batch_size=BATCH_TEXTS, normalize_embeddings=True, show_progress_bar=False)

    return encode, version


def _fastembed(folder: str, threads: int):
    import importlib.metadata

    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "local/minilm"
    size = json.loads(Path(folder, "config.json").read_text())["hidden_size"]
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=size,
        model_file=ONNX_INT8,
    )
    model = TextEmbedding(name, specific_model_path=folder, threads=threads, providers=["CPUExecutionProvider"])

    def encode(texts):
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # it pads, and does not sort
        vectors = model.embed([texts[place] for place in order], batch_size=BATCH_TEXTS)
        found = np.empty((len(texts), size), np.float32)
        for place, vector in zip(order, vectors, strict=True):
            found[place] = vector
        return found

    return encode, f"fastembed {importlib.metadata.version('fastembed')}"


class Batcher:
    """One thread that encodes what waits."""

    def __init__(self, encode):
        self._encode, self._waiting = encode, queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    async def __call__(self, texts):
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._waiting.put((texts, loop, answer))
        return await answer

    def _work(self):
        while True:
            jobs = [self._waiting.get()]
            while not self._waiting.empty() and sum(len(job[0]) for job in jobs) < 8 * BATCH_TEXTS:
                jobs.append(self._waiting.get())
            vectors = self._encode([text for texts, _, _ in jobs for text in texts])
            place = 0
            for texts, loop, answer in jobs:
                loop.call_soon_threadsafe(answer.set_result, vectors[place : place + len(texts)])
                place += len(texts)


def serve(engine: str, folder: str, port: int, threads: int) -> None:
    import orjson
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    encode, version = encoder_of(engine, folder, threads)
    encode(["ready?"])
    batcher = Batcher(encode)

    async def embeddings(request):
        given = orjson.loads(await request.body())["input"]
        vectors = await batcher([given] if isinstance(given, str) else given)
        data = [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(vector.astype("<f4").tobytes())}
            for index, vector in enumerate(vectors)
        ]
        for each in data:
            each["embedding"] = each["embedding"].decode()
        return Response(orjson.dumps({"object": "list", "data": data, "model": engine}), media_type="application/json")

    async def health(_):
        return PlainTextResponse(version)

    routes = [Route("/v1/embeddings", embeddings, methods=["POST"]), Route("/health", health)]
    uvicorn.run(Starlette(routes=routes), port=port, loop="uvloop", http="httptools", log_level="warning")


def prepare(engine: str, folder: str, texts: list[str]) -> None:
    """The quantised file that the engine reads, in the form that its library recommends."""
    from sentence_transformers import SentenceTransformer

    if engine == "onnx-int8":
        from sentence_transformers.backend import export_dynamic_quantized_onnx_model

        model = SentenceTransformer(folder, device="cpu", backend="onnx", model_kwargs={"export": True})
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", folder)
        return
    import nncf
    import openvino

    model = SentenceTransformer(folder, device="cpu", backend="openvino", model_kwargs={"export": True})
    tokenizer = model.tokenizer
    graph = model[0].auto_model.model
    names = [each.any_name for each in graph.inputs]
    rows = [dict(tokenizer(text, truncation=True, max_length=384, return_tensors="np")) for text in texts]
    dataset = nncf.Dataset([{name: row[name] for name in names} for row in rows])
    quantized = nncf.quantize(graph, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(rows))
    file = Path(folder, OPENVINO_INT8)
    file.parent.mkdir(exist_ok=True)
    openvino.save_model(quantized, str(file), compress_to_fp16=False)


def main() -> None:
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1")
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("folder")
    parser.add_argument("more", nargs="*")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.engine == "prepare":
        prepare(given.more[0], given.folder, json.loads(Path(given.more[1]).read_text()))
    else:
        serve(given.engine, given.folder, given.port, given.threads)


if __name__ == "__main__":
    main()
