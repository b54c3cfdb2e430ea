import pytest
import torch

from hf_wgan.algorithm.losses import (
    HIGH_IS_REAL,
    LOW_IS_REAL,
    critic_loss,
    generator_loss,
    wasserstein_estimate,
    wasserstein_loss,
)
from hf_wgan.utils.errors import InputError

REAL = torch.tensor([3.0, 5.0])
FAKE = torch.tensor([-1.0, 0.0, 2.5])


def labels_of(convention, num_real, num_fake):
    return torch.tensor([convention.real] * num_real + [convention.fake] * num_fake)


def test_losses_are_the_differences_of_means_that_the_paper_has():
    assert critic_loss(REAL, FAKE).item() == pytest.approx(0.5 - 4.0)
    assert wasserstein_estimate(REAL, FAKE).item() == pytest.approx(4.0 - 0.5)
    assert generator_loss(FAKE).item() == pytest.approx(-0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_averaged_in_float32(dtype):
    # In bfloat16 neither the sum nor the difference of such means survives: 64.25 is not a bfloat16 number.
    real, fake = torch.full((999,), 64.0, dtype=dtype), torch.full((999,), 64.0, dtype=dtype)
    real[::2] += 0.5
    loss = critic_loss(real, fake)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(fake.double().mean().item() - real.double().mean().item(), rel=1e-5)
    assert generator_loss(real).item() == pytest.approx(-real.double().mean().item(), rel=1e-6)
    labels = torch.ones(999, dtype=dtype)
    assert wasserstein_loss(labels, real).item() == pytest.approx(real.double().mean().item(), rel=1e-6)


def test_double_precision_scores_are_not_narrowed():
    assert critic_loss(REAL.double(), FAKE.double()).dtype == torch.float64


def test_the_labelled_form_of_two_batches_is_the_critic_loss():
    real, fake = REAL, FAKE[:2]
    high = wasserstein_loss(labels_of(HIGH_IS_REAL, 2, 0), real) + wasserstein_loss(labels_of(HIGH_IS_REAL, 0, 2), fake)
    low = wasserstein_loss(labels_of(LOW_IS_REAL, 2, 0), -real) + wasserstein_loss(labels_of(LOW_IS_REAL, 0, 2), -fake)
    assert high.item() == low.item() == pytest.approx(critic_loss(real, fake).item())
    assert wasserstein_loss(labels_of(HIGH_IS_REAL, 2, 0), fake).item() == pytest.approx(generator_loss(fake).item())


@pytest.mark.parametrize("num_real, num_fake", [(2, 2), (1, 3), (3, 1)])
def test_the_labelled_form_is_right_for_batches_of_mixed_labels(num_real, num_fake):
    real, fake = torch.arange(num_real) + 5.0, torch.arange(num_fake) - 1.5
    labels, scores = labels_of(HIGH_IS_REAL, num_real, num_fake), torch.cat([real, fake])
    expected = (num_fake * fake.mean() - num_real * real.mean()) / (num_real + num_fake)
    assert wasserstein_loss(labels, scores).item() == pytest.approx(expected.item())
    if num_real == num_fake:
        assert wasserstein_loss(labels, scores).item() == pytest.approx(critic_loss(real, fake).item() / 2)
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    assert wasserstein_loss(labels[order], scores[order]).item() == pytest.approx(expected.item())


def test_integer_labels_do_not_truncate_the_scores():
    assert wasserstein_loss(torch.tensor([1, -1]), torch.tensor([0.5, 0.25])).item() == pytest.approx(0.125)


def test_labels_that_would_broadcast_against_the_scores_are_refused():
    with pytest.raises(InputError, match=r"labels of shape \(4, 1\) for scores of shape \(4,\)"):
        wasserstein_loss(torch.ones(4, 1), torch.ones(4))


@pytest.mark.parametrize("convention, sign", [(HIGH_IS_REAL, 1), (LOW_IS_REAL, -1)])
def test_in_both_conventions_each_player_moves_the_gap_its_own_way(convention, sign):
    """Real images lie at +1 and generated ones at g on a line; the critic is x -> w·x."""
    weight = torch.tensor(0.3, requires_grad=True)
    position = torch.tensor(-1.0, requires_grad=True)

    def gap():
        return sign * (weight * 1.0 - weight * position)

    scores = torch.stack([weight * 1.0, weight * position])
    (toward,) = torch.autograd.grad(wasserstein_loss(labels_of(convention, 1, 1), scores), weight)
    before = gap().item()
    with torch.no_grad():
        weight -= 0.1 * toward
    assert gap().item() > before, "a critic step must widen the gap between real and generated"

    with torch.no_grad():
        weight.fill_(sign * 0.3)  # a critic that has learnt this convention
    as_real = torch.tensor([convention.real])
    (toward,) = torch.autograd.grad(wasserstein_loss(as_real, (weight * position)[None]), position)
    before = gap().item()
    with torch.no_grad():
        position -= 0.1 * toward
    assert gap().item() < before, "a generator step must narrow it"
