import copy

import pytest
import torch
from torch import nn

from pruneonce.errors import PruneonceError
from pruneonce.sparsity import criteria
from pruneonce.sparsity.layers import Masked, WorkingLinear
from pruneonce.sparsity.masks import magnitude_mask
from pruneonce.sparsity.pruner import Pruner
from pruneonce.sparsity.schedules import PruningSchedule

SCHEDULE = PruningSchedule(0.5, begin_step=0, end_step=8, policy_begin_step=0, policy_end_step=4, frequency_steps=2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))


def train_step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(5, 6)).square().sum().backward()
    optimizer.step()


def test_masks_leave_parameter_names_and_values_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(3, 6)
    expected = model(x)
    Pruner(model, ["0", "2"], SCHEDULE)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(model(x), expected)


def test_pruned_weights_get_no_gradient_but_may_return(model):
    pruner = Pruner(model, ["0"], SCHEDULE)
    pruner.update(4)
    layer = model[0]
    pruned = ~layer.mask
    model(torch.randn(5, 6)).sum().backward()
    assert torch.all(layer.weight.grad[pruned] == 0)
    assert torch.all(layer.weight.detach()[pruned] != 0), "latent values must live on"
    with torch.no_grad():
        layer.weight[pruned] += 100.0
    pruner.update(6)
    assert torch.all(layer.mask[pruned])


def test_latents_shrink_by_decoupled_weight_decay_alone(model):
    pruner = Pruner(model, ["0"], SCHEDULE)
    pruner.update(4)
    latents = model[0].weight.detach()[~model[0].mask].clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(20):
        train_step(model, optimizer)
    assert torch.allclose(model[0].weight.detach()[~model[0].mask], latents * (1 - 0.01 * 0.1) ** 20)


def test_locked_zeros_survive_adamw_and_stay_exact(model):
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(magnitude_mask(layer.weight, 0.75))
    zeros = [layer.weight == 0 for layer in (model[0], model[2])]
    pruner = Pruner(model, ["0", "2"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(20):
        train_step(model, optimizer)
    pruner.bake()
    for layer, expected in zip((model[0], model[2]), zeros, strict=True):
        assert torch.equal(layer.weight == 0, expected)
        assert not torch.signbit(layer.weight[expected]).any(), "-0.0 is not what was there before"


def test_baked_model_has_plain_layers_and_computes_the_same(model):
    pruner = Pruner(model, ["0", "2"], SCHEDULE)
    pruner.update(4)
    x = torch.randn(3, 6)
    expected = model(x)
    pruner.bake()
    assert [type(layer) for layer in model] == [nn.Linear, nn.GELU, nn.Linear]
    assert not list(model.buffers())
    assert torch.equal(model(x), expected)
    assert isinstance(model[0].weight, nn.Parameter)


def test_masked_state_and_latents_restore_the_training_state_bit_for_bit(model):
    pruner = Pruner(model, ["0", "2"], SCHEDULE)
    pruner.update(4)
    latent = {name: value.clone() for name, value in model.state_dict().items()}
    saved, extra = pruner.masked_state(model.state_dict()), pruner.state()
    assert torch.equal(saved["0.weight"], latent["0.weight"] * model[0].mask)

    fresh = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))
    restored = Pruner(fresh, ["0", "2"], SCHEDULE)
    fresh.load_state_dict(saved)
    restored.load_state(extra)
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in latent.items())
    assert restored.digests() == pruner.digests()


def test_update_keeps_to_the_schedule(model):
    pruner = Pruner(model, ["0"], SCHEDULE)
    updated = [step for step in range(12) if pruner.update(step)]
    assert updated == [0, 2, 4, 6, 8]
    assert pruner.sparsity() == 0.5


def test_masked_model_can_be_deep_copied_after_a_forward_pass(model):
    Pruner(model, ["0"], SCHEDULE)
    model(torch.randn(2, 6))
    twin = copy.deepcopy(model)
    assert isinstance(twin[0], WorkingLinear)
    assert isinstance(twin[0].form, Masked)
    assert twin[0].mask is not model[0].mask


