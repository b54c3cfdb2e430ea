import doctest
import inspect
import math
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from scipy import stats
from torch import nn

import hf_wgan
from hf_wgan import (
    DCGANGenerator,
    InputError,
    MLPGenerator,
    R3GANGenerator,
    ResNetGenerator,
    WGANPipeline,
    WGANTrainer,
)
from hf_wgan.algorithm import latents as module
from hf_wgan.algorithm.latents import (
    PRIORS,
    LatentPrior,
    NormalPrior,
    UniformPrior,
    check_latent_prior,
    prior_name,
    prior_of,
    sample_latents,
    sample_normals,
)
from hf_wgan.pipelines.pipeline_wgan import truncated

GENERATORS = [DCGANGenerator, MLPGenerator, ResNetGenerator, R3GANGenerator]
DISTRIBUTIONS = {"normal": stats.norm(), "uniform": stats.uniform(-1, 2)}


class Signs(LatentPrior):
    def __call__(self, normals):
        return normals.sign()


class Wider(LatentPrior):
    def __call__(self, normals):
        return torch.cat([normals, normals], dim=1)


class TinyGenerator(MLPGenerator):
    """In this module, as a user's own would be."""


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_has_the_distribution_that_it_says(name):
    generator = tiny_generator(latent_dim=50, latent_prior=name)
    values = sample_latents(generator, 400, rng()).flatten().numpy()
    assert stats.kstest(values, DISTRIBUTIONS[name].cdf).pvalue > 1e-3
    assert PRIORS[name].summary


def test_the_uniform_prior_is_exact_in_float32_and_differentiable():
    normals = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    exact = np.array([math.erf(z / math.sqrt(2)) for z in normals.tolist()])
    for dtype, error in ((torch.float64, 1e-15), (torch.float32, 2e-7), (torch.bfloat16, 1e-2)):
        uniform = UniformPrior()(normals.to(dtype))
        assert uniform.dtype == dtype and uniform.abs().max() <= 1
        assert np.abs(uniform.double().numpy() - exact).max() < error
    near = torch.tensor([1e-6, -3e-7])  # 2·Φ(z) − 1 by subtraction would have lost all digits
    assert torch.allclose(UniformPrior()(near), near * (2 / math.pi) ** 0.5, rtol=1e-6, atol=0)
    assert torch.autograd.gradcheck(UniformPrior(), (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),))


def test_the_example_in_the_docstring_runs():
    globs = {"torch": torch, "LatentPrior": LatentPrior}
    examples = doctest.DocTestFinder(recurse=False).find(LatentPrior, "LatentPrior", globs=globs)
    assert all(doctest.DocTestRunner().run(example).failed == 0 and example.examples for example in examples)


@pytest.mark.parametrize("generator_class", GENERATORS)
def test_generators_keep_their_prior_through_saving(generator_class, tmp_path):
    size = {"sample_size": 32, "out_channels": 1, "width": 8}
    assert type(prior_of(generator_class(**size))) is NormalPrior
    generator_class(**size, latent_prior="uniform").save_pretrained(tmp_path)
    loaded = generator_class.from_pretrained(tmp_path)
    assert loaded.config.latent_prior == "uniform" and type(prior_of(loaded)) is UniformPrior
    with pytest.raises(InputError, match="latent_prior='uniforn': must be one of normal, uniform, the name of"):
        generator_class(**size, latent_prior="uniforn")


def test_a_config_from_before_there_were_priors_means_normal_latents(tmp_path):
    generator = tiny_generator()
    generator.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"latent_prior": "normal",\n', ""))
    assert "latent_prior" not in config.read_text()
    loaded = DCGANGenerator.from_pretrained(tmp_path)
    assert torch.equal(sample_latents(loaded, 3, rng()), torch.randn(3, 4, generator=rng()))


def test_a_prior_of_ones_own_is_found_beside_the_generator_or_in_an_imported_module():
    for name, generator_class in {"Signs": TinyGenerator, f"{__name__}:Signs": MLPGenerator}.items():
        assert prior_name(Signs, generator_class) == prior_name(Signs(), generator_class) == name
        generator = generator_class(8, 1, 4, 8, latent_prior=name)
        assert torch.equal(sample_latents(generator, 3, rng()), torch.randn(3, 4, generator=rng()).sign())
    assert [prior_name(prior, MLPGenerator) for prior in PRIORS.values()] == list(PRIORS)
    with pytest.raises(InputError, match="latent_prior='Signs'"):
        MLPGenerator(latent_prior="Signs")


def test_a_class_in_another_module_is_looked_up_when_it_is_used_and_never_imported():
    generator = MLPGenerator(8, 1, 4, 8, latent_prior="antigravity:Prior")
    with pytest.raises(InputError, match="the module antigravity is not imported; import it first"):
        sample_latents(generator, 2)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "name", ["subprocess:Popen", "Path", "builtins:print", f"{__name__}:MLPGenerator", f"{__name__}:LatentPrior", 3]
)
def test_a_config_cannot_have_anything_but_a_prior_called(name):
    with pytest.raises(InputError, match=r"latent_prior=.*: must be one of normal, uniform"):
        prior_of(types.SimpleNamespace(config={"latent_prior": name}))
    if not isinstance(name, str) or ":" not in name:
        with pytest.raises(InputError, match="latent_prior="):
            check_latent_prior(name, MLPGenerator)


