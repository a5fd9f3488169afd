"""pruneonce: prune a BERT once, during pre-training; fine-tune it with its zeros locked; run it on a CPU.

Importing this loads nothing heavy; the names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruneonce.convert.inspect_folder import inspect_folder
    from pruneonce.data.corpus import Corpus
    from pruneonce.errors import PruneonceError, UsageError
    from pruneonce.evaluation.scoring import score_folder, score_packed
    from pruneonce.recipe import load_recipe
    from pruneonce.run.model import load_model
    from pruneonce.run.pipelines import pipeline
    from pruneonce.sparsity.cpu_training import sparse_training
    from pruneonce.sparsity.masks import magnitude_mask
    from pruneonce.sparsity.pruner import Pruner
    from pruneonce.sparsity.schedules import PruningSchedule, cubic_sparsity, rewinding_factor
    from pruneonce.stages import StageOptions, run_finetune, run_prune, run_teacher
    from pruneonce.tasks import get_task
    from pruneonce.train.losses import distillation_loss

__version__ = "0.1.0"

_MODULE_OF = {
    "Corpus": "data.corpus",
    "Pruner": "sparsity.pruner",
    "PruneonceError": "errors",
    "PruningSchedule": "sparsity.schedules",
    "StageOptions": "stages",
    "UsageError": "errors",
    "cubic_sparsity": "sparsity.schedules",
    "distillation_loss": "train.losses",
    "get_task": "tasks",
    "inspect_folder": "convert.inspect_folder",
    "load_model": "run.model",
    "load_recipe": "recipe",
    "magnitude_mask": "sparsity.masks",
    "pipeline": "run.pipelines",
    "rewinding_factor": "sparsity.schedules",
    "run_finetune": "stages",
    "run_prune": "stages",
    "run_teacher": "stages",
    "score_folder": "evaluation.scoring",
    "score_packed": "evaluation.scoring",
    "sparse_training": "sparsity.cpu_training",
}

__all__ = [
    "Corpus",
    "PruneonceError",
    "Pruner",
    "PruningSchedule",
    "StageOptions",
    "UsageError",
    "cubic_sparsity",
    "distillation_loss",
    "get_task",
    "inspect_folder",
    "load_model",
    "load_recipe",
    "magnitude_mask",
    "pipeline",
    "rewinding_factor",
    "run_finetune",
    "run_prune",
    "run_teacher",
    "score_folder",
    "score_packed",
    "sparse_training",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'pruneonce' has no attribute '{name}'")
    return getattr(importlib.import_module(f"pruneonce.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULE_OF]
