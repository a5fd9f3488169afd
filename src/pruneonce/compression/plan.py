"""How many steps a budget allows on this machine: the stage's own passes, timed, before the first real one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pruneonce.compression import vectors
from pruneonce.cost.estimate import late_share
from pruneonce.errors import UsageError
from pruneonce.machine import instruction_sets
from pruneonce.models import encoder_plan_of
from pruneonce.models.hub import load_config
from pruneonce.recipe import CompressRecipe, Matching, Pruning, parse_recipe
from pruneonce.stages.compression import build_matching, open_texts
from pruneonce.stages.options import StageOptions
from pruneonce.train.matching import MatchingObjective
from pruneonce.train.trainer import TrainingRun, computing

TOKENS_PER_STEP = 1024
FEWEST_STEPS = 50  # fewer have no time to make up for a mask
TRAINED_SHARE = 0.9  # of the budget; the rest is for measuring, scoring and checkpoints
TIMED = 2  # passes of each kind, the faster of which counts
# The peak rate that serves MiniLM's hidden size of 384 (docs/compress.md); wider models take less, inversely.
RATE, RATE_HIDDEN_SIZE = 1.5e-3, 384
FASTER_IN_BF16 = "amx_int8"  # such processors multiply bfloat16 in tiles too


@dataclass(frozen=True)
class Plan:
    """What will be done, and what was measured to say so."""

    recipe: CompressRecipe
    seconds_per_step: dict[str, float]  # "<tokens> dense", "<tokens> sparse" -> of a step of such windows
    training_seconds: float  # expected
    tokens: int  # that will be read, about
    vector_steps: int = 0  # that follow, of texts' vectors (`vectors`)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.training_seconds if self.training_seconds else 0.0


def recipe_for(
    model: str, corpus: Path, *, sparsity: float, pattern: str, seed: int, precision: str, steps: int
) -> CompressRecipe:
    """The recipe of `steps`; windows are no longer than the model takes. UsageError for wishes that cannot be."""
    config = load_config(model)
    usual, positions = Matching(), longest_text(config)
    lengths, late = (
        sorted({min(length, positions) for length in each}) for each in (usual.lengths, usual.late_lengths)
    )
    values = {
        "model": model,
        "corpus": str(corpus),
        "seed": seed,
        "training": {
            "learning_rate": RATE * min(1.0, RATE_HIDDEN_SIZE / config.hidden_size),
            "steps": steps,
            "batch_size": max(1, TOKENS_PER_STEP // min(lengths)),
            "weight_decay": 0.0,
            "adam_beta2": 0.98,
            "warmup_ratio": 0.03,
            "dropout": 0.0,
            "precision": precision,
        },
        "pruning": {
            "sparsity": sparsity,
            "pattern": pattern,
            "criterion": "sensitivity",
            "allocation": "global",
            "pooler": False,
            "rewind": "off",
        },
        "matching": {"lengths": lengths, "late_lengths": late},
    }
    return parse_recipe(values, "compress", where="compress")


def fastest_precision() -> Literal["bf16", "fp32"]:
    """In which this processor trains fastest; a third of the time in bfloat16 where that is multiplied in tiles."""
    return "bf16" if FASTER_IN_BF16 in instruction_sets() else "fp32"


def longest_text(config: Any) -> int:
    """Tokens that a model takes at most."""
    return encoder_plan_of(config.to_dict(), config.name_or_path).max_tokens


def plan_for(recipe: CompressRecipe, budget_seconds: float, out: Path, with_vectors: bool = False) -> Plan:
    """The recipe with as many steps as fit the budget. UsageError for one that is too small for any use.

    with_vectors: a part of it is for steps that learn the vectors of texts, after pruning.
    """
    seconds = measure(recipe, out)
    dense, sparse = (_mean_of(recipe.matching, seconds, form) for form in ("dense", "sparse"))
    late = late_share(recipe.pruning, 1000)
    per_step = (1 - late) * dense + late * sparse
    share = TRAINED_SHARE * (1 - vectors.SHARE if with_vectors else 1.0)
    steps = math.floor(share * budget_seconds / per_step)
    if steps < FEWEST_STEPS:
        needed = math.ceil(FEWEST_STEPS * per_step / share)
        raise UsageError(
            f"a budget of {budget_seconds:.0f} s allows {steps} steps here, at {per_step:.2f} s each; at least "
            f"{FEWEST_STEPS} are needed: set --budget to {needed} s or more"
        )
    tokens = steps * recipe.training.batch_size * min(recipe.matching.lengths)
    planned = replace(recipe, training=replace(recipe.training, steps=steps))
    vector_steps = vectors.steps_in(TRAINED_SHARE * budget_seconds, sparse) if with_vectors else 0
    return Plan(planned, seconds, steps * per_step, tokens, vector_steps)


def measure(recipe: CompressRecipe, out: Path) -> dict[str, float]:
    """Seconds of a step by the length of its windows, before there are zeros and when all are there."""
    inputs = open_texts(recipe)
    found = {}
    forms: Mapping[str, Pruning] = {
        "dense": recipe.pruning,
        "sparse": replace(recipe.pruning, schedule="one-shot"),
    }
    for form, pruning in forms.items():
        run = build_matching(replace(inputs, recipe=replace(recipe, pruning=pruning)), StageOptions(out))
        with computing(run):
            assert run.pruner is not None
            if form == "sparse":
                if run.measure is not None:
                    run.measure()
                run.pruner.update(0)
            optimizer = torch.optim.AdamW([p for p in run.model.parameters() if p.requires_grad], lr=0.0, fused=True)
            for tokens in sorted({*recipe.matching.lengths, *recipe.matching.late_lengths}):
                found[f"{tokens} {form}"] = min(_seconds(run, optimizer, tokens, attempt) for attempt in range(TIMED))
        run.pruner.bake()
    return found


def _seconds(run: TrainingRun, optimizer: torch.optim.Optimizer, tokens: int, step: int) -> float:
    objective: Any = run.objective
    assert isinstance(objective, MatchingObjective)
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(run.training.precision)
    begun = time.perf_counter()
    batch = objective.taught(objective.batch_of(step, tokens))
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        loss = objective.loss(run.model, batch, objective.counts(batch))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - begun


def _mean_of(matching: Matching, seconds: dict[str, float], form: str) -> float:
    """Of a step, as lengths are drawn in the whole of a run."""
    early, late = (
        sum(seconds[f"{tokens} {form}"] for tokens in lengths) / len(lengths)
        for lengths in (matching.lengths, matching.late_lengths)
    )
    return (1 - matching.late_share) * early + matching.late_share * late
