"""What a report is made from: the JSON files of runs, studies and benchmarks, read and put in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruneonce.bench.inference.record import BenchRecord, load_bench
from pruneonce.bench.training.record import TrainingBenchRecord, is_training, load_training_bench
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.evaluation.over_seeds import Summary, summarise_metrics
from pruneonce.files import read_json
from pruneonce.formats.model_folder import WEIGHTS_FILE
from pruneonce.formats.record import Provenance, read_provenance
from pruneonce.study.index import StudyIndex, find_study, read_study
from pruneonce.tasks import class_of

LOG_FILE = "training_log.json"


@dataclass(frozen=True)
class Run:
    """A finished run folder."""

    name: str
    folder: Path
    record: Provenance
    log: list[dict[str, float]]

    @property
    def sparsity(self) -> float | None:
        """Mean fraction of zeros over the pruned matrices; None for a dense model."""
        values = self.record.sparsity.values()
        return sum(values) / len(values) if values else None

    @property
    def task(self) -> str:
        """Name of the task; empty for pre-training."""
        return str((self.record.recipe.get("task") or {}).get("name", ""))

    @property
    def weights_bytes(self) -> int | None:
        """Of the weights as PyTorch reads them."""
        file = self.folder / WEIGHTS_FILE
        return file.stat().st_size if file.is_file() else None

    @property
    def packed_bytes(self) -> int | None:
        """Of a packed file inside the folder or beside it, NAME.pruneonce."""
        beside = self.folder.parent / f"{self.folder.name}.pruneonce"
        found = [*sorted(self.folder.glob("*.pruneonce")), *([beside] if beside.is_file() else [])]
        return found[0].stat().st_size if found else None


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone: a method at a sparsity on a task."""

    method: str
    sparsity: float | None  # as asked for; None: dense
    task: str
    runs: tuple[Run, ...]
    chain: tuple[Run, ...] = ()  # what came before the first of them

    @property
    def metrics(self) -> dict[str, Summary]:
        """Metrics over the seeds, in percent (correlations too), the task's main one first."""
        return summarise_metrics([_in_percent(run) for run in self.runs])

    @property
    def main(self) -> Summary | None:
        """The task's main metric."""
        return next(iter(self.metrics.values()), None)


@dataclass
class Material:
    """Everything a report says."""

    title: str
    source: str = ""
    groups: list[Group] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)  # method -> what it is called
    baseline: str = ""  # method that retention is relative to
    reference: str = ""  # method that the others are compared with
    language_models: list[Run] = field(default_factory=list)
    benches: list[BenchRecord] = field(default_factory=list)
    training_benches: list[TrainingBenchRecord] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # what a reader would look for in vain, and why

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(group.task for group in self.groups))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(group.method for group in self.groups))

    def title_of(self, method: str) -> str:
        """What a method is called."""
        return self.titles.get(method, method)

    def named(self, group: Group) -> str:
        """ "Prune Once for All, 90 %"; "dense" alone."""
        title = self.title_of(group.method)
        return title if group.sparsity is None else f"{title}, {zeros(group.sparsity)}"

    def find(self, method: str, sparsity: float | None, task: str) -> Group | None:
        """The group of one square; None when it is not there."""
        wanted = (method, sparsity, task)
        return next((g for g in self.groups if (g.method, g.sparsity, g.task) == wanted), None)

    def dense(self, task: str) -> Group | None:
        """The baseline on a task."""
        return self.find(self.baseline, None, task)

    def retention(self, group: Group) -> float | None:
        """Main metric relative to the baseline's, in percent; None without one, and for the baseline itself."""
        dense = self.dense(group.task)
        if dense is None or dense is group or dense.main is None or group.main is None or dense.main.mean == 0:
            return None
        return 100 * group.main.mean / dense.main.mean


def zeros(sparsity: float | None) -> str:
    """ "90 %"; "dense"."""
    return "dense" if sparsity is None else f"{100 * sparsity:.4g} %"


