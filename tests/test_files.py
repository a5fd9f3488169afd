import contextlib
import fcntl
import functools
import json
import os
import shutil
import tempfile
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pruneonce import files
from pruneonce.errors import PruneonceError
from pruneonce.files import (
    making_folder,
    read_json,
    replacing,
    require_plain_name,
    scratch_folder,
    sha256_json,
    write_json,
    write_text,
)
from pruneonce.train.checkpoints import latest_complete, mark_complete, remove_incomplete


def test_failed_write_leaves_the_old_bytes_and_no_litter(tmp_path):
    file = tmp_path / "report.json"
    write_text(file, "old")
    with pytest.raises(RuntimeError), replacing(file) as temporary:  # noqa: PT012 - the failure is inside
        temporary.write_text("half of the n")
        raise RuntimeError("killed")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture(params=[0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_killed_writers_left_goes_and_what_others_write_stays(tmp_path):
    file, folder = tmp_path / ".m.onnx.aaaaaaaa.tmp", tmp_path / ".m.onnx.bbbbbbbb"
    file.write_text("half")
    folder.mkdir()
    (folder / "weights").write_text("half")
    others = [
        tmp_path / name for name in (".m.onnx.notes.tmp", ".m.onnx.tmp", ".n.onnx.aaaaaaaa.tmp", ".m.onnx.cccccccc.tmp")
    ]
    for other in others:
        other.write_text("theirs")
    with others[-1].open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with replacing(tmp_path / "m.onnx") as temporary, scratch_folder(tmp_path / "m.onnx") as scratch:
            write_text(tmp_path / "m.onnx", "of a second process, in between")
            with scratch_folder(tmp_path / "m.onnx"):
                assert temporary.exists()
                assert scratch.exists()
            temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", *(other.name for other in others)}


@pytest.mark.parametrize("make", ["mkstemp", "mkdtemp"])
@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "locked"])
def test_a_temporary_that_another_process_takes_for_a_leftover_as_it_is_made_is_made_again(
    tmp_path, monkeypatch, make, deleted
):
    with contextlib.ExitStack() as others:
        taken = []

        def taking(original, **options):
            made = original(**options)
            path = Path(made if make == "mkdtemp" else made[1])
            if not taken:
                taken.append(path)
                handle = os.open(path, os.O_RDONLY)
                others.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
                if deleted:
                    path.rmdir() if path.is_dir() else path.unlink()
                    fcntl.flock(handle, fcntl.LOCK_UN)
            return made

        monkeypatch.setattr(f"pruneonce.files.tempfile.{make}", functools.partial(taking, getattr(tempfile, make)))
        if make == "mkstemp":
            write_text(tmp_path / "m.onnx", "whole")
            assert (tmp_path / "m.onnx").read_text() == "whole"
        else:
            with scratch_folder(tmp_path / "m.onnx") as scratch:
                assert scratch.is_dir()
                assert scratch not in taken
        assert len(taken) == 1
        assert taken[0].exists() != deleted


def permissions(folder):
    return {file.name: file.stat().st_mode & 0o777 for file in folder.rglob("*") if file.is_file()}


def test_who_may_read_a_file_is_for_the_umask_to_say_whoever_wrote_it(tmp_path, umask):
    write_text(tmp_path / "report.json", "new")
    with making_folder(tmp_path / "folder") as temporary:
        save_file({"weight": torch.zeros(1)}, temporary / "model.safetensors")
        (temporary / "model.safetensors").chmod(0o600)  # as safetensors from 0.6 on leaves it
    checkpoint = make_checkpoint(tmp_path, 100, complete=False)
    (checkpoint / "model.safetensors").chmod(0o600)
    mark_complete(checkpoint)
    assert set(permissions(tmp_path).values()) == {0o666 & ~umask}, permissions(tmp_path)


@pytest.mark.parametrize("name", ["../a.arrow", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0b", None, 3, ["a"]])
def test_a_file_may_name_its_neighbours_alone(name):
    with pytest.raises(
        PruneonceError, match=r"^manifest\.json names the file .*: a name without a folder is expected$"
    ):
        require_plain_name("manifest.json", name)
    assert require_plain_name("manifest.json", "train-00000..arrow") == "train-00000..arrow"


def test_full_disk_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    file = tmp_path / "report.json"
    write_text(file, "old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pruneonce.files.os.replace", no_space)
    with pytest.raises(PruneonceError, match=r"No space left on device.*unchanged; free some space") as caught:
        write_json(file, {"new": 1})
    assert "\n" not in str(caught.value)
    assert file.read_text() == "old"


def test_digest_of_equal_values_does_not_depend_on_key_order():
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json(json.loads('{"b": [2], "a": 1}'))


def test_broken_json_names_the_file(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(PruneonceError, match=r"x\.json cannot be read as JSON"):
        read_json(tmp_path / "x.json")


def test_lists_in_lists_without_end_are_broken_json_not_a_traceback(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(PruneonceError, match=r"x\.json cannot be read as JSON: .*nested too deeply"):
        read_json(tmp_path / "x.json")


def make_checkpoint(folder, step, *, complete=True):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights" * 100)
    (checkpoint / "optimizer.pt").write_bytes(b"moments" * 100)
    if complete:
        mark_complete(checkpoint)
    return checkpoint


def test_truncated_or_unmarked_checkpoints_are_passed_over_and_removed(tmp_path):
    good = make_checkpoint(tmp_path, 100)
    make_checkpoint(tmp_path, 300, complete=False)
    truncated = make_checkpoint(tmp_path, 200)
    (truncated / "optimizer.pt").write_bytes(b"mom")
    (tmp_path / "checkpoint-notes").mkdir()
    assert latest_complete(tmp_path) == good
    remove_incomplete(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-notes"]


def test_numbers_not_names_order_checkpoints(tmp_path):
    make_checkpoint(tmp_path, 900)
    newest = make_checkpoint(tmp_path, 1000)
    assert latest_complete(tmp_path) == newest
    assert latest_complete(tmp_path / "nothing here") is None


def test_a_full_disk_is_told_as_such_whatever_a_library_makes_of_it(tmp_path, monkeypatch):
    theirs = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0\nmore")
    told = str(files.cannot_write(tmp_path, files.system_error(theirs, tmp_path)))
    assert "could not be written: [enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0. What" in told
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=4096))
    assert "could not be written: No space left on device. What" in str(
        files.cannot_write(tmp_path, files.system_error(theirs, tmp_path))
    )
    ours = PermissionError(13, "Permission denied")
    assert files.system_error(ours, tmp_path) is ours
