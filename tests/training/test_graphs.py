import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images

from hf_wgan import InputError, WGANTrainer
from hf_wgan.algorithm.records import StepRecord
from hf_wgan.training.graphs import WARM_UP_STEPS, GraphedStep, check_graphs


def recorded(calls):
    """What stands for CUDA here: the outcome lies in the same tensors after every run, and nothing runs before."""

    def capture(function):
        outcome = StepRecord._make(torch.full((), torch.nan) for _ in StepRecord._fields)

        def replay():
            calls.append("replay")
            for there, value in zip(outcome, function()):
                there.copy_(value)

        calls.append("capture")
        return replay, outcome

    return capture


@pytest.mark.parametrize("settings", [{}, {"lipschitz": "gp", "penalty_interval": 2, "optimizer": "adam"}])
def test_the_numbers_are_those_of_the_plain_step(tiny_config, settings):
    def steps(graphed):
        config = tiny_config(overwrite_output_dir=True, **settings)
        norm_type = "layer" if "lipschitz" in settings else "batch"
        trainer = WGANTrainer(tiny_generator(), tiny_critic(norm_type=norm_type), tiny_images(), config)
        if graphed:
            trainer.iteration = GraphedStep(trainer.algorithm, config.n_critic, trainer.random.rng, recorded(calls))
        records = torch.stack([torch.stack(trainer.step()) for _ in range(50)])
        return records, torch.cat([each.flatten() for each in trainer.generator.parameters()]), trainer.state.progress

    calls = []
    (plain, plain_weights, plain_progress), (records, weights, progress) = steps(False), steps(True)
    assert calls == ["capture", *["replay"] * (50 - WARM_UP_STEPS)]
    assert torch.equal(records, plain) and torch.equal(weights, plain_weights)
    assert progress == plain_progress, "images and critic steps are counted"


def test_iterations_of_another_length_are_taken_one_kernel_at_a_time(tiny_config):
    config, calls = tiny_config(critic_warmup=True), []
    trainer = WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config)
    step = GraphedStep(trainer.algorithm, config.n_critic, trainer.random.rng, recorded(calls))
    batches = (batch for batch in trainer.real_batches)
    for _ in range(WARM_UP_STEPS + 1):
        step(batches, 5)
    assert calls == []
    step(batches, config.n_critic)
    assert calls == ["capture", "replay"]
    assert trainer.algorithm.num_critic_steps == 5 * (WARM_UP_STEPS + 1) + config.n_critic


class OneGPU:
    device, num_processes, mixed_precision = torch.device("cuda"), 1, "no"


@pytest.mark.parametrize(
    ("settings", "machine", "says"),
    [
        ({}, {"device": torch.device("cpu")}, "a CUDA GPU, and this is cpu"),
        ({}, {"num_processes": 2}, "one process, and there are 2"),
        ({}, {"mixed_precision": "fp16"}, "bf16"),
        ({"lr_scheduler": "linear"}, {}, "--lr_scheduler constant, not linear"),
        ({"lipschitz": "gp", "penalty_interval": 3}, {}, "penalty_interval=3"),
        ({"gradient_accumulation_steps": 4}, {}, "not in 4"),
        ({"compile": True}, {}, "--compile"),
    ],
)
def test_what_cannot_be_recorded_is_refused_with_the_mend(tiny_config, settings, machine, says):
    config = tiny_config(cuda_graphs=True, **settings)
    with pytest.raises(InputError, match=says):
        check_graphs(config, type("Machine", (OneGPU,), machine))


def test_what_can_be_recorded(tiny_config):
    check_graphs(tiny_config(cuda_graphs=True), OneGPU)


def test_without_a_gpu_the_run_does_not_begin(tiny_config):
    with pytest.raises(InputError, match="cuda_graphs: a graph needs a CUDA GPU"):
        WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config(cuda_graphs=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tiny_config):
    def weights(**settings):
        config = tiny_config(overwrite_output_dir=True, max_train_steps=50, logging_steps=50, **settings)
        trainer = WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config)
        trainer.train()
        return torch.cat([each.flatten() for each in trainer.generator.parameters()]).cpu()

    torch.testing.assert_close(weights(cuda_graphs=True), weights(), rtol=1e-5, atol=1e-6)
