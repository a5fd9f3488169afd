"""What deploy/ asks of `pruneonce serve` is there: options, routes without a key, users that are not root."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

pytest.importorskip("uvicorn")  # the extra `serve`

from pruneonce.cli.app import app
from pruneonce.serve.application import ROUTES

DEPLOY = Path(__file__).parents[1] / "deploy"
OPEN = {route.path for route in ROUTES if route.is_open}


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def containers():
    (deployment, _, _), (runtime, _) = documents("kubernetes.yaml"), documents("kserve.yaml")
    return deployment["spec"]["template"]["spec"]["containers"][0], runtime["spec"]["containers"][0]


def require_options(arguments):
    """They parse as those of `pruneonce serve`."""
    command = typer.main.get_command(app).commands["serve"]
    command.make_context("serve", [str(each) for each in arguments])


def test_command_lines_are_those_of_serve():
    for container in containers():
        require_options(container["args"])
    text = (DEPLOY / "Dockerfile").read_text()
    entry, arguments = (re.search(rf"(?m)^{word} (\[.*\])$", text)[1] for word in ("ENTRYPOINT", "CMD"))
    assert yaml.safe_load(entry)[-1] == "serve"
    require_options(yaml.safe_load(arguments))
    start = re.search(r"(?m)^ExecStart=(.*)$", (DEPLOY / "pruneonce.service").read_text())[1]
    require_options(shlex.split(start)[2:])


def test_probes_ask_routes_that_need_no_key_at_the_container_s_port():
    for container in containers():
        ports = {port.get("name"): port["containerPort"] for port in container["ports"]}
        probes = [value["httpGet"] for name, value in container.items() if name.endswith("Probe")]
        assert probes
        for probe in probes:
            assert probe["path"] in OPEN
            assert ports.get(probe["port"], probe["port"]) == 8080


def test_nothing_runs_as_root_or_writes_to_its_root():
    for container in containers():
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
    assert re.search(r"(?m)^USER 10001$", (DEPLOY / "Dockerfile").read_text())


def test_what_names_another_object_names_one_that_is_there():
    deployment, service, scaler = documents("kubernetes.yaml")
    runtime, inference = documents("kserve.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert inference["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > 5 + 30  # draining, and what has been admitted


def test_objects_follow_kubernetes_own_schemas():
    validate = pytest.importorskip("kubernetes_validate")
    version = validate.latest_version()
    for document in documents("kubernetes.yaml"):
        validate.validate(document, version, strict=True)
    # KServe's kinds have no schema there nor in Debian, and its Python SDK has classes that check no fields, and brings
    # pandas, gRPC and a Kubernetes client: their containers are those of any pod.
    _, container = containers()
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
    validate.validate(pod, version, strict=True)
    container["livenessprobe"] = {}  # a letter is wrong
    with pytest.raises(validate.ValidationError):
        validate.validate(pod, version, strict=True)


def test_the_dockerfile_is_one_that_its_linter_takes():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    # DL3008 wants versions of Debian's packages, which leave its archive when they are mended
    linted = subprocess.run([hadolint, "--ignore", "DL3008", DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_unit_is_one_that_systemd_reads(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = (DEPLOY / "pruneonce.service").read_text().replace("/opt/pruneonce/bin/pruneonce", "/bin/true")
    (tmp_path / "pruneonce.service").write_text(unit)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "pruneonce.service"], capture_output=True, text=True
    )
    complaints = [line for line in checked.stderr.splitlines() if "pruneonce.service" in line]
    assert not complaints
