"""What a stage minimises: batches from example keys, and losses from logits. Distillation is joined in here.

An objective has three functions. `collate(keys)` makes a batch; `counts(batch)` says how many items each mean is
over; `loss(model, batch, totals)` divides sums by `totals`, the counts summed over the whole optimizer step. So the
loss of a step is the same number however its batch is split over processes and accumulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneonce.data.corpus import Corpus
from pruneonce.data.masking import distilled_positions, mask_tokens
from pruneonce.recipe import Distillation
from pruneonce.train.batching import ExampleKey
from pruneonce.train.distillation import distillation_loss
from pruneonce.train.teacher import Teacher

Batch = dict[str, Any]
IGNORED = -100  # label of positions without a target, as in transformers
PAD_TO_MULTIPLE_OF = 8  # vector width of the kernels that follow


class Objective(Protocol):
    """What `training.StageTrainer` needs to know of a stage."""

    def lengths(self) -> np.ndarray: ...

    def collate(self, keys: Sequence[ExampleKey]) -> Batch: ...

    def counts(self, batch: Batch) -> Tensor: ...

    def loss(self, model: nn.Module, batch: Batch, totals: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class PretrainingObjective:
    """Masked LM, next sentence where the corpus has pairs, and distillation of both from a frozen teacher."""

    corpus: Corpus
    special_ids: dict[str, int]
    seed: int
    nsp: bool
    mlm_probability: float = 0.15
    teacher: Teacher | None = None
    distillation: Distillation | None = None

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
        width = round_up(max(len(example.input_ids) for example in examples), PAD_TO_MULTIPLE_OF)
        shape = (len(keys), width)
        input_ids = np.full(shape, self.special_ids["pad"], dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        token_type_ids = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        distilled = np.zeros(shape, dtype=bool)
        reserved = np.array(sorted(self.special_ids.values()))
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
            attention_mask[row, :size] = 1
            token_type_ids[row, example.segment_b_start : size] = 1
            if self.hard_weight > 0:
                labels[row, :size][chosen] = tokens[chosen]
            if self.kd_weight > 0 and self.distillation is not None:
                distilled[row, :size] = distilled_positions(chosen, share=self.distillation.kd_tokens, rng=rng)
        positions = np.flatnonzero((labels != IGNORED) | distilled)
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "token_type_ids": torch.from_numpy(token_type_ids),
            "positions": torch.from_numpy(positions),
            "mlm_labels": torch.from_numpy(labels.reshape(-1)[positions]),
            "distilled": torch.from_numpy(distilled.reshape(-1)[positions]),
            "nsp_labels": torch.tensor([example.next_sentence_label for example in examples]),
        }

    def counts(self, batch: Batch) -> Tensor:
        """Targets of the masked LM, distilled positions, examples: float64 [3]."""
        targets = (batch["mlm_labels"] != IGNORED).sum()
        return torch.stack([targets, batch["distilled"].sum(), torch.tensor(len(batch["input_ids"]))]).double()

    def loss(self, model: nn.Module, batch: Batch, totals: Tensor) -> Tensor:
        """hard_weight x (masked LM + NSP cross-entropy) + kd_weight x (masked LM + NSP divergence from the teacher)."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        logits = model(**inputs, positions=batch["positions"])
        targets, distilled, examples = totals.clamp(min=1).to(torch.float32)
        loss = logits["mlm"].new_zeros(())
        if self.hard_weight > 0:
            hard = (
                functional.cross_entropy(logits["mlm"], batch["mlm_labels"], ignore_index=IGNORED, reduction="sum")
                / targets
            )
            if self.nsp:
                hard = hard + functional.cross_entropy(logits["nsp"], batch["nsp_labels"], reduction="sum") / examples
            loss = loss + self.hard_weight * hard
        if self.kd_weight > 0 and self.teacher is not None and self.distillation is not None:
            temperature = self.distillation.temperature
            with torch.no_grad():
                taught = self.teacher(**inputs, positions=batch["positions"][batch["distilled"]])
            soft = distillation_loss(logits["mlm"][batch["distilled"]], taught["mlm"], temperature) / distilled
            if self.nsp:
                soft = soft + distillation_loss(logits["nsp"], taught["nsp"], temperature) / examples
            loss = loss + self.kd_weight * soft
        return loss

    @property
    def hard_weight(self) -> float:
        return self.distillation.hard_weight if self.distillation is not None else 1.0

    @property
    def kd_weight(self) -> float:
        return self.distillation.kd_weight if self.distillation is not None else 0.0


