"""Models to the Hub and packed files from it, against a stand-in of the Hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import hub_stub
import pytest

from pruneonce import hub_files
from pruneonce.convert import to_hub
from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.formats.packed_file import read_packed

# Command lines one after the other, in a process whose Hub is the stand-in.
COMMANDS = """
import contextlib, io, json, sys
from pruneonce.cli.app import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["pruneonce", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def commands(endpoint, cache, *wanted, token=hub_stub.TOKEN, offline=False):
    """(exit code, stdout, stderr) of each command line."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    environment |= {"HF_TOKEN": token} if token else {}
    words = json.dumps([[str(word) for word in each] for each in wanted])
    ran = subprocess.run([sys.executable, "-c", COMMANDS, words], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture
def finished(sparse_tiny_bert, tmp_path):
    """A model folder with what must stay at home lying about in it."""
    folder = tmp_path / "mine"
    shutil.copytree(sparse_tiny_bert, folder)
    (folder / "checkpoint-3").mkdir()
    for name in ("checkpoint-3/optimizer.pt", ".secret", "events.out.tfevents.1", "training.log", "pytorch_model.bin"):
        (folder / name).write_text("private")
    (folder / "elsewhere.json").symlink_to("/etc/hostname")
    return folder


@pytest.mark.slow
def test_what_is_pushed_is_read_back_by_its_name_and_nothing_else_leaves(finished, tmp_path):
    with hub_stub.hub() as hub:
        first = commands(
            hub.endpoint,
            tmp_path / "a",
            ["push", finished, "--repo", "me/mine", "--json"],
            ["push", finished, "--repo", "me/mine", "--revision", "v2"],
        )
        assert [(code, err) for code, _, err in first] == [(0, ""), (0, "")]
        pushed = json.loads(first[0][1])
        there = hub.files("me/mine")
        assert pushed["files"] == {name: len(content) for name, content in there.items()}
        assert set(there) == {
            "config.json", "model.pruneonce", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
        }  # fmt: skip
        assert there["model.safetensors"] == (finished / "model.safetensors").read_bytes()
        assert b"private" not in b"".join(there.values())
        commit = pushed["commit"]
        found = commands(
            hub.endpoint,
            tmp_path / "b",
            ["predict", "hf://me/mine", "a good film", "--json"],
            ["predict", f"hf://me/mine@{commit}/model.pruneonce", "a good film", "--json"],
            ["predict", "hf://me/mine@v2", "a good film", "--json"],
            ["inspect", "hf://me/mine", "--json"],
            token=None,
        )
        assert [(code, err) for code, _, err in found] == [(0, "")] * 4
        export_packed(finished, tmp_path / "here.pruneonce")
        here = commands(hub.endpoint, tmp_path / "b", ["predict", tmp_path / "here.pruneonce", "a good film", "--json"])
        # Each start measures its kernels: the last bits may differ.
        scores = [json.loads(out)["answer"]["score"] for _, out, _ in (*found[:3], *here)]
        assert scores == pytest.approx([scores[0]] * 4, abs=1e-6)
        # What was fetched once needs no network; what was not says so in one line.
        asked = len(hub.requests)
        (known, unknown) = commands(
            hub.endpoint,
            tmp_path / "b",
            ["predict", "hf://me/mine", "a good film", "--json"],
            ["predict", "hf://me/other", "a good film"],
            offline=True,
        )
        assert (known[0], known[2]) == (0, "")
        assert json.loads(known[1])["answer"]["score"] == pytest.approx(scores[0], abs=1e-6)
        assert len(hub.requests) == asked
        assert unknown[0] == 1
        assert unknown[2].count("\n") == 1
        assert "HF_HUB_OFFLINE" in unknown[2]


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(finished, tmp_path):
    with hub_stub.hub() as hub:
        hub.create("me/private", private=True)
        hub.create("me/empty", private=False)
        endpoint = hub.endpoint
        answers = commands(
            endpoint,
            tmp_path / "a",
            ["push", finished, "--repo", "me/mine"],
            ["predict", "hf://me/private", "a good film"],
            ["predict", "hf://me/nowhere", "a good film"],
            ["predict", "hf://me/empty@v9", "a good film"],
            ["predict", "hf://me/empty/other.pruneonce", "a good film"],
            token=None,
        )
        said = ["HF_TOKEN", "HF_TOKEN", "none of that name", "no such revision", "no such file"]
        for (code, _, err), words in zip(answers, said, strict=True):
            assert (code, err.count("\n")) == (1, 1), err
            assert words in err
    (gone,) = commands(endpoint, tmp_path / "a", ["predict", "hf://me/mine", "a good film"])
    assert (gone[0], gone[2].count("\n")) == (1, 1), gone
    assert "cannot be reached" in gone[2]


def test_no_command_takes_a_token():
    """It would be in the shell's history and in every process list."""
    import typer

    from pruneonce.cli.app import app

    options = typer.main.get_command(app).commands["push"].params
    assert not [each.name for each in options if "token" in each.name or "password" in each.name]


def test_a_dry_run_asks_no_network_and_a_run_that_is_not_finished_is_refused(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(to_hub, "_send", lambda *_: pytest.fail("something was sent"))
    pushed = to_hub.push(finished, "me/mine", dry_run=True)
    assert pushed.commit == ""
    assert pushed.files["model.pruneonce"] > 0
    assert not (finished / "model.pruneonce").exists()
    with pytest.raises(UsageError, match="owner/name"):
        to_hub.push(finished, "mine", dry_run=True)
    (finished / "model.safetensors").unlink()
    with pytest.raises(PruneonceError, match=r"is not a model folder: it has no model\.safetensors"):
        to_hub.push(finished, "me/mine", dry_run=True)


@pytest.mark.parametrize(
    "name", ["hf://mine", "hf://a/b/../../c", "hf://a/b@", "hf://a b/c", "hf://a/b@v1@v2", "hf://../b", "hf://a/"]
)
def test_names_that_cannot_be_one_are_refused_before_any_request(name):
    with pytest.raises(UsageError, match="hf://owner/name"):
        hub_files.local_path(name)
    with pytest.raises(UsageError, match="hf://owner/name"):
        read_packed(name)


def test_paths_of_this_machine_are_none_of_the_hub(tmp_path):
    for path in ("a.pruneonce", "hf", "hf:", "./hf:/a", tmp_path / "hf:x", "s3://a/b"):
        assert not hub_files.on_hub(path)
        assert hub_files.local_path("a.pruneonce").name == "a.pruneonce"
