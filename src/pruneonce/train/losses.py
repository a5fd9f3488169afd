"""Losses as terms: each has a weight, and says what it needs of the teacher. A stage minimises their sum.

Sums are divided by counts over the whole optimizer step (`Totals`), whatever parts its batch is computed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pruneonce.train.distillation import distillation_loss
from pruneonce.train.heads import Head

Batch = dict[str, Any]
Needs = Literal["logits", "hidden_states", "vectors"]
IGNORED = -100  # label of positions without a target, as in transformers


@dataclass(frozen=True)
class Answer:
    """What a model says to a batch.

    logits: by head, "mlm" [n, vocabulary], "nsp" [batch, 2], or "task", as the task's head gives them. hidden_states:
    [real tokens, hidden size] of each layer that is matched; empty where no term reads them. vectors: of whole texts,
    of length 1 each, float32 [texts, size]; None where no term reads them.
    """

    logits: Mapping[str, Tensor]
    hidden_states: Sequence[Tensor] = ()
    vectors: Tensor | None = None


@dataclass(frozen=True)
class Totals:
    """What sums are divided by: counts over the whole optimizer step, above 0 each, as float32 scalars.

    norms: of each layer whose hidden states are matched, the teacher's squares summed: float32 [layers].
    """

    counts: Mapping[str, Tensor]
    norms: Tensor

    @classmethod
    def named(cls, totals: Tensor, names: Sequence[str]) -> Totals:
        """From `Objective.counts` summed over the step: counts in the order of `names`, then the norms."""
        counts = totals[: len(names)].to(torch.float32).clamp(min=torch.finfo(torch.float32).tiny)
        return cls(dict(zip(names, counts, strict=True)), totals[len(names) :].to(torch.float32))


class Term(Protocol):
    """One summand of a loss."""

    @property
    def weight(self) -> float: ...

    @property
    def needs(self) -> Needs | None:
        """What it reads of the teacher's answer; None: the term needs no teacher."""

    def __call__(self, student: Answer, teacher: Answer | None, batch: Batch, totals: Totals) -> Tensor:
        """Weight x this part's share of the step's mean: a scalar."""


def sum_of_terms(
    terms: Sequence[Term], student: Answer, teacher: Answer | None, batch: Batch, totals: Totals
) -> Tensor:
    """The loss of a part of a step: the parts of a step add up to the same number however it is split."""
    first, *others = [term(student, teacher, batch, totals) for term in terms]
    for other in others:
        first = first + other
    return first


def needs_of(terms: Sequence[Term]) -> frozenset[Needs]:
    """What the teacher has to answer for all of them."""
    return frozenset(term.needs for term in terms if term.needs is not None)


# ------------------------------------------------------------------------------------------------------------ labels


@dataclass(frozen=True)
class LabelsLoss:
    """The loss on a task's labels, as a mean over the examples."""

    weight: float
    head: Head
    needs: ClassVar[Needs | None] = None

    def __call__(self, student: Answer, teacher: Answer | None, batch: Batch, totals: Totals) -> Tensor:
        return self.weight * self.head.hard_loss(student.logits["task"], batch) / totals.counts["examples"]


@dataclass(frozen=True)
class MaskedTokensLoss:
    """Cross-entropy of the masked LM as a mean over its targets, plus that of the next sentence where it is learnt.

    Source: Devlin et al. 2018, https://arxiv.org/abs/1810.04805, appendix A.2.
    """

    weight: float
    nsp: bool
    needs: ClassVar[Needs | None] = None

    def __call__(self, student: Answer, teacher: Answer | None, batch: Batch, totals: Totals) -> Tensor:
        logits = student.logits
        hard = (
            functional.cross_entropy(logits["mlm"], batch["mlm_labels"], ignore_index=IGNORED, reduction="sum")
            / totals.counts["targets"]
        )
        if self.nsp:
            nsp = functional.cross_entropy(logits["nsp"], batch["nsp_labels"], reduction="sum")
            hard = hard + nsp / totals.counts["examples"]
        return self.weight * hard


# ------------------------------------------------------------------------------------------------------------ logits


@dataclass(frozen=True)
class LogitsLoss:
    """Divergence of a task's logits from the teacher's, as a mean over the examples."""

    weight: float
    temperature: float
    head: Head
    needs: ClassVar[Needs | None] = "logits"

    def __call__(self, student: Answer, teacher: Answer | None, batch: Batch, totals: Totals) -> Tensor:
        assert teacher is not None
        soft = self.head.soft_loss(student.logits["task"], teacher.logits["task"], self.temperature)
        return self.weight * soft / totals.counts["examples"]


