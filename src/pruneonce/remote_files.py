"""Files of object stores and web servers, by URL: `s3://bucket/name`, `gs://…`, `https://…`, `file://…`.

A file is fetched whole before it is read, and sent whole after it was written, so that nobody sees half of one. fsspec
and its drivers do both (the extra `remote`); who is asking, they find as their own pages say (environment, profile,
role of the machine). No credential is taken here. In between it lies in the folder for temporary files ($TMPDIR).
"""

from __future__ import annotations

import contextlib
import glob
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import scratch_folder

# Not all that fsspec knows: some of its protocols run programs, or read what a file tells them to.
PROTOCOLS = ("s3", "gs", "http", "https", "abfs", "az", "file", "memory")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://")


def is_url(path: str | Path) -> bool:
    """Whether `path` is of one of the protocols that are read here."""
    found = _URL.match(str(path))
    return found is not None and found[1] in PROTOCOLS


def files_of(path: str | Path) -> list[str]:
    """The files that a name or a pattern (`s3://bucket/part-*.jsonl`) stands for, sorted; a plain name is itself.

    UsageError if a pattern stands for none.
    """
    text = str(path)
    if not set(text) & set("*?[") or (not is_url(text) and Path(text).exists()):
        return [text]
    if is_url(text):
        with _told(text):
            system, name = _file_system(text)
            found = sorted(system.unstrip_protocol(each) for each in system.glob(name))
    else:
        found = sorted(each for each in glob.glob(text, recursive=True) if Path(each).is_file())
    if not found:
        raise UsageError(f"{text}: there is no such file")
    return found


@contextlib.contextmanager
def fetched(path: str | Path) -> Iterator[Path]:
    """Where a file is on this machine, until the block ends; one of elsewhere is fetched whole first.

    PruneonceError in one line if it cannot be.
    """
    if not is_url(path):
        yield Path(path)
        return
    with _scratch() as scratch:
        with _told(path):
            system, name = _file_system(path)
            local = scratch / name.rstrip("/").rpartition("/")[2].partition("?")[0]
            with system.open(name, "rb") as source, open(local, "wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
        yield local


@contextlib.contextmanager
def delivered(path: str | Path) -> Iterator[Path]:
    """Where to write a file on this machine; what is for elsewhere is sent, whole, when the block ends well.

    PruneonceError in one line if it cannot be; the caller's own writing is not made safe here (`files.replacing`).
    """
    if not is_url(path):
        yield Path(path)
        return
    with _told(path):
        system, name = _file_system(path)  # before the work: a driver that is missing, a protocol that cannot write
    with _scratch() as scratch:
        local = scratch / name.rpartition("/")[2]
        yield local
        with _told(path):
            if system.protocol == "file" or "file" in system.protocol:
                system.makedirs(system._parent(name), exist_ok=True)
            system.put_file(str(local), name)


def _scratch() -> contextlib.AbstractContextManager[Path]:
    """A folder for one file. What killed processes left there goes first: it may be as large as a whole result."""
    return scratch_folder(Path(tempfile.gettempdir()) / "pruneonce")


def _file_system(path: str | Path) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the name in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise PruneonceError(f"{path} needs fsspec: pip install 'pruneonce[remote]'") from error
    try:
        system, name = url_to_fs(str(path), use_listings_cache=False)
    except ImportError as error:
        raise PruneonceError(f"{path} needs a driver of fsspec ({error}): pip install 'pruneonce[remote]'") from error
    return system, name


@contextlib.contextmanager
def _told(path: str | Path) -> Iterator[None]:
    """What a store or a network raises, as one line about `path`."""
    try:
        yield
    except PruneonceError:
        raise
    except FileNotFoundError as error:
        raise PruneonceError(f"{path} does not exist, or not for you") from error
    except Exception as error:  # every driver has errors of its own
        reason = str(error).strip().splitlines() or [""]
        raise PruneonceError(f"{path} cannot be reached: {type(error).__name__}: {reason[0][:200]}") from error
