"""Constraints, augmentations and priors that are objects of one's own."""

import json
import time
import types
from functools import partial

import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from diffusers.configuration_utils import register_to_config
from processes import outcome

from hf_wgan import InputError, RunConfig, WGANPipeline, WGANTrainer
from hf_wgan.algorithm.augment import OPERATIONS, Augmentation, with_rand
from hf_wgan.algorithm.latents import LatentPrior, UniformPrior
from hf_wgan.algorithm.lipschitz import (
    CONSTRAINTS,
    Constraint,
    GradientPenalty,
    SpectralNormalization,
    WeightClipping,
    gradients,
)
from hf_wgan.models.network import Network
from hf_wgan.training.components import description_of


class LogCosh(Constraint):
    def __init__(self, weight=10.0):
        self.weight = weight

    def penalty(self, score, real_images, fake_images):
        return self.weight * torch.log(torch.cosh(gradients(score, real_images).norm(dim=1) - 1)).mean()


class Adaptive(Constraint):
    """Has a state: the number of critic steps."""

    def __init__(self):
        self.count = 0

    def after_step(self, critic):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class SignPrior(LatentPrior):
    def __call__(self, normals):
        return torch.where(normals < 0, -1.0, 1.0).to(normals.dtype)


class ScaledPrior(LatentPrior):
    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, normals):
        return self.scale * normals


class BareGenerator(Network):
    """A generator that knows nothing of priors."""

    @register_to_config
    def __init__(self, sample_size: int = 8, out_channels: int = 1, latent_dim: int = 4):
        super().__init__()
        self.layer = torch.nn.Linear(latent_dim, out_channels * sample_size**2)

    def forward(self, latents):
        return self.layer(latents).view(-1, 1, 8, 8).tanh()


def noise(images, rand):
    return images + 0.1 * (rand(tuple(images.shape), device=images.device, dtype=images.dtype) - 0.5)


def shifted_by(amount, method=None):
    """Return an augmentation that has no name of its own."""
    if method:
        local = type("Local", (), {"__qualname__": "shifted_by.<locals>.Local", "__call__": method})
        return local()
    return lambda images: images + amount


def recursive(amount):
    def one(images):
        return other(images) + amount

    def other(images):
        return one(images)

    return one


def own_user(amount):
    class Own:
        def __call__(self, images):
            return one.shifted(images)

        def shifted(self, images):
            return images + operations[1]

    one = Own()
    operations = [one, amount]
    operations.append(operations)
    return one


def unset(amount):
    def one(images):
        return images + amount if images.ndim else later

    if amount < 0:
        later = one
    return one


TWO_ALIKE = {
    "lambdas": lambda: [lambda images: images + 0.1, lambda images: images + 0.2],
    "what they enclose": lambda: [shifted_by(0.1), shifted_by(0.2)],
    "functions that they enclose": lambda: [shifted_by(shifted_by(by)) for by in (0.1, 0.2)],
    "defaults": lambda: [lambda images, by=0.1: images + by, lambda images, by=0.2: images + by],
    "partial functions": lambda: [partial(noise, rand=shifted_by(by)) for by in (0.1, 0.2)],
    "their keywords": lambda: [partial(torch.add, other=by) for by in (0.1, 0.2)],
    "their arguments": lambda: [partial(torch.add, by) for by in (0.1, 0.2)],
    "methods": lambda: [Shift(by).forward for by in (0.1, 0.2)],
    "tensors": lambda: [shifted_by(torch.tensor([by])) for by in (0.1, 0.2)],
    "tensors of bfloat16": lambda: [shifted_by(torch.tensor(by, dtype=torch.bfloat16)) for by in (0.1, 0.2)],
    "shapes of tensors": lambda: [shifted_by(torch.ones(shape)) for shape in ((2, 3), (3, 2))],
    "arrays": lambda: [shifted_by(np.array([by])) for by in (0.1, 0.2)],
    "lists of functions": lambda: [shifted_by([noise, shifted_by(by)]) for by in (0.1, 0.2)],
    "mappings": lambda: [shifted_by({"by": by}) for by in (0.1, 0.2)],
    "functions that use each other": lambda: [recursive(by) for by in (0.1, 0.2)],
    "what holds itself": lambda: [own_user(by) for by in (0.1, 0.2)],
    "beside what has no value": lambda: [unset(by) for by in (0.1, 0.2)],
    "local classes": lambda: [shifted_by(0, method=lambda self, images, by=by: images + by) for by in (0.1, 0.2)],
}
"""Pairs of augmentations with the same names."""


