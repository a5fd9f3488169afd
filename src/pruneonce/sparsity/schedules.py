"""How much to prune, when, and at which learning rate: pure functions of the optimizer step.

A step is the number of optimizer steps already completed, as in `TrainerState.global_step`. Nothing here keeps a
counter, so a resumed run is on schedule by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pruneonce.errors import UsageError
from pruneonce.recipe import Pruning

Rewind = Literal["exact", "original", "off"]


def cubic_sparsity(step: int, *, begin_step: int, end_step: int, final: float, initial: float = 0.0) -> float:
    """Fraction of weights that are zero at `step`.

    Rises from `initial` to `final`, fast at first; constant outside [begin_step, end_step].
    Source: Zhu & Gupta 2017, https://arxiv.org/abs/1710.01878, equation 1.

    >>> [round(cubic_sparsity(s, begin_step=0, end_step=50_000, final=0.9), 4) for s in (1_000, 20_000, 60_000)]
    [0.0529, 0.7056, 0.9]
    """
    if begin_step >= end_step:
        raise ValueError(f"begin_step ({begin_step}) must be below end_step ({end_step})")
    progress = min(max((step - begin_step) / (end_step - begin_step), 0.0), 1.0)
    return final + (initial - final) * (1 - progress) ** 3


@dataclass(frozen=True)
class PruningSchedule:
    """When masks are recomputed, and towards which sparsity. All `*_step` fields count optimizer steps.

    The three phases of Prune Once for All: sparsity grows during the policy [policy_begin_step, policy_end_step];
    then it is constant while masks are still recomputed until `end_step`; then the mask is frozen.
    """

    final_sparsity: float
    begin_step: int
    end_step: int
    policy_begin_step: int
    policy_end_step: int
    frequency_steps: int
    initial_sparsity: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.initial_sparsity <= self.final_sparsity < 1.0:
            raise ValueError(
                f"expected 0 <= initial_sparsity <= final sparsity < 1, got {self.initial_sparsity} and "
                f"{self.final_sparsity}"
            )
        if self.frequency_steps < 1:
            raise ValueError(f"frequency_steps must be at least 1, got {self.frequency_steps}")
        if self.policy_begin_step >= self.policy_end_step:
            raise ValueError(
                f"policy_begin_step ({self.policy_begin_step}) must be below policy_end_step ({self.policy_end_step})"
            )
        if not self.begin_step <= self.policy_end_step <= self.end_step:
            raise ValueError(
                f"expected begin_step <= policy_end_step <= end_step, got {self.begin_step}, {self.policy_end_step} "
                f"and {self.end_step}: the final sparsity would never be applied"
            )

    @classmethod
    def one_shot(cls, sparsity: float) -> PruningSchedule:
        """All of it before the first step, and never again.

        >>> schedule = PruningSchedule.one_shot(0.9)
        >>> [(schedule.updates_masks_at(step), schedule.sparsity_at(step)) for step in (0, 1)]
        [(True, 0.9), (False, 0.9)]
        """
        return cls(
            final_sparsity=sparsity,
            begin_step=0,
            end_step=0,
            policy_begin_step=-1,
            policy_end_step=0,
            frequency_steps=1,
            initial_sparsity=sparsity,
        )

    def updates_masks_at(self, step: int) -> bool:
        """True at begin_step, every frequency_steps after it, and at end_step."""
        if not self.begin_step <= step <= self.end_step:
            return False
        # end_step counts as well, or a frequency that does not divide the window would miss the final sparsity.
        return (step - self.begin_step) % self.frequency_steps == 0 or step == self.end_step

    def sparsity_at(self, step: int) -> float:
        """Target fraction of zeros of every pruned matrix at `step`."""
        return cubic_sparsity(
            step,
            begin_step=self.policy_begin_step,
            end_step=self.policy_end_step,
            final=self.final_sparsity,
            initial=self.initial_sparsity,
        )


def schedule_of(pruning: Pruning, steps: int) -> PruningSchedule:
    """The schedule of a recipe; steps it leaves out follow the original's proportions (50 %, 80 % and 1 % of all)."""
    if pruning.schedule == "one-shot":
        return PruningSchedule.one_shot(pruning.sparsity)
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
            initial_sparsity=pruning.initial_sparsity,
        )
    except ValueError as error:
        raise UsageError(f"pruning: {error}") from error


def linear_factor(step: int, *, total_steps: int, warmup_steps: int) -> float:
    """Learning rate as a fraction of its peak: linear warm-up, then linear decay to 0 at `total_steps`."""
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def rewinding_factor(
    step: int,
    *,
    total_steps: int,
    warmup_steps: int,
    policy_begin_step: int,
    policy_end_step: int,
    interval_steps: int,
    rewind: Rewind = "exact",
) -> float:
    """Learning rate as a fraction of its peak, rewound at every pruning step of the policy window.

    The window is cut out of a linear decay; inside it the rate is a shallow saw-tooth that returns, every
    `interval_steps`, to its value at `policy_begin_step`; after it the decay goes on. Source: Prune Once for All
    (arXiv:2111.05754), section on learning rate rewinding.

    "original" reproduces the published code, whose denominator ignores that the window may begin inside the
    warm-up, so that the rate exceeds its peak by warmup / (total - window - warmup), 2.04 % as published. "exact"
    measures the decay from where it really begins and never exceeds 1. "off" is `linear_factor`.

    >>> published = dict(total_steps=100_000, warmup_steps=1_000, policy_begin_step=0, policy_end_step=50_000,
    ...                  interval_steps=1_000)
    >>> [round(rewinding_factor(s, rewind="original", **published), 4) for s in (999, 1_000, 1_999, 75_000)]
    [0.999, 1.0204, 1.0, 0.5102]
    >>> [round(rewinding_factor(s, **published), 4) for s in (999, 1_000, 1_999, 75_000)]
    [0.999, 1.0, 0.98, 0.5]
    """
    if rewind == "off":
        return linear_factor(step, total_steps=total_steps, warmup_steps=warmup_steps)
    decay_steps = total_steps - (policy_end_step - policy_begin_step)
    decay_from = warmup_steps if rewind == "original" else min(warmup_steps, policy_begin_step)
    if decay_steps <= decay_from:
        raise ValueError(
            f"learning rate rewinding needs steps outside the policy window: {total_steps} steps in all, "
            f"{policy_end_step - policy_begin_step} in the window, {decay_from} before the decay"
        )
    if step < warmup_steps:
        return step / warmup_steps
    if step < policy_begin_step:
        remaining = decay_steps - step
    elif step < policy_end_step:
        remaining = decay_steps - policy_begin_step - (step - policy_begin_step) % interval_steps
    else:
        remaining = total_steps - step
    return max(0.0, remaining / (decay_steps - decay_from))


def warmup_steps_from_ratio(ratio: float, total_steps: int) -> int:
    """Warm-up length as transformers counts it: the ratio of all steps, rounded up."""
    return math.ceil(ratio * total_steps)