def collect(paths: Sequence[Path]) -> Material:
    """Read studies, multi-seed folders, run folders and benchmark records. UsageError for a path that is none."""
    if not paths:
        raise UsageError("a report needs a study, a run folder or a record of `pruneonce bench --json`")
    material = Material(title=" and ".join(path.resolve().stem for path in paths if path.is_dir()) or "benchmarks")
    for path in paths:
        if (study := find_study(path)) is not None:
            _add_study(material, study.parent, read_study(study))
        elif path.is_file():
            _add_record(material, path)
        else:
            _add_runs(material, path)
    if not material.baseline:
        dense = [group for group in material.groups if group.sparsity is None]
        material.baseline = dense[0].method if dense else ""
    return material


def run_folders(path: Path) -> list[Path]:
    """The folder of one run, or those of every seed. UsageError when there is none."""
    if read_provenance(path) is not None:
        return [path]
    found = sorted(file.parent for file in path.glob("seed-*/pruneonce.json"))
    if not found:
        raise UsageError(f"{path} holds no finished run (no pruneonce.json, nor seed-N folders with one)")
    return found


def read_run(folder: Path) -> Run | None:
    """A finished run; None for a folder without its record."""
    record = read_provenance(folder)
    if record is None:
        return None
    file = folder / LOG_FILE
    log = read_json(file) if file.is_file() else []
    if not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
        raise PruneonceError(f"{file} is not a training log: expected a list of objects")
    return Run(folder.name, folder, record, log)


def is_percent(task: str) -> bool:
    """True where the task's own metrics are percentages."""
    return class_of(task).in_percent


def _in_percent(run: Run) -> dict[str, float]:
    scale = 1 if is_percent(run.task) else 100
    return {name: scale * value for name, value in run.record.metrics.items()}


def _add_study(material: Material, folder: Path, study: StudyIndex) -> None:
    runs = {name: read_run(folder / name) for name in study.runs}
    # Studies that share a folder share runs: what a second one has in common with the first is shown once.
    several = bool(material.groups or material.missing)
    material.title = f"{material.title} and {study.name}" if several else study.name
    material.source = f"{material.source} {study.name}: {study.source}" if several else study.source
    material.baseline, material.reference = study.baseline, study.reference
    material.titles |= study.methods
    squares: dict[tuple[str, float | None, str], list[dict[str, Any]]] = {}
    for cell in study.cells:
        squares.setdefault((cell["method"], cell["sparsity"], cell["task"]), []).append(cell)
    for (method, sparsity, task), cells in squares.items():
        done = [cell for cell in cells if runs.get(cell["chain"][-1]) is not None]
        for cell in cells:
            if cell not in done:
                reason = next((study.failures[name] for name in cell["chain"] if name in study.failures), "not run yet")
                zeros = "" if sparsity is None else f" at {sparsity:.0%}"
                line = f"{method}{zeros} on {task}, seed {cell['seed']}: {reason}"
                if line not in material.missing:
                    material.missing.append(line)
        if done:
            ends = tuple(run for cell in done if (run := runs[cell["chain"][-1]]) is not None)
            chain = tuple(run for name in done[0]["chain"] if (run := runs.get(name)) is not None)
            group = Group(method, sparsity, task, ends, chain)
            if group not in material.groups:
                material.groups.append(group)
    known = {run.folder for run in material.language_models}
    found = (run for run in runs.values() if run is not None and not run.task)
    material.language_models += [run for run in found if run.folder not in known]


def _add_record(material: Material, file: Path) -> None:
    if is_training(read_json(file)):
        material.training_benches.append(load_training_bench(file))
    else:
        material.benches.append(load_bench(file))


def _add_runs(material: Material, path: Path) -> None:
    runs = [run for folder in run_folders(path) if (run := read_run(folder)) is not None]
    if not runs[0].task:
        material.language_models += runs
        return
    zeros = runs[0].sparsity
    method = path.resolve().name
    material.titles[method] = method
    material.groups.append(Group(method, None if zeros is None else round(zeros, 3), runs[0].task, tuple(runs)))


def pruned_language_models(runs: Iterable[Run]) -> list[Run]:
    """Those with zeros."""
    return [run for run in runs if run.sparsity is not None]
