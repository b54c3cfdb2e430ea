"""Algorithm 1, line by line: each test fails when its line is broken."""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from conftest import seeded_rand, tiny_critic, tiny_generator
from torch import nn

from hf_wgan.algorithm import execution as execution_module
from hf_wgan.algorithm.execution import Execution
from hf_wgan.algorithm.lipschitz import Constraint, GradientPenalty, WeightClipping
from hf_wgan.algorithm.losses import wasserstein_estimate
from hf_wgan.algorithm.step import RealBatch, WGANStep, critic_steps, total_critic_steps

CLIP = 0.01


def make_step(generator=None, critic=None, constraint=None, lr=1e-3, **changes):
    generator = generator or tiny_generator()
    critic = critic or tiny_critic(norm_type="none")
    rng = torch.Generator().manual_seed(3)
    return WGANStep(
        generator,
        critic,
        generator_optimizer=changes.pop("generator_optimizer", None) or torch.optim.RMSprop(generator.parameters(), lr),
        critic_optimizer=changes.pop("critic_optimizer", None) or torch.optim.RMSprop(critic.parameters(), lr),
        constraint=constraint or WeightClipping(CLIP),
        sample_latents=lambda n: torch.randn(n, 4, generator=rng),
        **changes,
    )


def real_batches(batch_size=8):
    rng = torch.Generator().manual_seed(4)
    while True:
        yield RealBatch(torch.rand(batch_size, 1, 8, 8, generator=rng) * 2 - 1)


