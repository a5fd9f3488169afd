"""No library that we use tells anyone about its user: no switch comes too late, no command opens a socket."""

from __future__ import annotations

import json
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

TALKERS = ("onnxruntime", "openvino", "nncf", "transformers", "datasets", "huggingface_hub")
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

    A datagram socket alone is none, before it is told where to send: libuuid reads the machine's addresses from one.
    """
    return re.findall(r".*(?:socket\(AF_INET6?, SOCK_STREAM|(?:connect|send\w+)\(.*AF_INET).*", trace)


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


TRAINING = "[training]\nsteps = 2\nbatch_size = 4\nlearning_rate = 1e-3\n"
IN_ONE_PROCESS = """
import json, sys
from pruneonce.cli.app import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["pruneonce", *command]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{command} ended with {end.code}")
"""


@pytest.fixture
def every_command(tiny_bert, sparse_tiny_bert, reviews, tmp_path):
    """All commands, in an order in which one makes what the next reads; but for `serve`, which listens as asked."""
    packed, vectors, notes = tmp_path / "m.pruneonce", tmp_path / "v.pruneonce", tmp_path / "notes.txt"
    notes.write_text("\n\n".join("The old city was great. A good film. " * 9 for _ in range(40)))
    task = f'[task]\nname = "classification"\ntrain = "{reviews}"\nvalidation = "{reviews}"\n'
    recipes = {
        "teacher": f'model = "{tiny_bert}"\ncorpus = "{tmp_path / "corpus"}"\nvalidation_examples = 4\n{TRAINING}',
        "prune": f'model = "{tmp_path / "teacher"}"\ncorpus = "{tmp_path / "corpus"}"\nvalidation_examples = 4\n'
        + TRAINING,
        "finetune": f'model = "{tmp_path / "prune"}"\n{task}{TRAINING}',
        "quantize": f'model = "{tmp_path / "finetune"}"\nmethod = "ptq"\n{task}',
    }
    for stage, text in recipes.items():
        (tmp_path / f"{stage}.toml").write_text(f'stage = "{stage}"\n{text}')
    stages = [[stage, tmp_path / f"{stage}.toml", "--out", tmp_path / stage] for stage in recipes]
    against = ",".join(name for name, needs in PACKAGES.items() if all(map(find_spec, needs)) and name != "deepsparse")
    scored = ["--task", "classification", "--data", reviews]
    commands = [
        ["data", "text", notes, "--out", tmp_path / "articles"],
        ["data", "pretraining", tmp_path / "articles", "--tokenizer", tiny_bert, "--out", tmp_path / "corpus"],
        ["doctor", tmp_path / "teacher.toml"],
        *stages,
        ["report", tmp_path / "finetune", "--markdown", tmp_path / "report.md"],
        ["compress", tiny_bert, "--texts", notes, "--steps", "2", "--out", tmp_path / "compressed"],
        ["export", sparse_tiny_bert, "--to", "onnx", "--out", tmp_path / "m.onnx"],
        ["export", sparse_tiny_bert, "--out", packed],
        ["inspect", packed],
        ["predict", packed, "a good film"],
        ["evaluate", packed, *scored],
        ["export", tiny_bert, "--out", vectors],
        ["bench", sparse_tiny_bert, "--against", against, "--grid", "1x8", "--rounds", "1", "--threads", "1"],
        ["bench-train", sparse_tiny_bert, "--grid", "2x8", "--rounds", "1", "--threads", "1"],
    ]
    return [[str(word) for word in command] for command in commands]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_command_opens_a_socket_or_leaves_a_device_id(tracer, every_command, tmp_path):
    """Exporting runs ONNX Runtime, whose native code is what reports; its database is in the cache, or the home."""
    home, log = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    program = [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(every_command)]
    ended = subprocess.run(
        [tracer, "-f", "-e", "trace=network", "-o", log, *program],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert not internet(log.read_text()), internet(log.read_text())[:5]
    left = [file.name for file in home.rglob("*") if file.suffix == ".db" or "device" in file.name.lower()]
    assert not left, left
