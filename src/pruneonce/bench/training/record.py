"""What `pruneonce bench-train --json` writes: every step's times and losses, and what they were measured on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pruneonce.bench.json_fields import from_json
from pruneonce.bench.speed_limits import SpeedLimits
from pruneonce.bench.training.case import DENSE, OURS, PHASES
from pruneonce.errors import UsageError
from pruneonce.files import read_json

KIND, FORMAT = "training step", 1


@dataclass(frozen=True)
class TrainedModel:
    """What the record says of the model."""

    name: str
    shape: str  # of a random model; "" for a folder
    prunable: int  # weights in prunable matrices
    zeros: int
    sparsity: float


@dataclass(frozen=True)
class Kernels:
    """How our layers with zeros computed."""

    layers: int  # that have zeros
    sparse: int  # of them
    dense: list[str]  # the names of the others


@dataclass(frozen=True)
class StepMemory:
    """Bytes after a step."""

    weights: int
    gradients: int
    optimizer: int  # AdamW's moments
    patterns: int  # where non-zeros are
    masks: int
    peak: int  # resident, beyond what there was before the model
    peak_of_steps: bool  # whether `peak` is of the steps alone, not of the whole process

    @property
    def state(self) -> int:
        """What a training cannot do without."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class PartSeconds:
    """Of one part of a model, in one step."""

    forward: float
    backward: float


@dataclass(frozen=True)
class MeasuredCase:
    """One batch in every training. Keys of the dictionaries are `case.SUBJECTS`."""

    name: str
    sequences: int
    tokens: int  # of each sequence
    kernels: Kernels
    seconds: dict[str, dict[str, list[float]]]  # subject -> phase -> each measured step
    losses: dict[str, list[float]]  # of every step, also the first, which is not measured
    memory: dict[str, StepMemory]
    parts: dict[str, dict[str, PartSeconds]]

    def __post_init__(self) -> None:
        if not {OURS, DENSE} <= self.seconds.keys() <= self.memory.keys() & self.losses.keys():
            raise ValueError(f"case {self.name!a}: 'seconds', 'losses' and 'memory' must be of ours and dense at least")
        steps = {len(phases.get(phase, ())) for phases in self.seconds.values() for phase in PHASES}
        if len(steps) != 1 or 0 in steps or not all(self.losses.values()):
            raise ValueError(f"case {self.name!a}: as many steps of every training and phase are expected")


@dataclass(frozen=True, kw_only=True)
class TrainingBenchRecord:
    """One benchmark of training."""

    kind: str = KIND
    format: int = FORMAT
    date: str
    machine: SpeedLimits
    versions: dict[str, str]
    model: TrainedModel
    subjects: dict[str, str] = field(default_factory=dict)  # name -> what it is
    task: str
    threads: int
    steps: int
    warmup: int = 1
    dropout: float
    precision: str
    kernel: str = ""
    optimizer: str = ""
    inputs: str = ""
    cases: list[MeasuredCase]

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)


def is_training(value: Any) -> bool:
    """Whether parsed JSON is a record of these, of whatever format."""
    return isinstance(value, dict) and value.get("kind") == KIND


def load_training_bench(file: Path) -> TrainingBenchRecord:
    """A record of `bench-train`; UsageError if it is something else."""
    value = read_json(file)
    if not is_training(value) or value.get("format") != FORMAT or not value.get("cases"):
        raise UsageError(f"{file} is no record of `pruneonce bench-train` of format {FORMAT}")
    return from_json(TrainingBenchRecord, value, str(file))
