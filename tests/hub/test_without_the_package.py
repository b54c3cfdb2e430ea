"""Loading where diffusers is installed and this package is not."""

import dataclasses
import os
import subprocess

import pytest
import torch
from conftest import tiny_critic, tiny_generator
from hub_server import hub

from hf_wgan import MLPCritic, MLPGenerator, WGANPipeline
from hf_wgan.hub.publish import Push, push_folder
from hf_wgan.models.factory import NetworkConfig, build_networks
from hf_wgan.training.presets import PRESETS

FIELDS = {field.name for field in dataclasses.fields(NetworkConfig)}

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


RUN_AGAIN = """
import sys, torch
from diffusers import DiffusionPipeline
output, *names = sys.argv[1:]
found = {}
for name in names:
    pipeline = DiffusionPipeline.from_pretrained(name, trust_remote_code=True)
    for module in [value for key, value in sys.modules.items() if key.startswith("diffusers_modules.local.")]:
        module.__spec__.loader.exec_module(module)  # as diffusers does for each network, in any order
    options = {"generator": torch.Generator().manual_seed(0), "class_labels": [0, 1, 2, 0]}
    images = pipeline(4, output_type="pt", **options).images
    scores = pipeline.score(images, class_labels=options["class_labels"])
    walk = pipeline.interpolate(torch.eye(2, 4), 3, class_labels=[0, 2], output_type="pt").images
    found[name] = images, scores, walk
torch.save(found, output)
"""


def test_the_networks_of_every_preset_work_where_their_code_is_run_again(python_without_the_package, tmp_path):
    expected = {}
    presets = {name: {key: value for key, value in PRESETS[name].items() if key in FIELDS} for name in PRESETS}
    for name, options in {**presets, "mlp": {"architecture": "mlp"}}.items():
        small = {"generator_width": 8, "critic_width": 8, "latent_dim": 4}
        networks = build_networks(NetworkConfig(**(options | small | {"num_clusters": None})), 32, 3, num_classes=3)
        pipeline = WGANPipeline(*(network.eval() for network in networks))
        pipeline.save_pretrained(tmp_path / name)
        labels = [0, 1, 2, 0]
        images = pipeline(4, generator=torch.Generator().manual_seed(0), class_labels=labels, output_type="pt").images
        walk = pipeline.interpolate(torch.eye(2, 4), 3, class_labels=[0, 2], output_type="pt").images
        expected[str(tmp_path / name)] = images, pipeline.score(images, class_labels=labels), walk
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    command = [python_without_the_package, "-c", RUN_AGAIN, tmp_path / "found", *expected]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    found = torch.load(tmp_path / "found")
    for name, values in expected.items():
        for value, there in zip(values, found[name], strict=True):
            torch.testing.assert_close(there, value, msg=lambda says, name=name: f"{name}: {says}")
