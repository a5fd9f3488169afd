"""SIGKILL at a random file event or moment: nobody is shown half of anything, and the same command ends as ever."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from campaign.case import Case
from campaign.events import at_each_event
from campaign.jobs import DONE, Job, contents, ended, fork, minilm_jobs, tiny_jobs

KILLED, BEFORE, WENT_ON = "killed", "ended before its kill", "killed, then run to its end: the same files"


def kill(given: tuple[Path, list[Job]], seed: int) -> str:
    """Goes on from what earlier kills of the same job left."""
    scratch, jobs = given
    generator = np.random.default_rng(seed)
    job = jobs[seed % len(jobs)]
    out, note = scratch / "out" / job.name, scratch / "note"
    out.mkdir(parents=True, exist_ok=True)
    at_event = generator.random() < 0.6
    last = 1 + int(generator.integers(job.events))

    def die(number: int) -> None:
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying() -> None:
        if at_event:
            at_each_event(die)
        job.start(out)

    child = fork(dying, note)
    if not at_event:
        time.sleep(generator.random() * job.seconds)
        os.kill(child, signal.SIGKILL)
    code = ended(child)
    assert code in (DONE, -signal.SIGKILL), (job.name, code, note.read_text())
    _check_nothing_is_half(out, job)
    if code == -signal.SIGKILL and generator.random() < 0.6:
        return KILLED
    assert ended(fork(lambda: job.start(out), note)) == DONE, (job.name, note.read_text())
    found = contents(out)
    assert found == job.files, (
        job.name,
        {name for name in {*found, *job.files} if found.get(name) != job.files.get(name)},
    )
    shutil.rmtree(out)
    return BEFORE if code == DONE else WENT_ON


def _check_nothing_is_half(out: Path, job: Job) -> None:
    """A folder with its last file is whole; a packed or ONNX file is there or not."""
    found = contents(out)
    for name, digest in found.items():
        if name in job.files and Path(name).suffix in (".pruneonce", ".onnx"):  # others are of scratch folders
            assert digest == job.files[name], f"{job.name}: {name} is half written"
        if Path(name).name in ("pruneonce.json", "manifest.json") and ".saving" not in name:
            folder = str(Path(name).parent)
            for other, wanted in job.files.items():
                assert str(Path(other).parent) != folder or found.get(other) == wanted, (
                    f"{job.name}: {other} is not whole"
                )


def _given(jobs: Callable[[Path], list[Job]]) -> Callable[[Path], tuple[Path, list[Job]]]:
    return lambda scratch: (scratch, jobs(scratch))


PROMISE = "what has its last file is whole; the same command ends with the same bytes and leaves nothing else"
OUTCOMES = (KILLED, WENT_ON, BEFORE)
CASES = [
    Case("kills of every writer, tiny models", PROMISE, 400, OUTCOMES, _given(tiny_jobs), kill, 300, slice_seconds=180),
    Case("kills on the real MiniLM", PROMISE, 320, OUTCOMES, _given(minilm_jobs), kill, 600, slice_seconds=300),
]