@dataclass(frozen=True)
class VocabularyLoss:
    """Divergence of both pre-training heads from the teacher's: means over the distilled positions, and the examples.

    The teacher's `mlm` logits are of the distilled positions alone.
    """

    weight: float
    temperature: float
    nsp: bool
    needs: ClassVar[Needs | None] = "logits"

    def __call__(self, student: Answer, teacher: Answer | None, batch: Batch, totals: Totals) -> Tensor:
        assert teacher is not None
        ours, theirs = student.logits, teacher.logits
        soft = distillation_loss(ours["mlm"][batch["distilled"]], theirs["mlm"], self.temperature)
        soft = soft / totals.counts["distilled"]
        if self.nsp:
            soft = soft + distillation_loss(ours["nsp"], theirs["nsp"], self.temperature) / totals.counts["examples"]
        return self.weight * soft


# ----------------------------------------------------------------------------------------------------- hidden states


@dataclass(frozen=True)
class HiddenStatesLoss:
    """Mean over layers of Σ‖h_student - h_teacher‖² / Σ‖h_teacher‖², both sums over the step's real tokens.

    layers: 0 is the output of the embeddings, n that of the n-th transformer layer; empty: every transformer layer.
    The norm makes layers of different sizes count alike. Source: SquareHead, Kurtic et al. 2023,
    https://arxiv.org/abs/2310.06927, section 3, with its normaliser over the whole step instead of a micro-batch.
    """

    weight: float
    layers: tuple[int, ...] = ()
    needs: ClassVar[Needs | None] = "hidden_states"

    def matched(self, hidden_states: Sequence[Tensor], attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Real tokens of the layers that are matched, row by row: [real tokens, size] each.

        hidden_states: as transformers gives them, [batch, tokens, size] of the embeddings and of every layer.
        """
        real = attention_mask.flatten().nonzero().squeeze(1)
        layers = self.layers or range(1, len(hidden_states))
        return tuple(hidden_states[layer].flatten(0, 1)[real] for layer in layers)

    def norms(self, teacher: Answer) -> Tensor:
        """Σ‖h_teacher‖² of each layer: float64 [layers]."""
        return torch.stack([hidden.float().square().sum().double() for hidden in teacher.hidden_states])

    def squares(self, student: Answer, teacher: Answer) -> Tensor:
        """Σ‖h_student - h_teacher‖² of each layer: float32 [layers]."""
        pairs = zip(student.hidden_states, teacher.hidden_states, strict=True)
        return torch.stack([(ours.float() - theirs.float()).square().sum() for ours, theirs in pairs])

    def __call__(self, student: Answer, teacher: Answer | None, batch: Batch, totals: Totals) -> Tensor:
        assert teacher is not None
        relative = self.squares(student, teacher) / totals.norms.clamp(min=torch.finfo(torch.float32).tiny)
        return self.weight * relative.mean()


# ----------------------------------------------------------------------------------------------------------- vectors


@dataclass(frozen=True)
class VectorsLoss:
    """Mean over texts of ‖v_student - v_teacher‖² = 2 (1 - cosine), of vectors of length 1.

    Errors of single tokens that cancel in a text's vector count for nothing here, and those that add up count whole.
    """

    weight: float
    needs: ClassVar[Needs | None] = "vectors"

    def __call__(self, student: Answer, teacher: Answer | None, batch: Batch, totals: Totals) -> Tensor:
        ours, theirs = _vectors(student, teacher)
        return self.weight * (ours - theirs).square().sum() / totals.counts["examples"]


@dataclass(frozen=True)
class SimilaritiesLoss:
    """Σ (s_student - s_teacher)² / Σ s_teacher² over all pairs of different texts of a batch, s being their cosine.

    Who is near whom is what a search reads of vectors. A batch computed in parts has the pairs within each.
    Source: Relational Knowledge Distillation (Park et al. 2019, https://arxiv.org/abs/1904.05068), with cosines in
    place of distances.
    """

    weight: float
    needs: ClassVar[Needs | None] = "vectors"

    def squares(self, teacher: Answer) -> Tensor:
        """Σ s_teacher²: what the term is divided by, a scalar."""
        assert teacher.vectors is not None
        return _similarities(teacher.vectors).square().sum()

    def __call__(self, student: Answer, teacher: Answer | None, batch: Batch, totals: Totals) -> Tensor:
        ours, theirs = map(_similarities, _vectors(student, teacher))
        return self.weight * (ours - theirs).square().sum() / totals.counts["similarities"]


def _vectors(student: Answer, teacher: Answer | None) -> tuple[Tensor, Tensor]:
    assert teacher is not None
    assert student.vectors is not None
    assert teacher.vectors is not None
    return student.vectors, teacher.vectors


def _similarities(vectors: Tensor) -> Tensor:
    """Cosines of all pairs of different texts: float32 [texts, texts], 0 on the diagonal."""
    cosines = vectors @ vectors.T
    return cosines * (1 - torch.eye(len(vectors), device=vectors.device))
