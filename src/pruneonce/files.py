"""Files that are never half written: write beside the target, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pruneonce.errors import PruneonceError, UsageError, in_one_line

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_HEADER_BYTES = 16 << 20  # of safetensors: 100,000 words of a tokenizer take 5 MB; parsed, up to 30 times that
FULL_BYTES = 1 << 20  # a file system with less room than this has just refused a write for lack of it
RANDOM_PART = "[a-z0-9_]{8}"  # of the names that tempfile makes


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and takes the place of `path`.

    Whatever goes wrong in between (an exception, a full disk, a kill), `path` holds either its old bytes or all
    of the new ones. What a killed one has left beside it goes first. Raises PruneonceError when the file system refuses
    to write. (The lock is on the file that is yielded: whoever puts another one in its place, as safetensors' save_file
    does, needs a folder that no second process fills.)
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path, ".tmp")
        handle, temporary = _made_and_held(lambda: _new_file(path))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield temporary
        settle(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success its files are fsynced and it becomes `path`.

    `path` must not exist or be an empty folder; it never holds half of the files. Raises PruneonceError when the file
    system refuses to write.
    """
    path = Path(path)
    with scratch_folder(path) as temporary:
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())  # mkdtemp gives 0700
            for file in temporary.iterdir():
                settle(file)
            os.replace(temporary, path)
            fsync(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path`, for what goes into it; afterwards it is removed, with those of killed processes."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path, "")
        handle, folder = _made_and_held(lambda: _new_folder(path))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def check_writable(path: Path) -> None:
    """PruneonceError now for a file that could not be written hours later; leaves nothing but its folder."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise cannot_write(path, error) from error


def require_unicode_name(path: str | Path) -> None:
    """UsageError for a name that is not UTF-8, which the libraries that save models cannot write, hours later."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start : error.end])[1:-1]
        message = f"a name with the bytes {half} is not UTF-8, which records and models need: rename it"
        raise UsageError(message) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_part(path: Path, begin: str, part: str, end: str) -> None:
    """Put `part` between two marks of a text file, in the place of what is there. PruneonceError without the marks."""
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise PruneonceError(f"{path} has no part between {begin.strip()!r} and {end.strip()!r}: put both marks there")
    write_text(path, before + begin + part + end + after)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a file that is missing or not JSON is a PruneonceError that names it."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PruneonceError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise PruneonceError(f"{path} cannot be read as JSON: {error}") from error


def parse_json(text: str, **hooks: Any) -> Any:
    """`json.loads` that answers lists in lists without end with a ValueError too. hooks: keywords of `json.loads`."""
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None


def check_not_a_pointer(path: Path) -> None:
    """PruneonceError for the three lines that git-lfs leaves in place of a file that it has not fetched."""
    try:
        with open(path, "rb") as stream:
            pointer = stream.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return  # whoever opens it says why
    if pointer:
        raise PruneonceError(f"{path}: this is a git-lfs pointer, not the file: run `git lfs pull` in its folder")


def check_safetensors_length(path: Path) -> None:
    """PruneonceError for what is no safetensors file, or cut off, or a git-lfs pointer; values are not looked at."""
    check_not_a_pointer(path)
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise PruneonceError(
                f"{path}: this is no safetensors file: the header claims {length:,} bytes; at most "
                f"{MAX_HEADER_BYTES:,} are allowed"
            )
        start = 8 + length
        try:
            header = parse_json(stream.read(length).decode()) if start <= size else {}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            wanted = start + max(ends, default=0)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise PruneonceError(f"{path}: this is no safetensors file: its header is not the JSON of one") from error
    if size < wanted:
        raise PruneonceError(f"{path}: the file is cut off: {size:,} of {wanted:,} bytes; copy or download it again")


def require_plain_name(where: object, name: object) -> str:
    """`name`, which the file `where` gives to a file beside it, if it can be no other; else PruneonceError.

    A path with folders in it would have us read whatever file of this machine the sender of `where` thought of.
    """
    if isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0"):
        return name
    raise PruneonceError(f"{where} names the file {ascii(name)[:60]}: a name without a folder is expected")


def check_format_version(
    where: object, version: object, newest: int, *, error: type[PruneonceError] = PruneonceError
) -> int:
    """`version`, as the file `where` states it, if it is a whole number of 1 to `newest`; else `error`."""
    if type(version) is int and 1 <= version <= newest:
        return version
    stated = "no format version" if version is None else f"format version {ascii(version)[:20]}"
    advice = ": upgrade pruneonce" if type(version) is int and version > newest else ""
    raise error(f"{where}: {stated}, this pruneonce reads up to {newest}{advice}")


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of `value` as canonical JSON: the same for equal values whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fsync(path: Path) -> None:
    """Flush a file or a directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(file: Path) -> None:
    """Flush a new file to disk, with the permissions that the umask grants.

    mkstemp and safetensors make them 0600, which nobody else could read in a shared folder or a container.
    """
    file.chmod(0o666 & ~_umask())
    fsync(file)


def cannot_write(path: Path, error: OSError) -> PruneonceError:
    """The error for a write that the file system refused; earlier files are untouched."""
    reason = error.strerror or str(error)
    return PruneonceError(
        f"{path} could not be written: {reason}. What was there before is unchanged; free some space or choose "
        "another folder, then run the same command again."
    )


def system_error(error: Exception, folder: Path) -> OSError:
    """What the system has refused to a library that does not say it: torch and safetensors tell of their own insides.

    Call it before what was written in `folder` is removed, which makes room.
    """
    if isinstance(error, OSError):
        return error
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < FULL_BYTES:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(in_one_line(error))


def _new_file(path: Path) -> tuple[int, Path]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    return handle, Path(name)


def _new_folder(path: Path) -> tuple[int, Path]:
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    return os.open(folder, os.O_RDONLY), folder


def _made_and_held(make: Callable[[], tuple[int, Path]]) -> tuple[int, Path]:
    """A handle that locks what `make` has made, until its process ends; again if somebody took it for a leftover.

    Between the making and the lock another process may lock it first, to delete it: then that one has the file.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            handle, found = make()
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            except OSError:  # a file system without locks, where nobody deletes
                return handle, found
            if found.exists():
                return handle, found
            os.close(handle)


def _lock(handle: int) -> bool:
    """Whether an open file or folder of ours is now held by this handle; the kernel lets go when its process ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or the file system has no locks
        return False
    return True


def _remove_leftovers(path: Path, suffix: str) -> None:
    """Delete what processes that are gone have left beside `path`: of our names, held by nobody."""
    ours = re.compile(re.escape(f".{path.name}.") + RANDOM_PART + re.escape(suffix))
    for found in path.parent.glob(f".{glob.escape(path.name)}.*{suffix}"):
        if not ours.fullmatch(found.name) or found.is_symlink() or found.is_dir() != (suffix == ""):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(found, os.O_RDONLY)
            try:
                if _lock(handle):
                    shutil.rmtree(found) if found.is_dir() else found.unlink()
            finally:
                os.close(handle)


def remove_temporaries(folder: Path) -> None:
    """Delete every file of ours that is unfinished in `folder`; the caller knows that nobody else is writing there."""
    for found in folder.glob(".*.tmp"):
        if re.fullmatch(rf"\..+\.{RANDOM_PART}\.tmp", found.name) and found.is_file() and not found.is_symlink():
            found.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
