"""Whether wheels may be published: size, tag, contents. Arguments: folders of wheels; it ends with 1 and says why."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

MOST_BYTES = 3_000_000
ABI3_FROM = (3, 12)  # nanobind's stable ABI; for 3.10 and 3.11 it would need a package of its own beside ours
REQUIRED = (
    "pruneonce/py.typed",
    "pruneonce/_native.pyi",
    "pruneonce/recipes/quickstart/compress.toml",
    "pruneonce/recipes/bert-base/prune-90.toml",
    "pruneonce/report/page.css",
)
KERNELS = re.compile(r"pruneonce/_native(\.[\w-]+)*\.(so|pyd)")
FOREIGN = re.compile(r"^(?!pruneonce/|pruneonce-[\w.+]+\.(dist-info|libs)/)|__pycache__|\.(cc|cpp|h)$|/\.(?!dylibs/)")


class RefusedError(Exception):
    """A distribution that must not be published; its message says why."""


def check_wheel(wheel: Path) -> None:
    """RefusedError for a wheel that is too large, lacks a file, has one that is not ours, or has no portable tag."""
    interpreter, abi, platforms = wheel.stem.split("-")[-3:]
    if platforms.startswith("linux_"):
        raise RefusedError(f"{wheel.name}: auditwheel has given it no manylinux tag")
    if (interpreter == f"cp3{ABI3_FROM[1]}") != (abi == "abi3"):
        raise RefusedError(f"{wheel.name}: the wheel of CPython {'.'.join(map(str, ABI3_FROM))} is abi3, and no other")
    if (size := wheel.stat().st_size) > MOST_BYTES:
        raise RefusedError(f"{wheel.name} has {size:,} bytes: at most {MOST_BYTES:,} are wanted")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    if missing := [name for name in REQUIRED if name not in names]:
        raise RefusedError(f"{wheel.name} lacks {missing[0]}")
    if not any(KERNELS.fullmatch(name) for name in names):
        raise RefusedError(f"{wheel.name} has no compiled kernels")
    if strangers := [name for name in names if FOREIGN.search(name)]:
        raise RefusedError(f"{wheel.name} has {strangers[0]}, which does not belong into an install")


def main() -> None:
    wheels = sorted(wheel for folder in sys.argv[1:] for wheel in Path(folder).glob("*.whl"))
    if not wheels:
        sys.exit(f"no wheel in {' '.join(sys.argv[1:])}")
    for wheel in wheels:
        try:
            check_wheel(wheel)
        except RefusedError as error:
            sys.exit(f"check_wheels: {error}")
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