@pytest.mark.parametrize("kind", TWO_ALIKE)
def test_augmentations_without_names_of_their_own_are_told_apart(kind):
    (one, other), (again, _) = TWO_ALIKE[kind](), TWO_ALIKE[kind]()
    descriptions = [json.loads(json.dumps(description_of(augmentation))) for augmentation in (one, other, again)]
    assert descriptions[0] != descriptions[1] and descriptions[0]["class"] == descriptions[1]["class"]
    assert descriptions[0] == descriptions[2]


def test_a_run_is_not_resumed_with_another_lambda(tiny_config):
    def run(augmentation, **options):
        config = tiny_config(**options)
        WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config, augmentation=augmentation).train()

    run(lambda images: images + 0.1, max_train_steps=2)
    run(lambda images: images + 0.1, max_train_steps=3, resume_from_checkpoint="latest")
    with pytest.raises(InputError, match=r"another experiment: augmentation\.code is '\w+', was '\w+'"):
        run(lambda images: images + 0.2, max_train_steps=4, resume_from_checkpoint="latest")


def test_a_large_tensor_is_described_in_a_moment():
    began = time.perf_counter()
    description_of(shifted_by(torch.zeros(5_000_000)))
    assert time.perf_counter() - began < 2, "one number after the other takes ten seconds"


def test_a_module_is_described_by_its_name():
    one, other = types.ModuleType("one"), types.ModuleType("other")
    before, another = (description_of(shifted_by(module)) for module in (one, other))
    one.counter = 1
    assert description_of(shifted_by(one)) == before != another


class Shift(torch.nn.Module):
    def __init__(self, by=0.0):
        super().__init__()
        self.by = by
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, images):
        self.seen += 1
        return images + self.by


