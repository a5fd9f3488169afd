"""Run a plan: what is done is skipped, what was interrupted goes on, what fails takes only its children with it."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from pruneonce.data import text
from pruneonce.data.build import build
from pruneonce.data.executor import end_with_parent
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.folder_lock import filling
from pruneonce.formats.record import Provenance
from pruneonce.machine import available_cores
from pruneonce.models.hub import quiet_transformers
from pruneonce.progress import OpenBar
from pruneonce.ray_cluster import connected
from pruneonce.recipe import Recipe
from pruneonce.stages import RUNNERS, StageOptions
from pruneonce.study.index import write_study
from pruneonce.study.plan import Node, Plan, below_data
from pruneonce.train.processes import world_size


@dataclass(frozen=True)
class StudyResult:
    """What came of a study."""

    records: dict[str, Provenance] = field(default_factory=dict)  # run -> its record
    failures: dict[str, str] = field(default_factory=dict)  # run -> why it has no result

    def lacks_parent(self, node: Node) -> bool:
        """True, and noted, if a run that `node` needs has failed."""
        missing = next((parent for parent in node.parents if parent in self.failures), None)
        if missing is not None:
            self.failures[node.name] = f"{missing} has no result"
        return missing is not None


def run_study(plan: Plan, open_bar: OpenBar, jobs: int | None = None, on: str = "") -> StudyResult:
    """Run every node into `plan.out`/NAME. A run that fails is noted, and so are those that need it; others go on.

    open_bar: shows each run, or all where they are side by side. jobs: runs at the same time, each in a process of its
    own with an equal share of the cores; small models gain from it, since their steps keep no more than a core busy.
    None: one. on: "ray" or "ray://HOST:PORT", whose nodes share the study's folder and all that it reads: runs are its
    tasks, with an equal share of its CPUs each and a GPU where there are any; jobs None: as many as it has nodes.
    """
    if world_size() > 1:
        raise UsageError("a study runs in one process: run its recipes with torchrun one by one")
    with filling(plan.out):
        return _run_all(plan, open_bar, jobs, on)


def _run_all(plan: Plan, open_bar: OpenBar, jobs: int | None, on: str) -> StudyResult:
    write_study(plan, {})
    if any(node.stage in ("teacher", "prune", "compress") for node in plan.nodes.values()):
        make_corpus(plan, open_bar)
    result = StudyResult()
    if on:
        with connected(on, cpus=None, at_once=jobs, shared=plan.out, gpus=True) as cluster:
            submit = partial(cluster.submit, _run_there, cluster.cpus)
            _side_by_side(plan, open_bar, result, jobs or cluster.workers, submit)
    elif jobs is None or jobs == 1:
        _one_by_one(plan, open_bar, result)
    else:
        with _processes(jobs) as pool:
            _side_by_side(plan, open_bar, result, jobs, lambda *what: pool.submit(_run_node, *what))
    write_study(plan, result.failures)
    return result


def _one_by_one(plan: Plan, open_bar: OpenBar, result: StudyResult) -> None:
    for number, node in enumerate(plan.nodes.values(), 1):
        if result.lacks_parent(node):
            continue
        with open_bar(f"{number} of {len(plan.nodes)}: {node.name}") as advance:
            try:
                result.records[node.name] = RUNNERS[node.stage](
                    node.recipe, StageOptions(plan.out / node.name, on_progress=advance)
                )
            except PruneonceError as error:
                result.failures[node.name] = str(error)


def _side_by_side(
    plan: Plan, open_bar: OpenBar, result: StudyResult, jobs: int, submit: Callable[..., Future[Provenance]]
) -> None:
    waiting = dict(plan.nodes)
    running: dict[Future[Provenance], str] = {}
    with open_bar(f"{len(plan.nodes)} runs") as advance:
        while waiting or running:
            for name, node in list(waiting.items()):
                if result.lacks_parent(node):
                    del waiting[name]
                elif len(running) < jobs and all(parent in result.records for parent in node.parents):
                    del waiting[name]
                    running[submit(node.stage, node.recipe, plan.out / name)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    result.records[name] = future.result()
                except PruneonceError as error:
                    result.failures[name] = str(error)
                advance(len(result.records) + len(result.failures), len(plan.nodes), name)


@contextlib.contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Of this machine, with an equal share of its cores each."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["pruneonce.stages"])  # imports once what every worker needs
    threads = max(1, available_cores() // jobs)
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=(threads,)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise PruneonceError(
                "a worker process was killed, most often for want of memory: give fewer --jobs, then run the same "
                "command again"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    quiet_transformers()
    end_with_parent()


def _run_node(stage: str, recipe: Recipe, out: Path) -> Provenance:
    return RUNNERS[stage](recipe, StageOptions(out))


def _run_there(threads: int, stage: str, recipe: Recipe, out: Path) -> Provenance:
    """In a worker of a cluster."""
    torch.set_num_threads(threads)
    quiet_transformers()
    return _run_node(stage, recipe, out)


def make_corpus(plan: Plan, open_bar: OpenBar) -> Path:
    """The corpus of the pre-training stages, made from the study's texts where it names no folder."""
    wanted = plan.study.corpus
    if wanted.folder:
        return plan.corpus
    if not wanted.texts:
        raise UsageError("the study pre-trains: give corpus.folder, or corpus.texts to make a corpus from")
    articles = plan.out / "articles"
    with open_bar("articles") as advance:
        text.collect(
            [Path(below_data(plan.study, file)) for file in wanted.texts],
            articles,
            text_column=wanted.text_column,
            title_column=wanted.title_column,
            documents=wanted.documents,
            on_progress=advance,
        )
    with open_bar("corpus") as advance:
        build(
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
