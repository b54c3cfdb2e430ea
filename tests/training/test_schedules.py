import math
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from processes import outcome

from hf_wgan import TrainerCallback, TrainingConfig, WGANTrainer
from hf_wgan.algorithm.lipschitz import R1R2
from hf_wgan.training.optimizers import build_optimizer
from hf_wgan.training.schedules import apply_schedules, expected, half_cosine, keep_on_device, position
from hf_wgan.training.state import Progress

SCHEDULED = {
    "lipschitz": "r1r2",
    "gradient_penalty_weight": 2.0,
    "gradient_penalty_weight_end": 0.2,
    "optimizer": "adam",
    "adam_beta2": 0.9,
    "adam_beta2_end": 0.99,
    "lr_scheduler": "cosine",
    "lr_end_ratio": 0.25,
    "generator_batch_ratio": 2,
    "max_train_steps": 6,
}


def trainer(config, **options):
    return WGANTrainer(tiny_generator(), tiny_critic(norm_type="none"), tiny_images(), config, **options)


def test_half_a_cosine_leads_from_start_to_end_and_stays_there():
    assert [half_cosine(2, 0.2, step, 10) for step in (0, 5, 10, 30)] == pytest.approx([2, 1.1, 0.2, 0.2])


def test_each_step_is_taken_with_the_values_of_its_place_in_the_run(tiny_config):
    run, seen = trainer(tiny_config(**SCHEDULED)), []
    critic_step = run.algorithm.critic_step

    def recorded(batch):
        optimizers = run.state.optimizers.values()
        betas = [beta for optimizer in optimizers for beta in optimizer.param_groups[0]["betas"]]
        seen.append([run.algorithm.constraint.weight, *betas])
        return critic_step(batch)

    run.algorithm.critic_step = recorded
    for step in range(6):
        run.step()
        share = (1 + math.cos(math.pi * step / 6)) / 2
        assert seen[-1] == pytest.approx([0.2 + 1.8 * share, *[0.5, 0.99 - 0.09 * share] * 2])
    rates = [group["lr"] for optimizer in run.state.optimizers.values() for group in optimizer.param_groups]
    assert rates == pytest.approx([5e-5 / 4] * 2), "the learning rate has come to a quarter"


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_what_a_graph_reads_on_the_device_gives_the_same_numbers(tiny_config, name):
    config = tiny_config(**SCHEDULED | {"optimizer": name})
    networks = tiny_critic(norm_type="none"), tiny_critic(norm_type="none")
    networks[1].load_state_dict(networks[0].state_dict())
    plain, on_device = (
        build_optimizer(network, 1e-3, config, capturable=network is networks[1]) for network in networks
    )
    step = SimpleNamespace(generator_optimizer=plain, critic_optimizer=on_device, constraint=R1R2(2.0))
    keep_on_device(
        config, SimpleNamespace(**vars(step) | {"generator_optimizer": SimpleNamespace(param_groups=[])}), False
    )
    tensors = on_device.param_groups[0]["lr"], on_device.param_groups[0]["betas"][1], step.constraint.weight
    for number in range(6):
        apply_schedules(Progress(step=number), config, step, False)
        for weight, other in zip(*(network.parameters() for network in networks)):
            weight.grad = torch.rand_like(weight) - 0.5
            other.grad = weight.grad.clone()
        plain.step()
        on_device.step()
        for weight, other in zip(*(network.parameters() for network in networks)):
            torch.testing.assert_close(other, weight, rtol=1e-6, atol=1e-7)
            for moment in ("step", "exp_avg", "exp_avg_sq"):
                expected, own = plain.state[weight][moment], on_device.state[other][moment]
                torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-9)
    now = on_device.param_groups[0]["lr"], on_device.param_groups[0]["betas"][1], step.constraint.weight
    assert all(tensor is before for tensor, before in zip(now, tensors)), "as a graph goes on reading them"
    assert tensors[1].item() == pytest.approx(plain.param_groups[0]["betas"][1])


