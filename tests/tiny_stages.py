"""Stages on tiny models: recipes as values, a run of them, and one that dies on its way as by a power cut."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from pruneonce.formats.record import Provenance
from pruneonce.recipe import parse_recipe
from pruneonce.stages import RUNNERS, StageOptions

STEPS = 12
# Workers are forked from a clean server that has everything imported: seconds saved, and no thread pool is forked.
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["pruneonce.stages"])


def prune_values(model: Path, corpus: Path, **training: Any) -> dict[str, Any]:
    """Values of a recipe for `teacher` or `prune`."""
    return {
        "model": str(model),
        "corpus": str(corpus),
        "validation_examples": 20,
        "training": {"steps": STEPS, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_steps": 4, **training},
    }


def finetune_values(model: Path, reviews: Path, **training: Any) -> dict[str, Any]:
    """Values of a recipe for `finetune`."""
    return {
        "model": str(model),
        "task": {"name": "classification", "train": str(reviews), "validation": str(reviews), "max_tokens": 32},
        "training": {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "dropout": 0.0, **training},
    }


def run(stage: str, values: dict[str, Any], out: Path, **options: Any) -> Provenance:
    return RUNNERS[stage](parse_recipe(values, stage), StageOptions(out, **options))


def kill(stage: str, values: dict[str, Any], out: Path, kill_at: str) -> None:
    """Run in a worker that is killed at `kill_at`, a step or a moment of the save; its checkpoints stay."""
    worker = forkserver.Process(target=_run_and_die, args=(stage, values, out, kill_at))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert not (out / "pruneonce.json").exists()


def _run_and_die(stage: str, values: dict[str, Any], out: Path, kill_at: str) -> None:
    from pruneonce.stages import lifecycle
    from pruneonce.train import trainer as training

    die = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    if kill_at == "step 7":
        original = training.StageTrainer.training_step

        def step(self, *args, **kwargs):
            return die() if self.state.global_step == 7 else original(self, *args, **kwargs)

        training.StageTrainer.training_step = step
    elif kill_at == "second checkpoint without its marker":
        original = training.mark_complete
        training.mark_complete = lambda folder: die() if folder.name == "checkpoint-8" else original(folder)
    elif kill_at == "model saved, record not":
        original = lifecycle.save_model_folder
        lifecycle.save_model_folder = lambda *args: (original(*args), die())
    else:
        raise ValueError(kill_at)
    run(stage, values, out, keep_checkpoints=True)
