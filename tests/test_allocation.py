"""How many zeros each matrix gets: budgets to the weight, the cap, ties, targets by role."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertModel

from pruneonce.errors import PruneonceError, UsageError
from pruneonce.models import family_of
from pruneonce.recipe import Pruning
from pruneonce.sparsity.allocation import ALLOCATIONS, MOST_OF_A_MATRIX, in_all, uniform
from pruneonce.sparsity.patterns import PATTERNS, pruned_count
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.schedules import PruningSchedule
from pruneonce.stages.pruning import allocation_of, scheduled_pruner

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=5)


def drawn(sizes, seed=0, values=None):
    generator = torch.Generator().manual_seed(seed)
    if values:  # so few that most are tied
        return {f"{i}": torch.randint(values, (n,), generator=generator).float() for i, n in enumerate(sizes)}
    return {f"{i}": torch.rand(n, generator=generator) for i, n in enumerate(sizes)}


def counts(scores, sparsities):
    return {name: pruned_count(each.numel(), sparsities[name]) for name, each in scores.items()}


@given(SIZES, st.floats(0.01, 0.99), st.integers(0, 9), st.sampled_from([None, 1, 2, 3]))
def test_the_budget_is_spent_to_the_weight_and_no_matrix_is_emptied(sizes, sparsity, seed, values):
    """Whatever is tied, and where the cap is the budget itself: there floors in each matrix spare a few weights."""
    scores = drawn(sizes, seed, values)
    pruned = counts(scores, in_all(scores, sparsity))
    most = {name: int(max(MOST_OF_A_MATRIX, sparsity) * each.numel() + 1e-6) for name, each in scores.items()}
    assert all(pruned[name] <= most[name] for name in scores)
    assert sum(pruned.values()) == min(int(sparsity * sum(sizes) + 1e-6), sum(most.values()))


@given(SIZES, st.floats(0.01, MOST_OF_A_MATRIX), st.integers(0, 9))
def test_what_goes_is_worth_less_than_what_stays_unless_the_cap_keeps_it(sizes, sparsity, seed):
    scores = drawn(sizes, seed)
    pruned = counts(scores, in_all(scores, sparsity))
    best = {name: each.sort().values for name, each in scores.items()}
    gone = [float(best[name][count - 1]) for name, count in pruned.items() if count]
    stays = [
        float(best[name][count])
        for name, count in pruned.items()
        if count < int(MOST_OF_A_MATRIX * best[name].numel() + 1e-6)
    ]
    assert max(gone, default=0.0) < min(stays, default=2.0)


def test_a_matrix_that_is_underrated_keeps_the_part_that_the_cap_leaves_it():
    scores = {"low": torch.rand(1000), "high": 10 + torch.rand(1000)}
    assert in_all(scores, 0.8) == {"low": 0.95, "high": 0.65}
    assert in_all(scores, 0.4) == {"low": 0.8, "high": 0.0}


def test_a_budget_above_the_cap_leaves_every_matrix_its_share():
    """Once a threshold beyond all finite scores: everything would go."""
    found = in_all(drawn([10, 10, 10, 1000]), 0.97)
    assert found == {"0": 0.9, "1": 0.9, "2": 0.9, "3": 0.97}


def test_equal_scores_go_from_the_first_matrix_on():
    ones = {name: torch.ones(100) for name in "abc"}
    assert in_all(ones, 0.5) == {"a": 0.95, "b": 0.55, "c": 0.0}
    dead = {"a": torch.zeros(100), "b": torch.arange(1.0, 101)}  # a layer that no probe reached
    assert in_all(dead, 0.25) == {"a": 0.5, "b": 0.0}


def test_infinite_scores_are_ranked_last():
    assert in_all({"a": torch.full((40,), torch.inf), "b": torch.rand(40)}, 0.45) == {"a": 0.0, "b": 0.9}


@pytest.mark.parametrize("name", sorted(ALLOCATIONS))
def test_no_zeros_are_asked_for_at_the_beginning_of_a_schedule(name):
    assert ALLOCATIONS[name](drawn([5, 9]), 0.0) == {"0": 0.0, "1": 0.0}
    assert ALLOCATIONS[name]({}, 0.5) == {}


def test_uniform_is_the_same_in_every_matrix():
    assert uniform(drawn([5, 9]), 0.7) == {"0": 0.7, "1": 0.7}


def test_nan_is_refused_and_not_ranked():
    scores = drawn([5, 9])
    scores["1"][3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        in_all(scores, 0.5)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    pruner = Pruner(model, ["0", "1"], PruningSchedule.one_shot(0.5), allocation=in_all)
    with pytest.raises(PruneonceError, match=r"the weights at step 0: weights contain NaN.*Lower the learning rate"):
        pruner.update(0)


# ---------------------------------------------------------------------------------------------- on a model's matrices


@pytest.fixture(scope="module")
def config():
    return BertConfig(vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def pruned(config, **values):
    """A tiny BERT pruned at once, and its pruner."""
    torch.manual_seed(0)
    model = BertModel(config)
    with torch.no_grad():  # matrices of different worth
        for number, layer in enumerate(each for each in model.modules() if isinstance(each, nn.Linear)):
            layer.weight *= 1 + number % 5
    pruning = Pruning(schedule="one-shot", pooler=False, **values)
    pruner = scheduled_pruner(model, pruning, 10)
    pruner.update(0)
    return pruner


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_zeros_in_all_matrices_are_the_budget_within_rounding(config, pattern, sparsity):
    pruner = pruned(config, sparsity=sparsity, pattern=pattern, allocation="global")
    size = sum(layer.mask.numel() for layer in pruner.layers.values())
    zeros = sum(int((~layer.mask).sum()) for layer in pruner.layers.values())
    width = {"unstructured": 1, "1x4": 4}[pattern]
    assert int(sparsity * size) - width * len(pruner.layers) <= zeros <= int(sparsity * size)
    shares = {1 - layer.kept / layer.mask.numel() for layer in pruner.layers.values()}
    assert len(shares) > 1 or sparsity > MOST_OF_A_MATRIX, "the matrices are of different worth"
    if pattern == "1x4":
        for layer in pruner.layers.values():
            assert set(layer.mask.view(-1, 4).sum(1).tolist()) <= {0, 4}


def test_targets_by_role_hold_for_these_matrices_alone(config):
    pruner = pruned(config, sparsity=0.8, targets={"query": 0.5, "down": 0.0, "key": 0.9})
    family = family_of("bert")
    for name, layer in pruner.layers.items():
        expected = {"query": 0.5, "down": 0.0, "key": 0.9}.get(str(family.role_of(name)), 0.8)
        assert int((~layer.mask).sum()) == pruned_count(layer.mask.numel(), expected), name


def test_targets_are_neared_along_the_schedule():
    family = SimpleNamespace(role_of=lambda name: name)
    part = allocation_of(Pruning(sparsity=0.8, targets={"query": 0.4, "key": 0.96}), family, ["query", "key", "value"])
    scores = dict.fromkeys(["query", "key", "value"])
    assert part(scores, 0.4) == pytest.approx({"query": 0.2, "key": 0.48, "value": 0.4})
    assert part(scores, 0.0) == {"query": 0.0, "key": 0.0, "value": 0.0}


def test_a_role_that_the_family_does_not_have_is_refused_with_those_it_has(config):
    with pytest.raises(UsageError, match=r"pruning\.targets names 'pooler'.*has the roles .*down.*key.*query"):
        pruned(config, sparsity=0.8, targets={"pooler": 0.5})


def test_two_ways_of_saying_how_many_zeros_are_one_too_many():
    with pytest.raises(UsageError, match='so does allocation = "global"'):
        Pruning(targets={"query": 0.5}, allocation="global")
    with pytest.raises(UsageError, match=r"pruning\.targets\.query must be at least 0 and below 1, got 1"):
        Pruning(targets={"query": 1.0})
