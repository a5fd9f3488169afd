"""What a weight is worth: factors worked out by hand, and whether they say what removing weights does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from pruneonce.errors import UsageError
from pruneonce.sparsity.allocation import in_all
from pruneonce.sparsity.pruner import UPDATES_PER_MEASURE, Pruner
from pruneonce.sparsity.schedules import PruningSchedule
from pruneonce.sparsity.sensitivity import Sensitivity, probe_of
from pruneonce.tasks.metrics import spearman

LAYERS = ("attention.self.query", "attention.self.value", "attention.output.dense", "intermediate.dense")


def schedule(**values):
    shape = {"final_sparsity": 0.5, "begin_step": 3, "end_step": 80, "policy_begin_step": 0, "policy_end_step": 50}
    return PruningSchedule(**shape | {"frequency_steps": 2} | values)


def test_factors_of_a_chain_are_those_worked_out_by_hand():
    """y = B A x: A's outputs get Bᵀ of what is sent back, B's inputs are A x."""
    a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        a.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -3.0]]))
        b.weight.copy_(torch.tensor([[2.0, -1.0]]))
    criterion = Sensitivity()
    with criterion.watching({"a": a, "b": b}):
        for x, sent in (([[1.0, 0.0], [3.0, 1.0]], [[1.0], [-1.0]]), ([[0.0, 2.0]], [[3.0]])):
            torch.autograd.grad(b(a(torch.tensor(x))), [a.weight], torch.tensor(sent))
    # Inputs of a: (1, 0), (3, 1), (0, 2); of b: (1, 0), (5, -3), (4, -6). To b are sent 1, -1, 3; to a, (2, -1) times
    # these.
    expected = {
        "a": [[(10 / 3 * 44 / 3) ** 0.5, 2 * (5 / 3 * 44 / 3) ** 0.5], [0.0, 3 * (5 / 3 * 11 / 3) ** 0.5]],
        "b": [[2 * (42 / 3 * 11 / 3) ** 0.5, (45 / 3 * 11 / 3) ** 0.5]],
    }
    for name, layer in (("a", a), ("b", b)):
        torch.testing.assert_close(criterion.scores(name, layer.weight), torch.tensor(expected[name]), msg=name)
    a(torch.ones(1, 2)).sum().backward()
    torch.testing.assert_close(criterion.scores("a", a.weight), torch.tensor(expected["a"]), msg="nobody watches")


def test_passes_without_gradients_and_a_measure_before_do_not_count():
    layer, criterion = nn.Linear(2, 2), Sensitivity()
    for factor in (5.0, 1.0):
        with criterion.watching({"it": layer}):
            with torch.no_grad():
                layer(100 * torch.ones(7, 2))
            layer(factor * torch.ones(3, 2)).sum().backward()
    torch.testing.assert_close(criterion.scores("it", layer.weight), layer.weight.detach().abs())
    assert not layer._forward_hooks


def test_hooks_are_gone_after_a_pass_that_failed():
    layer, criterion = nn.Linear(2, 2), Sensitivity()
    with pytest.raises(RuntimeError), criterion.watching({"it": layer}):
        layer(torch.ones(3, 5))
    assert not layer._forward_hooks


def test_a_probe_is_signs_scaled_by_the_root_of_the_states_squares():
    states = [torch.randn(50, 4), 3 * torch.randn(50, 4), torch.zeros(2, 4)]
    signs = probe_of(states, torch.Generator().manual_seed(0))
    for state, sign in zip(states[:2], signs, strict=False):
        torch.testing.assert_close(sign.abs(), torch.full_like(state, 1 / float(state.norm())))
        assert abs(float(sign.sign().mean())) < 0.3
    assert signs[2].isfinite().all()
    again = probe_of(states, torch.Generator().manual_seed(0))
    assert all(torch.equal(one, other) for one, other in zip(signs, again, strict=True))


@pytest.fixture(scope="module")
def measured():
    """A tiny BERT with features and layers of very different sizes, its measured criterion, and its loss function."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=1, intermediate_size=32)
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() == 2 else 1.0)
        for layer in model.encoder.layer:  # as in trained models, some features are much larger than others
            for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
                norm.weight.copy_(torch.rand(16) * 3)
        model.embeddings.LayerNorm.weight.copy_(torch.rand(16) * 3)
    ids = torch.randint(50, (32, 20))

    def states():
        return [each.flatten(0, 1) for each in model(ids, output_hidden_states=True).hidden_states[1:]]

    layers = {f"encoder.layer.{n}.{name}": None for n in (0, 1) for name in (*LAYERS, "output.dense")}
    layers = {name: model.get_submodule(name) for name in layers}
    criterion, generator = Sensitivity(), torch.Generator().manual_seed(1)
    with criterion.watching(layers):
        for _ in range(4):
            found = states()
            torch.autograd.grad(found, list(model.encoder.parameters()), probe_of(found, generator))
    with torch.no_grad():
        original = [each.double() for each in states()]

    def loss():
        with torch.no_grad():
            pairs = zip(states(), original, strict=True)
            return float(sum((a - b).square().sum() / b.square().sum() for a, b in pairs))

    return layers, criterion, loss


