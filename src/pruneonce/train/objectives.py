"""What a stage minimises: batches from example keys, and a sum of loss terms over what models say to them.

The trainer calls an objective's functions in this order. `collate(keys)` makes a batch. `taught(batch)` adds the
teacher's answer where the step's totals are made of it. `counts(batch)` says what the parts' sums are divided by, and
`loss(model, batch, totals)` divides by `totals`, the counts summed over the whole optimizer step. So the loss of a step
is the same number however its batch is split over processes and accumulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pruneonce.data.corpus import Corpus, Example
from pruneonce.data.masking import distilled_positions, mask_tokens
from pruneonce.recipe import Distillation
from pruneonce.train.batching import ExampleKey
from pruneonce.train.heads import Head
from pruneonce.train.losses import (
    IGNORED,
    Answer,
    Batch,
    HiddenStatesLoss,
    LabelsLoss,
    LogitsLoss,
    MaskedTokensLoss,
    Term,
    Totals,
    VocabularyLoss,
    needs_of,
    sum_of_terms,
)
from pruneonce.train.teacher import Teacher

PAD_TO_MULTIPLE_OF = 8  # vector width of the kernels that follow


class Objective(Protocol):
    """What `trainer.StageTrainer` needs to know of a stage."""

    @property
    def terms(self) -> tuple[Term, ...]: ...

    def lengths(self) -> np.ndarray: ...

    def collate(self, keys: Sequence[ExampleKey]) -> Batch: ...

    def taught(self, batch: Batch) -> Batch: ...

    def counts(self, batch: Batch) -> Tensor: ...

    def loss(self, model: nn.Module, batch: Batch, totals: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class PretrainingObjective:
    """Masked LM, next sentence where the corpus has pairs, and distillation from a frozen teacher.

    The teacher answers with its logits, its hidden states on the same corrupted text, or both.
    """

    corpus: Corpus
    special_ids: dict[str, int]
    seed: int
    nsp: bool
    mlm_probability: float = 0.15
    teacher: Teacher | None = None
    distillation: Distillation | None = None

    @property
    def terms(self) -> tuple[Term, ...]:
        """In the order in which they are added."""
        given = self.distillation
        if given is None:
            return (MaskedTokensLoss(1.0, self.nsp),)
        terms: tuple[Term, ...] = (
            MaskedTokensLoss(given.hard_weight, self.nsp),
            VocabularyLoss(given.kd_weight, given.temperature, self.nsp),
            HiddenStatesLoss(given.hidden_weight, given.hidden_layers),
        )
        return tuple(term for term in terms if term.weight > 0)

    def lengths(self) -> np.ndarray:
        lengths: np.ndarray = self.corpus.lengths
        return lengths

    def collate(self, keys: Sequence[ExampleKey]) -> Batch:
        """A batch; random choices depend on (seed, step, example) only.

        input_ids, attention_mask, token_type_ids: int64 [batch, tokens]. positions: int64 [n], flat indices where
        vocabulary logits are needed; mlm_labels: int64 [n], -100 where only the teacher is matched; distilled: bool
        [n]. nsp_labels: int64 [batch].
        """
        examples = [self.corpus[key.example] for key in keys]
        batch = padded(examples, self.special_ids["pad"])
        shape = batch["input_ids"].shape
        input_ids = batch["input_ids"].numpy()
        labels = np.full(shape, IGNORED, dtype=np.int64)
        distilled = np.zeros(shape, dtype=bool)
        reserved = np.array(sorted(self.special_ids.values()))
        given = self.distillation
        hard = given is None or given.hard_weight > 0
        for row, (key, example) in enumerate(zip(keys, examples, strict=True)):
            rng = np.random.default_rng([self.seed, key.step, key.example])
            tokens = np.asarray(example.input_ids, dtype=np.int64)
            corrupted, chosen = mask_tokens(
                tokens,
                maskable=~np.isin(tokens, reserved),
                mask_id=self.special_ids["mask"],
                vocab_size=self.corpus.vocab_size,
                rng=rng,
                probability=self.mlm_probability,
            )
            size = tokens.size
            input_ids[row, :size] = corrupted
            if hard:
                labels[row, :size][chosen] = tokens[chosen]
            if given is not None and given.kd_weight > 0:
                distilled[row, :size] = distilled_positions(chosen, share=given.kd_tokens, rng=rng)
        positions = np.flatnonzero((labels != IGNORED) | distilled)
        return batch | {
            "positions": torch.from_numpy(positions),
            "mlm_labels": torch.from_numpy(labels.reshape(-1)[positions]),
            "distilled": torch.from_numpy(distilled.reshape(-1)[positions]),
            "nsp_labels": torch.tensor([example.next_sentence_label for example in examples]),
        }

    def taught(self, batch: Batch) -> Batch:
        """The batch with the teacher's answer, if its hidden states are matched."""
        if _hidden_term(self.terms) is None:
            return batch
        return batch | {"answer": self._asked(batch)}

    def counts(self, batch: Batch) -> Tensor:
        """Targets of the masked LM, distilled positions, examples, and the norms: float64 [3 + layers]."""
        targets = (batch["mlm_labels"] != IGNORED).sum().cpu()
        distilled = batch["distilled"].sum().cpu()
        counts = torch.stack([targets, distilled, torch.tensor(len(batch["input_ids"]))]).double()
        return torch.cat([counts, _norms(self.terms, batch)])

    def loss(self, model: nn.Module, batch: Batch, totals: Tensor) -> Tensor:
        """The sum of `terms`."""
        needs = needs_of(self.terms)
        student = self._answer(model, batch, batch["positions"])
        answer = batch.get("answer")
        if answer is None and needs:
            answer = self._asked(batch)
        named = Totals.named(totals, ("targets", "distilled", "examples"))
        return sum_of_terms(self.terms, student, answer, batch, named)

    @torch.no_grad()
    def _asked(self, batch: Batch) -> Answer:
        """What the teacher says, its vocabulary logits at the distilled positions alone."""
        assert self.teacher is not None
        return self._answer(self.teacher, batch, batch["positions"][batch["distilled"]])

    def _answer(self, model: nn.Module, batch: Batch, positions: Tensor) -> Answer:
        hidden = _hidden_term(self.terms)
        logits = model(**encoder_inputs(batch), positions=positions, **({"hidden_states": True} if hidden else {}))
        if hidden is None:
            return Answer(logits)
        return Answer(logits, hidden.matched(logits.pop("hidden_states"), batch["attention_mask"]))


