"""What `pruneonce bench --json` writes: everything that was measured, and on what. Every figure follows from it."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pruneonce.bench.isolation import Used
from pruneonce.bench.json_fields import from_json
from pruneonce.bench.speed_limits import SpeedLimits
from pruneonce.errors import UsageError
from pruneonce.files import read_json

# Of our packed files, by engine: fp32 beside engines in fp32, so that outputs can be compared; int8 beside int8.
EMBEDDINGS = {"pruneonce": "fp32", "pruneonce-int8": "int8"}

FORMAT = 1
# Fields that older records do not have: they are written where there is something in them.
LATER = (
    *("uniform", "first_seconds", "resident_bytes", "same_bits", "seed", "load_seconds", "used", "absent"),
    *("local_layers", "window"),
)
BASELINE, INT8_BASELINE = "pruneonce", "pruneonce-int8"


@dataclass(frozen=True, kw_only=True)
class BenchModel:
    """The model that was measured; `subject.Subject` says more of each field."""

    name: str
    folder: str = ""  # left empty: a path says where it was measured, not what
    head: str = ""
    layers: int = 0
    hidden_size: int = 0
    max_tokens: int = 0
    prunable: int
    nonzeros_per_token: int = 0
    nonzeros_per_sequence: int = 0
    shape: str = ""
    pattern: str = ""
    local_layers: int = 0
    window: int = 0
    sparsity: float
    weight_bytes: int


@dataclass(frozen=True)
class Case:
    """One batch in every engine."""

    name: str
    lengths: list[int]  # real tokens of each sequence
    useful_flops: float
    seconds: dict[str, list[float]]  # engine -> its timed calls, one per round
    max_difference: dict[str, float]  # engine -> from PyTorch's outputs
    largest_output: float
    uniform: str = ""  # of mixed lengths: the case of one length and as many tokens
    first_seconds: dict[str, list[float]] = field(default_factory=dict)  # of the first call after the others' turns
    resident_bytes: dict[str, int] = field(default_factory=dict)  # of an engine's process, Python and libraries too
    same_bits: dict[str, bool] = field(default_factory=dict)  # the first sequence's output, alone and in the batch

    def __post_init__(self) -> None:
        rounds = {len(each) for each in self.seconds.values()}
        if len(rounds) != 1 or 0 in rounds:
            raise ValueError(f"case {self.name!a}: 'seconds' must have as many timings of every engine, at least one")
        if unknown := self.seconds.keys() - self.max_difference.keys():
            raise ValueError(f"case {self.name!a}: 'max_difference' lacks the engine {min(unknown)!a}")

    @property
    def tokens(self) -> int:
        """Real ones of the whole batch."""
        return sum(self.lengths)

    def median_seconds(self, engine: str) -> float:
        return statistics.median(self.seconds[engine])


@dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """One benchmark."""

    format: int = FORMAT
    date: str
    machine: SpeedLimits
    versions: dict[str, str]
    model: BenchModel
    threads: int
    rounds: int
    settle: int  # untimed calls before each timed one
    inputs: str
    engines: dict[str, str]  # name -> version
    file_bytes: dict[str, int] = field(default_factory=dict)  # of our packed files
    task: str = ""
    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)  # engine -> metrics of the task
    seed: int = 0  # of the order in each round
    load_seconds: dict[str, float] = field(default_factory=dict)  # engine -> to make it from its files
    used: dict[str, Used] = field(default_factory=dict)  # engine -> in its turns; empty: not known
    absent: dict[str, str] = field(default_factory=dict)  # what was not measured -> why
    cases: list[Case]

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("'cases' is empty")
        names = {case.name for case in self.cases}
        for case in self.cases:
            if case.uniform and case.uniform not in names:
                raise ValueError(f"case {case.name!a} is compared with {case.uniform!a}, which is no case")
        if missing := [name for name in ("python", "numpy", "transformers") if name not in self.versions]:
            raise ValueError(f"'versions' lacks {missing[0]}")

    @property
    def ours(self) -> list[str]:
        """Our own engines, which all others are compared with."""
        return [name for name in (BASELINE, INT8_BASELINE) if name in self.cases[0].seconds]

    def case(self, name: str) -> Case:
        """The case of a name; StopIteration if there is none."""
        return next(case for case in self.cases if case.name == name)

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        values = asdict(self)
        for part in (values, values["model"], *values["cases"]):
            for name in LATER:
                if not part.get(name, True):
                    del part[name]
        return values


def read_bench(value: Any, where: str) -> BenchRecord:
    """A record from parsed JSON; UsageError if it is something else."""
    if not isinstance(value, dict) or value.get("format") != FORMAT or "cases" not in value:
        raise UsageError(f"{where} is no record of `pruneonce bench --json` of format {FORMAT}")
    return from_json(BenchRecord, value, where)


def load_bench(file: Path) -> BenchRecord:
    """A record written by `--json`; UsageError if it is something else."""
    return read_bench(read_json(file), str(file))
