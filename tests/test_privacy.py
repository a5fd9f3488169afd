"""No library that we use tells anyone about its user: no switch comes too late, no command opens a socket."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pruneonce.bench.inference.rivals import PACKAGES
from pruneonce.privacy import SWITCHES, silence_dependencies, silence_openvino

TALKERS = ("onnxruntime", "openvino", "nncf", "transformers", "datasets", "huggingface_hub", "ray")
# What imports one of TALKERS first, and how.
ENTRY_POINTS = {
    "command line": "import pruneonce.__main__, pruneonce.cli.app, transformers",
    "onnxruntime": "from pruneonce.convert import to_onnx; import onnxruntime",
    "training": "import pruneonce.stages",
    "worker": "import pruneonce.bench.worker, pruneonce.bench.inference.rivals, onnxruntime",
    "public names": "import pruneonce; pruneonce.sparse_training; pruneonce.run_finetune",
    "datasets": "import pruneonce.tasks.table; import datasets",
}
WATCH = f"""
import os, sys
def watch(event, arguments):
    if event == "import" and arguments[0].split(".")[0] in {TALKERS!r}:
        missing = [name for name in {tuple(SWITCHES)!r} if name not in os.environ]
        if missing:
            os.write(2, f"{{arguments[0]}} is imported before {{missing[0]}} is set".encode())
            os._exit(3)
        seen.add(arguments[0].split(".")[0])
seen = set()
sys.addaudithook(watch)
"""


def clean_environment(home: Path) -> dict[str, str]:
    """That of a user who has set nothing, whose folders are new."""
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES and not name.startswith("XDG_")}
    return {**kept, "HOME": str(home), "HF_HUB_OFFLINE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize("code", ENTRY_POINTS.values(), ids=ENTRY_POINTS)
def test_no_entry_point_imports_a_library_before_its_switch_is_set(code, tmp_path):
    program = f"{WATCH}\n{code}\nassert seen, 'none of them was imported: this shows nothing'"
    ended = subprocess.run(
        [sys.executable, "-c", program], env=clean_environment(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr


def test_a_switch_that_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("DO_NOT_TRACK")
    silence_dependencies()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_openvino_finds_no_reporter(monkeypatch, tmp_path):
    (tmp_path / "openvino_telemetry.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    silence_openvino()
    try:
        with pytest.raises(ImportError):  # openvino answers it with a stub
            import openvino_telemetry  # noqa: F401
    finally:
        del sys.modules["openvino_telemetry"]


def internet(trace: str) -> list[str]:
    """The lines of strace's that ask for a way to another machine.

    A socket alone is none, before it is told where to send: libuuid reads the machine's addresses from one, and urllib3
    binds one to see whether there is IPv6.
    """
    return re.findall(r".*(?:connect|send\w+)\(.*AF_INET.*", trace)


@pytest.fixture(scope="session")
def tracer() -> str:
    """strace, which sees the sockets of native code too; skipped where it lacks or may not trace."""
    found = shutil.which("strace")
    if found is None or subprocess.run([found, "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace is not installed, or may not trace here")
    return found


def test_the_trace_shows_a_socket_where_there_is_one(tracer, tmp_path):
    log = tmp_path / "trace"
    code = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    subprocess.run([tracer, "-f", "-e", "trace=network", "-o", log, sys.executable, "-c", code], check=True)
    assert internet(log.read_text())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_command_opens_a_socket_or_leaves_a_device_id(tracer, sparse_tiny_bert, reviews, tmp_path):
    """Exporting runs ONNX Runtime, whose native code is what reports; its database is in the cache, or the home."""
    packed, home, log = tmp_path / "m.pruneonce", tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    recipe = tmp_path / "finetune.toml"
    recipe.write_text(
        f'stage = "finetune"\nmodel = "{sparse_tiny_bert}"\n[task]\nname = "classification"\ntrain = "{reviews}"\n'
        f'validation = "{reviews}"\n[training]\nsteps = 2\nbatch_size = 4\nlearning_rate = 1e-3\n'
    )
    rivals = ",".join(name for name in ("torch", "onnxruntime", "openvino") if all(map(find_spec, PACKAGES[name])))
    commands = [
        ["export", sparse_tiny_bert, "--to", "onnx", "--out", tmp_path / "m.onnx"],
        ["export", sparse_tiny_bert, "--out", packed],
        ["predict", packed, "a good film"],
        ["inspect", packed],
        ["finetune", recipe, "--out", tmp_path / "run"],
        ["doctor"],
        ["bench", sparse_tiny_bert, "--against", rivals, "--grid", "1x8", "--rounds", "1", "--threads", "1"],
    ]
    for command in commands:
        ended = subprocess.run(
            [tracer, "-f", "-e", "trace=network", "-o", log, sys.executable, "-m", "pruneonce", *command],
            env=clean_environment(home),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert ended.returncode == 0, (command, ended.stderr)
        assert not internet(log.read_text()), (command, internet(log.read_text())[:5])
    left = [file.name for file in home.rglob("*") if file.suffix == ".db" or "device" in file.name.lower()]
    assert not left, left
