"""Matching: which windows a step reads, the loss beside a plain twin, and what measuring leaves behind."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from pruneonce.data.build import build
from pruneonce.data.corpus import Corpus
from pruneonce.data.windows import DOCUMENT_TOKENS, LAYOUT, Windows
from pruneonce.errors import UsageError
from pruneonce.recipe import Matching
from pruneonce.sparsity.sensitivity import Sensitivity
from pruneonce.train.batching import BatchPlan, ExampleKey
from pruneonce.train.encoder_model import load_encoder_model
from pruneonce.train.heads import HEADS
from pruneonce.train.matching import MatchingObjective, held_out_error
from pruneonce.train.objectives import encoder_inputs
from pruneonce.train.teacher import Teacher

PLACES, STEPS = 12, 30
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@pytest.fixture(scope="module")
def corpus(articles, tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents") / "corpus"
    build(
        articles, folder, tokenizer=tiny_bert, layout=LAYOUT, max_tokens=DOCUMENT_TOKENS, short_sequence_probability=0.0
    )
    return folder


@pytest.fixture(scope="module")
def original(tiny_bert):
    return load_encoder_model(tiny_bert).eval()


@pytest.fixture(scope="module")
def student(original):
    """The original with noise on its weights."""
    torch.manual_seed(0)
    model = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def objective(corpus, original):
    return MatchingObjective(
        windows=Windows(Corpus(corpus, "train"), SPECIAL, 0.5),
        pad_id=0,
        teacher=Teacher(copy.deepcopy(original)),
        matching=Matching(lengths=(16, 32), late_lengths=(32, 48, 64), late_share=0.4),
        seed=7,
        steps=STEPS,
        places=PLACES,
    )


def keys(step, places=range(PLACES), share=0):
    return [ExampleKey(place, step, share) for place in places]


def loss_of(objective, model, *batches):
    """As the trainer takes it of one step's shares."""
    taught = [objective.taught(batch) for batch in batches]
    totals = torch.stack([objective.counts(batch) for batch in taught]).sum(dim=0)
    return sum(objective.loss(model, batch, totals) for batch in taught)


# ------------------------------------------------------------------------------------------------------------- windows


def test_tokens_of_a_step_are_the_same_whatever_the_length_of_its_windows(objective):
    for tokens in (16, 32, 48, 64):
        assert objective.windows_of(tokens) * tokens == PLACES * 16
    for step in range(STEPS):
        batch, tokens = objective.collate(keys(step)), objective.tokens_of(step)
        assert len(batch["input_ids"]) == PLACES * 16 // tokens
        assert batch["input_ids"].shape[1] <= tokens
        assert batch["attention_mask"].sum() > 0.6 * PLACES * 16, "the corpus has documents that are long enough"


def test_a_window_longer_than_all_places_together_is_read_alone(objective):
    assert replace(objective, places=2).windows_of(48) == 1


def test_long_windows_come_in_the_last_share_of_the_steps(objective):
    drawn = [objective.tokens_of(step) for step in range(STEPS)]
    assert set(drawn[:18]) == {16, 32}
    assert set(drawn[18:]) == {32, 48, 64}
    for share, late in ((0.0, 0), (1.0, STEPS)):
        some = replace(objective, matching=replace(objective.matching, late_share=share, late_lengths=(64,)))
        assert sum(some.tokens_of(step) == 64 for step in range(STEPS)) == late


def test_a_batch_follows_from_seed_step_and_place_alone(objective):
    def rows(batch):
        return {
            tuple(ids[mask.bool()].tolist())
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        }

    steps = (3, 25, 26, 3)
    batches = [objective.collate(keys(step)) for step in steps]
    for name in batches[0]:
        assert torch.equal(batches[0][name], batches[3][name]), "whatever was drawn between"
    assert not rows(batches[0]) & rows(batches[1])
    assert not rows(batches[0]) & rows(replace(objective, seed=8).collate(keys(3)))
    parts = [rows(objective.collate(keys(3, places))) for places in (range(0, PLACES, 2), range(1, PLACES, 2))]
    assert rows(batches[0]) == parts[0] | parts[1], "whichever share a place is in"


def test_a_share_without_a_filled_place_reads_a_window_all_the_same(objective):
    step = next(step for step in range(STEPS) if objective.tokens_of(step) == 64)
    batch = objective.collate(keys(step, range(8, 12)))
    assert len(batch["input_ids"]) == 1


