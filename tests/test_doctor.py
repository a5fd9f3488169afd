"""What the doctor says of this machine, with and without torch, quiet and busy."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from pruneonce.cost import doctor
from pruneonce.machine import available_cores


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.001)
    monkeypatch.setattr(doctor, "PROBE_SIZE", 32)


def test_a_machine_is_described_by_what_this_process_may_use(quick, tmp_path):
    machine = doctor.describe_machine(tmp_path)
    assert machine.cores == available_cores() <= os.cpu_count()
    assert 2**28 < machine.memory_bytes < 2**50
    assert machine.free_disk_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    assert machine.matmul_gflops > 0
    assert machine.processor
    assert {"python", "numpy", "pruneonce"} <= machine.versions.keys()


def test_without_torch_there_are_no_accelerators_to_name(quick, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor.describe_machine(tmp_path).accelerators == ()


@pytest.mark.parametrize(("load", "cores", "told"), [(0.9, 2, False), (1.0, 2, True), (3.5, 8, False), (4.0, 8, True)])
def test_a_warning_is_given_from_half_the_cores_on(load, cores, told, monkeypatch):
    monkeypatch.setattr(doctor, "available_cores", lambda: cores)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert doctor.others_note().startswith(f"load average {load}, cores for this: {cores}") == told


def test_a_system_that_tells_no_load_gives_no_warning(monkeypatch):
    monkeypatch.delattr(os, "getloadavg")
    assert doctor.others_note() == ""
