"""The command line of a serving install, which has no torch: what works there, and what the rest says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pruneonce.convert.to_packed import export_packed

# Runs command lines one after the other as a process would that lacks what only the extras bring.
WITHOUT_EXTRAS = """
import contextlib, io, json, sys
from pruneonce.cli.app import EXTRA_OF, main

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRA_OF.keys() - {"pydantic"}:  # newer typers bring that one
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
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


def without_extras(*commands):
    """(exit code, stdout, stderr) of each command line."""
    wanted = json.dumps([[str(word) for word in words] for words in commands])
    run = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, wanted], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def packed(sparse_tiny_bert, tmp_path_factory):
    file = tmp_path_factory.mktemp("serving") / "m.pruneonce"
    export_packed(sparse_tiny_bert, file)
    return file


def test_what_a_server_asks_for_needs_no_torch(packed, tmp_path):
    (tmp_path / "dev.csv").write_text("text,label\na good film,LABEL_1\na bad film,LABEL_0\n")
    scored = ["evaluate", packed, "--task", "classification", "--data", tmp_path / "dev.csv", "--json"]
    answers = without_extras(
        ["--version"], ["--help"], ["predict", packed, "a good film"], ["inspect", packed, "--json"], scored
    )
    assert [(code, err) for code, _, err in answers[:-1]] == [(0, "")] * 4
    assert answers[-1][0] == 0, answers[-1]
    assert 0 <= json.loads(answers[-1][1])["metrics"]["accuracy"] <= 1


def test_what_needs_an_extra_names_it_in_one_line(packed, sparse_tiny_bert, tmp_path):
    (tmp_path / "notes.txt").write_text("A good film.\n")
    (tmp_path / "r.toml").write_text('stage = "finetune"\nmodel = "m"\n[task]\nname = "sst2"\n')
    commands = {
        "torch": ["bench", sparse_tiny_bert],
        "pyarrow": ["data", "text", tmp_path / "notes.txt", "--out", tmp_path / "out"],
    }
    for (package, words), (code, _, err) in zip(commands.items(), without_extras(*commands.values()), strict=True):
        assert (code, err) == (1, f"error: {words[0]} needs {package}: pip install 'pruneonce[train]'\n")
    of_folder = ["evaluate", sparse_tiny_bert, "--task", "sst2"]
    others = [of_folder, ["finetune", tmp_path / "r.toml"], ["doctor", tmp_path / "r.toml"], ["quickstart"]]
    others += [["study", tmp_path / "r.toml"], ["bench-train", sparse_tiny_bert]]
    for words, (code, _, err) in zip(others, without_extras(*others), strict=True):
        assert (code, err.count("\n")) == (1, 1), (words, err)
        assert err.startswith(f"error: {words[0]} needs "), err
        assert err.endswith(": pip install 'pruneonce[train]'\n"), err
