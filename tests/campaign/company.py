"""Two equal commands on one folder: one is told of the other or finds its work done, and the result is that of one."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np

from campaign.case import Case
from campaign.jobs import DONE, REFUSED, Job, contents, ended, fork, tiny_jobs
from campaign.kills import _given

TOLD, BOTH = "the second was told of the first", "both ended well"


def meet(given: tuple[Path, list[Job]], seed: int) -> str:
    scratch, jobs = given
    generator = np.random.default_rng(seed)
    job = jobs[seed % len(jobs)]
    out = scratch / "out" / job.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    notes = [scratch / "note one", scratch / "note two"]
    first = fork(lambda: job.start(out), notes[0])
    time.sleep(generator.random() ** 2 * job.seconds)
    codes = [ended(child) for child in (first, fork(lambda: job.start(out), notes[1]))]
    said = [note.read_text() for note in notes]
    assert set(codes) <= {DONE, REFUSED}, (job.name, codes, said)
    assert DONE in codes, (job.name, codes, said)
    assert all("is being filled by" in text for text, code in zip(said, codes, strict=True) if code == REFUSED), said
    assert contents(out) == job.files, job.name
    return TOLD if REFUSED in codes else BOTH


CASES = [
    Case(
        "two processes on one folder",
        "one works, the other is told or finds it done; the result is that of one",
        200,
        (TOLD, BOTH),
        _given(tiny_jobs),
        meet,
        300,
        slice_seconds=180,
    )
]
