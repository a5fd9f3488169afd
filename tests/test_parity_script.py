"""benchmarks/parity.py on a task of one's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "parity.py"


def parity(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_labels_of_ones_own_task_are_those_of_the_folder(sparse_tiny_bert, tmp_path):
    (tmp_path / "dev.csv").write_text("text,label\na good film,LABEL_1\na bad film,LABEL_0\n")
    run = parity(sparse_tiny_bert, tmp_path / "dev.csv", "--task", "classification")
    assert run.returncode == 0, run.stderr
    assert "classification: 2 of 2 answers equal" in run.stdout


def test_a_mistake_is_one_line(sparse_tiny_bert, tmp_path):
    run = parity(sparse_tiny_bert, tmp_path / "absent.csv", "--task", "classification")
    assert (run.returncode, "Traceback" in run.stderr) == (1, False)
    assert run.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path / 'absent.csv'} does not exist")
