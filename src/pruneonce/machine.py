"""Facts of this machine and its Python: cores granted, processor, instruction sets, memory, cache, library versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from pruneonce import _native

# The instruction sets that decide how fast a sparse kernel can be, fastest last.
ISA_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")

# Density below which our kernels for non-zeros beat dense ones on every machine, so that nothing need be measured:
# dense code does five times the arithmetic.
SPARSE_BELOW = 0.2


def available_cores() -> int:
    """Cores this process may keep busy: its affinity, or fewer by its control groups' quotas, as our kernels count."""
    return _native.granted_cores()


def cache_folder() -> Path:
    """Ours in the cache folder of this machine's user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pruneonce"


def processor_name() -> str:
    """As the system calls it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Those of ISA_FLAGS that the processor has."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return tuple(flag for flag in ISA_FLAGS if flag in flags)


def _cpuinfo(key: str) -> str:
    """A field of the first processor; "" where the system has no such file (macOS, Windows)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")


def memory_bytes() -> int:
    """Memory of the machine; 0 where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def library_versions() -> dict[str, str]:
    """Versions of what decides the numbers: Python, ourselves, torch, transformers, tokenizers, numpy."""
    versions = {"python": platform.python_version()}
    for package in ("pruneonce", "torch", "transformers", "tokenizers", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