@dataclass(frozen=True)
class TaskObjective:
    """Cross-entropy (squared error for regression) on a task's labels, and distillation from a task teacher."""

    features: Sequence[Any]  # tasks.classification.Feature or tasks.question_answering.Window
    kind: str  # "classification" | "regression" | "question_answering"
    pad_id: int
    token_types: bool  # whether the models take token_type_ids
    teacher: Teacher | None = None
    distillation: Distillation | None = None
    taught: Sequence[np.ndarray] | None = None  # the teacher's logits of each feature; None: it is asked in each step

    def lengths(self) -> np.ndarray:
        return np.array([len(feature.input_ids) for feature in self.features], dtype=np.int64)

    def collate(self, keys: Sequence[ExampleKey]) -> Batch:
        """A padded batch: see `pad_features`; labels are `labels` [batch], or `start` and `end` for spans.

        `taught`, where the teacher has answered before: its logits, as `task_logits` gives them.
        """
        chosen = [self.features[key.example] for key in keys]
        batch = pad_features(chosen, self.pad_id)
        if self.kind == "question_answering":
            batch["start"] = torch.tensor([feature.start_position for feature in chosen])
            batch["end"] = torch.tensor([feature.end_position for feature in chosen])
        else:
            dtype = torch.float32 if self.kind == "regression" else torch.int64
            batch["labels"] = torch.tensor([feature.label for feature in chosen], dtype=dtype)
        if self.taught is not None:
            logits = [self.taught[key.example] for key in keys]
            spans = self.kind == "question_answering"
            batch["taught"] = _padded_spans(logits, batch) if spans else torch.from_numpy(np.stack(logits))
        return batch

    def counts(self, batch: Batch) -> Tensor:
        """Examples: float64 [1]."""
        return torch.tensor([len(batch["input_ids"])], dtype=torch.float64)

    def loss(self, model: nn.Module, batch: Batch, totals: Tensor) -> Tensor:
        """hard_weight x loss on labels + kd_weight x divergence from the teacher, as means over the examples."""
        logits = task_logits(model, batch, self.kind, self.token_types)
        examples = totals[0].to(torch.float32)
        loss = self.hard_weight * self._hard(logits, batch) / examples
        if self.distillation is not None and self.distillation.kd_weight > 0:
            taught = batch.get("taught")
            if taught is None:
                assert self.teacher is not None
                with torch.no_grad():
                    taught = task_logits(self.teacher, batch, self.kind, self.token_types)
            loss = loss + self.distillation.kd_weight * self._soft(logits, taught) / examples
        return loss

    @property
    def hard_weight(self) -> float:
        return self.distillation.hard_weight if self.distillation is not None else 1.0

    def _hard(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.kind == "regression":
            return functional.mse_loss(logits[:, 0], batch["labels"], reduction="sum")
        if self.kind == "question_answering":
            start, end = logits.unbind(dim=1)
            both = functional.cross_entropy(start, batch["start"], reduction="sum")
            return (both + functional.cross_entropy(end, batch["end"], reduction="sum")) / 2
        return functional.cross_entropy(logits, batch["labels"], reduction="sum")

    def _soft(self, logits: Tensor, taught: Tensor) -> Tensor:
        assert self.distillation is not None
        if self.kind == "regression":  # a single output has no distribution to match
            return functional.mse_loss(logits, taught, reduction="sum")
        if self.kind == "question_answering":  # start and end, half each
            both = distillation_loss(logits.flatten(0, 1), taught.flatten(0, 1), self.distillation.temperature)
            return both / 2
        return distillation_loss(logits, taught, self.distillation.temperature)


# Finite, so that 0 x (log p - log q) is 0 and not NaN; e to this power is 0 in fp32.
NOT_A_POSITION = -1e4


def task_logits(model: nn.Module, batch: Batch, kind: str, token_types: bool) -> Tensor:
    """Logits of a Hugging Face task model: [batch, labels], or [batch, 2, tokens] (start, end) for spans.

    Padding is no candidate for a span: its logits are `NOT_A_POSITION` for student and teacher alike, so that it
    takes no part in either loss.
    """
    names = ("input_ids", "attention_mask", "token_type_ids") if token_types else ("input_ids", "attention_mask")
    output = model(**{name: batch[name] for name in names})
    if kind != "question_answering":
        logits: Tensor = output.logits
        return logits
    spans = torch.stack([output.start_logits, output.end_logits], dim=1)
    return spans.masked_fill(batch["attention_mask"][:, None, :] == 0, NOT_A_POSITION)


def _padded_spans(logits: Sequence[np.ndarray], batch: Batch) -> Tensor:
    """[tokens, 2] each -> [batch, 2, tokens], padded as `task_logits` does."""
    rows, width = batch["input_ids"].shape
    padded = np.full((rows, 2, width), NOT_A_POSITION, dtype=np.float32)
    for row, each in enumerate(logits):
        padded[row, :, : len(each)] = each.T
    return torch.from_numpy(padded)


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
