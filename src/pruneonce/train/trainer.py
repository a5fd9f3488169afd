"""The training loop: transformers' Trainer, with our batches, losses, masks and learning rate. Nothing else knows it.

Everything random is a function of (seed, step): batches, masked tokens, dropout. A checkpoint therefore holds
weights, latents, masks and optimizer moments, and nothing about where the data was.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_parameter_names

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.files import cannot_write, read_json, system_error, write_json
from pruneonce.progress import Advance
from pruneonce.recipe import Training
from pruneonce.sparsity.cpu_training import CpuTraining
from pruneonce.sparsity.masks import pack_mask, unpack_mask
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.quantizer import Quantizer
from pruneonce.train.batching import BatchPlan, ExampleKey
from pruneonce.train.checkpoints import (
    PREFIX,
    PRUNER_FILE,
    QUANTIZER_FILE,
    SPARSE_LAYERS_FILE,
    checkpoint_step,
    latest_complete,
    mark_complete,
    remove_incomplete,
)
from pruneonce.train.losses import Batch
from pruneonce.train.objectives import Objective
from pruneonce.train.processes import (
    everyone_says,
    first_process_computes,
    first_process_says,
    is_main_process,
    leave_in_order,
    losing_none,
    world_size,
)
from pruneonce.train.teacher import Teacher

CHECKPOINTS_KEPT = 2  # the newest, and one before it in case the newest is being written when the power goes


@dataclass(frozen=True, kw_only=True)
class WorkingModel:
    """A Hugging Face model, and what has been done to its layers until it is saved."""

    hub_model: Any
    pruner: Pruner | None = None
    quantizer: Quantizer | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingRun(WorkingModel):
    """Everything one training run needs. `model` is what computes the loss, `hub_model` what is saved."""

    model: nn.Module  # wraps `hub_model`, or is it
    objective: Objective
    training: Training
    steps: int
    seed: int
    folder: Path  # checkpoints go below it
    learning_rate_factor: Callable[[int], float]  # step -> fraction of the peak
    teacher: Teacher | None = None
    new_parameters: Sequence[str] = ()  # names in hub_model that the checkpoint did not have
    measure: Callable[[], None] | None = None  # shows the model to the pruner's criterion (`Pruner.measures_at`)
    native_attention: bool = False  # by our kernels from the first step on, not only beside sparse layers
    on_progress: Advance | None = None


def train(run: TrainingRun) -> list[dict[str, float]]:
    """Train to the last step, from the newest complete checkpoint if there is one; returns the log.

    On return `run.hub_model` holds the trained (latent) weights. Raises PruneonceError when the loss is no longer
    finite, a checkpoint cannot be written, or another process of the run is gone; earlier checkpoints stay intact.
    """
    checkpoints = checkpoints_folder(run.folder)
    arguments = _arguments(run, checkpoints)
    if run.pruner is not None:
        run.pruner.share = _masks_of_the_first(run.pruner)
    with computing(run, agree=_as_begun(run, checkpoints)), losing_none():
        return _train(run, arguments, checkpoints)


def computing(run: TrainingRun, agree: Callable[[list[str]], list[str]] = first_process_says) -> CpuTraining:
    """How the run's model computes while it trains: a context. What a checkpoint says of it overrules the recipe.

    agree: which layers compute sparse, from those that this process has measured to be faster so.
    """
    kernel, autocast = run.training.kernel, autocast_of(run.training)
    attention: Literal["sparse", "always"] = "always" if run.native_attention else "sparse"
    return CpuTraining(run.hub_model, run.pruner, kernel, autocast, agree=agree, attention=attention)


def _as_begun(run: TrainingRun, checkpoints: Path) -> Callable[[list[str]], list[str]]:
    """The layers that computed sparse when the run began: another measurement may differ, and so would roundings.

    A kernel that a recipe names is not measured, and may be another one where a run goes on.
    """

    def agree(measured: list[str]) -> list[str]:
        file = checkpoints / SPARSE_LAYERS_FILE
        if run.training.kernel == "auto" and latest_complete(checkpoints) is not None and file.exists():
            begun = read_json(file)
            layers = run.pruner.layers if run.pruner is not None else {}
            if not isinstance(begun, list) or not all(isinstance(name, str) and name in layers for name in begun):
                raise PruneonceError(f"{file} is no list of this model's layers: delete it, and they are measured anew")
            return first_process_says(begun)
        agreed = first_process_says(measured)
        if is_main_process():
            write_json(file, agreed)
        return agreed

    return agree


def _train(run: TrainingRun, arguments: TrainingArguments, checkpoints: Path) -> list[dict[str, float]]:
    trainer = StageTrainer(run, arguments)
    if trainer.is_world_process_zero():
        remove_incomplete(checkpoints)
    trainer.accelerator.wait_for_everyone()
    resume_from = latest_complete(checkpoints)
    if len(set(everyone_says(resume_from.name if resume_from else ""))) > 1:
        raise PruneonceError(
            f"{run.folder}: processes see different checkpoints there: all nodes must share this folder"
        )
    if resume_from:
        read_json(resume_from / "trainer_state.json")  # which transformers does too, without a word of which it is
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    except KeyboardInterrupt as stop:
        kept = latest_complete(checkpoints)
        raise KeyboardInterrupt(
            f"stopped at step {trainer.state.global_step:,} of {run.steps:,}; last checkpoint: "
            + (f"step {checkpoint_step(kept):,}" if kept else "none")
        ) from stop
    # accelerate has put autocast around `forward`: what is scored must be what is saved, in float32.
    trainer.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
    _check_finite(run)
    if run.pruner is not None:
        _check_same_masks(run.pruner.digests())
    leave_in_order()
    log: list[dict[str, float]] = [entry for entry in trainer.state.log_history if "loss" in entry]
    return log


def _masks_of_the_first(pruner: Pruner) -> Callable[[Callable[[], dict[str, Tensor]]], dict[str, Tensor]]:
    """`Pruner.share` of processes that train together: the first one ranks the weights, a bit per weight is sent."""
    if world_size() == 1:
        return pruner.share

    def share(compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        bits = first_process_computes(lambda: {name: pack_mask(mask) for name, mask in compute().items()})
        weights = {name: layer.weight for name, layer in pruner.layers.items()}
        return {name: unpack_mask(bits[name], weight.shape).to(weight.device) for name, weight in weights.items()}

    return share


def checkpoints_folder(folder: Path) -> Path:
    """Where a run keeps what it needs to go on, until it is done."""
    return folder / "checkpoints"


def autocast_of(training: Training) -> torch.dtype | None:
    """The lower precision of forward and backward passes, if any."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.precision)