@dataclass(frozen=True)
class HiddenStatesObjective:
    """The teacher's hidden states on plain text, at every real token: no labels, no heads, nothing masked.

    Models are called as `encoder_model.EncoderModel` is, and give their hidden states.
    """

    corpus: Corpus
    pad_id: int
    teacher: Teacher
    layers: tuple[int, ...] = ()  # as in `HiddenStatesLoss`
    weight: float = 1.0

    @property
    def terms(self) -> tuple[HiddenStatesLoss]:
        return (HiddenStatesLoss(self.weight, self.layers),)

    def lengths(self) -> np.ndarray:
        lengths: np.ndarray = self.corpus.lengths
        return lengths

    def collate(self, keys: Sequence[ExampleKey]) -> Batch:
        """input_ids, attention_mask, token_type_ids: int64 [batch, tokens]."""
        return padded([self.corpus[key.example] for key in keys], self.pad_id)

    @torch.no_grad()
    def taught(self, batch: Batch) -> Batch:
        """The batch with the teacher's answer."""
        return batch | {"answer": self.answer(self.teacher, batch)}

    def counts(self, batch: Batch) -> Tensor:
        """The norms: float64 [layers]."""
        return _norms(self.terms, batch)

    def loss(self, model: nn.Module, batch: Batch, totals: Tensor) -> Tensor:
        """weight x mean over layers of the relative squared error."""
        return sum_of_terms(self.terms, self.answer(model, batch), batch["answer"], batch, Totals.named(totals, ()))

    def answer(self, model: nn.Module, batch: Batch) -> Answer:
        """The hidden states that are matched."""
        return Answer({}, self.terms[0].matched(model(**encoder_inputs(batch)), batch["attention_mask"]))


