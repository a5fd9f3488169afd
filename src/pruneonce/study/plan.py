"""From a study to what must be run: each different stage once, in an order in which parents come first."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruneonce.errors import UsageError
from pruneonce.files import sha256_json
from pruneonce.recipe import Recipe, parse_recipe
from pruneonce.study.recipe import Method, Partial, Study, merged

TASK_STAGES = ("finetune", "quantize")
PRETRAINING_SEED = 42
SPARSITIES = "sparsities"  # of a task: only these; all of the study when it does not say
REFERENCE = "@"  # "@dense" as a teacher: what the method `dense` made for the same task, with the study's first seed


@dataclass(frozen=True)
class Node:
    """One run: a folder of the study."""

    name: str  # of the folder; ends in a digest of all that decides the run
    stage: str
    recipe: Recipe  # its paths are those of parents' folders, which may not exist yet
    parents: tuple[str, ...]
    task: str = ""  # key of the study's task; empty for pre-training

    @property
    def steps(self) -> int | None:
        """Optimizer steps; None where they follow from the number of examples."""
        training = self.recipe.training
        return training.steps if training is not None else 0

    @property
    def examples(self) -> int | None:
        """Examples that are trained on, repetitions counted."""
        training = self.recipe.training
        if training is None:
            return 0
        return None if training.steps is None else training.steps * training.batch_size


@dataclass(frozen=True)
class Cell:
    """One square of the grid: its chain of runs, the last of which has its metrics."""

    method: str
    sparsity: float | None  # None: dense
    task: str
    seed: int
    chain: tuple[str, ...]  # names of nodes


@dataclass
class Plan:
    """What a study runs."""

    study: Study
    out: Path
    nodes: dict[str, Node] = field(default_factory=dict)  # parents before children
    cells: list[Cell] = field(default_factory=list)

    def ancestors(self, name: str) -> set[str]:
        """Every node that `name` needs."""
        found: set[str] = set()
        for parent in self.nodes[name].parents:
            found |= {parent, *self.ancestors(parent)}
        return found

    @property
    def corpus(self) -> Path:
        """Where the corpus of the pre-training stages is, or will be."""
        return Path(self.study.corpus.folder) if self.study.corpus.folder else self.out / "corpus"


def make_plan(study: Study, out: Path) -> Plan:
    """Every cell and run of a study, each recipe checked. UsageError for a key or value that does not fit."""
    plan = Plan(study, out)
    for name, method in study.methods.items():
        sparsities = method.sparsities or study.sparsities if _prunes(study, method) else (None,)
        for sparsity in sparsities:
            for task in method.tasks or tuple(study.tasks):
                if sparsity not in (None, *study.tasks[task].get(SPARSITIES, [sparsity])):
                    continue
                for seed in method.seeds or study.seeds:
                    chain = _add_chain(plan, name, sparsity, task, seed)
                    plan.cells.append(Cell(name, sparsity, task, seed, tuple(chain)))
    return plan


def below_data(study: Study, file: str) -> str:
    """A file of the study: relative to its data folder."""
    return str(Path(study.data) / file) if file and study.data else file


def _prunes(study: Study, method: Method) -> bool:
    return any(_makes_zeros(_partial(study, method, stage, None)) for stage in method.stages)


def _makes_zeros(recipe: Partial) -> bool:
    return recipe["stage"] == "prune" or recipe.get("pruning", False) is not False


def _partial(study: Study, method: Method, stage: str, task: str | None) -> dict[str, Any]:
    """A stage's recipe, overridden by the task where it has one and then by the method."""
    recipe = study.stages[stage]
    for_task = study.tasks[task] if task is not None and recipe["stage"] in TASK_STAGES else {}
    for_task = {key: value for key, value in for_task.items() if key != SPARSITIES}
    if recipe.get("training") is False:  # a stage that trains nothing, whatever its task asks of others
        for_task = {key: value for key, value in for_task.items() if key != "training"}
    return merged(recipe, for_task, method.set.get(stage, {}))


