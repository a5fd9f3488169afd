"""Which examples every step trains on: a pure function of (seed, step), whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# Sorting is within this many batches, so that lengths are grouped and batches still mix the corpus.
GROUP_BATCHES = 50


class ExampleKey(NamedTuple):
    """One example's place in training: enough to redo its random choices."""

    example: int  # index into the dataset
    step: int  # optimizer steps completed before
    share: int  # which part of the global batch it is in


@dataclass(frozen=True)
class BatchPlan:
    """The order of all batches of a run.

    A global batch of `batch_size` examples is dealt out to `processes` x `accumulation` shares by length, so that all
    shares cost about the same; process `rank` computes its shares one after the other.
    """

    lengths: np.ndarray  # int [examples], tokens
    batch_size: int
    steps: int
    seed: int
    rank: int = 0
    processes: int = 1
    accumulation: int = 1
    group_by_length: bool = True

    def __post_init__(self) -> None:
        if len(self.lengths) == 0:
            raise ValueError("no examples to train on")
        if self.batch_size < self.processes * self.accumulation:
            raise ValueError(
                f"a batch of {self.batch_size} cannot be split over {self.processes} processes x {self.accumulation}"
            )

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[ExampleKey]]:
        for step in range(self.steps):
            batch = self.global_batch(step)
            shares = self.processes * self.accumulation
            for part in range(self.accumulation):
                share = part * self.processes + self.rank
                yield [ExampleKey(int(index), step, share) for index in batch[share::shares]]

    def global_batch(self, step: int) -> np.ndarray:
        """Example indices of optimizer step `step`, longest first: int64 [batch_size]."""
        epoch, row = divmod(step, steps_per_epoch(len(self.lengths), self.batch_size))
        batch = self._epoch_batches(epoch)[row]
        return batch[np.argsort(-self.lengths[batch], kind="stable")]

    def _epoch_batches(self, epoch: int) -> np.ndarray:
        memo = self.__dict__.get("_memo")
        if memo is None or memo[0] != epoch:
            group = self.group_by_length
            memo = (epoch, epoch_batches(self.lengths, self.batch_size, seed=self.seed, epoch=epoch, group=group))
            self.__dict__["_memo"] = memo  # past the frozen dataclass: the plan stays a pure function of its fields
        batches: np.ndarray = memo[1]
        return batches


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Optimizer steps that one pass over the examples takes."""
    return -(-examples // batch_size)


def epoch_batches(lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int, group: bool) -> np.ndarray:
    """One pass over all examples, in batches: int64 [steps_per_epoch, batch_size].

    With `group`, examples are shuffled, sorted by length within groups of `GROUP_BATCHES` batches, and the batches
    shuffled again: a batch holds similar lengths, yet every pass is different. The last batch is filled up with
    examples of the same pass, so that all batches are of one size.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    order = np.resize(order, steps_per_epoch(len(lengths), batch_size) * batch_size)
    if group:
        size = batch_size * GROUP_BATCHES
        for begin in range(0, len(order), size):
            members = order[begin : begin + size]
            order[begin : begin + size] = members[np.argsort(lengths[members], kind="stable")]
    batches = order.reshape(-1, batch_size)
    return batches[rng.permutation(len(batches))] if group else batches
