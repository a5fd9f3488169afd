"""Kernels of ours within torch's training step compute on torch's threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from pruneonce import _native

LOADED_LIBRARIES = Path("/proc/self/maps")
OPENMP_NAMES = ("libgomp", "libomp", "libiomp")


@contextlib.contextmanager
def torch_threads() -> Iterator[None]:
    """Within it our kernels use as many threads as torch does, and the very same where torch's OpenMP library is found.

    Two pools on the same cores get in each other's way: threads without work spin for milliseconds. With torch's
    spinning beside ours a training step of BERT-base took 1.6 times as long.
    """
    before = _native.num_threads()
    _native.set_num_threads(torch.get_num_threads())
    _native.borrow_threads(_gomp_parallel())
    try:
        yield
    finally:
        _native.borrow_threads(0)
        _native.set_num_threads(before)


def _gomp_parallel() -> int:
    """Address of the function in the library that torch has loaded; 0 where there is none (other systems)."""
    for path in _openmp_libraries():
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
    return 0


def _openmp_libraries() -> list[str]:
    """Paths of loaded OpenMP libraries, torch's own first."""
    try:
        lines = LOADED_LIBRARIES.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count(" ") >= 5 and len(line.split(maxsplit=5)) == 6}
    found = [path for path in paths if Path(path).name.startswith(OPENMP_NAMES)]
    home = str(Path(torch.__file__).parent)
    return sorted(found, key=lambda path: (not path.startswith(home), path))
