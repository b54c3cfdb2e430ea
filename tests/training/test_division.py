"""A batch divided among processes, or among accumulation steps, is the same batch."""

import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from processes import ended, free_port, join, start

STEPS, BATCH = 20, 8
DIVISIONS = {"two processes": (2, 1), "two accumulation steps": (1, 2), "both": (2, 2)}
OPTIONS = {
    "clip": {"lipschitz": "clip", "optimizer": "rmsprop"},
    "gp": {"lipschitz": "gp", "optimizer": "adam", "adam_beta1": 0.0},
    "lazy r1r2, augmented": {"lipschitz": "r1r2", "penalty_interval": 3, "augmentation": "color,translation,cutout"},
    "flips and ema": {"lipschitz": "lp", "use_ema": True},
    "adaptive augmentation": {
        "lipschitz": "lp",
        "augmentation": "translation",
        "adaptive_augmentation": True,
        "adaptive_augmentation_target": 0.01,
        "adaptive_augmentation_images": 2000,
    },
}


def train(folder, options, num_parts=1, index=0, num_processes=1, port=None):
    from hf_wgan import ImageSet, TrainingConfig, WGANTrainer
    from hf_wgan.data import DataConfig

    join(index, num_processes, port)
    config = TrainingConfig(
        output_dir=folder,
        train_batch_size=BATCH // num_processes // num_parts,
        gradient_accumulation_steps=num_parts,
        n_critic=2,
        generator_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        **options,
    )
    images = ImageSet(tiny_images().images, config=DataConfig(random_flip=True))
    networks = tiny_generator(norm_type="none").double(), tiny_critic(norm_type="none").double()
    run = WGANTrainer(*networks, images, config)
    records = []
    for _ in range(STEPS):
        record = run.step()
        records.append(torch.stack(record))
        run.callbacks.call("on_step_end", record=record)
    records = torch.stack(records)
    records = run.accelerator.gather(records[None]).mean(dim=0)
    parameters = [parameter.detach() for network in networks for parameter in network.parameters()]
    augmentation = getattr(run.algorithm.augment, "state_dict", dict)()
    torch.save({"parameters": parameters, "losses": records[:, :4], **augmentation}, f"{folder}-{index}.pt")


def trained(folder, options, num_processes=1, num_parts=1):
    port = free_port()
    processes = [
        start(train, str(folder), options, num_parts, index, num_processes, port) for index in range(num_processes)
    ]
    assert ended(processes) == [0] * num_processes
    return [torch.load(f"{folder}-{index}.pt") for index in range(num_processes)]


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_divided_batch_trains_as_a_whole_one(kind, tmp_path):
    (whole,) = trained(tmp_path / "whole", OPTIONS[kind])
    moved = max(parameter.abs().max() for parameter in whole["parameters"])
    assert moved > 1e-3
    for name, (num_processes, num_parts) in DIVISIONS.items():
        for result in trained(tmp_path / name, OPTIONS[kind], num_processes, num_parts):
            for expected, found in zip(whole["parameters"], result["parameters"], strict=True):
                assert found.dtype == torch.float64
                assert (found - expected).abs().max() < 1e-10, name
            assert torch.allclose(result["losses"], whole["losses"], rtol=1e-9, atol=1e-12), name
            for value in ("probability", "means") if "means" in whole else ():
                assert whole[value].abs().min() > 0 and torch.allclose(result[value], whole[value], rtol=1e-5), name