class Jitter(torch.nn.Module):
    """Takes random numbers and has a state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("size", torch.zeros(()))

    def forward(self, images, *, rand=torch.rand):
        self.size += 0.01
        return images + self.size * (rand((len(images), 1, 1, 1), device=images.device, dtype=images.dtype) - 0.5)


class Brightness:
    """As `Jitter`, without being a module."""

    def __init__(self):
        self.size = 0.0

    def __call__(self, images, rand):
        self.size += 0.01
        return images + self.size * rand((len(images), 1, 1, 1), device=images.device, dtype=images.dtype)

    def state_dict(self):
        return {"size": self.size}

    def load_state_dict(self, state):
        self.size = state["size"]


def trainer(config, **options):
    networks = {"generator": tiny_generator(), "critic": tiny_critic(norm_type="none")} | options
    return WGANTrainer(networks.pop("generator"), networks.pop("critic"), tiny_images(), config, **networks)


def record(folder):
    return json.loads((folder / "training_config.json").read_text())


def test_a_constraint_object_acts_instead_of_the_option_and_is_recorded(tiny_config, tmp_path):
    run = trainer(tiny_config(), constraint=LogCosh(3.0))
    run.train()
    assert max(weight.abs().max() for weight in run.critic.parameters()) > 0.01, "nothing is clipped"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["gradient_penalty"] > 0 for line in lines)
    saved = record(tmp_path / "run")
    assert saved["constraint"] == {"class": f"{__name__}:LogCosh", "weight": 3.0}
    assert [saved["training"][name] for name in ("lipschitz", "clip_value", "gradient_penalty_weight")] == [None] * 3
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| constraint | class {__name__}:LogCosh, weight 3.0 |" in card
    assert "lipschitz" not in card and "clip" not in card


@pytest.mark.parametrize(
    "constraint, option", [(partial(GradientPenalty, 10.0), "gp"), (partial(WeightClipping), "clip")]
)
def test_an_object_of_ours_is_the_option_to_the_bit(constraint, option, tiny_config, tmp_path):
    trainer(tiny_config(output_dir=str(tmp_path / "object")), constraint=constraint()).train()
    trainer(tiny_config(output_dir=str(tmp_path / "option"), lipschitz=option)).train()
    weights = "critic/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "object" / weights).read_bytes() == (tmp_path / "option" / weights).read_bytes()


def test_an_augmentation_object_of_ours_is_the_option_to_the_bit(tiny_config, tmp_path):
    trainer(tiny_config(output_dir=str(tmp_path / "object")), augmentation=Augmentation("color,cutout")).train()
    trainer(tiny_config(output_dir=str(tmp_path / "option"), augmentation="color,cutout")).train()
    weights = "critic/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "object" / weights).read_bytes() == (tmp_path / "option" / weights).read_bytes()


@pytest.mark.parametrize(
    "option",
    [
        {},
        {"constraint": Adaptive},
        *({"augmentation": make} for make in (lambda: noise, Shift, Jitter, Brightness)),
    ],
)
def test_objects_resume_exactly_with_their_state(option, tiny_config, tmp_path):
    def run(name, **more):
        objects = {name: make() for name, make in option.items()}
        run = trainer(tiny_config(output_dir=str(tmp_path / name), checkpointing_steps=100, **more), **objects)
        run.train()
        return objects

    whole = run("whole", max_train_steps=6)
    run("parts", max_train_steps=4)
    parts = run("parts", max_train_steps=6, resume_from_checkpoint="latest")
    for folder in ("whole", "parts"):
        (tmp_path / folder / "samples" / "step-000004.png").unlink(missing_ok=True)
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "parts")
    if "constraint" in option:
        assert whole["constraint"].count == parts["constraint"].count == 12
    if option.get("augmentation") is Shift:
        assert whole["augmentation"].seen == parts["augmentation"].seen == 6 * 5
    if option.get("augmentation") in (Jitter, Brightness):
        assert float(whole["augmentation"].size) == float(parts["augmentation"].size) > 0


@pytest.mark.parametrize(
    "objects, named",
    [
        ({"constraint": LogCosh(2.0)}, r"constraint.weight is 2.0, was 1.0"),
        ({"constraint": Adaptive()}, r"constraint.class is '.*:Adaptive', was '.*:LogCosh'"),
        ({}, "lipschitz is 'clip', was None"),
        ({"constraint": LogCosh(1.0), "augmentation": noise}, "augmentation is None, was ''"),
    ],
)
def test_resuming_with_another_object_is_another_experiment(objects, named, tiny_config):
    trainer(tiny_config(), constraint=LogCosh(1.0)).train()
    with pytest.raises(InputError, match=named):
        trainer(tiny_config(resume_from_checkpoint="latest", max_train_steps=6), **objects).train()


def test_a_record_of_objects_cannot_be_repeated_from_a_file(tiny_config, tmp_path):
    trainer(tiny_config(), augmentation=noise).train()
    saved = record(tmp_path / "run")
    assert saved["augmentation"] == {"class": f"{__name__}:noise"} and saved["training"]["augmentation"] is None
    saved |= {"networks": {}, "dataset": {"config": {}}}
    with pytest.raises(InputError, match=r"its augmentation in Python \(.*:noise\), which its record cannot repeat"):
        RunConfig.resolve(saved)


@pytest.mark.parametrize("prior", ["uniform", UniformPrior, UniformPrior()])
def test_a_prior_is_kept_in_the_config_of_the_generator(prior, tiny_config, tmp_path):
    pipeline = trainer(tiny_config(), latent_prior=prior).train()
    assert pipeline.generator.config.latent_prior == "uniform"
    assert record(tmp_path / "run")["generator"]["latent_prior"] == "uniform"
    assert WGANPipeline.from_pretrained(tmp_path / "run").generator.config.latent_prior == "uniform"


def test_a_prior_of_ones_own_with_a_generator_that_knows_of_none(tiny_config, tmp_path):
    run = trainer(tiny_config(), generator=BareGenerator(), latent_prior=SignPrior())
    seen = []
    run.generator.layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].abs()))
    pipeline = run.train()
    assert all((latents == 1).all() for latents in seen) and seen
    loaded = WGANPipeline.from_pretrained(tmp_path / "run")
    assert loaded.generator.config.latent_prior == "SignPrior", "by the name in the generator's own module"
    images = [
        each(4, generator=torch.Generator().manual_seed(0), output_type="pt").images for each in (pipeline, loaded)
    ]
    assert torch.equal(*images)
    trainer(
        tiny_config(resume_from_checkpoint="latest", max_train_steps=5),
        generator=BareGenerator(),
        latent_prior=SignPrior,
    ).train()
    with pytest.raises(InputError, match=r"generator\.latent_prior is 'uniform', was 'SignPrior'"):
        config = tiny_config(resume_from_checkpoint="latest", max_train_steps=6)
        trainer(config, generator=BareGenerator(), latent_prior="uniform").train()


@pytest.mark.parametrize(
    "objects, message",
    [
        ({"constraint": LogCosh}, "constraint=.*must be an instance of a subclass of .*Constraint"),
        ({"constraint": "gp"}, "constraint='gp': must be an instance"),
        ({"augmentation": "color"}, r"augmentation='color': must be a function .*TrainingConfig\(augmentation"),
        ({"augmentation": Shift}, "augmentation=.*must be a function"),
        ({"latent_prior": "gaussian"}, "latent_prior='gaussian': must be one of"),
        ({"latent_prior": torch.randn}, "latent_prior=.*must be one of"),
        ({"latent_prior": ScaledPrior(2.0)}, r"has \{'scale': 2.0\}: a generator keeps its prior by name alone"),
        ({"constraint": SpectralNormalization()}, "SpectralNormalization of a critic without such layers"),
    ],
)
def test_what_is_no_such_object_is_refused(objects, message, tiny_config, tmp_path):
    with pytest.raises(InputError, match=message):
        trainer(tiny_config(), **objects)
    assert not (tmp_path / "run").exists()


class Penalty(Constraint):
    def __init__(self, value):
        self.value = value

    def penalty(self, score, real_images, fake_images):
        return self.value(score(real_images))


class NoCall(LatentPrior):
    pass


class NoDefault(LatentPrior):
    def __init__(self, scale):
        self.scale = scale


class Doubles(LatentPrior):
    def __call__(self, normals):
        return normals.double()


WRONG_RESULTS = {
    "a penalty for each image": (
        {"constraint": Penalty(lambda scores: scores)},
        "Penalty.penalty returns a tensor of",
    ),
    "a number as penalty": (
        {"constraint": Penalty(lambda scores: 1.0)},
        "Penalty.penalty returns a float: must be a",
    ),
    "nothing as penalty": ({"constraint": Penalty(lambda scores: None)}, "Penalty.penalty returns a NoneType"),
    "nothing": ({"augmentation": lambda images: None}, "augmentation <lambda> returns a NoneType: must be images"),
    "other numbers": ({"augmentation": torch.Tensor.double}, "returns a tensor .* type float64: must be images like"),
    "nothing, with numbers": ({"augmentation": lambda images, rand: None}, "augmentation <lambda> returns a NoneType"),
    "other sizes": ({"augmentation": lambda images: images[:, :, 1:]}, r"of shape \(8, 1, 7, 8\) .*: must be images"),
    "no gradient": ({"augmentation": torch.Tensor.detach}, "without a gradient, by which the generator learns"),
    "rounded": ({"augmentation": lambda images: images.detach().round()}, "without a gradient, by which the gen"),
    "latents of float64": ({"latent_prior": Doubles}, "Doubles returns .* float64: must be latents like"),
    "a prior with an argument": ({"latent_prior": NoDefault(2.0)}, "cannot be built without arguments"),
}


@pytest.mark.parametrize("kind", WRONG_RESULTS)
def test_what_an_object_of_ones_own_returns_is_checked(kind, tiny_config):
    objects, message = WRONG_RESULTS[kind]
    with pytest.raises(InputError, match=message) as error:
        trainer(tiny_config(), **objects).train()
    assert "\n" not in str(error.value)


def test_a_prior_without_a_mapping_says_so(tiny_config):
    with pytest.raises(NotImplementedError, match="NoCall has no __call__"):
        trainer(tiny_config(), latent_prior=NoCall).train()


def test_a_builtin_function_is_an_augmentation(tiny_config):
    trainer(tiny_config(), augmentation=torch.sin).train()


class Needy(Constraint):
    def __init__(self, alpha):
        self.alpha = alpha


@pytest.mark.parametrize(
    "entry, message", [(Needy, "cannot be built from clip_value, weight, rand alone"), (5, "no subclass of Constraint")]
)
def test_a_registered_constraint_that_cannot_be_built_is_one_line(entry, message, tiny_config, monkeypatch):
    monkeypatch.setitem(CONSTRAINTS, "mine", entry)
    with pytest.raises(InputError, match=message):
        trainer(tiny_config(lipschitz="mine"))


@pytest.mark.parametrize("build", [WeightClipping, GradientPenalty])
@pytest.mark.parametrize("value", ["x", 0, -1.0, float("inf"), float("nan"), True, None])
def test_a_constraint_is_built_with_a_positive_number(build, value):
    with pytest.raises(InputError, match="must be a positive number"):
        build(value)


def test_a_registered_operation_may_need_no_random_numbers(monkeypatch):
    images = torch.zeros(2, 1, 4, 4)
    for operation in (
        lambda images: images - 0.5,
        lambda images, by=0.5: images - by,
        lambda images, **_: images - 0.5,
        Shift(-0.5),
    ):
        monkeypatch.setitem(OPERATIONS, "darken", operation)
        assert torch.equal(Augmentation("darken")(images), images - 0.5)


@pytest.mark.parametrize(
    "operation", [noise, partial(noise, rand=torch.rand), lambda images, *, rand: noise(images, rand)]
)
def test_whatever_has_an_argument_rand_is_passed_it(operation, monkeypatch):
    images = torch.zeros(2, 1, 4, 4)

    def rand(size, **options):
        return torch.full(size, 0.75)

    monkeypatch.setitem(OPERATIONS, "noise", operation)
    registered = Augmentation("noise")
    registered.rand = rand
    assert torch.equal(registered(images), images + 0.1 * 0.25)
    assert torch.equal(with_rand(operation, rand)(images), images + 0.1 * 0.25)


@pytest.mark.parametrize("arguments", [(5,), ("color", torch.rand, 2.0), ("color", torch.rand, -0.1)])
def test_wrong_arguments_of_an_augmentation_are_named(arguments):
    with pytest.raises(InputError, match=r"^augmentation(_probability)?="):
        Augmentation(*arguments)
