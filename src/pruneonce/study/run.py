"""Run a plan: what is done is skipped, what was interrupted goes on, what fails takes only its children with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pruneonce.data import pretraining, text
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.progress import Advance
from pruneonce.provenance import Provenance
from pruneonce.stages import RUNNERS, StageOptions
from pruneonce.study.plan import Plan, below_data
from pruneonce.study.record import write_study
from pruneonce.training import world_size

Progress = Callable[[str], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class Outcome:
    """What came of a study."""

    records: dict[str, Provenance]  # run -> its record
    failures: dict[str, str]  # run -> why it has no result


def run_study(plan: Plan, progress: Progress) -> Outcome:
    """Run every node into `plan.out`/NAME. A run that fails is noted, and so are those that need it; others go on.

    progress: title -> a progress bar.
    """
    if world_size() > 1:
        raise UsageError("a study runs in one process: run its recipes with torchrun one by one")
    outcome = Outcome({}, {})
    write_study(plan, {})
    if any(node.stage in ("teacher", "prune") for node in plan.nodes.values()):
        make_corpus(plan, progress)
    for number, node in enumerate(plan.nodes.values(), 1):
        missing = next((parent for parent in node.parents if parent in outcome.failures), None)
        if missing is not None:
            outcome.failures[node.name] = f"{missing} has no result"
            continue
        with progress(f"{number} of {len(plan.nodes)}: {node.name}") as advance:
            options = StageOptions(plan.out / node.name, on_progress=advance)
            try:
                outcome.records[node.name] = RUNNERS[node.stage](node.recipe, options)
            except PruneonceError as error:
                outcome.failures[node.name] = str(error)
    write_study(plan, outcome.failures)
    return outcome


def make_corpus(plan: Plan, progress: Progress) -> Path:
    """The corpus of the pre-training stages, made from the study's texts where it names no folder."""
    wanted = plan.study.corpus
    if wanted.folder:
        return plan.corpus
    if not wanted.texts:
        raise UsageError("the study pre-trains: give corpus.folder, or corpus.texts to make a corpus from")
    articles = plan.out / "articles"
    with progress("articles") as advance:
        text.collect(
            [Path(below_data(plan.study, file)) for file in wanted.texts],
            articles,
            text_column=wanted.text_column,
            title_column=wanted.title_column,
            documents=wanted.documents,
            on_progress=advance,
        )
    with progress("corpus") as advance:
        pretraining.build(
            articles,
            plan.corpus,
            tokenizer=plan.study.model,
            layout=wanted.layout,
            max_tokens=wanted.max_tokens,
            validation_fraction=wanted.validation_fraction,
            seed=wanted.seed,
            on_progress=advance,
        )
    return plan.corpus
