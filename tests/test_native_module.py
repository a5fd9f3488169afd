"""The native module as a guest in a process: threads granted, and how it lets Python end; and how its sources lie."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pruneonce import _native
from pruneonce.machine import available_cores

SOURCES = Path(__file__).parent.parent / "native"
linux = pytest.mark.skipif(sys.platform != "linux", reason="affinity and control groups are Linux's")


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


# --------------------------------------------------------------------------------------------------- threads granted

THREADS = "from pruneonce import _native as n; print(n.num_threads())"


@linux
def test_a_process_on_one_core_starts_no_second_thread():
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); {THREADS}; print(n.granted_cores())"
    assert python(code, PRUNEONCE_THREADS="").stdout.split() == ["1", "1"]


def test_the_environment_says_how_many_threads_and_a_call_overrides_it():
    assert python(THREADS, PRUNEONCE_THREADS="3").stdout.split() == ["3"]
    code = f"{THREADS}; n.set_num_threads(5); print(n.num_threads())"
    assert python(code, PRUNEONCE_THREADS="3").stdout.split() == ["3", "5"]


@pytest.mark.parametrize("value", ["0", "-1", "1025", "two", "3x", "99999999999999999999"])
def test_threads_of_the_environment_that_mean_nothing_are_refused(value):
    run = python(THREADS, PRUNEONCE_THREADS=value)
    assert run.returncode == 1
    assert (
        run.stderr.splitlines()[-1]
        == f"ValueError: [num_threads] PRUNEONCE_THREADS='{value}', expected a number of 1 to 1024"
    )


def test_python_and_the_kernels_agree_on_the_cores():
    assert 1 <= _native.granted_cores() <= (os.cpu_count() or 1)
    assert available_cores() == _native.granted_cores()


def written(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


GROUPS = {
    "no control groups": ("", {}, 0),
    "version 2, no quota": ("0::/\n", {"cpu.max": "max 100000\n"}, 0),
    "version 2, two cores": ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "rounded up": ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "less than one core": ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
    "of its own group": ("0::/a.slice/b\n", {"a.slice/b/cpu.max": "300000 100000\n", "cpu.max": "max 100000\n"}, 3),
    "of the group around it": (
        "0::/a/b\n",
        {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "100000 100000\n"},
        1,
    ),
    "another group's": ("0::/a\n", {"b/cpu.max": "100000 100000\n"}, 0),
    "a container that sees its group as the root": ("0::/docker/0123\n", {"cpu.max": "200000 100000\n"}, 2),
    "version 1": (
        "4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "version 1, a name of its own": (
        "1:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "50000\n"},
        1,
    ),
    "version 1, no quota": ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0),
    "another controller": (
        "1:cpuset:/\n",
        {"cpuset/cpu.cfs_quota_us": "100000\n", "cpuset/cpu.cfs_period_us": "100000\n"},
        0,
    ),
    "both versions, the lesser": (
        "1:cpu:/\n0::/\n",
        {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000", "unified/cpu.max": "200000 100000\n"},
        2,
    ),
    "files that say nothing": ("nonsense\n::\n0::\n0::/\n", {"cpu.max": "much\n"}, 0),
    "a period of nothing": ("0::/\n", {"cpu.max": "100000 0\n"}, 0),
}


@pytest.mark.parametrize("case", GROUPS)
def test_quotas_of_control_groups_are_found(tmp_path, case):
    groups, files, cores = GROUPS[case]
    written(tmp_path / "cgroup", files)
    (tmp_path / "self").write_text(groups, encoding="utf-8")
    assert _native.quota_cores(str(tmp_path / "self"), str(tmp_path / "cgroup")) == cores


# ------------------------------------------------------------------------------------------------------ Python ends

BUSY = """
import sys, threading, time
import numpy as np
from pruneonce import _native as n
weight = n.DenseWeight(np.ones((512, 512), np.float32))
def multiply(times):
    x, out = n.Activations(512), n.Activations(512)
    x.load(np.ones((256, 512), np.float32))
    for _ in range(times):
        n.multiply(weight, x, out=out)
for _ in range(4):
    threading.Thread(target=multiply, args=(10**9,), daemon=True).start()
time.sleep(0.2)
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "import atexit; atexit.register(multiply, 3)"])
def test_python_ends_while_threads_compute(end):
    for _ in range(3):
        run = python(BUSY + end)
        assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_process_whose_threads_compute_ends_too():
    code = (
        BUSY
        + "import os, warnings; warnings.simplefilter('ignore')\n"
        + "child = os.fork()\n"
        + "if not child: multiply(2); sys.exit(5)\n"
        + "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    for _ in range(3):
        run = python(code)
        assert (run.returncode, run.stderr) == (5, "")


def test_what_is_still_held_at_the_end_is_not_called_a_leak():
    code = (
        "import threading, time; from pruneonce import _native as n\n"
        "def hold():\n    kept = n.Activations(3)\n    time.sleep(100)\n"
        "threading.Thread(target=hold, daemon=True).start(); time.sleep(0.1)"
    )
    run = python(code)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# ---------------------------------------------------------------------------------------------------------- sources


def includes():
    """stem -> stems that its .h, .cc or .cpp includes."""
    found = {}
    for path in SOURCES.iterdir():
        names = re.findall(r'^#include "(\w+)\.h"', path.read_text(encoding="utf-8"), re.MULTILINE)
        found.setdefault(path.stem, set()).update(set(names) - {path.stem})
    return found


def test_includes_of_the_kernels_sources_form_no_circle():
    left = includes()
    assert "kernels" in left
    while ready := [stem for stem, needs in left.items() if not needs & left.keys()]:
        for stem in ready:
            del left[stem]
    assert not left


def test_files_compiled_per_instruction_set_see_only_each_other():
    """Inline functions that they share with others would be kept once, perhaps for a processor that lacks them."""
    shared = includes()
    per_isa = {stem for stem in shared if stem.endswith("_kernel") or stem.startswith("vec_")} | {
        *("coder", "int8_finish", "isa", "isa_kernels", "kernels", "tile", "tile_cursor", "vector_isa")
    }
    for stem in per_isa:
        assert shared[stem] <= per_isa
        for suffix in ".h", ".cc":
            path = SOURCES / (stem + suffix)
            if path.exists() and stem != "kernels":
                standard = set(re.findall(r"^#include <(\w+)>", path.read_text(encoding="utf-8"), re.MULTILINE))
                assert standard <= {"concepts", "cstddef", "cstdint"}
