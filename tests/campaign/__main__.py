"""`PYTHONPATH=tests python -m campaign [CASE ...] --minutes 60`: goes on where the last call stopped.

A case is named by any part of its name; without one, all take turns. The table in docs/reliability.md is written from
the record when the time is up. A wrong attempt is repeated by `--seed` with its case.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from campaign import company, full_disk, kills, long_use, mutants
from campaign.page import write_table
from campaign.worker import Tally, run_for
from pruneonce.files import read_json, write_json
from pruneonce.models.hub import quiet_transformers

CASES = [*mutants.CASES, *kills.CASES, *full_disk.CASES, *company.CASES, *long_use.CASES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/campaign"), help="record and scratch files")
    parser.add_argument("--page", type=Path, help="page whose table is written")
    parser.add_argument("--seed", type=int, help="make this one attempt of one case, here, with its traceback")
    given = parser.parse_args()
    chosen = [case for case in CASES if not given.cases or any(part in case.name for part in given.cases)]
    if not chosen:
        sys.exit(f"no such case; there are: {', '.join(case.name for case in CASES)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    quiet_transformers()
    scratch = {case.name: given.out.resolve() / case.name.replace(" ", "-").replace(",", "") for case in CASES}
    for case in chosen:
        scratch[case.name].mkdir(parents=True, exist_ok=True)
    if given.seed is not None:
        (case,) = chosen
        print(case.attempt(case.prepare(scratch[case.name]), given.seed))
        return
    record = given.out / "record.json"
    tallies = {name: Tally(**value) for name, value in (read_json(record) if record.exists() else {}).items()}
    end = time.monotonic() + 60 * given.minutes
    while left := [case for case in chosen if tallies.setdefault(case.name, Tally()).tries < case.tries]:
        for case in left:
            if (seconds := min(case.slice_seconds, end - time.monotonic())) <= 0:
                break
            tally = tallies[case.name]
            run_for(case, tally, scratch[case.name], seconds)
            write_json(record, {name: asdict(each) for name, each in tallies.items()})
            progress = f"{tally.tries:,} of {case.tries:,}, {json.dumps(tally.outcomes)}, {len(tally.wrong)} wrong"
            print(f"{case.name}: {progress}", flush=True)
        if time.monotonic() >= end:
            break
    if given.page:
        write_table(given.page, [(case, tallies[case.name]) for case in CASES if case.name in tallies])
    if wrong := [f"{name}, {each}" for name, tally in tallies.items() for each in tally.wrong]:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
