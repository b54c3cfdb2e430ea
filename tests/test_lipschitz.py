import pytest
import torch
from conftest import tiny_critic

from hf_wgan.errors import InputError
from hf_wgan.lipschitz import WeightClipping


def test_clipping_bounds_every_parameter_and_leaves_those_inside_alone():
    critic = tiny_critic(sample_size=16)
    before = {name: parameter.clone() for name, parameter in critic.named_parameters()}
    WeightClipping(0.01)(critic)
    for name, parameter in critic.named_parameters():
        assert torch.equal(parameter, before[name].clamp(-0.01, 0.01)), name
    assert any("layers.3" in name for name in before), "the batch norm scales are parameters too"


def test_clipping_leaves_batch_norm_statistics_alone():
    critic = tiny_critic(sample_size=16)
    critic(torch.randn(8, 1, 16, 16))
    before = {name: buffer.clone() for name, buffer in critic.named_buffers()}
    WeightClipping(0.01)(critic)
    assert all(torch.equal(buffer, before[name]) for name, buffer in critic.named_buffers())


@pytest.mark.parametrize("clip_value", [0, -0.01, float("nan")])
def test_a_clip_value_that_is_not_positive_is_refused(clip_value):
    with pytest.raises(InputError, match="clip_value"):
        WeightClipping(clip_value)
