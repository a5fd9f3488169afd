"""Study recipes: which methods, sparsities, tasks and seeds, from TOML into typed dataclasses.

A method is a list of named stages; each is a recipe that the task and then the method may override. A file may start
from another one beside it: `extends = "other.toml"`; a table set to false is left out. An unknown key
is an error here as in any recipe: see `plan`, which builds every stage's recipe before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pruneonce.errors import UsageError
from pruneonce.recipe import STAGES, apply_overrides, build, check_seed, checked_seeds, read_toml
from pruneonce.tasks.table import did_you_mean

# Names become parts of folder names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Partial = dict[str, Any]  # some keys of a stage's recipe


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

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True)
class Method:
    """A way from the model to a fine-tuned one."""

    title: str = ""  # as reports call it; empty: its name
    stages: tuple[str, ...] = ()  # names of stages, in order; the last is for a task
    like: str = ""  # take what is not said here from this method above
    set: dict[str, Partial] = field(default_factory=dict)  # stage -> keys of its recipe
    equal_steps: str = ""  # the last stage gets as many steps as make the chain as long as that of this method
    tasks: tuple[str, ...] = ()  # only these; empty: all of the study
    sparsities: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Study:
    """A grid of cells."""

    model: str  # folder or Hub id that every chain starts from
    seeds: tuple[int, ...]  # of the task stages; pre-training stages run once, with the seed they state or 42
    sparsities: tuple[float, ...]
    stages: dict[str, Partial]  # recipes by name, each with its `stage`
    # What a task changes in its stages: `task`, and perhaps `training`; `sparsities`: only these; `as_is`: true where
    # nothing is trained for it and what the stages before have made is scored, or names of stages of which that is so.
    tasks: dict[str, Partial]
    methods: dict[str, Method]
    corpus: CorpusData = field(default_factory=CorpusData)
    data: str = ""  # folder that the files of tasks and corpus are relative to
    baseline: str = "dense"  # retention is relative to this method
    reference: str = ""  # method that the others are compared with; empty: none
    source: str = ""
    name: str = ""  # of the file


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study recipe and apply `key=value` overrides. UsageError for anything that does not fit."""
    path = Path(path)
    in_file = _with_base(path, ())
    values = apply_overrides(dict(in_file), overrides)
    try:
        _check_switched_off(values, in_file)
        if "name" in values:
            raise UsageError("unknown key 'name': a study is called as its file")
        return replace(_checked(build(Study, _without_switched_off(values))), name=path.stem)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def merged(*partials: Mapping[str, Any]) -> dict[str, Any]:
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


def _with_base(path: Path, within: tuple[Path, ...]) -> dict[str, Any]:
    """A file's values on top of those of the file beside it that it `extends`."""
    if path.resolve() in within:
        raise UsageError(f"{path} extends itself")
    values = read_toml(path)
    base = values.pop("extends", "")
    if base and not isinstance(base, str):
        raise UsageError(f"{path}: 'extends' must name a study's file, got {base!r}")
    below = _with_base(path.parent / base, (*within, path.resolve())) if base else {}
    try:
        _check_switched_off(values, below)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return merged(below, values)


