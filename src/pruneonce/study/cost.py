"""What a plan would cost on this machine, before anything runs: one probe for every kind of run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pruneonce.estimate import Estimate, estimate
from pruneonce.provenance import read_provenance
from pruneonce.study.plan import Node, Plan


@dataclass(frozen=True)
class Cost:
    """Of one run."""

    steps: int
    examples: int  # trained on, repetitions counted
    hours: float  # training and scoring
    done: bool  # its folder is finished


def plan_costs(plan: Plan) -> dict[str, Cost]:
    """Run -> cost. Runs of one stage, task and batch share a probe, which is scaled by their steps."""
    probes: dict[tuple[object, ...], Estimate] = {}
    costs = {}
    for node in plan.nodes.values():
        done = read_provenance(plan.out / node.name) is not None
        training = node.recipe.training
        if training is None:
            costs[node.name] = Cost(0, 0, 0.0, done)
            continue
        distilled = node.recipe.distillation is not None if hasattr(node.recipe, "distillation") else False
        key = (node.stage, node.task, training.batch_size, training.micro_batch_size, distilled)
        probe = probes.get(key) or _probe(plan, node)
        probes[key] = probe
        steps = node.steps if node.steps is not None else _probe(plan, node).steps
        hours = steps * probe.seconds_per_step / 3600 + probe.evaluation_hours
        costs[node.name] = Cost(steps, steps * training.batch_size, hours, done)
    return costs


def _probe(plan: Plan, node: Node) -> Estimate:
    # The node's own model may not have been made yet; it has the shape of the one it descends from.
    recipe = replace(node.recipe, model=plan.study.model)
    if hasattr(recipe, "corpus") and not Path(recipe.corpus).is_dir():
        return estimate(recipe, unbuilt_corpus_tokens=plan.study.corpus.max_tokens)
    return estimate(recipe)
