"""Study recipes: which methods, sparsities, tasks and seeds, from TOML into typed dataclasses.

A method is a list of named stages; each is a recipe that the task and then the method may override. A file may start
from another one beside it: `extends = "other.toml"`; a table set to false is left out. An unknown key
is an error here as in any recipe: see `plan`, which builds every stage's recipe before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pruneonce.errors import UsageError
from pruneonce.recipe import STAGES, apply_overrides, build, checked_seeds, read_toml

# Names become parts of folder names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Partial = Mapping[str, Any]  # some keys of a stage's recipe


@dataclass(frozen=True)
class CorpusData:
    """The corpus of pre-training stages: one that exists, or texts to make it from."""

    folder: str = ""  # made by `pruneonce data pretraining`
    texts: tuple[str, ...] = ()  # .txt, .jsonl or .parquet files below `data`
    text_column: str = "text"
    title_column: str | None = None
    documents: Literal["blank-line", "line", "file"] = "blank-line"  # what ends a document of a .txt file
    layout: Literal["segment_pair_nsp", "document_sentences"] = "segment_pair_nsp"
    max_tokens: int = 128
    validation_fraction: float = 0.05
    seed: int = 42


@dataclass(frozen=True)
class Method:
    """A way from the model to a fine-tuned one."""

    title: str = ""  # as reports call it; empty: its name
    stages: tuple[str, ...] = ()  # names of stages, in order; the last is for a task
    like: str = ""  # take stages and overrides from this method first
    equal_steps: str = ""  # the last stage gets as many steps as make the chain as long as that of this method
    tasks: tuple[str, ...] = ()  # only these; empty: all of the study
    sparsities: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    overrides: Mapping[str, Partial] = field(default_factory=dict)  # stage -> keys; in TOML the table `set`


@dataclass(frozen=True)
class Study:
    """A grid of cells."""

    name: str
    model: str  # folder or Hub id that every chain starts from
    seeds: tuple[int, ...]  # of the task stages; pre-training stages run once, with the seed they state or 42
    sparsities: tuple[float, ...]
    corpus: CorpusData
    stages: Mapping[str, Partial]
    tasks: Mapping[str, Partial]
    methods: Mapping[str, Method]
    data: str = ""  # folder that the files of tasks and corpus are relative to
    baseline: str = "dense"  # retention is relative to this method
    reference: str = ""  # method that the others are compared with; empty: none
    source: str = ""


@dataclass(frozen=True)
class _Keys:
    """The plain keys of the file."""

    model: str
    seeds: tuple[int, ...]
    sparsities: tuple[float, ...]
    corpus: CorpusData = field(default_factory=CorpusData)
    data: str = ""
    baseline: str = "dense"
    reference: str = ""
    source: str = ""


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study recipe and apply `key=value` overrides. UsageError for anything that does not fit."""
    path = Path(path)
    values = apply_overrides(_with_base(path, ()), overrides)
    try:
        return _study(path.stem, values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _with_base(path: Path, within: tuple[Path, ...]) -> dict[str, Any]:
    """A file's values on top of those of the file beside it that it `extends`."""
    if path.resolve() in within:
        raise UsageError(f"{path} extends itself")
    values = read_toml(path)
    base = values.pop("extends", "")
    if not base:
        return values
    if not isinstance(base, str):
        raise UsageError(f"{path}: 'extends' must name a study's file, got {base!r}")
    return merged(_with_base(path.parent / base, (*within, path.resolve())), values)


def _study(name: str, values: dict[str, Any]) -> Study:
    all_tasks = values.get("tasks")
    switched_off = [name for name in all_tasks if all_tasks[name] is False] if isinstance(all_tasks, Mapping) else []
    stages, tasks, methods = (_tables(values, key) for key in ("stages", "tasks", "methods"))
    keys = build(_Keys, values)
    checked_seeds(list(keys.seeds), "seeds")
    for sparsity in keys.sparsities:
        if not 0.0 < sparsity < 1.0:
            raise UsageError(f"'sparsities' must be between 0 and 1 (0.9 for 90 %), got {sparsity}")
    for stage, recipe in stages.items():
        if recipe.get("stage") not in STAGES:
            raise UsageError(f"stages.{stage}.stage must be one of {', '.join(STAGES)}, got {recipe.get('stage')!r}")
    for task, recipe in tasks.items():
        if not isinstance(recipe.get("task"), Mapping):
            raise UsageError(f"tasks.{task} needs a section [tasks.{task}.task]")
    resolved: dict[str, Method] = {}
    for method, table in methods.items():
        resolved[method] = _method(method, dict(table), resolved)
    for method, chosen in list(resolved.items()):
        left = tuple(task for task in chosen.tasks if task not in switched_off)
        if chosen.tasks and not left:
            del resolved[method]
        else:
            resolved[method] = replace(chosen, tasks=left)
    study = Study(name=name, stages=stages, tasks=tasks, methods=resolved, **vars(keys))
    for method, chosen in resolved.items():
        _known(f"methods.{method}.stages", chosen.stages, stages)
        _known(f"methods.{method}.set", chosen.overrides, chosen.stages)
        _known(f"methods.{method}.tasks", chosen.tasks, tasks)
        _known(f"methods.{method}.equal_steps", [chosen.equal_steps] if chosen.equal_steps else [], resolved)
    _known("baseline", [study.baseline], resolved)
    _known("reference", [study.reference] if study.reference else [], resolved)
    return study


def _method(name: str, table: dict[str, Any], known: Mapping[str, Method]) -> Method:
    overrides = table.pop("set", {})
    if not isinstance(overrides, Mapping) or not all(isinstance(each, Mapping) for each in overrides.values()):
        raise UsageError(f"methods.{name}.set must hold a section per stage, [methods.{name}.set.STAGE]")
    method = build(Method, table, prefix=f"methods.{name}.")
    if "overrides" in table:
        raise UsageError(f"unknown key 'methods.{name}.overrides': did you mean 'methods.{name}.set'?")
    if method.like:
        _known(f"methods.{name}.like", [method.like], known, "a method above it")
    parent = known.get(method.like, Method())
    stages = method.stages or parent.stages
    if not stages:
        raise UsageError(f"methods.{name} has no stages")
    return Method(
        title=method.title or name,
        stages=stages,
        like=method.like,
        equal_steps=method.equal_steps or parent.equal_steps,
        tasks=method.tasks or parent.tasks,
        sparsities=method.sparsities or parent.sparsities,
        seeds=method.seeds or parent.seeds,
        overrides={
            stage: merged(parent.overrides.get(stage, {}), overrides.get(stage, {}))
            for stage in {**parent.overrides, **overrides}
        },
    )


def merged(*partials: Partial) -> dict[str, Any]:
    """Recipes on top of each other: sections are merged, any other value of a later one replaces an earlier one's."""
    result: dict[str, Any] = {}
    for partial in partials:
        for key, value in partial.items():
            inner = result.get(key)
            if isinstance(value, Mapping):
                result[key] = merged(inner if isinstance(inner, Mapping) else {}, value)
            else:
                result[key] = value
    return result


def _tables(values: dict[str, Any], key: str) -> dict[str, Partial]:
    tables = values.pop(key, {})
    if isinstance(tables, Mapping):
        tables = {name: table for name, table in tables.items() if table is not False}  # --set tasks.squad=false
    if not tables or not isinstance(tables, Mapping):
        raise UsageError(f"a study needs sections [{key}.NAME]")
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise UsageError(f"'{key}.{name}' must be a section [{key}.{name}], got {table!r}")
        if not NAME.fullmatch(name):
            raise UsageError(f"'{name}' in [{key}] cannot be part of a folder name: use letters, digits, - _ and .")
    return dict(tables)


def _known(key: str, names: Any, known: Any, what: str = "") -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"'{key}' names '{name}': expected {what or 'one of'} {', '.join(known) or 'none'}")
