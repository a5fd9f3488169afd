"""Every writer on a file system that is too small: one line, nothing half, and with room the same command ends well."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import numpy as np

from campaign.case import Case
from campaign.jobs import DONE, REFUSED, Job, contents, ended, fork, tiny_jobs
from campaign.kills import _given
from pruneonce.errors import PruneonceError

NEW_MOUNTS, NEW_USER, REMOUNT = 0x00020000, 0x10000000, 32  # of unshare(2) and mount(2)
ROOM_BYTES = 256 << 20
TOLD, FITTED = "one line, then with room the same files", "fitted"
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount_small(folder: Path, size_bytes: int) -> None:
    """A file system of this size on `folder`, seen by this process alone, which then is root of its own namespace."""
    user, group = os.getuid(), os.getgid()
    _checked(_libc.unshare(NEW_USER | NEW_MOUNTS))
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/setgroups").write_text("deny")  # without which nobody may map a group
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")  # files of a group that is not mapped cannot be made
    _mount(folder, size_bytes, 0)


def _mount(folder: Path, size_bytes: int, flags: int) -> None:
    _checked(_libc.mount(b"none", str(folder).encode(), b"tmpfs", flags, f"size={size_bytes}".encode()))


def fill(given: tuple[Path, list[Job]], seed: int) -> str:
    scratch, jobs = given
    generator = np.random.default_rng(seed)
    job = jobs[seed % len(jobs)]
    out, note, verdict = scratch / "out" / job.name, scratch / "note", scratch / "verdict"
    shutil.rmtree(out.parent, ignore_errors=True)
    out.mkdir(parents=True)
    size_bytes = 4096 * int(1 + generator.random() * 5 * job.bytes / 4096)  # checkpoints take more than what is left
    verdict.unlink(missing_ok=True)

    def write() -> None:
        mount_small(out, size_bytes)
        told = False
        try:
            job.start(out)
        except PruneonceError as error:
            told = "No space left" in str(error) and "\n" not in str(error)
            if not told:
                raise
            _mount(out, ROOM_BYTES, REMOUNT)
            job.start(out)
        found = contents(out)
        assert found == job.files, {name for name in {*found, *job.files} if found.get(name) != job.files.get(name)}
        verdict.write_text(TOLD if told else FITTED)

    code = ended(fork(write, note))
    assert code not in (REFUSED,), (job.name, size_bytes, "refused with room", note.read_text())
    assert code == DONE, (job.name, size_bytes, note.read_text())
    return verdict.read_text()


CASES = [
    Case(
        "a full disk under every writer",
        "one line that says so; with room the same command ends with the same bytes",
        300,
        (TOLD, FITTED),
        _given(tiny_jobs),
        fill,
        300,
        slice_seconds=180,
    )
]
