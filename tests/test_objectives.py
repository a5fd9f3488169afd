"""Batches and losses: against transformers' own forward pass and against formulas written out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification

from pruneonce.data.corpus import Example
from pruneonce.data.masking import distilled_positions, mask_tokens
from pruneonce.recipe import Distillation
from pruneonce.train.batching import ExampleKey
from pruneonce.train.heads import HEADS
from pruneonce.train.language_model import LanguageModel
from pruneonce.train.losses import IGNORED
from pruneonce.train.objectives import PretrainingObjective, TaskObjective
from pruneonce.train.teacher import Teacher

SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
VOCABULARY = 60


class FakeCorpus:
    """Twenty segment pairs of random lengths."""

    vocab_size = VOCABULARY

    def __init__(self):
        rng = np.random.default_rng(0)
        self.examples = []
        for number in range(20):
            a, b = (rng.integers(5, VOCABULARY, rng.integers(1, 9)) for _ in range(2))
            ids = np.concatenate([[2], a, [3], b, [3]])
            self.examples.append(Example(ids, len(a) + 2, number % 2))
        self.lengths = np.array([len(example.input_ids) for example in self.examples])

    def __getitem__(self, index):
        return self.examples[index]


def tiny(kind, seed=0, layers=1, **config):
    torch.manual_seed(seed)
    shape = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **config,
    )
    return kind(shape).eval()


@pytest.fixture
def objective():
    return PretrainingObjective(corpus=FakeCorpus(), special_ids=SPECIAL, seed=7, nsp=True)


@pytest.fixture
def distilled(objective):
    teacher = Teacher(LanguageModel(tiny(BertForPreTraining, seed=1), nsp=True))
    return replace(objective, teacher=teacher, distillation=Distillation())


KEYS = [ExampleKey(example, step=5, share=0) for example in range(8)]


def hub_inputs(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


def test_random_choices_follow_from_the_seed_the_step_and_the_example_alone(objective):
    whole = objective.collate(KEYS)
    alone = objective.collate(KEYS[3:4])
    width = alone["input_ids"].shape[1]
    assert torch.equal(whole["input_ids"][3, :width], alone["input_ids"][0])
    later = objective.collate([key._replace(step=6) for key in KEYS])
    assert not torch.equal(whole["input_ids"], later["input_ids"])


def test_hard_loss_is_the_one_transformers_computes(objective):
    model = tiny(BertForPreTraining)
    batch = objective.collate(KEYS)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    labels.view(-1)[batch["positions"]] = batch["mlm_labels"]
    expected = model(**hub_inputs(batch), labels=labels, next_sentence_label=batch["nsp_labels"]).loss
    loss = objective.loss(LanguageModel(model, nsp=True), batch, objective.counts(batch))
    assert torch.allclose(loss, expected, rtol=1e-5)


def test_distilled_loss_over_all_real_tokens_is_the_published_formula(distilled):
    student = tiny(BertForPreTraining)
    batch = distilled.collate(KEYS)
    ours, theirs = student(**hub_inputs(batch)), distilled.teacher.model.model(**hub_inputs(batch))
    real = batch["attention_mask"].bool()

    def divergence(z_student, z_teacher, temperature=2.0):
        return temperature**2 * functional.kl_div(
            functional.log_softmax(z_student / temperature, -1),
            functional.softmax(z_teacher / temperature, -1),
            reduction="batchmean",
        )

    soft = divergence(ours.prediction_logits[real], theirs.prediction_logits[real])
    soft = soft + divergence(ours.seq_relationship_logits, theirs.seq_relationship_logits)
    hard = replace(distilled, teacher=None, distillation=None)
    hard_batch = hard.collate(KEYS)
    hard_loss = hard.loss(LanguageModel(student, nsp=True), hard_batch, hard.counts(hard_batch))
    loss = distilled.loss(LanguageModel(student, nsp=True), batch, distilled.counts(batch))
    assert torch.allclose(loss, 0.5 * hard_loss + 0.5 * soft, rtol=1e-5)


@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
def test_loss_of_a_step_does_not_depend_on_how_its_batch_is_split(distilled, share):
    objective = replace(distilled, distillation=Distillation(kd_tokens=share))
    model = LanguageModel(tiny(BertForPreTraining), nsp=True)
    whole = objective.collate(KEYS)
    totals = objective.counts(whole)
    parts = [objective.collate(KEYS[begin::3]) for begin in range(3)]
    split = sum(objective.loss(model, part, totals) for part in parts)
    assert torch.equal(sum(objective.counts(part) for part in parts), totals)
    assert torch.allclose(split, objective.loss(model, whole, totals), rtol=1e-5)


def test_vocabulary_logits_are_computed_only_where_a_loss_reads_them(distilled):
    def positions(**changes):
        batch = replace(distilled, distillation=Distillation(**changes)).collate(KEYS)
        return len(batch["positions"]), int((batch["mlm_labels"] != IGNORED).sum()), int(batch["distilled"].sum())

    tokens = int(distilled.corpus.lengths[:8].sum())
    everywhere, targets, matched = positions(kd_tokens=1.0)
    assert everywhere == matched == tokens
    few, _, _ = positions(kd_tokens=0.01)
    assert few == targets, "with a small share only the masked tokens are matched"
    only_hard, _, matched = positions(kd_weight=0.0, hard_weight=1.0)
    assert (only_hard, matched) == (targets, 0)
    _, no_targets, _ = positions(hard_weight=0.0, kd_weight=1.0)
    assert no_targets == 0


def test_masking_has_the_published_proportions_and_spares_special_tokens():
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 30_000, 200_000)
    maskable = rng.random(ids.size) < 0.9
    corrupted, chosen = mask_tokens(ids, maskable=maskable, mask_id=4, vocab_size=30_000, rng=rng)
    assert not chosen[~maskable].any()
    assert chosen.sum() / maskable.sum() == pytest.approx(0.15, abs=0.005)
    assert (corrupted[chosen] == 4).mean() == pytest.approx(0.8, abs=0.01)
    assert (corrupted[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(corrupted[~chosen], ids[~chosen])


@pytest.mark.parametrize("maskable", [1, 0])
def test_shortest_example_still_has_a_target_if_it_has_a_token(maskable):
    rng = np.random.default_rng(0)
    ids = np.array([2, 9, 3])
    _, chosen = mask_tokens(
        ids, maskable=np.array([0, maskable, 0], bool), mask_id=4, vocab_size=10, rng=rng, probability=0.001
    )
    assert chosen.sum() == maskable


def test_distilled_share_takes_masked_tokens_first():
    rng = np.random.default_rng(0)
    chosen = rng.random(1000) < 0.15
    for share in (0.1, 0.15, 0.6, 1.0):
        positions = distilled_positions(chosen, share=share, rng=rng)
        assert positions[chosen].all()
        assert positions.sum() == max(chosen.sum(), round(share * 1000))


@dataclass
class Window:
    input_ids: np.ndarray
    token_type_ids: np.ndarray
    start_position: int = 1
    end_position: int = 2
    label: float = 1


def features(*sizes):
    rng = np.random.default_rng(0)
    return [Window(rng.integers(5, VOCABULARY, size), np.zeros(size, int)) for size in sizes]


@pytest.mark.parametrize(
    ("kind", "head", "config"),
    [
        ("question_answering", BertForQuestionAnswering, {}),
        ("classification", BertForSequenceClassification, {"num_labels": 3}),
        ("regression", BertForSequenceClassification, {"num_labels": 1}),
    ],
)
def test_padding_changes_neither_the_loss_nor_the_distillation(kind, head, config):
    """A short example beside a long one is padded; its share of the loss must be what it is alone."""
    objective = TaskObjective(
        features=features(8, 40),
        head=HEADS[kind],
        pad_id=0,
        token_types=True,
        teacher=Teacher(tiny(head, seed=1, **config)),
        distillation=Distillation(),
    )
    model = tiny(head, **config)
    keys = [ExampleKey(0, 0, 0), ExampleKey(1, 0, 0)]
    total = torch.tensor([1.0])
    together = objective.loss(model, objective.collate(keys), total)
    alone = sum(objective.loss(model, objective.collate([key]), total) for key in keys)
    assert torch.isfinite(together)
    assert torch.allclose(together, alone, rtol=1e-5)


def test_span_loss_is_the_one_transformers_computes():
    model = tiny(BertForQuestionAnswering)
    objective = TaskObjective(features=features(16, 16), head=HEADS["question_answering"], pad_id=0, token_types=True)
    batch = objective.collate([ExampleKey(0, 0, 0), ExampleKey(1, 0, 0)])
    expected = model(**hub_inputs(batch), start_positions=batch["start"], end_positions=batch["end"]).loss
    assert torch.allclose(objective.loss(model, batch, objective.counts(batch)), expected, rtol=1e-5)
