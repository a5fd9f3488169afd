"""What one case of `bench-train` computes: read by the command and by its workers, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OURS, DENSE, MASKED = "ours", "dense", "masked"
# Subject -> what it is.
SUBJECTS = {
    OURS: "pruneonce finetune: zeros locked, layers train their non-zeros alone where that is faster",
    DENSE: "PyTorch fp32 eager: the same model as plain nn.Linear, nothing of ours",
    MASKED: "pruneonce finetune --kernel dense: zeros locked by masks",
}
TASKS = {"classification": "sequence-classification", "question_answering": "question-answering"}  # -> head of bench
PHASES = ("forward", "backward", "optimizer")


@dataclass(frozen=True)
class TrainingCase:
    """A batch of random words, a model folder and how it is trained."""

    folder: str
    task: str  # of TASKS
    sequences: int
    tokens: int  # of each sequence
    threads: int
    dropout: float = 0.0
    kernel: Literal["auto", "sparse"] = "auto"  # of "ours"
    learning_rate: float = 1e-5
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.sequences}x{self.tokens}"