def test_the_ranking_is_that_of_the_true_losses_of_single_weights_and_better_than_by_magnitude(measured):
    layers, criterion, loss = measured
    rng = torch.Generator().manual_seed(2)
    truth, sensitivity, magnitude = [], [], []
    for name, layer in layers.items():
        scores = criterion.scores(name, layer.weight)
        for place in torch.randperm(layer.weight.numel(), generator=rng)[:15].tolist():
            row, column = divmod(place, layer.weight.shape[1])
            weight = layer.weight[row, column].item()
            with torch.no_grad():
                layer.weight[row, column] = 0.0
                truth.append(loss())
                layer.weight[row, column] = weight
            sensitivity.append(float(scores[row, column]))
            magnitude.append(abs(weight))
    ours, theirs = spearman(sensitivity, truth), spearman(magnitude, truth)
    assert ours > 0.85
    assert ours > theirs + 0.1


def test_a_model_pruned_by_it_is_nearer_to_the_original_than_one_by_magnitude(measured):
    layers, criterion, loss = measured
    errors = []
    for scores in (
        {name: criterion.scores(name, layer.weight) for name, layer in layers.items()},
        {name: layer.weight.detach().abs() for name, layer in layers.items()},
    ):
        kept = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        with torch.no_grad():
            for (name, layer), share in zip(layers.items(), in_all(scores, 0.3).values(), strict=True):
                gone = int(share * layer.weight.numel() + 1e-6)
                layer.weight.view(-1)[scores[name].flatten().argsort()[:gone]] = 0.0
            errors.append(loss())
            for name, layer in layers.items():
                layer.weight.copy_(kept[name])
    assert errors[0] < 0.5 * errors[1]


# ----------------------------------------------------------------------------------------------------- within a pruner


def test_what_was_measured_survives_a_checkpoint():
    layer, criterion, other = nn.Linear(3, 2), Sensitivity(), Sensitivity()
    with criterion.watching({"a.in": layer, "b.out": layer}):
        layer(torch.randn(5, 3)).square().sum().backward()
    other.load_state(criterion.state())
    for name in ("a.in", "b.out"):  # names as awkward as they come
        assert torch.equal(other.scores(name, layer.weight), criterion.scores(name, layer.weight))
    assert other.state().keys() == criterion.state().keys()


def test_a_checkpoint_of_a_pruner_has_what_its_criterion_knows():
    def pruner():
        torch.manual_seed(0)
        return Pruner(nn.Sequential(nn.Linear(8, 8)), ["0"], schedule(), criterion="sensitivity")

    first, second = pruner(), pruner()
    with first.criterion.watching(first.layers):
        first.layers["0"](torch.randn(9, 8) * torch.arange(1.0, 9)).sum().backward()
    first.update(3)
    second.load_state(first.state())
    for each in (first, second):
        each.update(79)
    assert first.digests() == second.digests()


def test_masks_by_a_sensitivity_that_nobody_measured_are_refused_with_what_to_do():
    pruner = Pruner(nn.Sequential(nn.Linear(8, 8)), ["0"], schedule(), criterion="sensitivity")
    with pytest.raises(UsageError, match=r'0 has not been measured: the criterion "sensitivity" needs.*compress'):
        pruner.update(3)


def test_when_to_measure_follows_from_the_step_alone():
    """Asked in any order and again, as a resumed run does: the answers are the same."""
    model = nn.Sequential(nn.Linear(8, 8))
    pruner = Pruner(model, ["0"], schedule(), criterion="sensitivity")
    every = 2 * UPDATES_PER_MEASURE
    expected = [step for step in range(100) if step <= 80 and step >= 3 and (step - 3) % every == 0]
    assert [step for step in range(100) if pruner.measures_at(step)] == expected
    assert [step for step in reversed(range(100)) if pruner.measures_at(step)] == expected[::-1]
    assert expected[0] == 3, "before the first masks"
    pruner.lock()
    assert not any(map(pruner.measures_at, range(100)))


def test_magnitudes_and_locked_masks_need_no_measure():
    for values in ({"schedule": schedule()}, {"schedule": None, "criterion": "sensitivity"}):
        pruner = Pruner(nn.Sequential(nn.Linear(8, 8)), ["0"], **values)
        assert not any(map(pruner.measures_at, range(100)))


def test_masks_at_once_are_measured_at_once():
    pruner = Pruner(nn.Sequential(nn.Linear(8, 8)), ["0"], PruningSchedule.one_shot(0.5), criterion="sensitivity")
    assert [step for step in range(10) if pruner.measures_at(step)] == [0]
