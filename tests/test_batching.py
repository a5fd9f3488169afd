import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneonce.train.batching import BatchPlan, epoch_batches, steps_per_epoch

plans = st.builds(
    BatchPlan,
    lengths=st.integers(1, 200).map(lambda n: np.random.default_rng(n).integers(1, 50, n)),
    batch_size=st.integers(8, 16),
    steps=st.integers(1, 30),
    seed=st.integers(0, 5),
    group_by_length=st.booleans(),
)


@given(plan=plans, processes=st.integers(1, 4), accumulation=st.integers(1, 2))
def test_shares_of_all_processes_make_up_the_batch_of_one(plan, processes, accumulation):
    whole = list(plan)
    fields = {name: getattr(plan, name) for name in ("lengths", "batch_size", "steps", "seed", "group_by_length")}
    parts = [
        list(BatchPlan(**fields, rank=rank, processes=processes, accumulation=accumulation))
        for rank in range(processes)
    ]
    for step, batch in enumerate(whole):
        dealt = [
            key.example
            for rank in range(processes)
            for micro in range(accumulation)
            for key in parts[rank][step * accumulation + micro]
        ]
        assert sorted(dealt) == sorted(key.example for key in batch)
        assert all(key.step == step for key in batch)


@given(size=st.integers(1, 300), batch_size=st.integers(1, 20), epoch=st.integers(0, 3), group=st.booleans())
def test_one_pass_sees_every_example_and_all_batches_are_full(size, batch_size, epoch, group):
    lengths = np.random.default_rng(size).integers(1, 50, size)
    batches = epoch_batches(lengths, batch_size, seed=1, epoch=epoch, group=group)
    assert batches.shape == (steps_per_epoch(size, batch_size), batch_size)
    assert set(batches.ravel()) == set(range(size))


def test_grouping_keeps_padding_low_and_every_pass_different():
    lengths = np.random.default_rng(0).integers(10, 128, 4_000)
    grouped = epoch_batches(lengths, 16, seed=1, epoch=0, group=True)
    padded = (lengths[grouped].max(axis=1) * 16).sum() / lengths[grouped].sum()
    assert padded < 1.1
    assert not np.array_equal(grouped, epoch_batches(lengths, 16, seed=1, epoch=1, group=True))


def test_a_later_step_does_not_depend_on_having_seen_the_earlier_ones():
    plan = BatchPlan(lengths=np.arange(1, 50), batch_size=8, steps=40, seed=3)
    fresh = BatchPlan(lengths=np.arange(1, 50), batch_size=8, steps=40, seed=3)
    assert np.array_equal([plan.global_batch(step) for step in range(40)][29], fresh.global_batch(29))


def test_batch_smaller_than_its_shares_is_refused():
    with pytest.raises(ValueError, match="cannot be split"):
        BatchPlan(lengths=np.ones(4, dtype=int), batch_size=1, steps=1, seed=0, processes=2)