class StageTrainer(Trainer):
    """Trainer whose data, loss, masks, learning rate and checkpoints are ours."""

    def __init__(self, run: TrainingRun, arguments: TrainingArguments) -> None:
        self.run = run
        self.plan = BatchPlan(
            lengths=run.objective.lengths(),
            batch_size=run.training.batch_size,
            steps=run.steps,
            seed=run.seed,
            rank=arguments.process_index,
            processes=arguments.world_size,
            accumulation=arguments.gradient_accumulation_steps,
            group_by_length=run.training.group_by_length,
        )
        callbacks: list[TrainerCallback] = [_StepCallback(run)]
        if run.training.tensorboard and is_main_process():
            callbacks.append(_tensorboard(run.folder / "tensorboard"))
        super().__init__(
            model=run.model, args=arguments, train_dataset=_Keys(len(self.plan.lengths)), callbacks=callbacks
        )
        if self.accelerator.num_processes != world_size():
            raise PruneonceError(
                f"{world_size()} processes were started, but accelerate sees {self.accelerator.num_processes}: start "
                "them with torchrun or accelerate launch"
            )
        self.remove_callback(PrinterCallback)  # prints a dictionary per log line; progress goes through on_progress
        if run.teacher is not None:
            run.teacher.to(arguments.device)

    def get_train_dataloader(self) -> DataLoader:
        # Not through accelerate: the plan already gives every process its own share.
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.plan,
            collate_fn=_Collate(self.run.objective, self.run.seed),
            num_workers=self.run.training.dataloader_workers,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """The micro-batches of one optimizer step, with their counts summed over all processes.

        Where hidden states are matched the teacher answers here, for all of them: its norms are among the counts.
        """
        objective = self.run.objective
        batches = [objective.taught(self._prepare_inputs(next(epoch_iterator))) for _ in range(num_batches)]
        totals = torch.stack([objective.counts(batch) for batch in batches]).sum(dim=0).to(device)
        return batches, self.accelerator.reduce(totals, reduction="sum")

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        model.train()
        batch = self._prepare_inputs(inputs)
        torch.manual_seed(batch.pop("dropout_seed"))
        with self.compute_loss_context_manager():
            # Gradients are averaged over processes, while the totals are sums over them.
            loss = self.run.objective.loss(model, batch, num_items_in_batch) * self.args.world_size
        self.accelerator.backward(loss)
        return loss.detach()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        self.optimizer: torch.optim.Optimizer | None
        if self.optimizer is None:
            training = self.run.training
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self.run),
                lr=training.learning_rate,
                betas=(training.adam_beta1, training.adam_beta2),
                eps=training.adam_epsilon,
                fused=True,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.lr_scheduler: Any
        if self.lr_scheduler is None:
            scheduled: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(scheduled, self.run.learning_rate_factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise _diverged(f"the loss is {logs['loss']} at step {self.state.global_step}")
        if self.run.pruner is not None:
            logs["sparsity"] = self.run.pruner.sparsity()
        super().log(logs, start_time)
        # To the Trainer the whole run is one epoch; readers of the log mean passes over the data.
        passes = self.state.global_step * self.plan.batch_size / len(self.plan.lengths)
        self.state.log_history[-1]["epoch"] = round(passes, 4)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model, pruner = self.run.hub_model, self.run.pruner
        state = model.state_dict()
        if pruner is not None:
            state = pruner.masked_state(state)
            save_file(pruner.state(), folder / PRUNER_FILE)
        if self.run.quantizer is not None:
            save_file(self.run.quantizer.state(), folder / QUANTIZER_FILE)
        model.save_pretrained(folder, state_dict=state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with _reading(resume_from_checkpoint):
            self._load_weights(Path(resume_from_checkpoint))

    def _load_weights(self, folder: Path) -> None:
        if self.run.pruner is not None:
            self.run.pruner.compute_dense()
        result = self.run.hub_model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        tied = set(self.run.hub_model.all_tied_weights_keys)
        missing = [name for name in result.missing_keys if name not in tied]
        if missing or result.unexpected_keys:
            raise PruneonceError(
                f"{folder} does not fit this model: missing {missing[:3]}, unexpected {result.unexpected_keys[:3]}"
            )
        if self.run.pruner is not None:
            self.run.pruner.load_state(load_file(folder / PRUNER_FILE))
        if self.run.quantizer is not None:
            self.run.quantizer.load_state(load_file(folder / QUANTIZER_FILE))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        checkpoint = Path(self.args.output_dir) / f"{PREFIX}{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_complete(checkpoint)
            self.accelerator.wait_for_everyone()
        except (OSError, SafetensorError, RuntimeError) as error:
            # torch.save reports a refused write as a RuntimeError.
            reason = system_error(error, checkpoint)
            shutil.rmtree(checkpoint, ignore_errors=True)  # half a checkpoint only takes the room that lacks
            raise cannot_write(checkpoint, reason) from error


def parameter_groups(run: TrainingRun) -> list[dict[str, Any]]:
    """AdamW groups: no decay on biases and layer norms; parameters new in this run at their own peak rate."""
    decayed = set(get_parameter_names(run.hub_model, [nn.LayerNorm], [r"bias", r"LayerNorm", r"layer_norm"]))
    new = set(run.new_parameters)
    head_rate = run.training.head_learning_rate or run.training.learning_rate
    groups = []
    for is_new, rate in ((False, run.training.learning_rate), (True, head_rate)):
        for is_decayed, decay in ((True, run.training.weight_decay), (False, 0.0)):
            members = [
                parameter
                for name, parameter in run.hub_model.named_parameters()
                if parameter.requires_grad and (name in new) == is_new and (name in decayed) == is_decayed
            ]
            if members:
                groups.append({"params": members, "lr": rate, "weight_decay": decay})
    return groups


def accumulation_for(training: Training, processes: int) -> int:
    """Forward passes per process and optimizer step: as few as `micro_batch_size` allows. UsageError if impossible."""
    if training.batch_size < processes:
        raise UsageError(f"training.batch_size ({training.batch_size}) is below the number of processes ({processes})")
    share = -(-training.batch_size // processes)
    return -(-share // (training.micro_batch_size or share))


def _check_finite(run: TrainingRun) -> None:
    """Steps after the last line of the log are seen by nobody else."""
    for name, parameter in run.hub_model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise _diverged(f"{name} is not finite after the last step")


def _diverged(what: str) -> PruneonceError:
    return PruneonceError(f"{what}: lower training.learning_rate and start again in another folder")


def _check_same_masks(digests: dict[str, str]) -> None:
    """Masks were sent, and locked ones are each process's own: make sure that they are one."""
    for said in everyone_says(digests):
        different = [name for name in digests if said[name] != digests[name]]
        if different:
            raise PruneonceError(
                f"processes ended with different masks of {different[0]}.weight: their weights have drifted apart"
            )


@contextlib.contextmanager
def _reading(checkpoint: str | None) -> Iterator[None]:
    """PruneonceError for a checkpoint with other bytes in it. torch runs nothing of its pickles."""
    try:
        yield
    except PruneonceError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise PruneonceError(
            f"{checkpoint} cannot be read ({reason}): delete it, and the same command goes on from the one before"
        ) from error


def _arguments(run: TrainingRun, checkpoints: Path) -> TrainingArguments:
    training = run.training
    accumulation = accumulation_for(training, world_size())
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=run.steps,
        per_device_train_batch_size=-(-training.batch_size // (world_size() * accumulation)),
        gradient_accumulation_steps=accumulation,
        learning_rate=training.learning_rate,
        max_grad_norm=training.max_grad_norm,
        seed=run.seed,
        bf16=training.precision == "bf16",
        fp16=training.precision == "fp16",
        save_strategy="steps",
        save_steps=training.checkpoint_steps or max(1, run.steps // 10),
        save_total_limit=CHECKPOINTS_KEPT,
        logging_strategy="steps",
        logging_steps=training.log_steps or max(1, run.steps // 100),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        # Masks are computed alike in every process; sending them around at each forward pass would only cost time.
        ddp_broadcast_buffers=False,
        ddp_find_unused_parameters=all(term.needs == "hidden_states" for term in run.objective.terms),  # heads
        # Without this, accelerate takes several CPU processes for so many separate runs.
        use_cpu=not torch.accelerator.is_available(),
        ddp_backend="gloo" if world_size() > 1 and not torch.cuda.is_available() else None,
    )
    if training.precision == "fp32":
        arguments.mixed_precision = "no"  # else `accelerate launch` decides by an environment variable
    # More GPUs want more processes: nn.DataParallel would hand each a slice of tensors that are about the whole batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _tensorboard(folder: Path) -> TrainerCallback:
    try:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback
    except ImportError as error:
        raise UsageError("training.tensorboard needs `pip install pruneonce[tensorboard]`") from error
    return TensorBoardCallback(SummaryWriter(str(folder)))


class _Keys(Dataset[ExampleKey]):
    """A dataset whose items are the keys themselves; the objective turns them into batches."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: ExampleKey) -> ExampleKey:
        return key


@dataclass(frozen=True)
class _Collate:
    """Collates keys into a batch, with the seed for its dropout."""

    objective: Objective
    seed: int

    def __call__(self, keys: list[ExampleKey]) -> Batch:
        first = keys[0]
        # Large odd multipliers keep (seed, step, share) apart within the 64 bits that torch seeds from.
        seed = (self.seed * 0x9E3779B97F4A7C15 + first.step * 0xBF58476D1CE4E5B9 + first.share) % 2**63
        return {**self.objective.collate(keys), "dropout_seed": seed}


class _StepCallback(TrainerCallback):
    """Recomputes masks when due and reports progress."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.note = ""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.run.pruner is not None:
            if self.run.measure is not None and self.run.pruner.measures_at(state.global_step):
                self.run.measure()
            self.run.pruner.update(state.global_step)
        if self.run.quantizer is not None:
            self.run.quantizer.update(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.run.pruner is not None:
            self.run.pruner.observe()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            zeros = f", {logs['sparsity']:.1%} zeros" if "sparsity" in logs else ""
            self.note = f"loss {logs['loss']:.3f}{zeros}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.run.quantizer is not None:
            self.run.quantizer.end_step()  # before a checkpoint is written
        if self.run.on_progress is not None:
            self.run.on_progress(state.global_step, self.run.steps, self.note)
