import ast
import inspect
import json
import sys
from importlib import import_module

import pytest
import torch
from conftest import tiny_critic, tiny_generator
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

import hf_wgan
from hf_wgan import MLPCritic, MLPGenerator, WGANPipeline
from hf_wgan.hub.code import self_contained

CARRIED = [
    "hf_wgan.pipelines.pipeline_wgan",
    *(f"hf_wgan.models.{architecture}" for architecture in ("dcgan", "mlp", "resnet", "r3gan")),
]


def definitions(source):
    """Functions, classes and constants, by name."""
    nodes = [node for node in ast.parse(source).body if not isinstance(node, (ast.Expr, ast.Import, ast.ImportFrom))]
    return {getattr(node, "name", ast.unparse(node).split(" =")[0]): ast.unparse(node) for node in nodes}


@pytest.mark.parametrize("name", CARRIED)
def test_carried_code_is_the_packages_own_definitions_in_one_file(name):
    module = import_module(name)
    carried = definitions(self_contained(module))
    own = definitions(inspect.getsource(module))
    assert own.items() <= carried.items()
    for other in set(carried) - set(own):
        sources = [inspect.getsource(part) for name, part in sys.modules.items() if name.startswith("hf_wgan.")]
        assert any(definitions(source).get(other) == carried[other] for source in sources), other


@pytest.mark.parametrize("name", CARRIED)
def test_carried_code_needs_nothing_of_the_package_and_says_where_it_is_from(name):
    source = self_contained(import_module(name))
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert {module.partition(".")[0] for module in modules} <= {
        *sys.stdlib_module_names,
        *("torch", "numpy", "diffusers", "safetensors", "PIL"),
    }
    assert all(not getattr(node, "level", 0) for node in imports)
    header = ast.get_docstring(ast.parse(source))
    assert f"hf_wgan {hf_wgan.__version__}" in header and name.replace(".", "/") + ".py" in header
    exec(compile(source, name, "exec"), {"__name__": "somewhere"})


def test_a_saved_pipeline_names_the_code_that_it_carries(tmp_path):
    WGANPipeline(MLPGenerator(5, 3, 4, 8), MLPCritic(5, 3, 8)).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == ["hf_wgan_pipeline_wgan", "WGANPipeline"]
    assert index["generator"] == ["hf_wgan_mlp", "MLPGenerator"]
    for path in ("hf_wgan_pipeline_wgan.py", "generator/hf_wgan_mlp.py", "critic/hf_wgan_mlp.py"):
        assert (tmp_path / path).is_file()


def test_a_pipeline_without_a_critic_carries_none(tmp_path):
    WGANPipeline(tiny_generator()).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["critic"] == [None, None]
    assert WGANPipeline.from_pretrained(tmp_path).critic is None


def test_carried_code_is_not_run_by_this_package(tmp_path):
    WGANPipeline(tiny_generator(), tiny_critic()).save_pretrained(tmp_path)
    for path in tmp_path.rglob("*.py"):
        path.write_text("raise SystemExit('carried code was run')")
    for options in ({}, {"trust_remote_code": True}):
        loaded = WGANPipeline.from_pretrained(tmp_path, **options)
        assert type(loaded) is WGANPipeline and type(loaded.generator) is hf_wgan.DCGANGenerator
    loaded.save_pretrained(tmp_path)
    assert "SystemExit" not in (tmp_path / "generator" / "hf_wgan_dcgan.py").read_text()


class Constant(ModelMixin, ConfigMixin):
    """Somebody else's generator."""

    @register_to_config
    def __init__(self, sample_size: int = 2, latent_dim: int = 1, out_channels: int = 1):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1))

    def forward(self, latents):
        return self.value.expand(len(latents), 1, 2, 2)


class SomebodysPipeline(WGANPipeline):
    """A pipeline that somebody derived from ours."""


def test_a_pipeline_derived_from_ours_is_saved_and_loaded_by_its_own_class(tmp_path):
    SomebodysPipeline(tiny_generator()).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "SomebodysPipeline"
    loaded = SomebodysPipeline.from_pretrained(tmp_path)
    assert type(loaded) is SomebodysPipeline and type(loaded.generator) is hf_wgan.DCGANGenerator


def test_somebody_elses_network_is_named_by_its_own_module(tmp_path):
    WGANPipeline(Constant()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["generator"] == [__name__, "Constant"]
    assert not any((tmp_path / "generator").glob("*.py"))
    assert type(WGANPipeline.from_pretrained(tmp_path).generator) is Constant
