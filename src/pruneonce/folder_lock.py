"""A folder is filled by one process at a time: whoever comes second is told who was first.

A lock of the kernel's (flock) on a file in the folder: it ends with its process, however that ends, so a file that a
killed one leaves keeps nobody out. Where a file system knows no such locks, or nothing may be written, nobody is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pruneonce.errors import PruneonceError
from pruneonce.files import require_unicode_name

FILE_NAME = ".lock"


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Hold `folder`, which is made if need be; PruneonceError, which names the process, if another one holds it.

    UsageError for a name that is not UTF-8.
    """
    require_unicode_name(folder)
    handle = _locked(Path(folder))
    try:
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):  # the folder may be gone
                (Path(folder) / FILE_NAME).unlink()
            # A fork would keep an open file's lock: let go of it, not only of our handle.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


def _locked(folder: Path) -> int | None:
    """A handle that holds the lock; None where there can be none."""
    file = folder / FILE_NAME
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode("ascii", "replace")
            os.close(handle)
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise PruneonceError(f"{folder} is being filled by {who}: wait for it, or choose another --out") from None
        except OSError:
            os.close(handle)
            return None
        with contextlib.suppress(OSError):
            if os.fstat(handle).st_ino == file.stat().st_ino:  # else its holder took the file away in between
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
                return handle
        os.close(handle)
