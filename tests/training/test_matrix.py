"""Every constraint with every architecture, in both precisions, on one process and on two.

Run by torchrun, this file is one of the two processes.
"""

import itertools
import os
import subprocess
import sys
import tempfile

import pytest
import torch
from accelerate.state import AcceleratorState

from hf_wgan import ImageSet, InputError, TrainingConfig, WGANTrainer
from hf_wgan.algorithm.lipschitz import CONSTRAINTS
from hf_wgan.models.factory import NetworkConfig, build_networks

STEPS = {"1": 5, "2": 3}  # by number of processes, which talk to each other at every step
SIZES = {"dcgan": 8, "mlp": 8, "resnet": 32, "r3gan": 16}
WIDTHS = {"dcgan": 4, "mlp": 8, "resnet": 4, "r3gan": 8}


def trains(constraint, architecture, precision):
    """Trains some steps and says what is wrong; nothing if all is well."""
    size, width = SIZES[architecture], WIDTHS[architecture]
    rng = torch.Generator().manual_seed(0)
    images = ImageSet(torch.randint(0, 256, (16, 1, size, size), generator=rng, dtype=torch.uint8))
    norm = None if architecture in ("mlp", "r3gan") else "none"
    sizes = {"generator_width": width, "critic_width": width, "latent_dim": 4, "critic_norm_type": norm}
    torch.manual_seed(0)
    network_config = NetworkConfig(architecture=architecture, **sizes)
    generator, critic = build_networks(network_config, size, 1, spectral_norm=constraint == "spectral")
    config = TrainingConfig(
        output_dir=os.path.join(tempfile.gettempdir(), "never-written"),
        lipschitz=constraint,
        mixed_precision=precision,
        train_batch_size=4,
        n_critic=1,
        generator_learning_rate=1e-3,
        critic_learning_rate=1e-3,
    )
    AcceleratorState._reset_state()
    run = WGANTrainer(generator, critic, images, config)
    before = [parameter.detach().clone() for network in (generator, critic) for parameter in network.parameters()]
    losses = torch.stack([torch.stack(run.step()) for _ in range(STEPS[os.environ.get("WORLD_SIZE", "1")])])
    after = [parameter.detach() for network in (generator, critic) for parameter in network.parameters()]
    if not losses.isfinite().all():
        return "a loss is not finite"
    # A number added to every score, the bias of the critic's last layer, changes no difference of scores.
    still = [tuple(old.shape) for old, new in zip(before, after) if torch.equal(old, new) and old.numel() > 1]
    if still:
        return f"parameters that never changed: {still}"
    vector = torch.cat([parameter.flatten() for parameter in after])
    everywhere = run.accelerator.gather(vector[None])
    if not everywhere.isfinite().all() or not (everywhere == everywhere[0]).all():
        return "the processes have different weights"
    return ""


def combinations():
    return list(itertools.product(CONSTRAINTS, SIZES, ("no", "bf16")))


@pytest.mark.parametrize("constraint, architecture, precision", combinations())
def test_one_process_trains(constraint, architecture, precision):
    assert trains(constraint, architecture, precision) == ""


def test_two_processes_train_and_agree():
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29533"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run([*torchrun, __file__], env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("trained by 2") == len(combinations())


if __name__ == "__main__":
    for combination in combinations():
        try:
            wrong = trains(*combination)
        except InputError as error:
            wrong = str(error)
        if wrong:
            raise SystemExit(f"{combination}: {wrong}")
        if os.environ["RANK"] == "0":
            print(*combination, "trained by", os.environ["WORLD_SIZE"])
    torch.distributed.destroy_process_group()
