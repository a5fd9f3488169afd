"""What a weight is worth. Which weights stay by their worth is the pattern's to say (`patterns`).

To add a criterion: a class here, and its row in CRITERIA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from torch import Tensor, nn

from pruneonce.sparsity.sensitivity import Sensitivity

CriterionName = Literal["magnitude", "sensitivity"]


class Criterion(Protocol):
    """Scores the weights of a model's layers, each by the layer's name; it may learn from training to do so.

    One object serves one model. It is asked in every process of a run, and must say the same in each.
    """

    def observe(self, layers: Mapping[str, nn.Linear]) -> None:
        """After the gradients of an optimizer step are there, and before the step."""

    def scores(self, name: str, weight: Tensor) -> Tensor:
        """What each weight is worth: floating point, shape of `weight`; the least go first. NaN is refused later."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold for the same scores after it."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`."""


class Magnitude:
    """|w|: the least change of the matrix. It learns nothing."""

    def observe(self, layers: Mapping[str, nn.Linear]) -> None:
        """Magnitudes are in the weights."""

    def scores(self, name: str, weight: Tensor) -> Tensor:
        return weight.detach().abs()

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """There is none."""


CRITERIA: dict[CriterionName, Callable[[], Criterion]] = {"magnitude": Magnitude, "sensitivity": Sensitivity}
