"""`make dist`: source archive and wheels into dist/, each proved in a fresh environment that has no compiler.

For every Python: a wheel (one abi3 wheel for all from 3.12 on), its tag and size, what is in it; then an engine-only
install that answers as PyTorch did and passes the engine's tests. For the last Python, an install with [train] that
runs `pruneonce quickstart` in an empty folder. Beside the wheels: a bill of materials of each install, and checksums.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from check_wheels import ABI3_FROM, RefusedError, check_wheel

ROOT = Path(__file__).resolve().parents[1]
# Tests of the kernels, the packed format and what reads tables: none of them needs torch.
ENGINE_TESTS = (
    "test_format test_native_module test_kernel_choice test_recipe test_tasks_table test_tasks_question_answering "
    "test_sentences test_kernels"
).split()
# They look into native/ or compare with torch.
NOT_OF_THE_ENGINE = (
    "test_native_module.py::test_includes_of_the_kernels_sources_form_no_circle",
    "test_native_module.py::test_files_compiled_per_instruction_set_see_only_each_other",
    "test_format.py::test_bfloat16_rounds_as_torch_does",
)


def version_of(python: str) -> tuple[int, int] | None:
    """(major, minor) of an interpreter, None if there is none of that name."""
    try:
        code = "import sys; print(*sys.version_info[:2])"
        shown = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    major, minor = map(int, shown.split())
    return major, minor


def run(command: list[str | Path], **options: object) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True, **options)  # type: ignore[call-overload]


def environment_of(folder: Path) -> dict[str, str]:
    """A user's: nothing of ours, and no compiler on the path; pip may read its own settings."""
    kept = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_", "http", "no_proxy"))}
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {**kept, "PATH": str(folder / "bin"), "HOME": str(home), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "2"}


def fresh(python: str, folder: Path, *needs: str | Path) -> dict[str, str]:
    """A new virtual environment with `needs` as wheels, and how to call programs in it."""
    shutil.rmtree(folder, ignore_errors=True)
    run([python, "-m", "venv", folder])
    environment = environment_of(folder)
    for compiler in ("gcc", "g++", "cc", "c++", "clang", "clang++"):
        if shutil.which(compiler, path=environment["PATH"]):
            raise RefusedError(f"{folder} has a compiler, {compiler}: this would prove nothing")
    pip: list[str | Path] = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    run([*pip, "--constraint", ROOT / "constraints.txt", *needs], env=environment, cwd=folder)
    return environment