@dataclass(frozen=True)
class TaskObjective:
    """A task's loss on its labels, and distillation of logits, hidden states or both from a task teacher."""

    features: Sequence[Any]  # tasks.classification.TextFeature or tasks.question_answering.WindowFeature
    head: Head
    pad_id: int
    token_types: bool  # whether the models take token_type_ids
    teacher: Teacher | None = None
    distillation: Distillation | None = None
    stored: Mapping[str, Sequence[np.ndarray]] | None = None  # `teacher_answers`; None: it is asked in each step
    hidden_steps: int = 0  # the first ones, in which hidden states alone count

    @property
    def terms(self) -> tuple[Term, ...]:
        """In the order in which they are added."""
        given = self.distillation
        if given is None:
            return (LabelsLoss(1.0, self.head),)
        terms: tuple[Term, ...] = (
            LabelsLoss(given.hard_weight, self.head),
            LogitsLoss(given.kd_weight, given.temperature, self.head),
            HiddenStatesLoss(given.hidden_weight, given.hidden_layers),
        )
        return tuple(term for term in terms if term.weight > 0)

    def lengths(self) -> np.ndarray:
        return np.array([len(feature.input_ids) for feature in self.features], dtype=np.int64)

    def collate(self, keys: Sequence[ExampleKey]) -> Batch:
        """A padded batch: see `pad_features`; with the labels of `Head.labels`.

        `answer`, where the teacher has answered before: what it said, as `task_answer` gives it.
        """
        chosen = [self.features[key.example] for key in keys]
        batch = pad_examples(chosen, self.pad_id, self.head) | self.head.labels(chosen)
        if self.stored is not None:
            said = {name: [answers[key.example] for key in keys] for name, answers in self.stored.items()}
            logits = self.head.collated(said["logits"], batch["input_ids"].shape[1])
            batch["answer"] = Answer({"task": logits}, _collated_hidden(said.get("hidden_states", ())))
        if self.hidden_steps:
            batch["step"] = keys[0].step
        return batch

    def taught(self, batch: Batch) -> Batch:
        """The batch with the teacher's answer, if its hidden states are matched."""
        if "answer" in batch or _hidden_term(self.terms) is None:
            return batch
        return batch | {"answer": self._asked(batch)}

    def counts(self, batch: Batch) -> Tensor:
        """Examples, and the norms: float64 [1 + layers]."""
        examples = torch.tensor([len(batch["sizes" if "sizes" in batch else "input_ids"])], dtype=torch.float64)
        return torch.cat([examples, _norms(self.terms, batch)])

    def loss(self, model: nn.Module, batch: Batch, totals: Tensor) -> Tensor:
        """The sum of `terms`."""
        student = task_answer(model, batch, self.head, self.token_types, _hidden_term(self.terms))
        answer = batch.get("answer")
        if answer is None and needs_of(self.terms):
            answer = self._asked(batch)
        terms, hidden = self.terms, _hidden_term(self.terms)
        if hidden is not None and batch.get("step", self.hidden_steps) < self.hidden_steps:
            terms = (hidden,)
        return sum_of_terms(terms, student, answer, batch, Totals.named(totals, ("examples",)))

    @torch.no_grad()
    def _asked(self, batch: Batch) -> Answer:
        assert self.teacher is not None
        return task_answer(self.teacher, batch, self.head, self.token_types, _hidden_term(self.terms))


def task_answer(
    model: nn.Module, batch: Batch, head: Head, token_types: bool, hidden: HiddenStatesLoss | None = None
) -> Answer:
    """What a Hugging Face task model says: logits as `Head.logits` gives them, and the hidden states that match."""
    names = ("input_ids", "attention_mask", "token_type_ids") if token_types else ("input_ids", "attention_mask")
    inputs = {name: batch[name] for name in names}
    output = model(**inputs, **({"output_hidden_states": True} if hidden is not None else {}))
    logits = {"task": head.logits(output, batch)}
    if hidden is None:
        return Answer(logits)
    return Answer(logits, hidden.matched(output.hidden_states, batch["attention_mask"]))


def pad_examples(features: Sequence[Any], pad_id: int, head: Head) -> Batch:
    """As `pad_features` of what the head makes of them; `sizes`, int64 [features]: rows of each that has several."""
    sequences = head.sequences(features)
    batch = pad_features(sequences, pad_id)
    if sequences is features:
        return batch
    return batch | {"sizes": torch.tensor([len(feature.sequences) for feature in features])}


def pad_features(features: Sequence[Any], pad_id: int) -> Batch:
    """input_ids, attention_mask and token_type_ids as int64 [batch, tokens], padded to the longest of the batch."""
    width = round_up(max(len(feature.input_ids) for feature in features), PAD_TO_MULTIPLE_OF)
    input_ids = np.full((len(features), width), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(features), width), dtype=np.int64)
    token_type_ids = np.zeros((len(features), width), dtype=np.int64)
    for row, feature in enumerate(features):
        size = len(feature.input_ids)
        input_ids[row, :size] = feature.input_ids
        attention_mask[row, :size] = 1
        token_type_ids[row, :size] = feature.token_type_ids
    arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def round_up(value: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def padded(examples: Sequence[Example], pad_id: int) -> Batch:
    """input_ids, attention_mask and token_type_ids of a corpus's examples: int64 [batch, tokens]."""
    width = round_up(max(len(example.input_ids) for example in examples), PAD_TO_MULTIPLE_OF)
    shape = (len(examples), width)
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    token_type_ids = np.zeros(shape, dtype=np.int64)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        input_ids[row, :size] = example.input_ids
        attention_mask[row, :size] = 1
        token_type_ids[row, example.segment_b_start : size] = 1
    arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def encoder_inputs(batch: Batch) -> Batch:
    """What a body is called with."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


def _hidden_term(terms: Sequence[Term]) -> HiddenStatesLoss | None:
    return next((term for term in terms if isinstance(term, HiddenStatesLoss)), None)


def _norms(terms: Sequence[Term], batch: Batch) -> Tensor:
    hidden = _hidden_term(terms)
    return torch.zeros(0, dtype=torch.float64) if hidden is None else hidden.norms(batch["answer"]).cpu()


def _collated_hidden(stored: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    """[layers, tokens, size] per example -> [real tokens, size] per layer."""
    return tuple(torch.from_numpy(np.concatenate(stored, axis=1))) if stored else ()
