"""Tables on a terminal of eighty columns, and in a file, where no line has an end."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from safetensors import safe_open

from pruneonce.convert.to_packed import export_packed


def on_a_terminal(*arguments, columns=80):
    """What `pruneonce` writes to a terminal so wide."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "dumb"}
    command = [sys.executable, "-m", "pruneonce", *map(str, arguments)]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 4096):
                written += part
        except OSError:  # Linux: the last writer has closed it
            pass
        os.close(ours)
        assert process.wait() == 0, process.stderr.read().decode()
    return written.decode().replace("\r", "")


def names(page):
    """The first column of a table, cells of several lines put together."""
    found = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if line.startswith("│") and len(cells) > 1:
            if cells[1]:
                found.append(cells[0])
            else:
                found[-1] += cells[0]
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_eighty_columns_show_every_name_to_its_end(packed, sparse_tiny_bert, tmp_path):
    what = sparse_tiny_bert
    with safe_open(what / "model.safetensors", "numpy") as weights:
        wanted = [name for name in weights.keys() if not packed or name.endswith("query.weight")]  # noqa: SIM118
    if packed:
        what = tmp_path / "m.pruneonce"
        export_packed(sparse_tiny_bert, what)
    page = on_a_terminal("inspect", what)
    assert "…" not in page
    assert set(wanted) <= set(names(page))
    table = [line for line in page.splitlines() if line.startswith(("│", "┃", "┏", "└"))]
    assert len(table) > 10
    assert max(map(len, table)) <= 80


def test_a_pipe_gets_every_name_on_a_line_of_its_own(sparse_tiny_bert, pruneonce):
    _, out, _ = pruneonce("inspect", sparse_tiny_bert)
    assert sum("bert.encoder.layer.1.attention.self.value.weight" in line for line in out.splitlines()) == 1