def build(pythons: dict[tuple[int, int], str], out: Path, scratch: Path) -> dict[tuple[int, int], Path]:
    """The archive, and the wheel of each Python made of it; those from ABI3_FROM on share one."""
    run([sys.executable, "-m", "build", "--sdist", "--outdir", out, ROOT])
    (archive,) = out.glob("pruneonce-*.tar.gz")
    wheels: dict[tuple[int, int], Path] = {}
    for version, python in pythons.items():
        shared = next((made for older, made in wheels.items() if older >= ABI3_FROM), None)
        if version >= ABI3_FROM and shared is not None:
            wheels[version] = shared
            continue
        folder = scratch / f"wheel-{version[0]}.{version[1]}"
        run([python, "-m", "venv", folder])
        run([folder / "bin/python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, archive])
        (built,) = folder.glob("*.whl")
        if sys.platform == "linux":
            before = set(out.iterdir())
            tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
            run([sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", out, built], env=tools)
            (wheel,) = set(out.iterdir()) - before
        else:
            wheel = Path(shutil.copy(built, out))
        check_wheel(wheel)
        wheels[version] = wheel
    return wheels


def test_engine(python: str, wheel: Path, sample: Path, folder: Path, materials: Path | None) -> None:
    """Install the wheel alone, answer as PyTorch did, pass the engine's tests."""
    environment = fresh(python, folder, wheel)
    if materials is not None:
        write_materials(folder, materials)
    there = folder / "work"
    there.mkdir()
    checked = [folder / "bin/python", "-I", ROOT / "packaging/check_install.py", sample]
    run(checked, env=environment, cwd=there)
    pip: list[str | Path] = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    run([*pip, "pytest", "hypothesis"], env=environment, cwd=there)
    # Away from the checkout, whose src/ would be imported in place of what is installed.
    for name in ("tests", "docs", "recipes"):
        shutil.copytree(ROOT / name, there / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", there)
    wanted = [f"tests/{name}.py" for name in ENGINE_TESTS]
    wanted += [f"--deselect=tests/{name}" for name in NOT_OF_THE_ENGINE]
    run([folder / "bin/python", "-m", "pytest", "-p", "no:cacheprovider", *wanted], env=environment, cwd=there)


def test_train(python: str, wheel: Path, folder: Path, materials: Path, *, quickstart: bool) -> None:
    """Install the wheel with [train] and run the quickstart where there is no checkout."""
    environment = fresh(python, folder, f"pruneonce[train] @ {wheel.resolve().as_uri()}")
    write_materials(folder, materials)
    there = folder / "work"
    there.mkdir()
    short = [] if quickstart else ["--assets-only"]
    run([folder / "bin/pruneonce", "quickstart", *short], env=environment, cwd=there)
    if quickstart and not (there / "runs/quickstart/report.md").is_file():
        raise RefusedError("the quickstart ended without a report")
    recipe = "bert-base/prune-90.toml"
    code = f"import pruneonce.recipe as r; r.load_recipe(r.recipes_folder() / '{recipe}', 'prune')"
    run([folder / "bin/python", "-I", "-c", code], env=environment, cwd=there)


def write_materials(folder: Path, out: Path) -> None:
    """The bill of materials of an environment, in CycloneDX's JSON."""
    command: list[str | Path] = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    run([*command, "--pyproject", ROOT / "pyproject.toml", "--output-file", out, folder / "bin/python"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pythons", nargs="+", metavar="PYTHON", help="interpreters; those that are not there: said so")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--sample", type=Path, required=True, help="folder made by packaging/make_sample.py")
    parser.add_argument("--no-quickstart", action="store_true", help="with [train], fetch its model and data only")
    parser.add_argument("--engine-only", action="store_true", help="leave [train] out, which fetches torch")
    chosen = parser.parse_args()

    pythons: dict[tuple[int, int], str] = {}
    for python in chosen.pythons:
        if (version := version_of(python)) is None:
            print(f"dist: there is no {python} here: left out", flush=True)
        else:
            pythons[version] = python
    if not pythons:
        sys.exit("dist: none of the given interpreters is there")
    pythons = dict(sorted(pythons.items()))
    shutil.rmtree(chosen.out, ignore_errors=True)
    chosen.out.mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory(prefix="pruneonce-dist-") as name:
            scratch = Path(name)
            wheels = build(pythons, chosen.out, scratch)
            newest = max(pythons)
            for version, python in pythons.items():
                bill = chosen.out / "pruneonce-engine.cdx.json" if version == newest else None
                folder = scratch / f"engine-{version[0]}.{version[1]}"
                test_engine(python, wheels[version], chosen.sample.resolve(), folder, bill)
                shutil.rmtree(folder)
            if not chosen.engine_only:
                bill = chosen.out / "pruneonce-train.cdx.json"
                wheel = wheels[newest]
                test_train(pythons[newest], wheel, scratch / "train", bill, quickstart=not chosen.no_quickstart)
    except (RefusedError, subprocess.CalledProcessError) as error:
        sys.exit(f"dist: {error}")
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in sorted(chosen.out.iterdir())]
    (chosen.out / "SHA256SUMS").write_text("".join(f"{line}\n" for line in sums))
    print(f"dist: {len(set(wheels.values()))} wheels in {chosen.out}, tested with {len(pythons)} Pythons")


if __name__ == "__main__":
    main()
