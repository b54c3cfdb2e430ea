import numpy as np
import pytest
import torch

from hf_wgan.training.average import AveragedWeights


def averaged(values, max_decay=0.9999, rampup_ratio=0.05):
    """Return the average after each step of one weight that takes these values."""
    weight = torch.nn.Parameter(torch.tensor([values[0]]))
    average, found = AveragedWeights([weight], max_decay, rampup_ratio), []
    for value in values:
        weight.data.fill_(value)
        average.step([weight])
        found.append(average.shadow_params[0].item())
    return np.array(found)


def test_the_average_of_weights_that_improve_lags_behind_them_by_a_few_per_cent_at_any_time():
    """The distance to the best weights falls with the number of steps; the average must not keep the early ones."""
    distances = 1 / np.arange(1.0, 3001)
    assert (averaged(distances) / distances).max() < 1.09


def test_the_average_of_weights_that_swing_around_the_best_is_nearer_to_it():
    raw = np.random.default_rng(0).normal(size=3000)
    for steps in (200, 1000, 3000):
        assert np.abs(averaged(raw)[steps - 50 : steps]).mean() < 0.4 * np.abs(raw).mean()


@pytest.mark.parametrize("share, steps", [(0.05, 1000), (0.1, 200), (1.0, 50)])
def test_the_half_life_is_a_share_of_the_steps_so_far_up_to_the_largest_decay(share, steps):
    average = AveragedWeights([torch.nn.Parameter(torch.zeros(1))], 0.999, share)
    assert average.get_decay(steps) ** (share * steps) == pytest.approx(0.5)
    assert average.get_decay(10**6) == 0.999
