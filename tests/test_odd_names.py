"""Names that a file system or a record cannot take are one line, and told before any work, wherever they are given."""

from __future__ import annotations

import os
import shutil

import pytest
from tiny_stages import finetune_values, prune_values, run

from pruneonce.convert.to_packed import export_packed
from pruneonce.errors import UsageError

NAMES = {
    "longer than 255 bytes": "x" * 300,
    "longer than a path can be": "/".join(["y" * 200] * 30),
    "not UTF-8": os.fsdecode(b"caf\xe9"),
}
ODD = object()  # stands for one of them


@pytest.fixture(scope="module")
def packed(sparse_tiny_bert, tmp_path_factory):
    file = tmp_path_factory.mktemp("odd-names") / "m.pruneonce"
    export_packed(sparse_tiny_bert, file)
    return file


@pytest.fixture
def recipe(sparse_tiny_bert, reviews, tmp_path):
    file = tmp_path / "task.toml"
    file.write_text(
        f'stage = "finetune"\nmodel = "{sparse_tiny_bert}"\n[task]\nname = "classification"\ntrain = "{reviews}"\n'
        f'validation = "{reviews}"\n[training]\nsteps = 2\nbatch_size = 4\nlearning_rate = 1e-3\n'
    )
    return file


def places(model, packed, recipe, articles, reviews, out):
    """Command lines with an odd name in every place that takes one, but where a name of bytes is as good as any."""
    score = ["--task", "classification", "--data"]
    stage = ["finetune", recipe, "--out"]
    yield from ([command, ODD] for command in ("teacher", "prune", "finetune", "quantize", "study", "doctor"))
    yield from ([*stage, out, "--set", (key, ODD)] for key in ("model=", "task.train=", "task.validation="))
    yield ["study", ODD, "--dry-run"]
    yield from (["report", ODD], ["report", "--compare", ODD, model], ["inspect", ODD])
    yield from (["export", ODD, "--out", out], ["import", ODD, "--out", out], ["push", ODD, "--repo", "a/b"])
    yield from (["evaluate", ODD, *score, reviews], ["evaluate", packed, *score, ODD])
    yield from (["predict", ODD, "a"], ["predict", packed, "--file", ODD])
    yield from (["embed", ODD, "--input", reviews, "--output", out], ["embed", packed, "--input", ODD, "--output", out])
    yield from (["serve", ODD], ["serve", packed, "--api-key-file", ODD], ["serve", packed, "--host", ODD])
    yield from (["loadtest", ODD, "--texts", reviews], ["loadtest", "http://127.0.0.1:9", "--texts", ODD])
    yield from (["bench-train", ODD], ["compress", ODD], ["compress", model, "--texts", ODD])
    yield from (["data", "text", ODD, "--out", out], ["data", "wikipedia", ODD, "--out", out])
    yield from (["data", "pretraining", ODD, "--tokenizer", model, "--out", out],)
    yield from (["data", "pretraining", articles, "--tokenizer", ODD, "--out", out],)
    # What is written, where the name has to be UTF-8.
    yield from ([*stage, ODD], ["export", model, "--to", "onnx", "--out", ODD])
    yield from (["data", "text", reviews, "--out", ODD], ["quickstart", "--out", ODD], ["import", model, "--out", ODD])
    yield from (["data", "pretraining", articles, "--tokenizer", model, "--out", ODD],)
    yield from (["compress", model, "--texts", reviews, "--out", ODD],)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_is_refused_in_one_line_wherever_it_is_given(
    name, pruneonce, sparse_tiny_bert, packed, recipe, articles, reviews, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNEONCE_ASSETS", str(tmp_path / "none"))
    for number, command in enumerate(places(sparse_tiny_bert, packed, recipe, articles, reviews, tmp_path / "out.npy")):
        words = [name if word is ODD else word[0] + name if isinstance(word, tuple) else word for word in command]
        code, _, err = pruneonce(*words)
        lines = [line for line in err.splitlines() if not line.startswith(("timing", "this machine"))]
        assert (code in (1, 2), len(lines)) == (True, 1), (number, words[:3], err)
        assert lines[0].startswith("error: "), (words[:3], err)


@pytest.mark.parametrize("stage", ["finetune", "prune"])
def test_a_folder_whose_name_is_not_utf_8_is_refused_before_training(
    stage, sparse_tiny_bert, tiny_bert, pair_corpus, reviews, tmp_path, monkeypatch
):
    monkeypatch.setattr("pruneonce.stages.lifecycle.train", lambda *_: pytest.fail("hours of training are lost"))
    values = {"finetune": finetune_values(sparse_tiny_bert, reviews), "prune": prune_values(tiny_bert, pair_corpus)}
    odd = tmp_path / NAMES["not UTF-8"]
    with pytest.raises(UsageError, match=r"bytes \\udce9 is not UTF-8, which records and models need: rename it"):
        run(stage, values[stage], odd)
    assert not odd.exists()


def test_bytes_in_the_name_of_a_file_that_is_only_read_or_written_do_no_harm(
    pruneonce, sparse_tiny_bert, packed, reviews, tmp_path
):
    folder = tmp_path / NAMES["not UTF-8"]
    folder.mkdir()
    shutil.copy(packed, folder / "m.pruneonce")
    shutil.copy(reviews, folder / "r.jsonl")
    for words in (
        ["predict", folder / "m.pruneonce", "a film"],
        ["predict", packed, "--file", folder / "r.jsonl"],
        ["embed", packed, "--input", folder / "r.jsonl", "--output", folder / "v.npy"],
        ["export", sparse_tiny_bert, "--out", folder / "new.pruneonce"],
    ):
        code, _, err = pruneonce(*words)
        assert code == 0, (words, err)


def test_a_packed_file_of_too_long_a_name_is_one_line(pruneonce, sparse_tiny_bert, tmp_path):
    code, _, err = pruneonce("export", sparse_tiny_bert, "--out", tmp_path / NAMES["longer than 255 bytes"])
    assert (code, err.count("\n"), "File name too long" in err) == (1, 1, True), err


@pytest.mark.parametrize("name", ["[/b]", "a\x1b[31mb", "a\u202eb", ":smile:"])
def test_names_of_folders_reach_the_terminal_as_they_are_and_unobeyed(name, pruneonce, sparse_tiny_bert, tmp_path):
    folder = tmp_path / name
    shutil.copytree(sparse_tiny_bert, folder)
    code, out, err = pruneonce("inspect", folder)
    assert code == 0, err
    assert not set("\x1b\u202e") & set(out + err)
    assert name.translate({0x1B: "\\u001b", 0x202E: "\\u202e"}) in "".join(line.strip() for line in out.splitlines())
