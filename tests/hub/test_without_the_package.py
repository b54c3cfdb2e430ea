"""Loading where diffusers is installed and this package is not."""

import os
import subprocess

import pytest
import torch
from conftest import tiny_critic, tiny_generator
from hub_server import hub

from hf_wgan import MLPCritic, MLPGenerator, WGANPipeline
from hf_wgan.hub.publish import Push, push_folder

LOAD = """
import importlib, sys, torch
try:
    assert not hasattr(importlib.import_module("hf_wgan"), "WGANPipeline"), "this environment has the package"
except ImportError:
    pass
from diffusers import DiffusionPipeline
output, *names = sys.argv[1:]
try:
    DiffusionPipeline.from_pretrained(names[0])
    raise SystemExit("loaded without trust")
except ValueError as error:
    refusal = str(error)
found = []
for name in names:
    pipeline = DiffusionPipeline.from_pretrained(name, trust_remote_code=True)
    images = pipeline(4, generator=torch.Generator().manual_seed(0), output_type="pt").images
    again = f"{output}-{len(found)}"
    pipeline.save_pretrained(again)
    again = DiffusionPipeline.from_pretrained(again, trust_remote_code=True)
    assert torch.equal(again(4, generator=torch.Generator().manual_seed(0), output_type="pt").images, images)
    found.append((images, pipeline.critic(images * 2 - 1).detach(), type(pipeline).__module__))
torch.save((refusal, found), output)
"""


@pytest.mark.parametrize(
    "networks",
    [(tiny_generator, tiny_critic), (lambda: MLPGenerator(6, 3, 4, 8), lambda: MLPCritic(6, 3, 8))],
    ids=["dcgan", "mlp"],
)
def test_a_model_loads_with_trust_and_is_refused_without_it(networks, python_without_the_package, tmp_path):
    pipeline = WGANPipeline(*(network() for network in networks))
    pipeline.save_pretrained(tmp_path / "model")
    images = pipeline(4, generator=torch.Generator().manual_seed(0), output_type="pt").images
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        push_folder(tmp_path / "model", Push("me/model"))
        environment = {
            **os.environ,
            **server.environment("hf_me"),
            "HF_HOME": str(tmp_path / "home"),
            "HF_MODULES_CACHE": str(tmp_path / "modules"),
        }
        environment.pop("PYTHONPATH", None)
        command = [python_without_the_package, "-c", LOAD, tmp_path / "found", "me/model", tmp_path / "model"]
        subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    refusal, found = torch.load(tmp_path / "found")
    assert "trust_remote_code=True" in refusal
    for images_there, scores, module in found:
        assert torch.equal(images_there, images)
        assert torch.equal(scores, pipeline.critic(images * 2 - 1))
        assert module.startswith("diffusers_modules.")
    saved_there = WGANPipeline.from_pretrained(tmp_path / "found-0")
    assert torch.equal(saved_there(4, generator=torch.Generator().manual_seed(0), output_type="pt").images, images)
