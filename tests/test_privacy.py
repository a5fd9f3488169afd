"""No library that we use tells anyone about its user, or its troubles to them: no switch comes too late, no command
opens a socket or shows what a library warns of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from pruneonce.bench.inference.rivals import PACKAGES
from pruneonce.cli.app import app
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


STAGES = {
    "teacher": "corpus",
    "prune": "corpus",
    "finetune": "task",
    "quantize": "task",
}
# What libraries write to a terminal when nobody asks them to be quiet.
NOISE = re.compile(r"\w*Warning\b|resource_tracker|nanobind|Loading weights|LOAD REPORT|\[W|huggingface/tokenizers")
# What is asked to talk, or needs files of elsewhere; tests of their own say with whom.
TALKING = {"serve", "loadtest", "quickstart", "wikipedia"}


@pytest.fixture
def recipes(sparse_tiny_bert, tiny_bert, pair_corpus, reviews, tmp_path):
    """A recipe file of each stage, for two steps."""
    training = "[training]\nsteps = 2\nbatch_size = 4\nlearning_rate = 1e-3\n"
    bodies = {
        "corpus": f'model = "{tiny_bert}"\ncorpus = "{pair_corpus}"\nvalidation_examples = 4\n',
        "task": f'model = "{sparse_tiny_bert}"\n[task]\nname = "classification"\ntrain = "{reviews}"\n'
        f'validation = "{reviews}"\n',
    }
    for stage, body in STAGES.items():
        (tmp_path / f"{stage}.toml").write_text(f'stage = "{stage}"\n{bodies[body]}{training}')
    return tmp_path


@pytest.fixture
def commands(recipes, sparse_tiny_bert, tiny_bert, reviews, tmp_path):
    """Every command that works on files of this machine, in an order in which each finds what it reads."""
    packed, notes, articles = tmp_path / "m.pruneonce", tmp_path / "notes.txt", tmp_path / "articles"
    notes.write_text("\n\n".join("The old city was great. The film was good. Water is music." for _ in range(300)))
    rivals = ",".join(name for name in ("torch", "onnxruntime", "openvino") if all(map(find_spec, PACKAGES[name])))
    task, small = ["--task", "classification", "--data", reviews], ["--rounds", "1", "--threads", "1"]
    pretraining = ["--tokenizer", tiny_bert, "--max-tokens", "32", "--workers", "1"]
    return [
        ["export", sparse_tiny_bert, "--to", "onnx", "--out", tmp_path / "m.onnx"],
        ["export", sparse_tiny_bert, "--out", packed],
        ["predict", packed, "a good film"],
        ["embed", packed, "--input", reviews, "--output", tmp_path / "v.npy"],
        ["inspect", packed],
        *([stage, recipes / f"{stage}.toml", "--out", tmp_path / stage] for stage in STAGES),
        ["evaluate", tmp_path / "finetune", *task],
        ["report", tmp_path / "finetune"],
        ["push", tmp_path / "finetune", "--repo", "me/mine", "--dry-run"],
        ["data", "text", notes, "--out", articles],
        ["data", "pretraining", articles, "--out", tmp_path / "corpus", *pretraining],
        ["compress", tiny_bert, "--texts", notes, "--budget", "25s", "--no-speed", "--out", tmp_path / "compress"],
        ["study", tmp_path / "study.toml", "--out", tmp_path / "study"],
        ["doctor"],
        ["bench", sparse_tiny_bert, "--against", rivals, "--grid", "1x8", *small],
        ["bench-train", sparse_tiny_bert, "--grid", "2x8", *small],
    ]


def test_every_command_is_traced_or_asked_to_talk(commands):
    def names(group):
        for name, command in group.commands.items():
            yield from names(command) if hasattr(command, "commands") else [name]

    traced = {words[1] if words[0] == "data" else words[0] for words in commands}
    # `import` writes what numpy reads; its format needs a checkpoint of another library.
    assert set(names(typer.main.get_command(app))) == traced | TALKING | {"import"}


@pytest.mark.slow
def test_no_command_opens_a_socket_leaves_a_device_id_or_shows_a_library_s_warnings(
    tracer, commands, reviews, sparse_tiny_bert, tmp_path
):
    """Exporting runs ONNX Runtime, whose native code is what reports; its database is in the cache, or the home."""
    home, log = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    (tmp_path / "study.toml").write_text(
        f'model = "{sparse_tiny_bert}"\nseeds = [1]\nsparsities = [0.9]\nbaseline = "dense"\n'
        '[stages.finetune]\nstage = "finetune"\n'
        "training = { steps = 2, batch_size = 4, learning_rate = 1e-3 }\n"
        f'[tasks.reviews.task]\nname = "classification"\ntrain = "{reviews}"\nvalidation = "{reviews}"\n'
        '[methods.dense]\nstages = ["finetune"]\n'
    )
    for command in commands:
        ended = subprocess.run(
            [tracer, "-f", "-e", "trace=network", "-o", log, sys.executable, "-m", "pruneonce", *command],
            env=clean_environment(home),
            capture_output=True,
            text=True,
            timeout=1200,
        )
        busy = command[0] == "compress" and "a budget of" in ended.stderr  # which it says after its work with libraries
        assert ended.returncode == 0 or busy, (command, ended.stderr)
        assert not internet(log.read_text()), (command, internet(log.read_text())[:5])
        assert not NOISE.search(ended.stdout + ended.stderr), (command, ended.stdout, ended.stderr)
    left = [file.name for file in home.rglob("*") if file.suffix == ".db" or "device" in file.name.lower()]
    assert not left, left