def copied(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def parameters(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


class Recorder:
    """Stand in for the parts of a step and record the order in which they are used."""

    def __init__(self):
        self.events = []

    def optimizer(self, name, network):
        recorder = self

        class Recording(torch.optim.RMSprop):
            def step(self, closure=None):
                recorder.events.append(f"{name} step")
                return super().step(closure)

        return Recording(network.parameters(), 1e-3)


def test_clamping_bounds_every_critic_parameter_after_each_step():
    step = make_step(lr=1.0)  # so large that every optimizer step leaves the box
    batches = real_batches()
    for _ in range(3):
        step.critic_step([next(batches)])
        for name, parameter in step.critic.named_parameters():
            assert parameter.abs().max() <= CLIP, name
        assert max(p.abs().max().item() for p in step.critic.parameters()) == pytest.approx(CLIP)


def test_the_constraint_comes_after_each_critic_step_and_never_after_a_generator_step():
    recorder, generator, critic = Recorder(), tiny_generator(), tiny_critic()
    constraint = WeightClipping(CLIP)
    constraint.after_step = lambda critic: recorder.events.append("constraint")
    step = make_step(
        generator,
        critic,
        constraint=constraint,
        generator_optimizer=recorder.optimizer("generator", generator),
        critic_optimizer=recorder.optimizer("critic", critic),
    )
    step(real_batches(), n_critic=3)
    assert recorder.events == ["critic step", "constraint"] * 3 + ["generator step"]


def test_critic_steps_leave_the_generator_alone():
    step = make_step()
    before = parameters(step.generator)
    batches = real_batches()
    for _ in range(3):
        step.critic_step([next(batches)])
    assert same(before, parameters(step.generator))
    assert all(parameter.grad is None for parameter in step.generator.parameters())


def test_the_generator_step_leaves_the_critic_alone_and_gives_it_no_gradients():
    step = make_step()
    before = parameters(step.critic)
    assert all(parameter.grad is None for parameter in step.critic.parameters())
    generator_before = parameters(step.generator)
    step.generator_step([next(real_batches())])
    assert same(before, parameters(step.critic))
    assert all(parameter.grad is None for parameter in step.critic.parameters())
    assert all(parameter.requires_grad for parameter in step.critic.parameters()), "it is thawed again"
    assert not same(generator_before, parameters(step.generator))


def test_each_critic_step_sees_fresh_images_and_fresh_latents():
    step = make_step()
    images, latents = [], []
    sample_latents = step.sample_latents

    def batches():
        for batch in real_batches():
            images.append(batch.images)
            yield batch

    def sampling(n):
        latents.append(sample_latents(n))
        return latents[-1]

    step.sample_latents = sampling
    step(batches(), n_critic=5)
    assert len(images) == 5
    assert len(latents) == 6, "one for each critic step, one for the generator step"
    assert all(len(batch) == 8 for batch in latents)
    for drawn in (images, latents):
        assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def gap(step, latents, images):
    with torch.no_grad():
        return wasserstein_estimate(step.critic(images), step.critic(step.generator(latents))).item()


def test_a_critic_step_widens_the_gap_and_a_generator_step_narrows_it():
    torch.manual_seed(5)
    latents, images = torch.randn(8, 4), torch.rand(8, 1, 8, 8) * 2 - 1
    generator, critic = tiny_generator(norm_type="none"), tiny_critic(norm_type="none")
    step = WGANStep(
        generator,
        critic,
        generator_optimizer=torch.optim.SGD(generator.parameters(), 1e-2),
        critic_optimizer=torch.optim.SGD(critic.parameters(), 1e-2),
        constraint=WeightClipping(1.0),
        sample_latents=lambda n: latents,
    )
    start = gap(step, latents, images)
    step.critic_step([RealBatch(images)])
    widened = gap(step, latents, images)
    assert widened > start
    step.generator_step([next(real_batches())])
    assert gap(step, latents, images) < widened


def test_a_generator_step_takes_a_multiple_of_the_batch_and_each_label_as_often():
    step, seen = make_step(generator_batch_ratio=3), []
    step.generator = Recording(step.generator, seen)
    step.critic = Recording(step.critic, seen)
    batch = RealBatch(next(real_batches()).images[:2], torch.tensor([5, 7]))
    list(step.generator_objective(*batch))
    assert [len(inputs[0]) for inputs in seen] == [6, 6]
    assert [inputs[1].tolist() for inputs in seen] == [[5, 5, 5, 7, 7, 7]] * 2
    seen.clear()
    list(step.critic_objective(*batch))
    assert max(len(inputs[0]) for inputs in seen) <= 4, "the critic's batch stays"


class Recording(nn.Module):
    """Note the inputs of an unconditional network, and leave its labels out."""

    def __init__(self, network, seen):
        super().__init__()
        self.network, self.seen = network, seen

    def forward(self, *inputs):
        self.seen.append(inputs)
        return self.network(inputs[0])


def test_the_reported_losses_are_those_of_the_objective():
    step = make_step()
    images, latents = next(real_batches()).images, torch.randn(8, 4)
    step.sample_latents = lambda n: latents
    expected = -wasserstein_estimate(step.critic(images), step.critic(step.generator(latents)))
    step_loss = step.critic_step([RealBatch(images)]).loss
    assert step_loss.item() == pytest.approx(expected.item(), abs=1e-8)
    assert not step_loss.requires_grad


def test_it_equals_algorithm_1_written_plainly():
    """Compare ten iterations with the algorithm as the paper prints it, in float64."""
    step = make_step(tiny_generator().double(), tiny_critic(sample_size=8).double())
    generator, critic = copy.deepcopy(step.generator), copy.deepcopy(step.critic)
    rng = torch.Generator().manual_seed(3)
    step.sample_latents = lambda n: torch.randn(n, 4, generator=rng).double()
    batches = (RealBatch(batch.images.double()) for batch in real_batches())
    for _ in range(10):
        step(batches, n_critic=5)

    rng = torch.Generator().manual_seed(3)
    batches = (RealBatch(batch.images.double()) for batch in real_batches())
    generator_optimizer = torch.optim.RMSprop(generator.parameters(), 1e-3)
    critic_optimizer = torch.optim.RMSprop(critic.parameters(), 1e-3)
    for _ in range(10):
        for _ in range(5):
            x, z = next(batches).images, torch.randn(8, 4, generator=rng).double()
            critic.zero_grad()
            (critic(x).mean() - critic(generator(z).detach()).mean()).neg().backward()
            critic_optimizer.step()
            for w in critic.parameters():
                w.data.clamp_(-CLIP, CLIP)
        z = torch.randn(8, 4, generator=rng).double()
        generator.zero_grad()
        critic(generator(z)).mean().neg().backward()
        generator_optimizer.step()

    for ours, plain in ((step.generator, generator), (step.critic, critic)):
        for name, value in ours.state_dict().items():
            assert torch.allclose(value, plain.state_dict()[name], rtol=1e-9, atol=1e-12), name


class Skipping(torch.optim.SGD):
    """Behaves like Accelerate's optimizer under a float16 loss scaler that overflows at first."""

    def __init__(self, parameters, num_skipped):
        super().__init__(parameters, 1e-3)
        self.left, self.step_was_skipped = num_skipped, False

    def step(self, closure=None):
        self.step_was_skipped = self.left > 0
        self.left -= 1
        if not self.step_was_skipped:
            super().step(closure)


def test_a_skipped_update_is_tried_again_on_the_same_real_batch():
    generator, critic = tiny_generator(), tiny_critic()
    optimizer = Skipping(critic.parameters(), num_skipped=2)
    step = make_step(generator, critic, critic_optimizer=optimizer)
    drawn = []
    step((drawn.append(batch) or batch for batch in real_batches()), n_critic=3)
    assert optimizer.left == -3, "three steps that counted, after two that did not"
    assert len(drawn) == 3


def test_one_float16_loss_scaler_serves_both_players_through_overflows():
    Accelerator(cpu=True)
    generator, critic = tiny_generator(), tiny_critic(norm_type="none")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    optimizers = {
        f"{name}_optimizer": AcceleratedOptimizer(torch.optim.RMSprop(network.parameters(), 1e-3), scaler=scaler)
        for name, network in (("generator", generator), ("critic", critic))
    }
    drawn = []
    execution = Execution(backward=lambda loss: scaler.scale(loss).backward())
    step = make_step(generator, critic, execution=execution, **optimizers)
    before = parameters(generator), parameters(critic)
    with torch.autocast("cpu", torch.float16):
        step((drawn.append(batch) or batch for batch in real_batches()), n_critic=2)
    assert scaler.get_scale() < 2.0**40, "the first updates overflowed"
    assert len(drawn) == 2
    for network, was in zip((generator, critic), before, strict=True):
        assert not same(was, parameters(network))
        assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("player", ["generator", "critic"])
def test_endless_overflows_end_in_an_error_that_says_what_to_do(player):
    generator, critic = tiny_generator(), tiny_critic()
    network = {"generator": generator, "critic": critic}[player]
    step = make_step(generator, critic, **{f"{player}_optimizer": Skipping(network.parameters(), 10**6)})
    with pytest.raises(FloatingPointError, match=f"the gradients of {type(network).__name__} overflowed"):
        step(real_batches(), n_critic=1)


@pytest.mark.parametrize("steps", [0, 1, 24, 25, 26, 500, 501, 1000, 1001, 2345])
@pytest.mark.parametrize("n_critic", [1, 5, 200])
@pytest.mark.parametrize("warmup", [False, True])
def test_the_number_of_critic_steps_of_a_run(steps, n_critic, warmup):
    expected = sum(critic_steps(step, n_critic, warmup) for step in range(steps))
    assert total_critic_steps(steps, n_critic, warmup) == expected


def test_the_warm_up_is_that_of_the_authors_code():
    counts = [critic_steps(step, 5, warmup=True) for step in range(1001)]
    assert counts[:25] == [100] * 25
    assert [step for step, count in enumerate(counts) if count == 100] == [*range(25), 500, 1000]
    assert set(counts[25:500]) == {5}
    assert {critic_steps(step, 5, warmup=False) for step in range(1001)} == {5}
    assert critic_steps(0, 200, warmup=True) == 200


class Wrapper(nn.Module):
    """Behaves like DistributedDataParallel: a pass that no backward follows would hang the next one."""

    def __init__(self, module):
        super().__init__()
        self.module, self.passes = module, 0

    def forward(self, *inputs):
        self.passes += 1
        return self.module(*inputs)


def test_wrappers_for_distributed_training_are_bypassed_by_the_other_player(monkeypatch):
    monkeypatch.setattr(execution_module.nn.parallel, "DistributedDataParallel", Wrapper)
    generator, critic = Wrapper(tiny_generator()), Wrapper(tiny_critic())
    step = make_step(generator, critic)
    step(real_batches(), n_critic=3)
    assert (generator.passes, critic.passes) == (1, 6)


class Counting(GradientPenalty):
    """A penalty that records its arguments."""

    def __init__(self):
        super().__init__(rand=seeded_rand())
        self.calls = []

    def penalty(self, score, real_images, fake_images):
        penalty = super().penalty(score, real_images, fake_images)
        self.calls.append((real_images, fake_images, score(real_images), penalty.detach()))
        return penalty


def test_the_penalty_is_added_to_what_the_critic_minimises_and_not_to_what_is_reported():
    constraint = Counting()
    step = make_step(constraint=constraint, critic_optimizer=None)
    plain = make_step(constraint=Constraint())
    images = next(real_batches()).images
    losses = [each.critic_step([RealBatch(images)]).loss for each in (step, plain)]
    assert losses[0].item() == losses[1].item()
    assert not same(parameters(step.critic), parameters(plain.critic))
    reported = step(real_batches(), n_critic=1)
    assert (
        reported.gradient_penalty.item() == constraint.calls[-1][3].item()
        and not reported.gradient_penalty.requires_grad
    )
    assert plain(real_batches(), n_critic=1).gradient_penalty.item() == 0


@pytest.mark.parametrize(("is_wrapped", "num_parts"), [(False, 1), (False, 3), (True, 1), (True, 3)])
def test_the_gradients_are_those_of_the_loss_and_the_penalty_together(monkeypatch, is_wrapped, num_parts):
    monkeypatch.setattr(execution_module.nn.parallel, "DistributedDataParallel", Wrapper)
    passes = []
    execution = Execution(backward=lambda loss: (passes.append(loss), loss.backward()), num_parts=num_parts)
    critic = tiny_critic(norm_type="layer").double()
    own = Wrapper(copy.deepcopy(critic)) if is_wrapped else copy.deepcopy(critic)
    step = make_step(tiny_generator().double(), own, constraint=Counting(), execution=execution)
    step.sample_latents = lambda n: torch.randn(n, 4).double()
    parts = [RealBatch(next(real_batches()).images.double()) for _ in range(num_parts)]
    step.critic_step(parts)
    assert len(passes) == num_parts * (1 if is_wrapped else 2), "processes exchange gradients once"

    rand = seeded_rand()
    for real, fake, *_ in step.constraint.calls:
        penalty = GradientPenalty(rand=rand).penalty(critic, real, fake)
        (critic(fake).mean() - critic(real).mean() + penalty).backward()
    for parameter, expected in zip(own.parameters(), critic.parameters()):
        assert torch.allclose(parameter.grad, expected.grad, rtol=1e-9, atol=1e-12)


class Constant(Constraint):
    def penalty(self, score, real_images, fake_images):
        return torch.tensor(2.0)


def test_a_penalty_without_gradients_is_only_reported():
    step = make_step(constraint=Constant())
    before = parameters(step.critic)
    assert step.critic_step([next(real_batches())]).penalty.item() == 2
    assert not same(before, parameters(step.critic)), "the loss has its gradients"


def test_a_lazy_penalty_is_computed_every_penalty_interval_critic_steps_and_scaled_by_that_factor():
    constraint = Counting()
    step = make_step(constraint=constraint, penalty_interval=3)
    for _ in range(2):
        step(real_batches(), n_critic=4)
    assert len(constraint.calls) == 3, "at critic steps 0, 3 and 6 of 8"
    gradients = []
    for interval in (1, 3):
        step = make_step(constraint=Counting(), penalty_interval=interval, critic_optimizer=None)
        backward = []
        step.execution.backward = lambda loss, backward=backward: (backward.append(loss.item()), loss.backward())
        loss = step.critic_step([next(real_batches())]).loss.item()
        gradients.append((sum(backward) - loss) / step.constraint.calls[0][3].item())
    assert gradients == [pytest.approx(1, rel=1e-4), pytest.approx(3, rel=1e-4)]
    reported = [step(real_batches(), n_critic=1).gradient_penalty.item() for _ in range(6)]
    assert [value > 0 for value in reported] == [False, False, True] * 2, "what was added, so that means are true"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_mixed_precision_the_penalty_is_computed_in_single_precision(dtype):
    full, mixed = (make_step(constraint=Counting()) for _ in range(2))
    images = next(real_batches()).images
    full.critic_step([RealBatch(images)])
    mixed.critic.forward = torch.autocast("cpu", dtype)(mixed.critic.forward)  # as Accelerate does
    with torch.autocast("cpu", dtype):
        mixed.critic_step([RealBatch(images)])
    (_, _, full_scores, full_penalty), (_, _, scores, penalty) = (step.constraint.calls[0] for step in (full, mixed))
    assert scores.dtype == penalty.dtype == torch.float32
    assert torch.equal(scores, full_scores), "the same images, in the same precision"
    assert penalty.item() == pytest.approx(full_penalty.item(), rel=0.05), "the generated images are of half precision"


def test_the_loss_scale_does_not_reach_the_penaltys_own_gradients():
    plain, scaled = (make_step(constraint=Counting()) for _ in range(2))
    scaled.execution.backward = lambda loss: (2.0**16 * loss).backward()
    images = next(real_batches()).images
    for step in (plain, scaled):
        step.critic_step([RealBatch(images)])
    assert scaled.constraint.calls[0][3].item() == plain.constraint.calls[0][3].item()
    for one, other in zip(plain.critic.parameters(), scaled.critic.parameters()):
        assert torch.allclose(one.grad, other.grad / 2.0**16, rtol=1e-4, atol=1e-9)


def test_real_and_generated_images_are_augmented_alike_in_both_players_steps():
    seen = []

    def augment(images):
        seen.append(images.requires_grad)
        return images / 2

    step = make_step(constraint=Counting(), augment=augment)
    images = next(real_batches()).images
    step.critic_step([RealBatch(images)])
    assert seen == [False, False], "real and generated"
    assert torch.equal(step.constraint.calls[0][0], images / 2), "the penalty is on what the critic sees"
    step.generator_step([next(real_batches())])
    assert seen[2:] == [True], "the generator learns through it"


def test_labels_go_to_both_networks_and_to_the_penalty():
    generator, critic = tiny_generator(num_classes=3), tiny_critic(num_classes=3, norm_type="none")
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    seen = []
    for name, network in (("generator", generator), ("critic", critic)):
        network.register_forward_pre_hook(lambda module, inputs, name=name: seen.append((name, inputs[1])))
    step = make_step(generator, critic, constraint=Counting())
    batches = (RealBatch(batch.images, labels) for batch in real_batches())
    step(batches, n_critic=2)
    assert [name for name, _ in seen] == ["generator", "critic"] * 3
    twice = torch.cat([labels, labels])
    assert [len(given) for _, given in seen] == [8, 16, 8, 16, 8, 8], "a critic step scores real and generated at once"
    assert all(torch.equal(given, labels if len(given) == 8 else twice) for _, given in seen)
    scores = step.constraint.calls[0][2]
    assert scores.shape == (8,)


class FusedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.pixels, self.last = nn.Linear(1, 4), nn.Linear(4 * 64, 1)

    def forward(self, images):
        tokens = self.pixels(images.flatten(2).transpose(1, 2))[:, None]  # one head
        return self.last(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)).flatten()


@pytest.mark.parametrize("fast_paths", [True, False])
def test_a_critic_with_fused_attention_takes_a_penalty(fast_paths):
    step = make_step(critic=FusedAttention(), constraint=GradientPenalty(), execution=Execution(fast_paths=fast_paths))
    before = parameters(step.critic)
    assert step.critic_step([next(real_batches())]).penalty > 0
    assert not same(before, parameters(step.critic))


class SmallScores(Constraint):
    def penalty(self, score, real_images, fake_images):
        return score(real_images).square().mean()


class WithDeviation(nn.Module):
    """Append the standard deviation of the batch as a map, as in Karras et al. 2018."""

    def forward(self, maps):
        return torch.cat([maps, maps.std(dim=0).mean().expand(len(maps), 1, *maps.shape[2:])], dim=1)


CRITICS = {
    "on its own": ([nn.GroupNorm(1, 4)], True),
    "by statistics of the batch": ([nn.BatchNorm2d(4)], False),
    "by a comparison of images": ([WithDeviation()], False),
    "by power iterations": ([nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))], False),
}