def test_a_prior_that_cannot_be_found_again_is_refused():
    class Hidden(LatentPrior):
        pass

    for prior in (Hidden, Hidden(), lambda normals: normals, nn.Identity()):
        with pytest.raises(InputError, match="latent_prior="):
            prior_name(prior, MLPGenerator)


def test_a_carried_copy_of_the_file_knows_priors_by_the_name_of_their_base():
    copy = types.ModuleType("copied")
    source = inspect.getsource(module).replace("from ..utils.errors", "from hf_wgan.utils.errors")
    exec(source, copy.__dict__)
    assert type(copy.prior_of(TinyGenerator(8, 1, 4, 8, latent_prior="Signs"))) is Signs


def test_latents_are_drawn_in_float32_from_each_source_of_random_numbers():
    generator = tiny_generator().half()
    together = sample_latents(generator, 2, [rng(5), rng(6)])
    assert together.dtype == torch.float32 and together.shape == (2, 4)
    assert torch.equal(together, torch.cat([sample_latents(generator, 1, rng(seed)) for seed in (5, 6)]))
    torch.manual_seed(3)
    expected = torch.randn(2, 4)
    torch.manual_seed(3)
    assert torch.equal(sample_normals(2, 4), expected)
    with pytest.raises(InputError, match="3 sources of random numbers for 2 latents"):
        sample_latents(generator, 2, [rng()] * 3)


def test_wrapped_generators_have_the_prior_of_what_they_wrap():
    class Compiled(nn.Module):  # as torch.compile's is
        def __init__(self, network):
            super().__init__()
            self._orig_mod = network

    wrapped = Compiled(TinyGenerator(8, 1, 4, 8, latent_prior="Signs"))
    assert type(prior_of(wrapped)) is Signs and sample_latents(wrapped, 2).shape == (2, 4)


def test_what_is_wrong_with_a_network_or_a_prior_is_said():
    with pytest.raises(InputError, match=r"Linear has no config.latent_dim"):
        sample_latents(nn.Linear(2, 2), 3)
    with pytest.raises(InputError, match=r"Wider returns a tensor of shape \(3, 8\) .*: must be .* of shape \(3, 4\)"):
        sample_latents(TinyGenerator(8, 1, 4, 8, latent_prior="Wider"), 3)


def test_the_pipeline_maps_normal_numbers_by_the_prior_after_truncation():
    generator = tiny_generator(latent_prior="uniform").eval()
    pipeline = WGANPipeline(generator, tiny_critic(norm_type="none"))
    normals = torch.randn(3, 4, generator=rng())
    seen = []
    generator.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    pipeline(3, generator=rng())
    pipeline(latents=normals)
    pipeline(latents=normals, truncation=0.5)
    drawn, given, cut = seen
    assert torch.equal(drawn, UniformPrior()(normals)) and torch.equal(drawn, given)
    assert torch.equal(cut, UniformPrior()(truncated(normals, 0.5)))


def test_inversion_searches_the_normal_numbers():
    pipeline = WGANPipeline(tiny_generator(latent_prior="uniform").eval(), tiny_critic())
    target = pipeline(2, generator=rng(), output_type="pt").images
    found = pipeline.invert(target, num_steps=60, num_candidates=200, generator=rng(1))
    again = pipeline(latents=found, output_type="pt").images
    assert (again - target).square().mean() < 0.02 * (target - target.mean(dim=0)).square().mean() + 1e-4


@pytest.mark.parametrize("prior", PRIORS)
def test_training_feeds_the_generator_from_its_prior_and_the_model_keeps_it(prior, tiny_config):
    generator = tiny_generator(latent_prior=prior)
    trainer = WGANTrainer(generator, tiny_critic(), tiny_images(), tiny_config(max_train_steps=2))
    seen = []
    generator.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    trainer.train()
    values = torch.cat(seen).flatten().numpy()
    assert stats.kstest(values, DISTRIBUTIONS[prior].cdf).pvalue > 1e-4
    loaded = WGANPipeline.from_pretrained(trainer.config.output_dir)
    assert type(prior_of(loaded.generator)) is PRIORS[prior]


def test_no_other_file_of_the_package_draws_latents():
    """But for the command line's videos, which draw normal numbers and leave the prior to the pipeline."""
    drawing = set()
    for path in sorted(Path(hf_wgan.__file__).parent.rglob("*.py")):
        lines = path.read_text().splitlines()
        code = [line for line in lines if not line.lstrip().startswith((">>>", "... "))]
        if any(re.search(r"\b(randn|randn_tensor|randn_like)\(", line) for line in code):
            drawing.add(path.relative_to(Path(hf_wgan.__file__).parent).as_posix())
    drawing -= {name for name in drawing if name.startswith("cli/")}
    # R3GAN draws the initial value of a weight.
    assert drawing <= {"algorithm/latents.py", "algorithm/random.py", "models/r3gan.py"}
