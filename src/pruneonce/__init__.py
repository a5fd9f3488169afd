"""pruneonce: prune a BERT once, during pre-training; fine-tune it with its zeros locked; run it on a CPU.

Importing this loads nothing heavy; the names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruneonce.data.pretraining import Corpus
    from pruneonce.distillation import distillation_loss
    from pruneonce.engine import load_model
    from pruneonce.errors import PruneonceError, UsageError
    from pruneonce.inspection import inspect_folder
    from pruneonce.pipelines import pipeline
    from pruneonce.pruning.masks import magnitude_mask
    from pruneonce.pruning.pruner import Pruner
    from pruneonce.pruning.schedules import PruningSchedule, cubic_sparsity, rewinding_factor
    from pruneonce.recipe import load_recipe
    from pruneonce.scoring import score_folder, score_packed
    from pruneonce.sparse_computation import sparse_training
    from pruneonce.stages import StageOptions, run_finetune, run_prune, run_teacher
    from pruneonce.tasks import get_task

__version__ = "0.1.0"

_MODULE_OF = {
    "Corpus": "data.pretraining",
    "Pruner": "pruning.pruner",
    "PruneonceError": "errors",
    "PruningSchedule": "pruning.schedules",
    "StageOptions": "stages",
    "UsageError": "errors",
    "cubic_sparsity": "pruning.schedules",
    "distillation_loss": "distillation",
    "get_task": "tasks",
    "inspect_folder": "inspection",
    "load_model": "engine",
    "load_recipe": "recipe",
    "magnitude_mask": "pruning.masks",
    "pipeline": "pipelines",
    "rewinding_factor": "pruning.schedules",
    "run_finetune": "stages",
    "run_prune": "stages",
    "run_teacher": "stages",
    "score_folder": "scoring",
    "score_packed": "scoring",
    "sparse_training": "sparse_computation",
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
