"""The stage `evaluate`: a model is scored as it is, and its answers are kept. For the cells of studies."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pruneonce.evaluation.scoring import score_folder
from pruneonce.files import sha256_file
from pruneonce.folder_lock import filling
from pruneonce.formats.model_folder import folder_digest
from pruneonce.formats.record import Provenance
from pruneonce.machine import library_versions
from pruneonce.recipe import EvaluateRecipe
from pruneonce.stages.lifecycle import begin_stage, clear_leftovers, end_stage
from pruneonce.stages.options import StageOptions
from pruneonce.tasks.recipe_data import task_of, validation_examples, validation_sources


@dataclass(frozen=True)
class ScoredInputs:
    """What scoring reads, as `begin_stage` compares it."""

    recipe: EvaluateRecipe
    digests: dict[str, str]
    stage: str = "evaluate"


def run_evaluate(recipe: EvaluateRecipe, options: StageOptions) -> Provenance:
    """Score the recipe's model on its task; `out` gets the answers and a record, and no model.

    UsageError if the model has no head for the task.
    """
    task = task_of(recipe.task)
    sources = {f"validation{name}": source for name, source in validation_sources(recipe.task, task).items()}
    digests = {name: sha256_file(Path(file)) if Path(file).is_file() else file for name, file in sources.items()}
    inputs = ScoredInputs(recipe, digests | {"model": folder_digest(recipe.model)})
    examples = validation_examples(recipe.task, task)
    with filling(options.out):
        done = begin_stage(inputs, options.out)
        clear_leftovers(options)
        if done is not None:
            return done
        begun = time.monotonic()
        record = Provenance(
            stage=inputs.stage,
            recipe=asdict(recipe),
            inputs=inputs.digests,
            seed=recipe.seed,
            steps=0,
            metrics=score_folder(
                recipe.model, recipe.task, options.on_progress, examples=examples, keep_in=options.out
            ),
            versions=library_versions(),
        )
        record.timings = {"training": 0.0, "evaluation": time.monotonic() - begun}
        record.write(options.out)
        end_stage(options)
        return record
