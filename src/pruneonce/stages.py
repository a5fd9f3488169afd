"""The stages of the chain: recipe in, model folder out. Rerunning a stage resumes it, or skips it when it is done."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruneonce.architectures import encoder_name, prunable_linears
from pruneonce.data.pretraining import Corpus
from pruneonce.distillation import freeze_teacher
from pruneonce.errors import UsageError
from pruneonce.evaluate import evaluate_language_model
from pruneonce.files import read_json, sha256_json, write_json
from pruneonce.language_model import LanguageModel, load_language_model
from pruneonce.model_folder import folder_digest, save_model_folder
from pruneonce.objectives import PretrainingObjective
from pruneonce.progress import Advance
from pruneonce.provenance import Provenance, library_versions, read_provenance
from pruneonce.pruning.pruner import Pruner
from pruneonce.pruning.schedules import PruningSchedule, linear_factor, rewinding_factor, warmup_steps_from_ratio
from pruneonce.recipe import PruneRecipe, Pruning, Recipe, TeacherRecipe, Training
from pruneonce.tokenization import load_tokenizer, special_token_ids
from pruneonce.training import TrainingRun, is_main_process, train

RUN_FILE = "run.json"  # what an unfinished folder is being made from
LOG_FILE = "training_log.json"


@dataclass(frozen=True)
class StageOptions:
    """What the caller decides about a run, beside its recipe."""

    out: Path
    keep_checkpoints: bool = False
    on_progress: Advance | None = None


def run_teacher(recipe: TeacherRecipe, options: StageOptions) -> Provenance:
    """Teacher preparation: continue dense pre-training on the corpus that pruning will use."""
    return _run_pretraining("teacher", recipe, options)


def run_prune(recipe: PruneRecipe, options: StageOptions) -> Provenance:
    """Gradual magnitude pruning during pre-training, distilled from the dense model it starts from."""
    return _run_pretraining("prune", recipe, options)


def pruning_schedule(pruning: Pruning, steps: int) -> PruningSchedule:
    """The schedule of a recipe; steps it leaves out follow the original's proportions (50 %, 80 % and 1 % of all)."""
    policy_end = pruning.policy_end_step if pruning.policy_end_step is not None else steps // 2
    end = pruning.end_step if pruning.end_step is not None else max(policy_end, steps * 4 // 5)
    if end >= steps:
        raise UsageError(
            f"pruning.end_step ({end}) must be below training.steps ({steps}): the last mask needs training"
        )
    try:
        return PruningSchedule(
            final_sparsity=pruning.sparsity,
            begin_step=pruning.begin_step,
            end_step=end,
            policy_begin_step=pruning.policy_begin_step,
            policy_end_step=policy_end,
            frequency_steps=pruning.frequency_steps or max(1, steps // 100),
        )
    except ValueError as error:
        raise UsageError(f"pruning: {error}") from error


def learning_rate_factor(training: Training, steps: int, pruning: Pruning | None = None) -> Any:
    """step -> fraction of the peak rate: linear, or rewound along the pruning schedule."""
    warmup = warmup_steps_from_ratio(training.warmup_ratio, steps)
    if pruning is None:
        return lambda step: linear_factor(step, total_steps=steps, warmup_steps=warmup)
    schedule = pruning_schedule(pruning, steps)

    def factor(step: int) -> float:
        return rewinding_factor(
            step,
            total_steps=steps,
            warmup_steps=warmup,
            policy_begin_step=schedule.policy_begin_step,
            policy_end_step=schedule.policy_end_step,
            interval_steps=schedule.frequency_steps,
            rewind=pruning.rewind,
        )

    try:
        factor(0)
    except ValueError as error:
        raise UsageError(f"pruning: {error}") from error
    return factor


def _run_pretraining(stage: str, recipe: TeacherRecipe | PruneRecipe, options: StageOptions) -> Provenance:
    pruning = recipe.pruning if isinstance(recipe, PruneRecipe) else None
    distillation = recipe.distillation if isinstance(recipe, PruneRecipe) else None
    if distillation is not None and not distillation.teacher:
        distillation = replace(distillation, teacher=recipe.model)
    inputs = {"model": folder_digest(recipe.model), "corpus": Corpus(recipe.corpus, "train").digest}
    if distillation is not None:
        inputs["teacher"] = folder_digest(distillation.teacher)
    if (done := begin_stage(stage, recipe, inputs, options.out)) is not None:
        return done

    corpus = Corpus(recipe.corpus, "train")
    nsp = corpus.layout == "segment_pair_nsp"
    special_ids = _corpus_special_ids(recipe.model, corpus)
    torch.manual_seed(recipe.seed)
    model, new_parameters = load_language_model(recipe.model, nsp=nsp, token_counts=corpus.token_counts())
    set_dropout(model, recipe.training.dropout)
    teacher = _load_pretraining_teacher(distillation.teacher, nsp) if distillation is not None else None
    objective = PretrainingObjective(
        corpus=corpus,
        special_ids=special_ids,
        seed=recipe.seed,
        nsp=nsp,
        mlm_probability=recipe.mlm_probability,
        teacher=teacher,
        distillation=distillation,
    )
    steps = total_steps(recipe.training, len(corpus))
    pruner = None
    if pruning is not None:
        names = prunable_linears(_linear_names(model.model), model.architecture, pooler=pruning.pooler)
        pruner = Pruner(model.model, names, pruning_schedule(pruning, steps))
    begun = time.monotonic()
    log = train(
        TrainingRun(
            model=model,
            hub_model=model.model,
            objective=objective,
            training=recipe.training,
            steps=steps,
            seed=recipe.seed,
            folder=options.out,
            learning_rate_factor=learning_rate_factor(recipe.training, steps, pruning),
            pruner=pruner,
            teacher=teacher,
            new_parameters=new_parameters,
            on_progress=options.on_progress,
        )
    )
    trained = time.monotonic()
    record = Provenance(
        stage=stage,
        recipe=asdict(recipe),
        inputs=inputs,
        seed=recipe.seed,
        steps=steps,
        metrics={},
        versions=library_versions(),
    )
    if not is_main_process():
        return record
    _close_pruner(pruner, model.architecture, record)
    held_out = replace(objective, corpus=Corpus(recipe.corpus, "validation"), teacher=None, distillation=None)
    record.metrics = evaluate_language_model(model, held_out, examples=recipe.validation_examples)
    record.timings = {"training": trained - begun, "evaluation": time.monotonic() - trained}
    finish_stage(record, model.model, recipe.model, log, options)
    return record


def begin_stage(stage: str, recipe: Recipe, inputs: dict[str, str], out: Path) -> Provenance | None:
    """The record of an identical finished run in `out`; else None, with `out` reserved for this one.

    UsageError if `out` holds another run, finished or not: nothing is ever overwritten.
    """
    wanted = {"stage": stage, "recipe": asdict(recipe), "inputs": inputs}
    done = read_provenance(out)
    if done is not None:
        found = {"stage": done.stage, "recipe": done.recipe, "inputs": done.inputs}
        _same_run(found, wanted, out, "a finished run")
        return done
    running = out / RUN_FILE
    if running.is_file():
        _same_run(read_json(running), wanted, out, "an unfinished run")
    elif is_main_process():
        write_json(running, wanted)
    return None


def finish_stage(record: Provenance, model: nn.Module, tokenizer_from: str, log: Any, options: StageOptions) -> None:
    """Save the final folder: model, log, and last the record that makes it count. Then drop what was for resuming."""
    save_model_folder(model, tokenizer_from, options.out)
    write_json(options.out / LOG_FILE, log)
    record.write(options.out)
    (options.out / RUN_FILE).unlink(missing_ok=True)
    if not options.keep_checkpoints:
        shutil.rmtree(options.out / "checkpoints", ignore_errors=True)


def total_steps(training: Training, examples: int) -> int:
    """Optimizer steps of a run over a data set of `examples`."""
    if training.steps is not None:
        return training.steps
    assert training.epochs is not None
    return max(1, round(training.epochs * examples / training.batch_size))


def set_dropout(model: nn.Module, probability: float | None) -> None:
    """Set every dropout layer's probability, attention's included; None leaves the checkpoint's."""
    if probability is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


def _close_pruner(pruner: Pruner | None, architecture: Any, record: Provenance) -> None:
    """Bake the masks in and write down what they are."""
    if pruner is None:
        return
    sparsities = {name: 1 - float(layer.mask.float().mean()) for name, layer in pruner.layers.items()}
    record.sparsity = {encoder_name(name, architecture): value for name, value in sparsities.items()}
    record.masks = {encoder_name(name, architecture): digest for name, digest in pruner.digests().items()}
    pruner.bake()


def _load_pretraining_teacher(path: str, nsp: bool) -> LanguageModel:
    teacher, missing = load_language_model(path, nsp=nsp)
    if missing:
        raise UsageError(
            f"the teacher {path} has no pre-training heads (missing {missing[0]}): run `pruneonce teacher` on it first"
        )
    return freeze_teacher(teacher)


def _corpus_special_ids(model: str, corpus: Corpus) -> dict[str, int]:
    tokenizer = load_tokenizer(model)
    if tokenizer.get_vocab_size() != corpus.vocab_size:
        raise UsageError(
            f"{model} has a vocabulary of {tokenizer.get_vocab_size()}, the corpus was built with {corpus.vocab_size}: "
            "build the corpus with this model's tokenizer"
        )
    return special_token_ids(tokenizer)


def _linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def _same_run(found: dict[str, Any], wanted: dict[str, Any], out: Path, what: str) -> None:
    # Through JSON, as `found` was: tuples become lists.
    if sha256_json(found) == sha256_json(wanted):
        return
    difference = _first_difference(found, wanted) or "something"
    raise UsageError(
        f"{out} holds {what} of other inputs ({difference}): choose another --out, or delete the folder to start anew"
    )


def _first_difference(found: Any, wanted: Any, path: str = "") -> str | None:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            inner = _first_difference(found.get(key), wanted.get(key), f"{path}.{key}" if path else key)
            if inner:
                return inner
        return None
    if isinstance(wanted, tuple):
        wanted = list(wanted)
    return None if found == wanted else f"{path} is {found!r} there and {wanted!r} here"