@pytest.mark.parametrize("group", [True, False])
def test_the_plan_of_batches_gives_each_step_every_place_in_order(objective, group):
    """A place that comes twice would be read twice, and long windows are in the first places."""
    plan = BatchPlan(objective.lengths(), PLACES, STEPS, seed=3, group_by_length=group, accumulation=2)
    dealt = list(plan)
    for step in range(STEPS):
        assert plan.global_batch(step).tolist() == list(range(PLACES))
        shares = dealt[2 * step : 2 * step + 2]
        assert all(min(key.example for key in share) < objective.windows_of(64) for share in shares)
        assert sorted(key.example for share in shares for key in share) == list(range(PLACES))
        assert {key.step for share in shares for key in share} == {step}


# ---------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("layers", [(), (2,), (0, 2)])
def test_the_loss_is_the_mean_of_relative_squares_over_real_tokens(objective, student, original, layers):
    """Beside loops over windows and layers, each window alone and without padding."""
    given = replace(objective, matching=replace(objective.matching, hidden_layers=layers, hidden_weight=3.0))
    batch = given.collate(keys(20))
    found = loss_of(given, student, batch)
    squares, norms = np.zeros(3), np.zeros(3)
    with torch.no_grad():
        for row in range(len(batch["input_ids"])):
            real = int(batch["attention_mask"][row].sum())
            one = {name: value[row : row + 1, :real] for name, value in encoder_inputs(batch).items()}
            for layer, (ours, theirs) in enumerate(zip(student(**one), original(**one), strict=True)):
                squares[layer] += float((ours - theirs).double().square().sum())
                norms[layer] += float(theirs.double().square().sum())
    chosen = list(layers) or [1, 2]
    assert found.item() == pytest.approx(3.0 * np.mean((squares / norms)[chosen]), rel=1e-4)


@pytest.mark.parametrize("pooling", [("mean",), ("cls",), ("mean", "max")])
def test_vectors_and_similarities_are_those_of_texts_read_alone(objective, student, original, pooling):
    matching = replace(objective.matching, vectors_weight=2.0, similarities_weight=0.5)
    given = replace(objective, matching=matching, pooling=pooling)
    batch = given.collate(keys(2))
    found = loss_of(given, student, batch) - loss_of(objective, student, batch)
    sides = []
    with torch.no_grad():
        for model in (student, original):
            vectors = []
            for row in range(len(batch["input_ids"])):
                real = int(batch["attention_mask"][row].sum())
                one = {name: value[row : row + 1, :real] for name, value in encoder_inputs(batch).items()}
                states = model(**one)[-1][0].double().numpy()
                parts = {"mean": states.mean(0), "cls": states[0], "max": states.max(0)}
                vector = np.concatenate([parts[mode] for mode in pooling])
                vectors.append(vector / np.linalg.norm(vector))
            sides.append(np.stack(vectors))
    ours, theirs = sides
    alike = [side @ side.T - np.eye(len(side)) for side in sides]
    expected = 2.0 * np.square(ours - theirs).sum(1).mean()
    expected += 0.5 * np.square(alike[0] - alike[1]).sum() / np.square(alike[1]).sum()
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["classification", "regression", "question_answering"])
def test_answers_of_the_models_own_head_are_matched_and_the_head_stays(objective, tiny_bert, tmp_path, kind):
    torch.manual_seed(1)
    settings = {"classification": {"num_labels": 3}, "regression": {"num_labels": 1}}.get(kind, {})
    name = "BertForQuestionAnswering" if kind == "question_answering" else "BertForSequenceClassification"
    getattr(transformers, name).from_pretrained(tiny_bert, **settings).save_pretrained(tmp_path)
    own, changed = load_encoder_model(tmp_path).eval(), load_encoder_model(tmp_path).eval()
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.requires_grad)
    matching = replace(objective.matching, logits_weight=2.0)
    given = replace(objective, teacher=Teacher(own), matching=matching, head=HEADS[kind])
    plain = replace(given, matching=objective.matching)
    batch = given.collate(keys(2))
    loss = loss_of(given, changed, batch)
    texts = len(batch["input_ids"])
    with torch.no_grad():
        ours, theirs = (HEADS[kind].logits(each(**encoder_inputs(batch), whole=True), batch) for each in (changed, own))
        expected = 2.0 * HEADS[kind].soft_loss(ours, theirs, 1.0) / texts
    assert expected > 0
    assert (loss - loss_of(plain, changed, batch)).item() == pytest.approx(expected.item(), rel=2e-3, abs=1e-7)
    loss.backward()
    heads = [each for each in changed.model.named_parameters() if each[0].startswith(("classifier", "qa_outputs"))]
    assert heads
    assert all(parameter.grad is None for _, parameter in heads)