def test_a_scheduled_run_resumes_exactly(tiny_config, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    options = {**SCHEDULED, "validation_steps": 100, "checkpointing_steps": 100}
    trainer(tiny_config(output_dir=str(tmp_path / "whole"), **options)).train()
    trainer(tiny_config(output_dir=str(tmp_path / "parts"), **options), callbacks=[Stop]).train()
    trainer(tiny_config(output_dir=str(tmp_path / "parts"), resume_from_checkpoint="latest", **options)).train()
    whole, parts = (outcome(tmp_path / name) for name in ("whole", "parts"))
    assert whole == {name: content for name, content in parts.items() if name in whole}


TIMED = {
    **SCHEDULED,
    "max_train_steps": 1000,
    "max_train_minutes": 0.1,
    "logging_steps": 1,
    "lr_scheduler": "linear",
    "lr_end_ratio": 0.0,
    "checkpointing_steps": 100,
    "validation_steps": 100,
}


class Clock:
    """Every look at it takes a tenth of a second."""

    def __init__(self):
        self.seconds = 0.0

    def monotonic(self):
        self.seconds += 0.1
        return self.seconds


class Rates(TrainerCallback):
    def __init__(self):
        self.values = []

    def on_step_end(self, args, state, control, **kwargs):
        self.values.append(state.optimizers["generator_optimizer"].param_groups[0]["lr"])


def timed_run(config, monkeypatch):
    monkeypatch.setattr("hf_wgan.training.meter.time", Clock())
    run = trainer(config, callbacks=[rates := Rates()])
    run.train()
    return run, rates.values


def test_where_time_ends_a_run_its_schedules_end_with_it(tiny_config, monkeypatch, capfd):
    run, rates = timed_run(tiny_config(**TIMED), monkeypatch)
    assert f"{run.state.global_step} of {run.state.global_step} steps (100%)" in capfd.readouterr().err
    assert 10 < run.state.global_step < 40 and abs(run.state.progress.expected_steps - run.state.global_step) < 3
    assert rates == sorted(rates, reverse=True) and rates[0] > 0.99 * 5e-5 and rates[-1] < 0.1 * 5e-5
    assert rates[len(rates) // 2] == pytest.approx(2.5e-5, rel=0.2)
    assert run.algorithm.constraint.weight == pytest.approx(0.2, rel=0.1)


def test_a_run_with_a_time_limit_resumes_where_its_schedules_were(tiny_config, monkeypatch):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 8

    monkeypatch.setattr("hf_wgan.training.meter.time", Clock())
    first = trainer(tiny_config(**TIMED), callbacks=[Stop])
    first.train()
    resumed = trainer(tiny_config(**TIMED, resume_from_checkpoint="latest"))
    resumed.checkpoints.resume()
    rates = [run.state.optimizers["critic_optimizer"].param_groups[0]["lr"] for run in (first, resumed)]
    assert resumed.state.progress.expected_steps == first.state.progress.expected_steps
    assert rates[0] == rates[1] < 0.9 * 5e-5


@pytest.mark.parametrize("expected_steps", [0, 100, 1000, 5000])
def test_the_warm_up_stays_as_long_as_it_is_and_the_end_is_where_the_run_ends(expected_steps):
    config = TrainingConfig(max_train_steps=1000, lr_warmup_steps=20, lr_scheduler="linear", max_train_minutes=1)
    at = [position(Progress(step=step, expected_steps=expected_steps), config) for step in (0, 20, 60, 100, 1000)]
    assert at[:2] == [0, 20]
    assert at[2:] == ([510, 1000, 1000] if expected_steps == 100 else [60, 100, 1000])


def test_without_a_time_limit_nothing_is_expected():
    progress = Progress(step=10, seconds=6.0)
    assert expected(progress, TrainingConfig()) == progress
    assert expected(progress, TrainingConfig(max_train_minutes=1)).expected_steps == 100


def test_an_object_keeps_the_weight_that_it_was_built_with(tiny_config):
    constraint = R1R2(7.0)
    trainer(tiny_config(**SCHEDULED), constraint=constraint).step()
    assert constraint.weight == 7.0
