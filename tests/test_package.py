import subprocess
import sys
from pathlib import Path

import pruneonce


def test_importing_the_package_and_its_command_line_loads_nothing_heavy():
    code = (
        "import sys, pruneonce, pruneonce.cli, pruneonce.inspection, pruneonce.tasks, pruneonce.recipe;"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_imported():
    assert sorted(pruneonce._MODULE_OF) == sorted(pruneonce.__all__)
    for name in pruneonce.__all__:
        assert getattr(pruneonce, name).__name__ == name


def test_the_stub_of_the_native_module_is_up_to_date(tmp_path):
    fresh = tmp_path / "_native.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "--quiet", "-m", "pruneonce._native", "-o", str(fresh)]
    subprocess.run(command, check=True)
    assert Path(pruneonce.__file__).with_name("_native.pyi").read_text() == fresh.read_text(), "run `make stub`"
