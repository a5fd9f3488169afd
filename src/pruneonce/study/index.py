"""`NAME.study.json`: which runs make which cell, so that reports need nothing but the study's folder.

Several studies may share a folder, and then the runs that they have in common.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import check_format_version, read_json, write_json
from pruneonce.study.plan import Cell, Plan
from pruneonce.study.recipe import NAME

SUFFIX = ".study.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class StudyIndex:
    """What the file holds. Names of runs are names of folders beside it."""

    name: str
    source: str
    baseline: str
    reference: str
    methods: dict[str, str]  # method -> title
    tasks: tuple[str, ...]
    cells: list[dict[str, Any]]  # method, sparsity, task, seed, chain
    runs: dict[str, dict[str, Any]]  # name -> stage, steps and examples as planned
    failures: dict[str, str] = field(default_factory=dict)  # run -> why it has no result
    format_version: int = FORMAT_VERSION


def write_study(plan: Plan, failures: dict[str, str]) -> None:
    """Write the index of a plan into its folder."""
    study = plan.study
    index = StudyIndex(
        name=study.name,
        source=study.source,
        baseline=study.baseline,
        reference=study.reference,
        methods={name: method.title for name, method in study.methods.items()},
        tasks=tuple(study.tasks),
        cells=[asdict(cell) for cell in plan.cells],
        runs={
            node.name: {"stage": node.stage, "steps": node.steps, "examples": node.examples}
            for node in plan.nodes.values()
        },
        failures=failures,
    )
    write_json(index_file(plan), asdict(index))


def index_file(plan: Plan) -> Path:
    """Where the index of a plan is."""
    return plan.out / f"{plan.study.name}{SUFFIX}"


def find_study(path: Path) -> Path | None:
    """The index that `path` is or holds; None where there is none. UsageError where there are several."""
    if path.is_file():
        return path if path.name.endswith(SUFFIX) else None
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) > 1:
        raise UsageError(f"{path} holds several studies, name one: {', '.join(file.name for file in found)}")
    return found[0] if found else None


def read_study(file: Path) -> StudyIndex:
    """A study's index. PruneonceError if it is damaged or leads out of its folder."""
    values = read_json(file)
    check_format_version(file, values.get("format_version") if isinstance(values, dict) else None, FORMAT_VERSION)
    try:
        index = StudyIndex(**values)
        for name in (*index.runs, *(name for cell in index.cells for name in cell["chain"])):
            if not NAME.fullmatch(name):
                raise ValueError(f"'{name}' is no name of a run")  # and could lead out of the folder
        for cell in index.cells:
            Cell(**cell)
    except (TypeError, ValueError, KeyError) as error:
        raise PruneonceError(f"{file} is not a study's index: {error}") from error
    return index
