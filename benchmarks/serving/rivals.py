"""The environments of other libraries, as `make rivals` makes them, and the quantised files that they read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import subjects
from rival_server import ONNX_INT8, OPENVINO_INT8

from pruneonce.files import write_json

RIVAL_SERVER = Path(__file__).with_name("rival_server.py")
ENVIRONMENTS = {"torch": "onnx", "onnx-int8": "onnx", "openvino-int8": "openvino", "fastembed": "fastembed"}
MADE = {"onnx-int8": ONNX_INT8, "openvino-int8": OPENVINO_INT8}  # fastembed reads the first


def python_for(engine: str, rivals: Path, work: Path) -> Path | None:
    """The Python that an engine runs in; None if it is not there. What the engine reads is made, once.

    work: of `subjects.make_all`.
    """
    python = rivals / ENVIRONMENTS[engine] / "bin" / "python"
    if not python.is_file():
        return None
    folder = work / "folder"
    if engine in MADE and not (folder / MADE[engine]).is_file():
        few = work / "few-texts.json"
        write_json(few, json.loads((work / "texts.json").read_text())[: subjects.CALIBRATION_TEXTS])
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run([python, RIVAL_SERVER, "prepare", folder, engine, few], check=False, cwd=work, env=environment)
    return python
