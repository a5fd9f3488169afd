"""What a plan would cost on this machine, before anything runs: one probe for every kind of run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pruneonce.cost.estimate import UNBUILT_CORPUS_TOKENS, Estimate, estimate
from pruneonce.cost.probe import is_distilled
from pruneonce.formats.record import read_provenance
from pruneonce.progress import Advance, no_progress
from pruneonce.study.plan import Node, Plan


@dataclass(frozen=True)
class Cost:
    """Of one run."""

    steps: int
    examples: int  # trained on, repetitions counted
    hours: float  # training and scoring
    done: bool  # its folder is finished


def plan_costs(plan: Plan, on_progress: Advance | None = None) -> dict[str, Cost]:
    """Run -> cost. Runs that differ in steps, seeds or rates alone share a probe, which is scaled by the steps."""
    probes: dict[tuple[object, ...], Estimate] = {}
    costs = {}
    advance = on_progress or no_progress
    for number, node in enumerate(plan.nodes.values()):
        advance(number, len(plan.nodes), "runs")
        done = read_provenance(plan.out / node.name) is not None
        training = node.recipe.training
        if training is None:
            costs[node.name] = Cost(0, 0, 0.0, done)
            continue
        recipe, sparsity = node.recipe, _locked_sparsity(plan, node)
        distilled = is_distilled(recipe)
        # As text: what they hold may have no hash.
        sections = [repr(getattr(recipe, name, None)) for name in ("pruning", "matching")]
        batch = (training.batch_size, training.micro_batch_size, training.precision, training.dropout)
        key = (node.stage, node.task, batch, distilled, *sections, sparsity, training.kernel)
        if key not in probes:
            probes[key] = _probe(plan, node, sparsity)
        probe = probes[key]
        steps = node.steps if node.steps is not None else _probe(plan, node, sparsity).steps
        hours = steps * probe.seconds_per_step / 3600 + probe.evaluation_hours
        costs[node.name] = Cost(steps, steps * training.batch_size, hours, done)
    return costs


def _locked_sparsity(plan: Plan, node: Node) -> float | None:
    """Share of zeros that a run inherits; None if nothing before it prunes."""
    for name in plan.ancestors(node.name):
        pruning = getattr(plan.nodes[name].recipe, "pruning", None)
        if pruning is not None:
            return float(pruning.sparsity)
    return None


def _probe(plan: Plan, node: Node, sparsity: float | None) -> Estimate:
    # The node's own model may not have been made yet; it has the shape of the one it descends from.
    recipe = replace(node.recipe, model=plan.study.model)
    tokens = UNBUILT_CORPUS_TOKENS
    if hasattr(recipe, "corpus") and not Path(recipe.corpus).is_dir():
        tokens = plan.study.corpus.max_tokens
    return estimate(recipe, sparsity=sparsity, unbuilt_corpus_tokens=tokens)
