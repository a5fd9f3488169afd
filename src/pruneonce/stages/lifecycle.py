"""The life of a stage: its folder is reserved, the model trained, scored and saved; nothing is ever overwritten."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from pruneonce.convert.model_card import write_model_card
from pruneonce.errors import OtherInputsError, UsageError
from pruneonce.evaluation.scoring import embeddings_as_exported
from pruneonce.files import read_json, remove_temporaries, write_json
from pruneonce.formats.model_folder import STAGING, save_model_folder
from pruneonce.formats.record import Provenance, read_provenance
from pruneonce.formats.scales_file import LinearQuantization, write_quantization
from pruneonce.machine import library_versions
from pruneonce.models import family_of
from pruneonce.recipe import Recipe, parse_recipe
from pruneonce.sparsity.cpu_training import as_served
from pruneonce.sparsity.pruner import Pruner
from pruneonce.stages.compression import TextInputs
from pruneonce.stages.options import StageOptions
from pruneonce.stages.setup import CorpusInputs, TaskInputs
from pruneonce.train.checkpoints import latest_complete
from pruneonce.train.processes import is_main_process
from pruneonce.train.trainer import TrainingRun, WorkingModel, checkpoints_folder, train

RUN_FILE = "run.json"  # what an unfinished folder is being made from
LOG_FILE = "training_log.json"
Inputs = CorpusInputs | TaskInputs | TextInputs


class Opened(Protocol):
    """What tells one run from another."""

    @property
    def stage(self) -> str: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def digests(self) -> dict[str, str]: ...


# May differ between a run and its continuation: where inputs are (their digests are compared instead), and how the
# work is cut up or reported, which changes rounding at most.
INCIDENTAL_KEYS = (
    "model",
    "corpus",
    "distillation.teacher",
    "task.train",
    "task.validation",
    "training.micro_batch_size",
    "training.kernel",
    "training.dataloader_workers",
    "training.checkpoint_steps",
    "training.log_steps",
    "training.tensorboard",
    "published",
    "source",
)


def begin_stage(inputs: Opened, out: Path) -> Provenance | None:
    """The record of an identical finished run in `out`; else None, with `out` reserved for this one.

    UsageError if `out` holds another run, finished or not, or a model of elsewhere: nothing is ever overwritten. A
    start that had trained nothing yet is no run: where it was of other inputs, this one takes its place.
    """
    wanted = {"stage": inputs.stage, "recipe": asdict(inputs.recipe), "inputs": inputs.digests}
    done = read_provenance(out)
    if done is not None:
        found = {"stage": done.stage, "recipe": done.recipe, "inputs": done.inputs}
        _refuse_other_run(found, wanted, out, "a finished run")
        return done
    running = out / RUN_FILE
    model = [path.name for path in (out / "config.json", *out.glob("*.safetensors")) if path.exists()]
    checkpoints = checkpoints_folder(out)
    if running.is_file() and (model or latest_complete(checkpoints) is not None):
        _refuse_other_run(read_json(running), wanted, out, "an unfinished run")
    elif model:
        raise OtherInputsError(f"{out} holds a model that is no run of pruneonce ({model[0]}): choose another --out")
    elif is_main_process():
        if running.is_file():
            shutil.rmtree(checkpoints, ignore_errors=True)  # may hold a teacher's answers to other questions
        write_json(running, wanted)
    return None


def clear_leftovers(options: StageOptions) -> None:
    """Remove what a killed process has left in a folder that `begin_stage` has found to be this run's.

    The caller holds the folder: whatever is unfinished in it is nobody's.
    """
    for staging in options.out.glob(f"{STAGING}*"):
        shutil.rmtree(staging, ignore_errors=True)
    remove_temporaries(options.out)
    if read_provenance(options.out) is not None and (options.out / RUN_FILE).exists():
        end_stage(options)


def end_stage(options: StageOptions) -> None:
    """The run in a folder is done: what it would go on from is in the way."""
    if not options.keep_checkpoints:
        shutil.rmtree(checkpoints_folder(options.out), ignore_errors=True)
    (options.out / RUN_FILE).unlink(missing_ok=True)  # last: without it nobody knows that there is more to remove


def complete_stage(inputs: Inputs, work: WorkingModel, options: StageOptions, spent_seconds: float = 0.0) -> Provenance:
    """Train what is a run, write rounding and zeros into the weights, score, and save the folder, its record last.

    A quantised model is scored as the int8 engine will compute it. Processes but the main one return a record without
    metrics. spent_seconds: of work that was done before and counts as training.
    """
    begun = time.monotonic() - spent_seconds
    log = train(work) if isinstance(work, TrainingRun) else []
    record = Provenance(
        stage=inputs.stage,
        recipe=asdict(inputs.recipe),
        inputs=inputs.digests,
        seed=inputs.recipe.seed,
        steps=work.steps if isinstance(work, TrainingRun) else 0,
        metrics={},
        versions=library_versions(),
    )
    record.timings = {"training": time.monotonic() - begun}
    if not is_main_process():
        return record
    begun = time.monotonic()
    layers: dict[str, LinearQuantization] = {}
    if work.quantizer is not None:
        layers, record.rounded_to_zero = work.quantizer.bake()
    if work.pruner is not None:
        _bake(work.pruner, work.hub_model, record)
    exported = embeddings_as_exported(work.hub_model) if layers else contextlib.nullcontext()
    with exported, as_served(work.hub_model, layers):
        record.metrics = inputs.score(work, options)
    record.timings["evaluation"] = time.monotonic() - begun
    if layers:
        write_quantization(options.out, layers)
    save_model_folder(work.hub_model, inputs.recipe.model, options.out)
    if isinstance(inputs, TaskInputs):
        inputs.save_use(options.out)
    write_json(options.out / LOG_FILE, log)
    write_model_card(options.out, record)
    record.write(options.out)
    end_stage(options)
    return record


def _bake(pruner: Pruner, hub_model: Any, record: Provenance) -> None:
    """Write down what the masks are, then make them part of the weights."""
    family = family_of(hub_model.config.model_type)
    digests = pruner.digests()
    for name, layer in pruner.layers.items():
        record.sparsity[family.encoder_name(name)] = 1 - float(layer.mask.float().mean())
        record.masks[family.encoder_name(name)] = digests[name]
    pruner.bake()


def _refuse_other_run(found: dict[str, Any], wanted: dict[str, Any], out: Path, what: str) -> None:
    difference = _first_difference(_identity(found), _identity(wanted))
    if difference is not None:
        raise OtherInputsError(
            f"{out} holds {what} of other inputs ({difference}): choose another --out, or delete it to start anew"
        )


def _identity(run: dict[str, Any]) -> dict[str, Any]:
    """What makes two runs the same: stage, digests of what is read, and the recipe but for `INCIDENTAL_KEYS`."""
    with contextlib.suppress(UsageError):  # a record of an older version: keys that are new since are at their defaults
        run = {**run, "recipe": asdict(parse_recipe(run["recipe"], run["stage"]))}
    run = json.loads(json.dumps(run))  # as it reads back from a file, where tuples are lists
    for key in INCIDENTAL_KEYS:
        *sections, last = key.split(".")
        section = run["recipe"]
        for name in sections:
            section = section.get(name) or {}
        section.pop(last, None)
    return run


def _first_difference(found: Any, wanted: Any, path: str = "") -> str | None:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            inner = _first_difference(found.get(key), wanted.get(key), f"{path}.{key}" if path else key)
            if inner:
                return inner
        return None
    if found == wanted:
        return None
    # A digest says nothing to a reader.
    return f"{path} changed" if path.startswith("inputs.") else f"{path} is {found!r} there and {wanted!r} here"
