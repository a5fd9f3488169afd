"""From a study to what must be run: each different stage once, in an order in which parents come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneonce.errors import UsageError
from pruneonce.files import sha256_json
from pruneonce.recipe import Recipe, parse_recipe
from pruneonce.study.recipe import Method, Partial, Study, merged

TASK_STAGES = ("finetune", "quantize", "evaluate")
PRETRAINING_SEED = 42
SPARSITIES = "sparsities"  # of a task: only these; all of the study when it does not say
AS_IS = "as_is"  # of a task: true where models are scored as they are, in place of stages for tasks; or those stages
UNTOUCHED = "model"  # the study's, as a teacher
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


@dataclass(frozen=True)
class Plan:
    """What a study runs."""

    study: Study
    out: Path
    nodes: dict[str, Node]  # parents before children
    cells: list[Cell]

    def ancestors(self, name: str) -> set[str]:
        """Every node that `name` needs."""
        found: set[str] = set()
        for parent in self.nodes[name].parents:
            found |= {parent, *self.ancestors(parent)}
        return found

    @property
    def corpus(self) -> Path:
        """Where the corpus of the pre-training stages is, or will be."""
        return corpus_folder(self.study, self.out)


def make_plan(study: Study, out: Path) -> Plan:
    """Every cell and run of a study, each recipe checked. UsageError for a key or value that does not fit."""
    nodes: dict[str, Node] = {}
    cells = []
    for name, method in study.methods.items():
        sparsities = method.sparsities or study.sparsities if _prunes(study, method) else (None,)
        for sparsity in sparsities:
            for task in method.tasks or tuple(study.tasks):
                if sparsity not in (None, *study.tasks[task].get(SPARSITIES, [sparsity])):
                    continue
                for seed in method.seeds or study.seeds:
                    chain = _chain(study, out, name, sparsity, task, seed)
                    cells.append(Cell(name, sparsity, task, seed, tuple(node.name for node in chain.runs)))
                    for node in chain.made:
                        nodes.setdefault(node.name, node)
    return Plan(study, out, nodes, cells)


def corpus_folder(study: Study, out: Path) -> Path:
    """Where the corpus of a study's pre-training stages is, or will be."""
    return Path(study.corpus.folder) if study.corpus.folder else out / "corpus"


def below_data(study: Study, file: str) -> str:
    """A file of the study: relative to its data folder."""
    return str(Path(study.data) / file) if file and study.data else file


def _prunes(study: Study, method: Method) -> bool:
    return any(_makes_zeros(_partial(study, method, stage, None)) for stage in method.stages)


def _makes_zeros(recipe: Partial) -> bool:
    return recipe["stage"] in ("prune", "compress") or recipe.get("pruning", False) is not False


def _partial(study: Study, method: Method, stage: str, task: str | None) -> dict[str, Any]:
    """A stage's recipe, overridden by the task where it has one and then by the method."""
    recipe = study.stages[stage]
    for_task = study.tasks[task] if task is not None and recipe["stage"] in TASK_STAGES else {}
    for_task = {key: value for key, value in for_task.items() if key not in (SPARSITIES, AS_IS)}
    # A stage that trains nothing, whatever its task asks of others.
    if recipe.get("training") is False or recipe["stage"] == "evaluate":
        for_task = {key: value for key, value in for_task.items() if key != "training"}
    return merged(recipe, for_task, method.set.get(stage, {}))


@dataclass(frozen=True)
class _Chain:
    """The runs of one cell."""

    runs: tuple[Node, ...] = ()  # one for each of the method's stages
    made: tuple[Node, ...] = ()  # these and those of their teachers, parents before children

    def then(self, node: Node, teacher: _Chain) -> _Chain:
        """This chain and one more run, which learns from the last of `teacher`."""
        return _Chain((*self.runs, node), (*self.made, *teacher.made, node))