def _add_chain(
    plan: Plan, name: str, sparsity: float | None, task: str, seed: int, within: tuple[str, ...] = ()
) -> list[str]:
    """Add the runs of a cell that are not there yet; the names of its chain."""
    if name in within:
        raise UsageError(f"methods need each other: {' -> '.join([*within, name])}")
    study, method = plan.study, plan.study.methods[name]
    within = (*within, name)
    pruned: float | None = None
    if study.stages[method.stages[-1]]["stage"] not in TASK_STAGES:
        raise UsageError(f"methods.{name}.stages must end with a stage for a task ({' or '.join(TASK_STAGES)})")
    chain: list[str] = []
    for stage in method.stages:
        values = _partial(study, method, stage, task)
        if _makes_zeros(values):
            if sparsity is None:
                raise UsageError(f"method '{name}' is needed dense, but its stage '{stage}' prunes")
            values = merged(values, {"pruning": {"sparsity": sparsity}})
            pruned = sparsity
        if method.equal_steps and stage == method.stages[-1]:
            other = Plan(study, plan.out)  # its runs are wanted only if some cell has them
            reference = [
                other.nodes[each] for each in _add_chain(other, method.equal_steps, sparsity, task, seed, within)
            ]
            missing = _missing_steps(name, reference, [plan.nodes[each] for each in chain])
            values = merged(values, {"training": {"steps": missing}})
        teacher = ""
        wanted = str((values.get("distillation") or {}).get("teacher", ""))
        if wanted.startswith(REFERENCE):
            if wanted[1:] not in study.methods:
                raise UsageError(f"stages.{stage}: teacher '{wanted}' names no method")
            teacher = _add_chain(plan, wanted[1:], None, task, study.seeds[0], within)[-1]
        where = f"method '{name}', stage '{stage}'"
        label = "-".join([stage, *([_percent(pruned)] if pruned is not None else [])])
        parent = chain[-1] if chain else ""
        chain.append(_add_node(plan, values, label, task, seed, parent, teacher, where))
    return chain


def _add_node(
    plan: Plan,
    values: dict[str, Any],
    label: str,
    task: str,
    seed: int,
    parent: str,
    teacher: str,
    where: str,
) -> str:
    study = plan.study
    kind = values.pop("stage")
    for_task = kind in TASK_STAGES
    values.setdefault("seed", seed if for_task else PRETRAINING_SEED)
    for key in ("model", "corpus"):
        if key in values:
            raise UsageError(f"{where}: '{key}' is the study's to say")
    if teacher:
        values["distillation"]["teacher"] = teacher
    # Where things are does not decide what a run is: parents by their names, files by theirs below the data folder.
    identity = {"stage": kind, "model": parent, "recipe": {k: v for k, v in values.items() if k != "source"}}
    which = [task, f"seed{values['seed']}"] if for_task else []
    name = "-".join([label, *which, sha256_json(identity)[:8]])
    if name in plan.nodes:
        return name
    located: dict[str, Any] = {"model": str(plan.out / parent) if parent else study.model}
    if for_task:
        data = values["task"]
        files = {key: below_data(study, data[key]) for key in ("train", "validation") if isinstance(data.get(key), str)}
        located["task"] = files
    else:
        located["corpus"] = str(plan.corpus)
    if teacher:
        located["distillation"] = {"teacher": str(plan.out / teacher)}
    recipe = parse_recipe(merged(values, located), kind, where=where)
    parents = tuple(each for each in (parent, teacher) if each)
    plan.nodes[name] = Node(name, kind, recipe, parents, task if for_task else "")
    return name


def _percent(sparsity: float) -> str:
    """0.9 -> "90", 0.975 -> "97.5"."""
    return f"{100 * sparsity:.6g}"


def _missing_steps(name: str, reference: list[Node], chain: list[Node]) -> int:
    """Steps that a chain lacks to be as long as `reference`."""
    steps = {}
    for node in (*reference, *chain):
        if node.steps is None:
            raise UsageError(
                f"methods.{name}.equal_steps needs training.steps in every stage; '{node.name}' has epochs"
            )
        steps[node.name] = node.steps
    missing = sum(steps[node.name] for node in reference) - sum(steps[node.name] for node in chain)
    if missing < 1:
        raise UsageError(f"methods.{name}.equal_steps: its chain is already as long without its last stage")
    return missing
