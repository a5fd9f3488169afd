"""What compression minimises: how far a model is from its original, on windows of plain text and without labels.

The tokens of a step are a constant and their lengths are not: a step reads windows of one length, which is drawn by
(seed, step) and longer in the last part. A batch has places for as many windows as the shortest length allows
(`training.batch_size`); longer windows leave the last of them empty.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneonce.data.windows import Windows
from pruneonce.models.sentence import Pooling
from pruneonce.recipe import Matching
from pruneonce.sparsity.sensitivity import Sensitivity, probe_of
from pruneonce.train.batching import ExampleKey
from pruneonce.train.heads import Head
from pruneonce.train.heads.embedding import pooled
from pruneonce.train.losses import (
    Answer,
    Batch,
    HiddenStatesLoss,
    LogitsLoss,
    Needs,
    SimilaritiesLoss,
    Term,
    Totals,
    VectorsLoss,
    needs_of,
    sum_of_terms,
)
from pruneonce.train.objectives import encoder_inputs, padded
from pruneonce.train.teacher import Teacher

COUNTS = ("examples", "similarities")  # in the order of MatchingObjective.counts
PROBE_BATCHES = 2  # steps' worth of text that weights' worth is measured on
PROBE_SEED = 1 << 20  # of the steps whose text it is: none that is trained on


@dataclass(frozen=True)
class MatchingObjective:
    """Hidden states of a frozen original at every real token, its vectors, its answers (an `objectives.Objective`).

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
    head: Head | None = None  # of the model's task, if it has one that terms can read
    pooling: tuple[Pooling, ...] = ("mean",)  # of a text's vector

    @property
    def hidden(self) -> HiddenStatesLoss:
        """The term of hidden states, which there always is."""
        return HiddenStatesLoss(self.matching.hidden_weight, self.matching.hidden_layers)

    @functools.cached_property
    def terms(self) -> tuple[Term, ...]:
        given = self.matching
        found: list[Term] = [self.hidden]
        if given.vectors_weight > 0:
            found.append(VectorsLoss(given.vectors_weight))
        if given.similarities_weight > 0:
            found.append(SimilaritiesLoss(given.similarities_weight))
        if given.logits_weight > 0 and self.head is not None:
            found.append(LogitsLoss(given.logits_weight, given.temperature, self.head))
        return tuple(found)

    @functools.cached_property
    def needs(self) -> frozenset[Needs]:
        """What both models answer."""
        return needs_of(self.terms)

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
        """What sums are divided by: float64 [windows, squared similarities, norm of each layer]."""
        taught = batch["answer"]
        squares = 0.0 if taught.vectors is None else float(SimilaritiesLoss(1.0).squares(taught))
        counts = torch.tensor([len(batch["input_ids"]), squares], dtype=torch.float64)
        return torch.cat([counts, self.hidden.norms(taught).cpu()])

    def loss(self, model: nn.Module, batch: Batch, totals: Tensor) -> Tensor:
        """The terms' sum; that of hidden states is the mean over layers of the relative squared error."""
        named = Totals.named(totals, COUNTS)
        return sum_of_terms(self.terms, self.answer(model, batch), batch["answer"], batch, named)

    def answer(self, model: nn.Module, batch: Batch) -> Answer:
        """What the terms read."""
        logits: dict[str, Tensor] = {}
        if "logits" in self.needs:
            assert self.head is not None
            output = model(**encoder_inputs(batch), whole=True)
            states, logits = output.hidden_states, {"task": self.head.logits(output, batch).float()}
        else:
            states = model(**encoder_inputs(batch))
        mask, vectors = batch["attention_mask"], None
        if "vectors" in self.needs:
            vectors = functional.normalize(pooled(states[-1].float(), mask, self.pooling), dim=-1)
        return Answer(logits, self.hidden.matched(states, mask), vectors)

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
    term = objective.hidden
    device = next(model.parameters()).device
    lengths = sorted({*objective.matching.lengths, *objective.matching.late_lengths})
    squares, norms = torch.zeros(0), torch.zeros(0)
    for tokens in lengths:
        for step in range(math.ceil(windows / len(lengths) / objective.windows_of(tokens))):
            drawn = objective.batch_of(step, tokens)
            batch = objective.taught({name: value.to(device) for name, value in drawn.items()})
            found = term.squares(objective.answer(model, batch), batch["answer"]).double().cpu()
            squares = squares + found if len(squares) else found
            found = term.norms(batch["answer"]).cpu()
            norms = norms + found if len(norms) else found
    errors = squares / norms.clamp(min=torch.finfo(torch.float32).tiny)
    layers = objective.layers or range(1, len(errors) + 1)
    return {"hidden_error": float(errors.mean())} | {
        f"hidden_error_{layer}": float(error) for layer, error in zip(layers, errors, strict=True)
    }
