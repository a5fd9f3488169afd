"""The campaigns' table, between two comments of a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from campaign.case import Case
from campaign.worker import Tally
from pruneonce.files import write_part

BEGIN, END = "<!-- campaigns: written by `make campaign` -->", "<!-- end of campaigns -->"


def write_table(page: Path, found: Sequence[tuple[Case, Tally]]) -> None:
    write_part(page, BEGIN, f"\n{table(found)}\n", END)


def table(found: Sequence[tuple[Case, Tally]]) -> str:
    lines = ["| what | promise | tries | of these | wrong |", "|---|---|---|---|---|"]
    for case, tally in found:
        ends = ", ".join(f"{count:,} {outcome}" for outcome, count in tally.outcomes.items() if count)
        lines.append(f"| {case.name} | {case.promise} | {tally.tries:,} | {ends} | {len(tally.wrong):,} |")
    return "\n".join(lines)