@pytest.mark.parametrize("kind", CRITICS)
def test_fast_paths_change_no_numbers_however_a_critic_scores(kind):
    layers, in_one_pass = CRITICS[kind]
    last = nn.LeakyReLU(0.2), nn.Flatten(), nn.LazyLinear(1), nn.Flatten(0)
    critic = nn.Sequential(nn.Conv2d(1, 4, 3), *copy.deepcopy(layers), *last).double()
    critic(torch.zeros(2, 1, 8, 8, dtype=torch.float64))
    trained = []
    for fast_paths in (True, False):
        networks = tiny_generator(norm_type="none").double(), copy.deepcopy(critic)
        rng = torch.Generator().manual_seed(3)
        step = WGANStep(
            *networks,
            generator_optimizer=torch.optim.SGD(networks[0].parameters(), 0.1),
            critic_optimizer=torch.optim.SGD(networks[1].parameters(), 0.1),
            constraint=SmallScores(),
            sample_latents=lambda n, rng=rng: torch.randn(n, 4, generator=rng, dtype=torch.float64),
            execution=Execution(fast_paths=fast_paths),
        )
        assert step.scores_in_one_pass == (fast_paths and in_one_pass)
        step((RealBatch(images.double()) for images, _ in real_batches()), n_critic=3)
        trained.append([*networks[0].parameters(), *networks[1].parameters()])
    for fast, plain in zip(*trained):
        assert torch.allclose(fast, plain, rtol=1e-9, atol=1e-12)
