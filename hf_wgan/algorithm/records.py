"""What a step of Algorithm 1 reports: losses, scores and norms, as tensors on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class CriticRecord(NamedTuple):
    """Values of a critic step: detached scalars on the device, float32 or wider."""

    real_score: Tensor  # mean score of the real images
    fake_score: Tensor  # mean score of the generated images
    penalty: Tensor  # what was added to the loss
    loss: Tensor  # without the penalty; its negative is the Wasserstein estimate
    gradient_norm: Tensor  # of all parameters together, the penalty's gradients included


class GeneratorRecord(NamedTuple):
    """Values of a generator step, like a `CriticRecord`."""

    loss: Tensor
    gradient_norm: Tensor


class StepRecord(NamedTuple):
    """Values of one iteration of Algorithm 1: detached scalars on the device, in the order in which they are computed.

    Those of the critic belong to the last critic step, or to the first one with a value that is not finite. Reading a
    value (`float(record.critic_loss)`) waits for the device.
    """

    real_score: Tensor
    fake_score: Tensor
    gradient_penalty: Tensor  # mean over the critic steps
    critic_loss: Tensor
    critic_gradient_norm: Tensor
    critic_weight_norm: Tensor
    generator_loss: Tensor
    generator_gradient_norm: Tensor
    generator_weight_norm: Tensor


def summarize(records: Sequence[CriticRecord]) -> Tensor:
    """Return `(5,)`: the values of the last record, or of the first with one that is not finite; the penalty's mean."""
    values = torch.stack([value for record in records for value in record]).view(len(records), -1)  # (n_critic, 5)
    finite = values.isfinite().all(dim=1)
    all_finite = finite.all()
    index = torch.where(all_finite, len(records) - 1, finite.int().argmin())
    summary = values.index_select(0, index[None])[0]  # values[index] would wait for the device
    penalty = CriticRecord._fields.index("penalty")
    summary[penalty] = torch.where(all_finite, values[:, penalty].mean(), summary[penalty])
    return summary


def gradient_norm(network: nn.Module) -> Tensor:
    """Return the Euclidean norm of all gradients together."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def weight_norm(network: nn.Module) -> Tensor:
    """Return the Euclidean norm of all parameters together."""
    return torch.nn.utils.get_total_norm([parameter.detach() for parameter in network.parameters()])
