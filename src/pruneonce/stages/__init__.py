"""The stages of the chain: recipe in, model folder out. Rerunning a stage resumes it, or skips it when it is done.

`run` has the five of them. Each opens its inputs and builds its run (`setup`, of compression `compression`, with
`pruning` for what becomes zero), then trains, scores and saves it (`lifecycle`).
"""

from collections.abc import Callable
from typing import Any

from pruneonce.formats.record import Provenance
from pruneonce.stages.evaluation import run_evaluate
from pruneonce.stages.options import StageOptions
from pruneonce.stages.pruning import plan_pruning
from pruneonce.stages.run import run_compress, run_finetune, run_prune, run_quantize, run_teacher

__all__ = [
    "RUNNERS",
    "StageOptions",
    "plan_pruning",
    "run_compress",
    "run_evaluate",
    "run_finetune",
    "run_prune",
    "run_quantize",
    "run_teacher",
]

RUNNERS: dict[str, Callable[[Any, StageOptions], Provenance]] = {
    "teacher": run_teacher,
    "prune": run_prune,
    "compress": run_compress,
    "finetune": run_finetune,
    "quantize": run_quantize,
    "evaluate": run_evaluate,
}
