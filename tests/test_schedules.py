"""Reference values are those of the published configuration: 100k steps, 1k warm-up, policy 0-50k, every 1k."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneonce.sparsity.schedules import PruningSchedule, cubic_sparsity, linear_factor, rewinding_factor

PUBLISHED_SCHEDULE = PruningSchedule(
    final_sparsity=0.9,
    begin_step=0,
    end_step=80_000,
    policy_begin_step=0,
    policy_end_step=50_000,
    frequency_steps=1_000,
)
PUBLISHED_RATES = {
    "total_steps": 100_000,
    "warmup_steps": 1_000,
    "policy_begin_step": 0,
    "policy_end_step": 50_000,
    "interval_steps": 1_000,
}


@pytest.mark.parametrize(
    ("step", "sparsity"),
    [
        (0, 0.0),
        (1_000, 0.0529),
        (2_000, 0.1037),
        (5_000, 0.2439),
        (10_000, 0.4392),
        (20_000, 0.7056),
        (25_000, 0.7875),
        (40_000, 0.8928),
        (49_000, 0.89999),
        (50_000, 0.9),
        (99_999, 0.9),
    ],
)
def test_sparsity_has_the_published_values(step, sparsity):
    assert PUBLISHED_SCHEDULE.sparsity_at(step) == pytest.approx(sparsity, abs=5e-5)


def test_masks_are_recomputed_in_phase_two_and_frozen_in_phase_three():
    updates = [step for step in range(0, 100_001, 500) if PUBLISHED_SCHEDULE.updates_masks_at(step)]
    assert updates == list(range(0, 80_001, 1_000))


def test_frequency_that_does_not_divide_the_window_still_reaches_the_final_sparsity():
    schedule = PruningSchedule(
        0.9, begin_step=0, end_step=50, policy_begin_step=0, policy_end_step=50, frequency_steps=7
    )
    assert schedule.updates_masks_at(50)
    assert schedule.sparsity_at(50) == 0.9


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.0),
        (999, 0.999),
        (1_000, 1.0204),
        (1_999, 1.0),
        (2_000, 1.0204),
        (49_999, 1.0),
        (50_000, 1.0204),
        (51_000, 1.0),
        (75_000, 0.5102),
        (100_000, 0.0),
    ],
)
def test_original_rewinding_has_the_published_values(step, factor):
    assert rewinding_factor(step, rewind="original", **PUBLISHED_RATES) == pytest.approx(factor, abs=5e-5)


def test_exact_rewinding_never_exceeds_the_peak_and_returns_to_it_at_every_pruning_step():
    factors = [rewinding_factor(step, **PUBLISHED_RATES) for step in range(100_001)]
    assert max(factors) == 1.0
    assert all(factors[step] == 1.0 for step in range(1_000, 50_001, 1_000))
    assert factors[100_000] == 0.0


def test_exact_rewinding_is_continuous_where_a_late_window_begins_and_ends():
    rates = PUBLISHED_RATES | {"policy_begin_step": 10_000, "policy_end_step": 60_000}
    before, begin, end = (rewinding_factor(step, **rates) for step in (9_999, 10_000, 60_000))
    assert before == pytest.approx(begin, abs=1e-4)
    assert end == pytest.approx(begin)


def test_rewind_off_is_the_plain_linear_schedule():
    assert rewinding_factor(30_000, rewind="off", **PUBLISHED_RATES) == linear_factor(
        30_000, total_steps=100_000, warmup_steps=1_000
    )


def test_window_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="outside the policy window"):
        rewinding_factor(5, total_steps=10, warmup_steps=0, policy_begin_step=0, policy_end_step=10, interval_steps=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_sparsity": 1.0}, "final sparsity < 1"),
        ({"frequency_steps": 0}, "at least 1"),
        ({"policy_end_step": 0}, "must be below"),
        ({"end_step": 10}, "never be applied"),
    ],
)
def test_impossible_schedules_are_refused(change, message):
    fields = {**PUBLISHED_SCHEDULE.__dict__, **change}
    with pytest.raises(ValueError, match=message):
        PruningSchedule(**fields)


@given(
    begin=st.integers(0, 1_000),
    length=st.integers(1, 1_000),
    final=st.floats(0.0, 0.99),
    steps=st.tuples(st.integers(0, 3_000), st.integers(0, 3_000)),
)
def test_sparsity_never_falls_and_stays_within_its_ends(begin, length, final, steps):
    early, late = (
        cubic_sparsity(step, begin_step=begin, end_step=begin + length, final=final) for step in sorted(steps)
    )
    assert -1e-12 <= early <= late + 1e-12 <= final + 2e-12
