"""Processes of a benchmark that take turns: who is stopped does nothing, who else computes is seen."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pruneonce.bench.isolation import Used, at_work, resume, stop, tree, watched

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="isolation reads /proc")

BUSY = "import threading\nfor _ in range(2): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])"


@pytest.fixture
def busy():
    """A process whose child computes on two threads."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], start_new_session=True)
    deadline = time.monotonic() + 60
    while len(tree(process.pid)) < 2 or ticks(process.pid) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process.pid
    for pid in reversed(tree(process.pid)):
        subprocess.run(["kill", "-KILL", str(pid)], check=True)
    process.wait()


def ticks(pid):
    total = 0
    for each in tree(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


def test_a_stopped_process_computes_nothing_nor_do_its_children_and_it_goes_on_later(busy):
    stop(busy)
    before = ticks(busy)
    time.sleep(0.3)
    assert ticks(busy) == before
    with at_work(busy):
        deadline = time.monotonic() + 60
        while ticks(busy) <= before + 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    before = ticks(busy)
    time.sleep(0.2)
    assert ticks(busy) == before
    resume(busy)


def test_a_stranger_s_time_is_told_apart_from_that_of_who_is_measured(busy):
    mine = ticks(busy)
    with watched([busy]) as used:
        while ticks(busy) < mine + 20:
            time.sleep(0.01)
    assert used.own >= 0.2
    with watched([]) as strange:
        mine = ticks(busy)
        while ticks(busy) < mine + 20:
            time.sleep(0.01)
    assert strange.own == 0
    assert strange.others >= 0.15
    both = used + strange
    assert both.own == used.own
    assert both.wall > strange.wall
    assert math.isnan((used + Used(1.0, 1.0, math.nan)).others)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is told on Linux alone")
def test_a_stopped_process_does_not_outlive_who_started_it():
    """It could not see that its input has ended."""
    child = "from pruneonce.bench.isolation import end_with_parent; end_with_parent(); print('on', flush=True); input()"
    parent = (
        "import subprocess, sys, time\n"
        "from pruneonce.bench.isolation import stop\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); stop(child.pid); print(child.pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_has_ended_is_no_error():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    stop(process.pid)
    resume(process.pid)
    with watched([process.pid]) as used:
        pass
    assert used.own == 0
