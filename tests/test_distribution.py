"""What is published: wheels that may be, and GitHub workflows that name what is there.

Building and installing wheels takes minutes: `make dist` does that.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def check_wheels():
    spec = importlib.util.spec_from_file_location("check_wheels", ROOT / "packaging/check_wheels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel_of(check_wheels, tmp_path):
    """A wheel with the given names in it."""

    def make(names, tag="cp312-abi3-manylinux_2_28_x86_64"):
        file = tmp_path / f"pruneonce-1.0-{tag}.whl"
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        return file

    return make


def whole(check_wheels):
    return [*check_wheels.REQUIRED, "pruneonce/_native.abi3.so", "pruneonce-1.0.dist-info/RECORD"]


def test_what_must_be_in_a_wheel_is_in_the_source_tree(check_wheels):
    for name in check_wheels.REQUIRED:
        inner = name.removeprefix("pruneonce/")
        assert (ROOT / "src/pruneonce" / inner).is_file() or (ROOT / inner).is_file(), name


def test_a_whole_wheel_passes_and_one_that_lacks_a_file_or_has_a_stranger_is_refused(check_wheels, wheel_of):
    check_wheels.check_wheel(wheel_of(whole(check_wheels)))
    for left_out in [*check_wheels.REQUIRED, "pruneonce/_native.abi3.so"]:
        with pytest.raises(check_wheels.RefusedError, match=r"lacks|no compiled"):
            check_wheels.check_wheel(wheel_of([name for name in whole(check_wheels) if name != left_out]))
    for stranger in ("tests/test_a.py", "pruneonce/native/spmm.cc", "pruneonce/__pycache__/a.pyc", "pruneonce/.env"):
        with pytest.raises(check_wheels.RefusedError, match="does not belong"):
            check_wheels.check_wheel(wheel_of([*whole(check_wheels), stranger]))


def test_a_wheel_that_no_index_takes_or_no_other_python_loads_is_refused(check_wheels, wheel_of, monkeypatch):
    names = whole(check_wheels)
    check_wheels.check_wheel(wheel_of(names, "cp311-cp311-macosx_11_0_arm64"))
    for tag in ("cp312-abi3-linux_x86_64", "cp312-cp312-manylinux_2_28_x86_64", "cp310-abi3-manylinux_2_28_x86_64"):
        with pytest.raises(check_wheels.RefusedError, match=r"manylinux tag|is abi3"):
            check_wheels.check_wheel(wheel_of(names, tag))
    monkeypatch.setattr(check_wheels, "MOST_BYTES", 10)
    with pytest.raises(check_wheels.RefusedError, match="at most 10"):
        check_wheels.check_wheel(wheel_of(names))


def test_workflows_are_as_githubs_schema_wants_them():
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def steps_of(workflow):
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from job.get("steps", [])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_and_reads_is_there(workflow):
    text = workflow.read_text()
    targets = set(re.findall(r"(?m)^([\w-]+):(?!=)", (ROOT / "Makefile").read_text()))
    for step in steps_of(workflow):
        assert set(re.findall(r"\bmake ([\w-]+)", step.get("run", ""))) <= targets, step
        for script in re.findall(r"python ((?:packaging|docs|benchmarks)/\S+)", step.get("run", "")):
            assert (ROOT / script).is_file(), script
    for called in re.findall(r"uses: \./(\S+)", text):
        assert (ROOT / called).is_file(), called
    # A pull request from a stranger may never run with our rights.
    assert "pull_request_target" not in text
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_every_python_that_is_promised_is_tested_and_has_a_wheel():
    tests = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    pythons = tests["jobs"]["newest"]["strategy"]["matrix"]["python"]
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'requires-python = ">=([\d.]+)"', project)[1] == pythons[0]
    built = re.findall(r"cp3(\d+)-", re.search(r'(?m)^build = "(.*?)"', project)[1])
    for python in pythons:
        minor = python.split(".")[1]
        assert minor in built or int(minor) > 12, python


def test_a_release_signs_where_its_files_come_from_and_keeps_no_token():
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["publish"]
    assert release["permissions"] == {"contents": "write", "id-token": "write", "attestations": "write"}
    used = {step["uses"].partition("@")[0] for step in release["steps"] if "uses" in step}
    assert {"actions/attest-build-provenance", "actions/attest-sbom", "pypa/gh-action-pypi-publish"} <= used
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()
