import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruneonce.formats.model_folder import mask_digest_of_array
from pruneonce.sparsity.masks import magnitude_mask, nonzero_mask, pack_mask, unpack_mask
from pruneonce.sparsity.patterns import PATTERNS, Blocks, pruned_count

matrices = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31)).map(
    lambda args: torch.from_numpy(np.random.default_rng(args[2]).integers(-3, 4, args[:2]).astype(np.float32))
)


def mask_reference(weight: np.ndarray, sparsity: float) -> np.ndarray:
    """Prune the k smallest magnitudes, earliest first among equals."""
    order = np.argsort(np.abs(weight).ravel(), kind="stable")
    mask = np.ones(weight.size, dtype=bool)
    mask[order[: pruned_count(weight.size, sparsity)]] = False
    return mask.reshape(weight.shape)


@given(weight=matrices, sparsity=st.floats(0, 1))
def test_mask_keeps_the_largest_magnitudes_and_cuts_ties_to_the_exact_count(weight, sparsity):
    mask = magnitude_mask(weight, sparsity)
    assert (~mask).sum() == pruned_count(weight.numel(), sparsity)
    np.testing.assert_array_equal(mask.numpy(), mask_reference(weight.numpy(), sparsity))


@given(
    rows=st.integers(1, 6),
    blocks=st.integers(1, 6),
    block=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**31),
    sparsity=st.floats(0, 1),
)
def test_blocks_stay_or_go_whole_least_sums_first_to_the_exact_count(rows, blocks, block, seed, sparsity):
    weight = np.random.default_rng(seed).integers(-3, 4, (rows, blocks * block)).astype(np.float32)
    mask = Blocks(block).select(torch.from_numpy(weight).abs(), sparsity).numpy()
    whole = mask.reshape(rows, blocks, block)
    assert (whole.all(axis=2) == whole.any(axis=2)).all()
    sums = np.abs(weight).reshape(rows, blocks, block).sum(axis=2)
    np.testing.assert_array_equal(whole[:, :, 0], mask_reference(sums, sparsity))
    assert (~mask).sum() == block * pruned_count(rows * blocks, sparsity) == Blocks(block).zeros(weight.shape, sparsity)


def test_blocks_lie_along_the_inputs_of_one_output():
    weight = torch.tensor([[9.0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 2, 2, 2, 2]])
    assert magnitude_mask(weight, 0.5, "1x4").int().tolist() == [[1] * 4 + [0] * 4, [0] * 4 + [1] * 4]


@pytest.mark.parametrize("shape", [(4, 6), (4,), (2, 2, 4)])
def test_what_cannot_be_cut_into_blocks_is_refused_with_its_shape(shape):
    with pytest.raises(ValueError, match=" x ".join(map(str, shape)) + " cannot be cut into blocks of 1 x 4"):
        magnitude_mask(torch.ones(shape), 0.5, "1x4")
    with pytest.raises(ValueError, match="cannot be cut into blocks"):
        PATTERNS["1x4"].zeros(shape, 0.5)


def test_mask_is_above_the_kth_smallest_when_there_are_no_ties():
    weight = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    threshold = weight.abs().flatten().sort().values[4_999]
    assert torch.equal(magnitude_mask(weight, 0.5), weight.abs() > threshold)


def test_constant_matrix_is_not_emptied_by_its_ties():
    assert magnitude_mask(torch.ones(10, 10), 0.1).sum() == 90


def test_nan_weights_are_refused_rather_than_ranked():
    with pytest.raises(ValueError, match="NaN"):
        magnitude_mask(torch.tensor([1.0, float("nan")]), 0.5)


def test_binary_fractions_do_not_cost_a_weight():
    assert [pruned_count(1000, sparsity) for sparsity in (0.29, 0.57, 0.9)] == [290, 570, 900]


@given(weight=matrices)
def test_packed_masks_read_back_and_digest_like_the_saved_weights(weight):
    mask = nonzero_mask(weight)
    assert torch.equal(unpack_mask(pack_mask(mask), mask.shape), mask)
    assert mask_digest_of_array(mask.numpy()) == mask_digest_of_array(weight.numpy())


def test_digest_tells_shapes_apart():
    assert mask_digest_of_array(np.ones((2, 8), bool)) != mask_digest_of_array(np.ones((8, 2), bool))
