"""Two processes never fill one folder, the second is told of the first, and a killed one keeps nobody out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from tiny_stages import finetune_values, run

from pruneonce.data import text
from pruneonce.errors import PruneonceError
from pruneonce.folder_lock import FILE_NAME, filling

HOLD = """
import sys
from pathlib import Path
from pruneonce.folder_lock import filling
with filling(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that fills `out`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_the_second_of_two_commands_is_told_of_the_first_and_writes_nothing(holder, tmp_path, tiny_bert, reviews):
    out = tmp_path / "out"
    (tmp_path / "notes.txt").write_text("One sentence. Another.")
    starts = [
        lambda: run("finetune", finetune_values(tiny_bert, reviews), out),
        lambda: text.collect([tmp_path / "notes.txt"], out),
    ]
    for start in starts:
        with pytest.raises(
            PruneonceError, match=rf"out is being filled by process {holder.pid}: wait for it"
        ) as caught:
            start()
        assert "\n" not in str(caught.value)
    assert [file.name for file in out.iterdir()] == [FILE_NAME]


@pytest.mark.slow
def test_of_processes_that_train_together_the_first_holds_the_folder_and_all_are_told(
    holder, tmp_path, tiny_bert, reviews
):
    """One that waited for the others, or had another lock of its own, would never end."""
    recipe = tmp_path / "task.toml"
    recipe.write_text(
        f'stage = "finetune"\nmodel = "{tiny_bert}"\n[task]\nname = "classification"\ntrain = "{reviews}"\n'
        f'validation = "{reviews}"\n[training]\nsteps = 2\nbatch_size = 4\nlearning_rate = 1e-3\n'
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command += ["pruneonce.cli", "finetune", str(recipe), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    held = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert held.returncode != 0
    assert f"error: {tmp_path / 'out'} is being filled by process {holder.pid}: wait for it" in held.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == [FILE_NAME]
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    free = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert free.returncode == 0, free.stderr
    assert (tmp_path / "out" / "pruneonce.json").exists()
    assert not (tmp_path / "out" / FILE_NAME).exists()


def test_what_a_killed_process_leaves_keeps_nobody_out(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "out" / FILE_NAME).exists()
    with filling(tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_lets_go_of_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), filling(tmp_path / "out"):
        raise ZeroDivisionError
    with (
        filling(tmp_path / "out"),
        pytest.raises(PruneonceError, match=f"process {os.getpid()}"),
        filling(tmp_path / "out"),
    ):
        pass


def test_a_place_that_takes_no_file_takes_no_lock(tmp_path):
    (tmp_path / "file").write_text("")
    with filling(tmp_path / "file"):  # what cannot be written there says so itself
        pass
    assert (tmp_path / "file").read_text() == ""
