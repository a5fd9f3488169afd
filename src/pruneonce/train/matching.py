"""What compression minimises: how far a model is from its original, on windows of plain text and without labels.

The tokens of a step are a constant and their lengths are not: a step reads windows of one length, which is drawn by
(seed, step) and longer in the last part. A batch has places for as many windows as the shortest length allows
(`training.batch_size`); longer windows leave the last of them empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pruneonce.data.windows import Windows
from pruneonce.recipe import Matching
from pruneonce.sparsity.sensitivity import Sensitivity, probe_of
from pruneonce.train.batching import ExampleKey
from pruneonce.train.losses import Answer, Batch, HiddenStatesLoss, Totals
from pruneonce.train.objectives import encoder_inputs, padded
from pruneonce.train.teacher import Teacher

PROBE_BATCHES = 2  # steps' worth of text that weights' worth is measured on
PROBE_SEED = 1 << 20  # of the steps whose text it is: none that is trained on


@dataclass(frozen=True)
class MatchingObjective:
    """Hidden states of a frozen original at every real token (an `objectives.Objective`).

    Models are called as `encoder_model.EncoderModel` is. steps: of the whole run; the last `matching.late_share` of
    them read long windows. places: windows of the shortest length that a step has room for.
    """

    windows: Windows
    pad_id: int
    teacher: Teacher
    matching: Matching
    seed: int
    steps: int
    places: int

    @property
    def terms(self) -> tuple[HiddenStatesLoss]:
        return (HiddenStatesLoss(self.matching.hidden_weight, self.matching.hidden_layers),)

    @property
    def layers(self) -> tuple[int, ...]:
        """That are matched, as in `HiddenStatesLoss`."""
        return self.matching.hidden_layers

    def lengths(self) -> np.ndarray:
        """Falling, so that a batch's places stay in their order."""
        return np.arange(self.places, 0, -1, dtype=np.int64)

    def tokens_of(self, step: int) -> int:
        """Length of the windows of a step."""
        late = step >= self.steps * (1 - self.matching.late_share)
        lengths = self.matching.late_lengths if late else self.matching.lengths
        return lengths[int(np.random.default_rng([self.seed, step]).integers(len(lengths)))]

    def windows_of(self, tokens: int) -> int:
        """How many windows of that length a step reads."""
        return max(1, self.places * min(self.matching.lengths) // tokens)

    def collate(self, keys: Sequence[ExampleKey]) -> Batch:
        """input_ids, attention_mask, token_type_ids: int64 [windows, tokens]; a window is drawn by (seed, step, place).

        A share of a step in which no place is filled reads one window all the same.
        """
        tokens = self.tokens_of(keys[0].step)
        filled = [key for key in keys if key.example < self.windows_of(tokens)] or keys[:1]
        return self._drawn(keys[0].step, [key.example for key in filled], tokens)

    def batch_of(self, step: int, tokens: int) -> Batch:
        """As the batch of a step whose windows have that length."""
        return self._drawn(step, range(self.windows_of(tokens)), tokens)

    def _drawn(self, step: int, places: Sequence[int], tokens: int) -> Batch:
        draws = (np.random.default_rng([self.seed, step, place]) for place in places)
        return padded([self.windows.draw(rng, tokens) for rng in draws], self.pad_id)

    @torch.no_grad()
    def taught(self, batch: Batch) -> Batch:
        """The batch with the original's answer."""
        return batch | {"answer": self.answer(self.teacher, batch)}

    def counts(self, batch: Batch) -> Tensor:
        """The norms: float64 [layers]."""
        return self.terms[0].norms(batch["answer"]).cpu()

    def loss(self, model: nn.Module, batch: Batch, totals: Tensor) -> Tensor:
        """weight x mean over layers of the relative squared error."""
        (term,) = self.terms
        return term(self.answer(model, batch), batch["answer"], batch, Totals.named(totals, ()))

    def answer(self, model: nn.Module, batch: Batch) -> Answer:
        """The hidden states that are matched."""
        return Answer({}, self.terms[0].matched(model(**encoder_inputs(batch)), batch["attention_mask"]))

    def measure(
        self, model: nn.Module, criterion: Sensitivity, layers: dict[str, nn.Linear], autocast: torch.dtype | None
    ) -> None:
        """Let the criterion see what its layers do to the states that are matched, on text of its own."""
        generator = torch.Generator().manual_seed(self.seed)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        device = parameters[0].device
        training = model.training
        model.eval()
        with criterion.watching(layers):
            for number in range(PROBE_BATCHES):
                keys = [ExampleKey(place, PROBE_SEED + number, 0) for place in range(self.places)]
                batch = {name: value.to(device) for name, value in self.collate(keys).items()}
                with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                    states = list(self.answer(model, batch).hidden_states)
                sent = [sign.to(state.dtype) for sign, state in zip(probe_of(states, generator), states, strict=True)]
                # Not backward(): what waits for gradients of parameters, as DDP does, must not see these.
                torch.autograd.grad(states, parameters, sent, allow_unused=True)
        model.train(training)


@torch.no_grad()
def held_out_error(model: nn.Module, objective: MatchingObjective, windows: int) -> dict[str, float]:
    """Relative squared error of the states that are matched, and that of each layer, on windows of every length.

    objective: over the validation split. windows: how many, about; alike many of each of the lengths.
    """
    model.eval()
    (term,) = objective.terms
    device = next(model.parameters()).device
    lengths = sorted({*objective.matching.lengths, *objective.matching.late_lengths})
    squares, norms = torch.zeros(0), torch.zeros(0)
    for tokens in lengths:
        for step in range(math.ceil(windows / len(lengths) / objective.windows_of(tokens))):
            drawn = objective.batch_of(step, tokens)
            batch = objective.taught({name: value.to(device) for name, value in drawn.items()})
            found = term.squares(objective.answer(model, batch), batch["answer"]).double().cpu()
            squares = squares + found if len(squares) else found
            norms = norms + objective.counts(batch) if len(norms) else objective.counts(batch)
    errors = squares / norms.clamp(min=torch.finfo(torch.float32).tiny)
    layers = objective.layers or range(1, len(errors) + 1)
    return {"hidden_error": float(errors.mean())} | {
        f"hidden_error_{layer}": float(error) for layer, error in zip(layers, errors, strict=True)
    }
