"""No message about its user leaves a machine: the switches of the libraries that would send one.

Each library reads its switch when it is imported or first used, so they are set when `pruneonce` is, before any module
of ours can import one. Processes that we start inherit them. A value that the user has set stays.
"""

from __future__ import annotations

import os
import sys

# Environment variable -> the value that keeps its library silent.
SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime from 1.32, which also keeps a device id and a database in the cache
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and with it transformers and datasets
    "NNCF_CI": "1",  # nncf, which reports by way of openvino_telemetry
    "NM_DISABLE_ANALYTICS": "1",  # deepsparse
    "RAY_USAGE_STATS_ENABLED": "0",  # ray
    "DO_NOT_TRACK": "1",  # whoever honours https://consoledonottrack.com
}


def silence_dependencies() -> None:
    """Set every switch that is not set."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)


def silence_openvino() -> None:
    """Before `import openvino`, which reports that import and has no switch: without its reporter it stays silent."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an ImportError for who asks
