import subprocess
import sys

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