@pytest.mark.parametrize("step", [2, 20, 27])
def test_the_loss_of_a_step_is_the_same_however_its_windows_are_shared_out(objective, student, step):
    whole = loss_of(objective, student, objective.collate(keys(step)))
    shares = [objective.collate(keys(step, range(first, PLACES, 2), first)) for first in (0, 1)]
    torch.testing.assert_close(loss_of(objective, student, *shares), whole, rtol=1e-5, atol=0)


def test_every_weight_of_the_body_gets_a_gradient_and_head_and_pooler_none(objective, student):
    student.zero_grad(set_to_none=True)
    loss_of(objective, student, objective.collate(keys(0))).backward()
    for name, parameter in student.named_parameters():
        trained = "pooler" not in name and "cls." not in name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == trained, name
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    student.zero_grad(set_to_none=True)


# ------------------------------------------------------------------------------------------------------------- measure


def linears(model):
    return {name: each for name, each in model.named_modules() if type(each) is torch.nn.Linear and "encoder" in name}


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_no_gradient_no_hook_and_the_mode_as_it_was(objective, student, training):
    """Dropout takes no part in it: two measures say the same."""
    student.train(training)
    first, second = Sensitivity(), Sensitivity()
    layers = linears(student)
    for criterion in (first, second):
        objective.measure(student, criterion, layers, None)
    assert student.training is training
    assert all(parameter.grad is None for parameter in student.parameters())
    assert not any(layer._forward_hooks for layer in layers.values())
    for name, layer in layers.items():
        scores = first.scores(name, layer.weight)
        assert torch.equal(scores, second.scores(name, layer.weight)), name
        assert bool(scores.isfinite().all() and (scores > 0).any()), name
    student.eval()


def test_measuring_in_bfloat16_says_about_the_same(objective, student):
    plain, rounded = Sensitivity(), Sensitivity()
    objective.measure(student, plain, linears(student), None)
    objective.measure(student, rounded, linears(student), torch.bfloat16)
    for name, layer in linears(student).items():
        ours, theirs = (each.scores(name, layer.weight).flatten() for each in (rounded, plain))
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.999, name
    assert all(parameter.grad is None for parameter in student.parameters())


def test_text_that_weights_are_measured_on_is_none_that_is_trained_on(objective, student, monkeypatch):
    seen, drawn = [], MatchingObjective._drawn
    monkeypatch.setattr(
        MatchingObjective, "_drawn", lambda self, step, places, tokens: seen.append(step) or drawn(self, 0, places, 16)
    )
    objective.measure(student, Sensitivity(), linears(student), None)
    assert min(seen) > 1_000_000


# ------------------------------------------------------------------------------------------------------------ held out


def test_the_original_itself_has_no_error_and_another_has_that_of_the_loss(objective, original, student):
    assert set(held_out_error(original, objective, 20).values()) == {0.0}
    found = held_out_error(student, objective, 20)
    assert found.keys() == {"hidden_error", "hidden_error_1", "hidden_error_2"}
    assert found["hidden_error"] == pytest.approx((found["hidden_error_1"] + found["hidden_error_2"]) / 2)
    batches = [
        objective.batch_of(step, tokens)
        for tokens in (16, 32, 48, 64)
        for step in range(-(-5 // objective.windows_of(tokens)))
    ]
    with torch.no_grad():
        assert loss_of(objective, student, *batches).item() == pytest.approx(found["hidden_error"], rel=1e-5)
    assert held_out_error(student, objective, 20) == found


def test_layers_that_are_matched_are_named_by_their_numbers(objective, student):
    given = replace(objective, matching=replace(objective.matching, hidden_layers=(0, 2)))
    assert held_out_error(student, given, 4).keys() == {"hidden_error", "hidden_error_0", "hidden_error_2"}


# -------------------------------------------------------------------------------------------------------------- recipe


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lengths": ()}, r"lengths and late_lengths must be lists of numbers from 16 on, got \[\] and"),
        ({"late_lengths": ()}, r"from 16 on, got .* and \[\]"),
        ({"lengths": (15, 32)}, r"from 16 on, got \[15, 32\]"),
        ({"late_share": 1.5}, r"matching\.late_share must be from 0 to 1, got 1\.5"),
        ({"pairs": -0.1}, r"matching\.pairs must be from 0 to 1, got -0\.1"),
        ({"hidden_weight": 0.0}, "hidden_weight"),
        ({"vectors_weight": -1.0}, r"matching\.vectors_weight must not be negative, got -1\.0"),
        ({"temperature": 0.0}, "temperature"),
        ({"hidden_layers": (-1, 2)}, r"matching\.hidden_layers must be different numbers from 0 .*got \[-1, 2\]"),
        ({"hidden_layers": (2, 2)}, r"matching\.hidden_layers must be different numbers from 0 .*got \[2, 2\]"),
    ],
)
def test_wishes_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        Matching(**wrong)
