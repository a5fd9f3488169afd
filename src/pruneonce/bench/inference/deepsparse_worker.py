"""DeepSparse in its own Python: runs as a script there, which has neither pruneonce nor its dependencies.

So `send` and `receive` are here, and `bench/worker.py` and the training worker import them from here: this file must
run where nothing can be imported but numpy and DeepSparse, in a Python as old as 3.8.

Messages are a length (u32, little-endian), JSON, then the raw arrays that the JSON's `arrays` describes. Requests:
{"load": onnx file, "batch": sequences, "cores": n}, then {"inputs": true} with the arrays, and {"run": true}, whose
answer holds `seconds` and the output.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

import numpy as np


def send(stream: IO[bytes], message: dict[str, Any], arrays: Sequence[Any] = ()) -> None:
    """Write one message."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    shapes = [{"dtype": array.dtype.str, "shape": array.shape} for array in arrays]
    text = json.dumps({**message, "arrays": shapes}).encode()
    stream.write(struct.pack("<I", len(text)) + text)
    for array in arrays:
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], list[Any]]:
    """(message, arrays); EOFError when the other side has gone."""
    (size,) = struct.unpack("<I", _exactly(stream, 4))
    message = json.loads(_exactly(stream, size))
    arrays = []
    for entry in message.pop("arrays"):
        dtype, count = np.dtype(entry["dtype"]), int(np.prod(entry["shape"], dtype=np.int64))
        data = _exactly(stream, count * dtype.itemsize)
        arrays.append(np.frombuffer(data, dtype).reshape(entry["shape"]))
    return message, arrays


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the other side has closed the connection")
    return data


def main() -> None:
    """Serve until the input ends."""
    os.environ["NM_DISABLE_ANALYTICS"] = "1"
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints must not land among the messages
    import deepsparse

    send(answers, {"version": deepsparse.__version__})
    engine: Any = None
    inputs: list[Any] = []
    while True:
        try:
            request, arrays = receive(requests)
        except EOFError:
            return
        if "load" in request:
            engine = None
            engine = deepsparse.Engine(request["load"], batch_size=request["batch"], num_cores=request["cores"])
            send(answers, {"ready": True})
        elif "inputs" in request:
            inputs = arrays
            send(answers, {"ready": True})
        else:
            begun = time.perf_counter()
            outputs = engine.run(inputs)
            seconds = time.perf_counter() - begun
            send(answers, {"seconds": seconds}, outputs[:1])


if __name__ == "__main__":
    main()