def test_nan_weights_name_the_matrix_and_the_step(model):
    pruner = Pruner(model, ["2"], SCHEDULE)
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(PruneonceError, match=r"2\.weight at step 4"):
        pruner.update(4)


def test_only_plain_linear_layers_are_masked(model):
    with pytest.raises(TypeError, match="GELU"):
        Pruner(model, ["1"], SCHEDULE)


def test_kept_weight_that_trained_to_zero_still_reads_back_as_kept(model):
    pruner = Pruner(model, ["0"], SCHEDULE)
    pruner.update(4)
    mask = model[0].mask.clone()
    with torch.no_grad():
        model[0].weight[mask] = 0.0
    pruner.bake()
    assert torch.equal(model[0].weight != 0, mask)


class GradientMagnitude:
    """|w * gradient|, summed over the steps: a criterion that learns, and must be in checkpoints."""

    def __init__(self):
        self.worth = {}

    def observe(self, layers):
        for name, layer in layers.items():
            worth = (layer.weight * layer.weight.grad).detach().abs()
            self.worth[name] = self.worth.get(name, 0) + worth

    def scores(self, name, weight):
        return self.worth.get(name, weight.detach().abs())

    def state(self):
        return dict(self.worth)

    def load_state(self, state):
        self.worth = dict(state)


@pytest.mark.parametrize("pattern", ["unstructured", "1x4"])
def test_a_criterion_that_learns_decides_the_masks_and_goes_on_after_a_checkpoint(pattern, monkeypatch):
    monkeypatch.setitem(criteria.CRITERIA, "gradient", GradientMagnitude)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    pruner = Pruner(model, ["0"], SCHEDULE, pattern, "gradient")
    model(torch.randn(5, 8)).square().sum().backward()
    pruner.observe()
    worth = (model[0].weight * model[0].weight.grad).detach().abs()
    state, weights = pruner.state(), pruner.masked_state(model.state_dict())
    fresh = nn.Sequential(nn.Linear(8, 8))
    restored = Pruner(fresh, ["0"], SCHEDULE, pattern, "gradient")
    fresh.load_state_dict(weights)
    restored.load_state(state)
    for each in (pruner, restored):
        each.update(4)
    assert restored.digests() == pruner.digests()
    kept = worth[model[0].mask].sum()
    assert kept > worth[magnitude_mask(model[0].weight, 0.5, pattern)].sum(), "more worth is kept than by magnitude"
    if pattern == "unstructured":
        assert worth[model[0].mask].min() >= worth[~model[0].mask].max()


def test_magnitude_adds_nothing_to_a_checkpoint(model):
    pruner = Pruner(model, ["0"], SCHEDULE)
    assert sorted(pruner.state()) == ["0.latent", "0.mask", "0.sparse"]


def test_masks_move_with_the_model(model):
    Pruner(model, ["0"], SCHEDULE)
    model.to(device="meta", dtype=torch.float64)
    assert (model[0].mask.device.type, model[0].mask.dtype) == ("meta", torch.bool)


def test_a_second_mask_on_a_layer_is_refused(model):
    Pruner(model, ["0"], SCHEDULE)
    with pytest.raises(TypeError, match="without a mask can be masked, 0 is WorkingLinear"):
        Pruner(model, ["0"])


def test_whoever_listens_hears_of_every_change_of_how_layers_compute(model):
    pruner = Pruner(model, ["0"], PruningSchedule.one_shot(0.9))
    heard = []
    pruner.on_change = lambda: heard.append(pruner.computes_sparse)
    pruner.compute_sparse(["0"])
    pruner.update(0)
    state = pruner.state()
    pruner.compute_dense()
    pruner.load_state(state)
    pruner.bake()
    assert heard == [False, True, False, False, True, False]
