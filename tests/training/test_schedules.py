import math

import pytest
from conftest import tiny_critic, tiny_generator, tiny_images
from processes import outcome

from hf_wgan import TrainerCallback, WGANTrainer
from hf_wgan.algorithm.lipschitz import R1R2
from hf_wgan.training.schedules import half_cosine

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


def test_an_object_keeps_the_weight_that_it_was_built_with(tiny_config):
    constraint = R1R2(7.0)
    trainer(tiny_config(**{**SCHEDULED, "lipschitz": "clip"}), constraint=constraint).step()
    assert constraint.weight == 7.0
