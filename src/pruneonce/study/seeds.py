"""One recipe with several seeds: a run folder for each, and `seeds.json` over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pruneonce.evaluation.over_seeds import Summary, summarise_metrics
from pruneonce.files import write_json
from pruneonce.formats.record import Provenance
from pruneonce.progress import OpenBar
from pruneonce.stages import RUNNERS, StageOptions
from pruneonce.train.processes import is_main_process

FILE_NAME = "seeds.json"
FORMAT_VERSION = 1


def run_seeds(
    stage: str,
    recipes: Sequence[Any],
    out: Path,
    open_bar: OpenBar,
    *,
    keep_checkpoints: bool = False,
) -> dict[str, Summary]:
    """Run every recipe into `out`/seed-N and write `out`/seeds.json; finished runs are skipped as ever.

    open_bar: shows each run.
    """
    records: list[Provenance] = []
    for recipe in recipes:
        with open_bar(f"{stage} {out.name} seed {recipe.seed}") as advance:
            options = StageOptions(
                seed_folder(out, recipe.seed), keep_checkpoints, advance if is_main_process() else None
            )
            records.append(RUNNERS[stage](recipe, options))
    summary = summarise_metrics([record.metrics for record in records])
    if is_main_process():
        record = {
            "format_version": FORMAT_VERSION,
            "stage": stage,
            "seeds": [recipe.seed for recipe in recipes],
            "metrics": {name: asdict(each) for name, each in summary.items()},
        }
        write_json(out / FILE_NAME, record)
    return summary


def seed_folder(out: Path, seed: int) -> Path:
    """Where the run of one seed is."""
    return out / f"seed-{seed}"
