"""DynamicWeightedSampler: TRL's layout, the core's draws, and a checkpoint in the middle."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from trl.trainer.utils import RepeatSampler

from bolt_ray.core.curriculum.sampling import draw_without_replacement, window_generator
from bolt_ray.integrations.trl import DynamicWeightedSampler


def sampler(num_rows: int = 20) -> DynamicWeightedSampler:
    return DynamicWeightedSampler(num_rows, mini_repeat_count=2, batch_size=3, repeat_count=4, seed=5)


def test_it_lays_rows_out_as_trl_does() -> None:
    """With the same batches the order is that of TRL's own sampler, and so is the length."""
    ours = sampler(7)
    theirs = RepeatSampler(range(7), mini_repeat_count=2, batch_size=3, repeat_count=4, seed=0)
    assert len(list(ours)) == len(ours) == len(theirs) == len(list(theirs))
    rows = np.array(list(ours)).reshape(2, 4, 3, 2)
    assert (rows == rows[:, :1, :, :1]).all()
    assert all(len(set(batch)) == 3 for batch in rows[:, 0, :, 0].tolist())


def test_draws_are_the_cores() -> None:
    ours, weights = sampler(), np.arange(1.0, 21.0)
    ours.set_weights(weights)
    ours.start_epoch(2)
    first = 2 * (20 // 3)
    expected = draw_without_replacement(weights, 3, window_generator(5, first + 1, stream=1))
    assert np.array(list(ours)).reshape(-1, 4, 3, 2)[1, 0, :, 0].tolist() == expected.tolist()


def test_new_weights_hold_from_the_next_batch() -> None:
    ours = sampler()
    iterator = iter(ours)
    before = list(islice(iterator, 24))
    weights = np.full(20, 1e-9)
    weights[[4, 11, 17]] = 1.0
    ours.set_weights(weights)
    assert set(islice(iterator, 24)) == {4, 11, 17}
    assert before == list(islice(iter(sampler()), 24))


def test_a_resumed_sampler_draws_what_the_first_drew() -> None:
    """The data loader had drawn one batch more than was trained on, by weights that have changed since."""
    ours = sampler()
    iterator = iter(ours)
    drawn = list(islice(iterator, 48))
    ours.set_weights(np.linspace(1.0, 9.0, 20))
    state = ours.state_dict()
    resumed = sampler()
    resumed.load_state_dict(state)
    again = iter(resumed)
    assert list(islice(again, 48)) == drawn
    assert list(again) == list(iterator)


def test_a_state_of_another_run_is_refused() -> None:
    with pytest.raises(ValueError, match="20 rows in batches of 3, this run has 7 and 3"):
        sampler(7).load_state_dict(sampler().state_dict())
    with pytest.raises(ValueError, match="one per row is needed"):
        sampler(7).set_weights(np.ones(8))


def test_old_draws_are_forgotten() -> None:
    ours = DynamicWeightedSampler(300, mini_repeat_count=1, batch_size=1, repeat_count=1, seed=1)
    order = list(ours)
    assert ours.state_dict()["batches"].tolist() == list(range(236, 300))
    ours.start_epoch(0)
    assert list(ours) == order
