import doctest

import pytest
import torch
from conftest import seeded_rand, tiny_critic
from torch import nn

from hf_wgan.algorithm.lipschitz import (
    CONSTRAINTS,
    DRAGAN,
    Constraint,
    GradientPenalty,
    LipschitzPenalty,
    SpectralNormalization,
    WeightClipping,
    build_constraint,
    gradients,
)
from hf_wgan.utils.errors import InputError
from hf_wgan.utils.registry import describe, summary_of


def test_clipping_bounds_every_parameter_and_leaves_those_inside_alone():
    critic = tiny_critic(sample_size=16)
    before = {name: parameter.clone() for name, parameter in critic.named_parameters()}
    WeightClipping(0.01).after_step(critic)
    for name, parameter in critic.named_parameters():
        assert torch.equal(parameter, before[name].clamp(-0.01, 0.01)), name
    assert any("layers.3" in name for name in before), "the batch norm scales are parameters too"


def test_clipping_leaves_batch_norm_statistics_alone():
    critic = tiny_critic(sample_size=16)
    critic(torch.randn(8, 1, 16, 16))
    before = {name: buffer.clone() for name, buffer in critic.named_buffers()}
    WeightClipping(0.01).after_step(critic)
    assert all(torch.equal(buffer, before[name]) for name, buffer in critic.named_buffers())


@pytest.mark.parametrize("clip_value", [0, -0.01, float("nan")])
def test_a_clip_value_that_is_not_positive_is_refused(clip_value):
    with pytest.raises(InputError, match="clip_value"):
        WeightClipping(clip_value)


WIDTH = 3 * 4 * 4
PENALTIES = [name for name, constraint in CONSTRAINTS.items() if constraint.has_penalty]


def images(number=6, seed=0, dtype=torch.float32):
    """A real and a generated batch `(N, 3, 4, 4)`."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.rand(number, 3, 4, 4, generator=rng, dtype=dtype) * 2 - 1 for _ in range(2)]


class Smooth(nn.Module):
    """A critic whose penalty has no kinks, so that finite differences are exact to their order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 5), nn.Softplus())
        self.last = nn.Linear(5, 1, bias=False)
        nn.init.normal_(self.last.weight, std=3)

    def forward(self, images):
        return self.last(self.layers(images)).squeeze(1)


def between(real, fake, rand):
    share = rand((len(real), 1, 1, 1))
    return share * real + (1 - share) * fake


def around(real, rand):
    noise = rand(tuple(real.shape))
    return real + rand((len(real), 1, 1, 1)) * 0.5 * real.std(correction=0) * noise


# Each penalty by its definition in the paper, from the norms of gradients `at` images: a new penalty needs one here.
FORMULAS = {
    "gp": lambda at, real, fake, rand: 10 * (at(between(real, fake, rand)) - 1).square().mean(),
    "lp": lambda at, real, fake, rand: 10 * (at(between(real, fake, rand)) - 1).clamp(min=0).square().mean(),
    "dragan": lambda at, real, fake, rand: 10 * (at(around(real, rand)) - 1).square().mean(),
    "r1": lambda at, real, fake, rand: 5 * at(real).square().mean(),
    "r1r2": lambda at, real, fake, rand: 5 * (at(real).square().mean() + at(fake).square().mean()),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_and_their_parameter_gradients_equal_finite_differences(name):
    critic = Smooth().double()
    real, fake = images(dtype=torch.float64)

    @torch.no_grad()
    def norms_at(points):
        """The norm of each gradient, without autograd."""
        step = 1e-5
        columns = []
        for pixel in range(WIDTH):
            shift = torch.zeros(WIDTH, dtype=torch.float64)
            shift[pixel] = step
            shift = shift.view(1, 3, 4, 4)
            columns.append((critic(points + shift) - critic(points - shift)) / (2 * step))
        return torch.stack(columns, 1).norm(dim=1)

    def by_autograd():
        return CONSTRAINTS[name](rand=seeded_rand()).penalty(critic, real, fake)

    penalty = by_autograd()
    assert penalty.item() == pytest.approx(FORMULAS[name](norms_at, real, fake, seeded_rand()).item(), rel=1e-6)
    penalty.backward()
    for parameter_name, parameter in critic.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for index in range(0, parameter.numel(), 7):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.view(-1)[index] += step
                values.append(by_autograd().item())
                with torch.no_grad():
                    parameter.view(-1)[index] -= step
            slope, place = (values[0] - values[1]) / 2e-5, (parameter_name, index)
            assert gradient.view(-1)[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-7), place


@pytest.mark.parametrize("norm", [0.5, 1.0, 3.0])
def test_for_a_linear_critic_the_penalties_are_the_formulas(norm):
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))
    weights = norm * direction / direction.norm()
    real, fake = images()
    for name in PENALTIES:
        penalty = CONSTRAINTS[name]().penalty(lambda points: points.flatten(1) @ weights, real, fake)
        expected = FORMULAS[name](lambda points: torch.full((len(points),), norm), real, fake, seeded_rand())
        assert penalty.item() == pytest.approx(expected.item(), abs=1e-4), name
    assert GradientPenalty(3.0).penalty(lambda points: points.flatten(1) @ (2 * weights / norm), real, fake).item() == (
        pytest.approx(3.0, rel=1e-5)
    )


