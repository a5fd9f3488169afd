import ast
import re
import runpy
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import pruneonce

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def test_importing_the_package_and_its_command_line_loads_nothing_heavy():
    code = (
        "import sys, pruneonce, pruneonce.cli.app, pruneonce.tasks, pruneonce.recipe;"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_imported():
    for name in pruneonce.__all__:
        assert getattr(pruneonce, name).__name__ == name


def test_type_checkers_see_the_public_names_that_there_are():
    tree = ast.parse(Path(pruneonce.__file__).read_text())
    shown = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("pruneonce") and node.names[0].asname
    ]
    assert {node.names[0].asname: node.module.removeprefix("pruneonce.") for node in shown} == pruneonce._MODULE_OF


def test_the_version_is_written_once():
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{pruneonce.__version__}"' in project


def test_the_stub_of_the_native_module_is_up_to_date(tmp_path):
    fresh = tmp_path / "_native.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "--quiet", "-m", "pruneonce._native", "-o", str(fresh)]
    subprocess.run(command, check=True)
    assert Path(pruneonce.__file__).with_name("_native.pyi").read_text() == fresh.read_text(), "run `make stub`"


def test_the_page_of_the_python_api_says_what_the_docstrings_say():
    made = runpy.run_path(str(ROOT / "docs/make_api.py"))
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    head, mark, _ = text.partition(made["MARK"])
    assert mark
    assert text == made["page"](head), "run `make docs`"
    for name in pruneonce.__all__:
        assert f"\n### {name}\n" in text, name


@pytest.mark.parametrize("name", ["recipes.md", "commands.md"])
def test_pages_of_recipes_and_commands_say_what_the_code_says(name):
    made = runpy.run_path(str(ROOT / "docs/make_reference.py"))
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made["PAGES"][name](), "run `make docs`"


def test_the_base_install_pulls_no_more_than_the_engine_needs():
    base = {re.match(r"[\w-]+", need)[0] for need in requires("pruneonce") if "extra ==" not in need}
    assert base == {"numpy", "safetensors", "tokenizers", "typer", "rich", "tomli"}


def test_the_lowest_versions_that_are_tested_are_the_declared_ones():
    """`make test-lowest` would otherwise go on testing a bound of last year."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    of_users = [*project["project"]["dependencies"], *extras["train"], *extras["onnxruntime"]]
    of_ours = [*project["build-system"]["requires"], *extras["dev"]]
    declared, tools = (
        dict(need.split(">=") for need in needs if re.fullmatch(r"[\w-]+>=[\d.]+", need))
        for needs in (of_users, of_ours)
    )
    tested = dict(
        re.findall(r"(?m)^([\w-]+)==([\d.]+)$", (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8"))
    )
    assert declared.keys() <= tested.keys()
    for name, version in tested.items():
        assert re.fullmatch(rf"{re.escape((declared | tools)[name])}(\.0)*", version), name
