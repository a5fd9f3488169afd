"""pruneonce: prune a BERT once, during pre-training; fine-tune it with its zeros locked; run it on a CPU.

Importing this loads nothing heavy; the names below are imported when they are first used. It sets the switches against
telemetry of the libraries that those bring along.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from pruneonce.privacy import silence_dependencies

if TYPE_CHECKING:  # for type checkers and editors: the names of _NAMES once more
    from pruneonce.adapters.sentence_transformers import CrossEncoder as CrossEncoder
    from pruneonce.adapters.sentence_transformers import SentenceEncoder as SentenceEncoder
    from pruneonce.compression.run import compress as compress
    from pruneonce.convert.from_memory import export as export
    from pruneonce.convert.from_sparse_bitmask import import_checkpoint as import_checkpoint
    from pruneonce.convert.inspect import inspect as inspect
    from pruneonce.convert.inspect_folder import inspect_folder as inspect_folder
    from pruneonce.convert.inspect_packed import inspect_packed as inspect_packed
    from pruneonce.convert.to_packed import export_packed as export_packed
    from pruneonce.data.corpus import Corpus as Corpus
    from pruneonce.errors import PruneonceError as PruneonceError
    from pruneonce.errors import UsageError as UsageError
    from pruneonce.evaluation.packed import score_packed as score_packed
    from pruneonce.evaluation.scoring import score_folder as score_folder
    from pruneonce.recipe import CompressRecipe as CompressRecipe
    from pruneonce.recipe import Distillation as Distillation
    from pruneonce.recipe import FinetuneRecipe as FinetuneRecipe
    from pruneonce.recipe import Matching as Matching
    from pruneonce.recipe import PruneRecipe as PruneRecipe
    from pruneonce.recipe import Pruning as Pruning
    from pruneonce.recipe import QuantizeRecipe as QuantizeRecipe
    from pruneonce.recipe import TaskData as TaskData
    from pruneonce.recipe import TeacherRecipe as TeacherRecipe
    from pruneonce.recipe import Training as Training
    from pruneonce.recipe import load_recipe as load_recipe
    from pruneonce.recipe import load_recipes as load_recipes
    from pruneonce.recipe import parse_recipe as parse_recipe
    from pruneonce.run.model import load_model as load_model
    from pruneonce.run.pipelines import pipeline as pipeline
    from pruneonce.run.pipelines.embeddings import embed as embed
    from pruneonce.sparsity.cpu_training import sparse_training as sparse_training
    from pruneonce.sparsity.in_place import lock_ as lock_
    from pruneonce.sparsity.in_place import prune_ as prune_
    from pruneonce.sparsity.in_place import quantize_ as quantize_
    from pruneonce.sparsity.masks import magnitude_mask as magnitude_mask
    from pruneonce.sparsity.pruner import Pruner as Pruner
    from pruneonce.sparsity.schedules import PruningSchedule as PruningSchedule
    from pruneonce.sparsity.schedules import cubic_sparsity as cubic_sparsity
    from pruneonce.sparsity.schedules import rewinding_factor as rewinding_factor
    from pruneonce.stages import StageOptions as StageOptions
    from pruneonce.stages import run_compress as run_compress
    from pruneonce.stages import run_finetune as run_finetune
    from pruneonce.stages import run_prune as run_prune
    from pruneonce.stages import run_quantize as run_quantize
    from pruneonce.stages import run_teacher as run_teacher
    from pruneonce.tasks import get_task as get_task
    from pruneonce.train.callbacks import PruneCallback as PruneCallback
    from pruneonce.train.distillation import distillation_loss as distillation_loss

# Module -> its public names.
_NAMES = {
    "adapters.sentence_transformers": "CrossEncoder SentenceEncoder",
    "compression.run": "compress",
    "convert.from_memory": "export",
    "convert.from_sparse_bitmask": "import_checkpoint",
    "convert.inspect": "inspect",
    "convert.inspect_folder": "inspect_folder",
    "convert.inspect_packed": "inspect_packed",
    "convert.to_packed": "export_packed",
    "data.corpus": "Corpus",
    "errors": "PruneonceError UsageError",
    "evaluation.packed": "score_packed",
    "evaluation.scoring": "score_folder",
    "recipe": "CompressRecipe Distillation FinetuneRecipe Matching PruneRecipe Pruning QuantizeRecipe "
    "TaskData TeacherRecipe Training load_recipe load_recipes parse_recipe",
    "run.model": "load_model",
    "run.pipelines": "pipeline",
    "run.pipelines.embeddings": "embed",
    "sparsity.cpu_training": "sparse_training",
    "sparsity.in_place": "lock_ prune_ quantize_",
    "sparsity.masks": "magnitude_mask",
    "sparsity.pruner": "Pruner",
    "sparsity.schedules": "PruningSchedule cubic_sparsity rewinding_factor",
    "stages": "StageOptions run_compress run_finetune run_prune run_quantize run_teacher",
    "tasks": "get_task",
    "train.callbacks": "PruneCallback",
    "train.distillation": "distillation_loss",
}
silence_dependencies()  # here: no module of ours runs before, so none has imported a library that sends

_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("pruneonce")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'pruneonce' has no attribute '{name}'")
    return getattr(importlib.import_module(f"pruneonce.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULE_OF, "__version__"]