def _check_switched_off(values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """UsageError for a task or method that is set to false and that `known` does not have: it is misspelt."""
    for key in ("tasks", "methods"):
        tables, names = values.get(key), known.get(key)
        names = list(names) if isinstance(names, Mapping) else []
        for name, table in tables.items() if isinstance(tables, Mapping) else ():
            if table is False and name not in names:
                raise UsageError(
                    f"{key}.{name} = false: there is no {key[:-1]} '{name}'{did_you_mean(name, names)}; "
                    f"{key} are {', '.join(names) or 'none'}"
                )


def _without_switched_off(values: dict[str, Any]) -> dict[str, Any]:
    """Without tasks and methods that are `false`, and without methods that were for such tasks alone."""
    kept = dict(values)
    for key in ("tasks", "methods"):
        tables = kept.get(key)
        if isinstance(tables, Mapping):
            kept[key] = {name: table for name, table in tables.items() if table is not False}
    tasks, methods = values.get("tasks"), kept.get("methods")
    off = [name for name, table in tasks.items() if table is False] if isinstance(tasks, Mapping) else []
    if off and isinstance(methods, dict):
        cut = {name: _without_tasks(table, off) for name, table in methods.items()}
        kept["methods"] = {name: table for name, table in cut.items() if table is not None}
    return kept


def _without_tasks(method: Any, off: Collection[str]) -> Any:
    """A method's table without those tasks; None if it was for nothing else."""
    wanted = method.get("tasks") if isinstance(method, Mapping) else None
    if not isinstance(wanted, list) or not wanted:
        return method
    left = [task for task in wanted if task not in off]
    return {**method, "tasks": left} if left else None


def _checked(study: Study) -> Study:
    """With every method resolved; UsageError where names lead nowhere."""
    checked_seeds(list(study.seeds), "seeds")
    for sparsity in study.sparsities:
        if not 0.0 < sparsity < 1.0:
            raise UsageError(f"'sparsities' must be between 0 and 1 (0.9 for 90 %), got {sparsity}")
    for key in ("stages", "tasks", "methods"):
        names = getattr(study, key)
        if not names:
            raise UsageError(f"a study needs sections [{key}.NAME]")
        for name in names:
            if not NAME.fullmatch(name):
                raise UsageError(f"'{name}' in [{key}] cannot be part of a folder name: use letters, digits, - _ and .")
    for stage, recipe in study.stages.items():
        if not isinstance(recipe.get("stage"), str) or recipe["stage"] not in STAGES:
            raise UsageError(f"stages.{stage}.stage must be one of {', '.join(STAGES)}, got {recipe.get('stage')!r}")
    for task, recipe in study.tasks.items():
        if not isinstance(recipe.get("task"), Mapping):
            raise UsageError(f"tasks.{task} needs a section [tasks.{task}.task]")
        if not isinstance(recipe.get("sparsities", []), list):
            raise UsageError(f"'tasks.{task}.sparsities' must be a list, got {recipe['sparsities']!r}")
        as_is = recipe.get("as_is", False)
        if not isinstance(as_is, bool | list):
            raise UsageError(f"'tasks.{task}.as_is' must be true, false or a list of stages, got {as_is!r}")
        _known(f"tasks.{task}.as_is", as_is if isinstance(as_is, list) else (), study.stages)
    methods: dict[str, Method] = {}
    for name, method in study.methods.items():
        methods[name] = _resolved(name, method, methods)
        _known(f"methods.{name}.stages", methods[name].stages, study.stages)
        _known(f"methods.{name}.set", methods[name].set, methods[name].stages)
        _known(f"methods.{name}.tasks", method.tasks, study.tasks)
        _known(f"methods.{name}.equal_steps", [method.equal_steps] if method.equal_steps else [], study.methods)
    _known("baseline", [study.baseline], methods)
    _known("reference", [study.reference] if study.reference else [], methods)
    return replace(study, methods=methods)


def _resolved(name: str, method: Method, above: Mapping[str, Method]) -> Method:
    """A method with what it takes from the one it is like."""
    if method.like:
        _known(f"methods.{name}.like", [method.like], above, "a method above it")
    parent = above.get(method.like, Method())
    if not (method.stages or parent.stages):
        raise UsageError(f"methods.{name} has no stages")
    return Method(
        title=method.title or name,
        stages=method.stages or parent.stages,
        like=method.like,
        set=merged(parent.set, method.set),
        equal_steps=method.equal_steps or parent.equal_steps,
        tasks=method.tasks or parent.tasks,
        sparsities=method.sparsities or parent.sparsities,
        seeds=method.seeds or parent.seeds,
    )


def _known(key: str, names: Collection[str], known: Collection[str], what: str = "one of") -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"'{key}' names '{name}': expected {what} {', '.join(known) or 'none'}")