@pytest.mark.parametrize("kind", [GradientPenalty, LipschitzPenalty])
def test_points_lie_between_a_real_and_a_generated_image_each_at_a_place_of_its_own(kind):
    real, fake = images(200)
    points = kind(rand=seeded_rand()).points(real, fake)
    places = ((points - fake) / (real - fake)).flatten(1)
    assert torch.allclose(places, places[:, :1].expand_as(places), atol=1e-3)
    places = places.median(dim=1).values
    assert 0 <= places.min() < 0.05 and 0.95 < places.max() <= 1 and abs(places.mean() - 0.5) < 0.1
    again = kind(rand=seeded_rand()).points(real, fake)
    assert torch.equal(points, again), "the points follow from the source of random numbers"


def test_dragan_looks_around_real_images_only():
    real, fake = images(50)
    away = (DRAGAN(rand=seeded_rand()).points(real, fake) - real) / (0.5 * real.std(correction=0))
    assert away.min() >= 0 and away.max() <= 1
    furthest = away.flatten(1).max(dim=1).values
    assert furthest.min() < 0.2 and furthest.max() > 0.8, "each image is moved by a share of its own"


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_of_single_precision_at_least_and_needs_no_real_gradients(name):
    real, fake = (batch.bfloat16() for batch in images())
    penalty = CONSTRAINTS[name]().penalty(Smooth(), real, fake)
    assert penalty.dtype == torch.float32 and penalty.requires_grad
    assert real.grad is None and not real.requires_grad


@pytest.mark.parametrize("name", PENALTIES)
def test_a_gradient_penalty_with_batch_norm_in_the_critic_is_refused_with_reason_and_remedy(name):
    with pytest.raises(InputError, match=r"depend on the whole batch; use\s+critic_norm_type=\"layer\""):
        CONSTRAINTS[name]().check(tiny_critic(sample_size=16))
    CONSTRAINTS[name]().check(tiny_critic(sample_size=16, norm_type="none"))


def test_spectral_normalisation_wants_such_layers_and_no_batch_norm():
    with pytest.raises(InputError, match="spectral_norm=True"):
        SpectralNormalization().check(tiny_critic(norm_type="none"))
    SpectralNormalization().check(tiny_critic(norm_type="none", spectral_norm=True))
    with pytest.raises(InputError, match="undoes the bound"):
        SpectralNormalization().check(tiny_critic(sample_size=16, norm_type="batch", spectral_norm=True))
    with pytest.raises(InputError, match="do not depend on the size of the weights"):
        WeightClipping().check(tiny_critic(norm_type="none", spectral_norm=True))


def test_other_parametrisations_are_no_spectral_normalisation():
    critic = tiny_critic(norm_type="none")
    nn.utils.parametrizations.weight_norm(critic.get_submodule("layers.0"))
    with pytest.raises(InputError, match="without such layers"):
        SpectralNormalization().check(critic)
    with pytest.raises(InputError, match="parametrised weights"):
        WeightClipping().check(critic)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_constraint_is_built_by_its_name_and_has_a_summary(name):
    assert summary_of(CONSTRAINTS[name]) and summary_of(CONSTRAINTS[name]) in describe(CONSTRAINTS)
    constraint = build_constraint(name, clip_value=0.5, weight=7.0)
    assert type(constraint) is CONSTRAINTS[name]
    assert getattr(constraint, "weight", 7.0) == 7.0 and getattr(constraint, "clip_value", 0.5) == 0.5


def test_an_unknown_constraint_is_named_beside_the_known_ones():
    with pytest.raises(InputError, match="lipschitz='GP': must be one of clip, gp, lp"):
        build_constraint("GP")


def test_a_constraint_of_ones_own_needs_no_more_than_its_penalty():
    class Own(Constraint):
        def penalty(self, score, real_images, fake_images):
            return gradients(score, real_images).abs().mean()

    assert Own.has_penalty and not Constraint.has_penalty and not WeightClipping.has_penalty
    with pytest.raises(InputError, match="Own with batch normalisation"):
        Own().check(tiny_critic(sample_size=16))


def test_the_example_in_the_docstring_runs():
    globs = {"torch": torch, "Constraint": Constraint}
    examples = doctest.DocTestFinder(recurse=False).find(Constraint, "Constraint", globs=globs)
    assert all(doctest.DocTestRunner().run(example).failed == 0 and example.examples for example in examples)


def test_no_constraint_changes_nothing():
    critic = tiny_critic()
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    Constraint().after_step(critic)
    Constraint().check(critic)
    assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_a_weight_that_is_not_positive_is_refused(weight):
    with pytest.raises(InputError, match="gradient_penalty_weight"):
        GradientPenalty(weight)