def _chain(
    study: Study, out: Path, name: str, sparsity: float | None, task: str, seed: int, within: tuple[str, ...] = ()
) -> _Chain:
    """What the method `name` runs for a cell. within: the methods that need it, to find a circle."""
    if name in within:
        raise UsageError(f"methods need each other: {' -> '.join([*within, name])}")
    method, within = study.methods[name], (*within, name)
    if study.stages[method.stages[-1]]["stage"] not in TASK_STAGES:
        raise UsageError(f"methods.{name}.stages must end with a stage for a task ({', '.join(TASK_STAGES)})")
    chain, pruned = _Chain(), None
    for stage in method.stages:
        values = _partial(study, method, stage, task)
        if values["stage"] in TASK_STAGES and _is_scored_as_is(study.tasks[task], stage):
            score = {"stage": "evaluate", "task": study.tasks[task]["task"]}
            node = _node(study, out, score, "score", task, seed, _last(chain), "", where=f"task '{task}'")
            return chain.then(node, _Chain())
        if _makes_zeros(values):
            if sparsity is None:
                raise UsageError(f"method '{name}' is needed dense, but its stage '{stage}' prunes")
            values = merged(values, {"pruning": {"sparsity": sparsity}})
            pruned = sparsity
        if method.equal_steps and stage == method.stages[-1]:
            # The runs of the reference are made only if some cell has them.
            reference = _chain(study, out, method.equal_steps, sparsity, task, seed, within).runs
            values = merged(values, {"training": {"steps": _missing_steps(name, reference, chain.runs)}})
        teacher, taught_by = _Chain(), ""
        distillation = values.get("distillation")
        wanted = str(distillation.get("teacher", "")) if isinstance(distillation, Mapping) else ""
        if wanted.startswith(REFERENCE):
            if wanted[1:] not in study.methods:
                raise UsageError(f"stages.{stage}: teacher '{wanted}' names no method")
            teacher = _chain(study, out, wanted[1:], None, task, study.seeds[0], within)
            taught_by = _model_of(teacher)
        label = "-".join([stage, *([_percent(pruned)] if pruned is not None else [])])
        parents = _last(chain), taught_by
        node = _node(study, out, values, label, task, seed, *parents, where=f"method '{name}', stage '{stage}'")
        chain = chain.then(node, teacher)
    return chain


def _last(chain: _Chain) -> str:
    """Name of a chain's last run; "" if it has none."""
    return chain.runs[-1].name if chain.runs else ""


def _is_scored_as_is(task: Mapping[str, Any], stage: str) -> bool:
    asked = task.get(AS_IS, False)
    return asked if isinstance(asked, bool) else stage in asked


def _model_of(chain: _Chain) -> str:
    """Name of the run whose model a chain ends with: not that of a score. UNTOUCHED if there is none."""
    return next((node.name for node in reversed(chain.runs) if node.stage != "evaluate"), UNTOUCHED)


def _node(
    study: Study,
    out: Path,
    given: Partial,
    label: str,
    task: str,
    seed: int,
    parent: str,
    teacher: str,
    *,
    where: str,
) -> Node:
    """The run of a stage. parent, teacher: names of the runs that it begins with and learns from; "" if there is none,
    and for a teacher UNTOUCHED.

    where: of the study's file, for errors.
    """
    kind = given["stage"]
    for_task = kind in TASK_STAGES
    values = {"seed": seed if for_task else PRETRAINING_SEED, **{k: v for k, v in given.items() if k != "stage"}}
    for key in ("model", "corpus"):
        if key in values:
            raise UsageError(f"{where}: '{key}' is the study's to say")
    if teacher:
        values = merged(values, {"distillation": {"teacher": teacher}})
    # Where things are does not decide what a run is: parents by their names, files by theirs below the data folder.
    identity = {"stage": kind, "model": parent, "recipe": {k: v for k, v in values.items() if k != "source"}}
    which = [task, f"seed{values['seed']}"] if for_task else []
    name = "-".join([label, *which, sha256_json(identity)[:8]])
    located: dict[str, Any] = {"model": str(out / parent) if parent else study.model}
    if for_task:
        data = values["task"]
        located["task"] = {key: below_data(study, data[key]) for key in ("train", "validation") if _is_text(data, key)}
    else:
        located["corpus"] = str(corpus_folder(study, out))
    if teacher:
        located["distillation"] = {"teacher": study.model if teacher == UNTOUCHED else str(out / teacher)}
    recipe = parse_recipe(merged(values, located), kind, where=where)
    parents = tuple(each for each in (parent, teacher) if each not in ("", UNTOUCHED))
    return Node(name, kind, recipe, parents, task if for_task else "")


def _is_text(section: Partial, key: str) -> bool:
    return isinstance(section.get(key), str)


def _percent(sparsity: float) -> str:
    """0.9 -> "90", 0.975 -> "97.5"."""
    return f"{100 * sparsity:.6g}"


def _missing_steps(name: str, reference: Sequence[Node], chain: Sequence[Node]) -> int:
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
