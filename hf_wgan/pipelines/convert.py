"""Convert checkpoints of the Wasserstein GAN authors' own code to a pipeline.

The code is github.com/martinarjovsky/WassersteinGAN; the layers are the same, under other names.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn

from ..models import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator
from ..models.checks import check_at_least, check_choice
from ..utils.errors import InputError, one_line
from . import WGANPipeline

Weights = dict[str, torch.Tensor]

DCGAN_SIZES = (8, 16, 32, 64, 128, 256)
COUNT = "num_batches_tracked"  # a buffer of batch norms: missing before PyTorch 0.4.1, and without effect here

# Until December 2018 the names had dots instead of colons, and the parts of the critic's first one in another order.
DOTTED_NAMES = (
    (r"main\.initial\.conv\.([\d-]+)\.", r"main.initial:\1:conv."),
    (r"main\.([a-z][a-z\d-]*)\.([\d-]+)\.([a-z]+)\.", r"main.\1:\2:\3."),
)


def convert_original(generator_weights: Path, config: Path, critic_weights: Path | None = None) -> WGANPipeline:
    """Return a pipeline that computes what the authors' networks compute in eval mode, in float32 on the CPU.

    Their `generate.py` leaves the generator in training mode, so its images depend on one another through batch
    normalisation; those of a pipeline do not. Their critic is trained to score real images low, and those of this
    package score them high, so the signs of its last layer are flipped.

    Args:
        generator_weights: `netG_epoch_*.pth`, a state dict of their DCGAN with or without batch norm, or of their MLP.
        config: The `generator_config.json` that was written beside it.
        critic_weights: `netD_epoch_*.pth` of the same run, to keep the critic beside the generator.

    Raises:
        InputError: A file is missing, is something else, or does not fit the others.
    """
    _check_is_there(generator_weights)  # first, as the other file's name may follow from this one's
    with _named(config):
        settings = _read_config(config)
        with torch.device("meta"):  # no memory before the weights are known to fit
            generator = _generator(settings)
    with _named(generator_weights):
        _fill(generator, _read_weights(generator_weights), required_by=config)
    critic = None
    if critic_weights is not None:
        with _named(critic_weights):
            weights = _read_weights(critic_weights)
            with torch.device("meta"):
                critic = _critic(weights, generator)
            _fill(critic, weights, required_by="such a critic")
        last = [layer for layer in critic.layers if isinstance(layer, (nn.Conv2d, nn.Linear))][-1]
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.neg_()
    return WGANPipeline(generator, critic)


def _check_is_there(path: Path) -> None:
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file; name the one that the authors' code wrote")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name before the message of an error."""
    _check_is_there(path)
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"is not JSON ({one_line(error)}); give the generator_config.json of the run") from error
    smallest = {"imageSize": 1, "nz": 1, "nc": 1, "ngf": 1, "n_extra_layers": 0}
    switches = ("noBN", "mlp_G")
    for name in (*smallest, *switches):
        if not isinstance(settings, dict) or name not in settings:
            raise InputError(f"has no {name}; give the generator_config.json that was written beside the weights")
    for name, least in smallest.items():
        check_at_least(name, settings[name], least)
    for name in switches:
        if not isinstance(settings[name], bool):
            raise InputError(f"{name}={settings[name]!r}: must be true or false")
    check_choice("nc", settings["nc"], (1, 2, 3, 4))
    return settings


def _generator(settings: dict[str, Any]) -> ModelMixin:
    shape = settings["imageSize"], settings["nc"], settings["nz"]
    if settings["mlp_G"] and not settings["noBN"]:  # their main.py looks at noBN first
        return MLPGenerator(*shape, settings["ngf"])
    check_choice("imageSize", settings["imageSize"], DCGAN_SIZES)
    width = settings["ngf"] // 2 * 2  # they start from half of it, rounded down
    return DCGANGenerator(*shape, width, settings["n_extra_layers"], "none" if settings["noBN"] else "batch")


def _critic(weights: Weights, generator: ModelMixin) -> ModelMixin:
    """Return the critic that the weights belong to: the config file describes the generator only."""
    size, channels = generator.config.sample_size, generator.config.out_channels
    mismatch = f"where the generator makes images of {channels}x{size}x{size}; give the critic of the same run"
    linear = weights.get("main.0.weight")
    if linear is not None and linear.ndim == 2:
        width, values = linear.shape
        if values != channels * size**2:
            raise InputError(f"takes images of {values} values, {mismatch}")
        return MLPCritic(size, channels, width)

    convolutions = [name for name in weights if name.endswith(":conv.weight") and weights[name].ndim == 4]
    stages = [name.removeprefix("main.").split(":")[0] for name in convolutions]
    if "initial" not in stages:
        raise InputError("is no critic of the authors' code; give the netD_epoch_*.pth of the same run")
    width, critic_channels = weights[convolutions[stages.index("initial")]].shape[:2]
    critic_size = 8 * 2 ** stages.count("pyramid")
    if (critic_channels, critic_size) != (channels, size):
        raise InputError(f"takes images of {critic_channels}x{critic_size}x{critic_size}, {mismatch}")
    num_extra_layers = sum(stage.startswith("extra-layers-") for stage in stages)
    norm_type = "batch" if any(":batchnorm." in name for name in weights) else "none"
    return DCGANCritic(size, channels, width, num_extra_layers, norm_type)


def _read_weights(path: Path) -> Weights:
    """Return the tensors by the names of the authors' latest code."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types here
        raise InputError(
            "is no checkpoint that is safe to read; if it holds a whole pickled network, which could run any code, "
            "save the network's state_dict(), as in torch.save(netG.state_dict(), ...), and give that"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise InputError("holds no state dict (names to tensors); save it by torch.save(netG.state_dict(), ...)")
    renamed = {}
    for name, tensor in weights.items():
        name = str(name).removeprefix("module.")  # DataParallel's
        for dotted, with_colons in DOTTED_NAMES:
            name = re.sub(f"^{dotted}", with_colons, name)
        renamed[name] = tensor
    return renamed


def _fill(network: ModelMixin, weights: Weights, required_by: Path | str) -> None:
    """Give a network on the meta device the weights, in float32 whatever they were saved in."""
    names = _original_names(network)
    required = [f"{names[key]} {tuple(value.shape)}" for key, value in network.state_dict().items() if COUNT not in key]
    actual = [f"{name} {tuple(value.shape)}" for name, value in weights.items() if COUNT not in name]
    if set(actual) != set(required):
        pairs = zip_longest(actual, required, fillvalue="nothing more")
        has, needs = next(pair for pair in pairs if pair[0] != pair[1])
        raise InputError(f"has {has} where {required_by} asks for {needs}; give the files of one run")
    network.to_empty(device="cpu")
    network.load_state_dict({key: weights.get(name, torch.tensor(0)) for key, name in names.items()})
    network.eval()


def _original_names(network: ModelMixin) -> dict[str, str]:
    """Return the authors' name for each of our keys."""
    if isinstance(network, (MLPGenerator, MLPCritic)):
        return {key: key.replace("layers", "main", 1) for key in network.state_dict()}
    names, stage, extra_layers = {}, "initial", 0
    for index, layer in enumerate(network.layers):
        if isinstance(layer, nn.BatchNorm2d):
            name = f"{stage}:{layer.num_features}:batchnorm"
        elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            stage = f"extra-layers-{extra_layers}"
            name = f"{stage}:{layer.out_channels}:conv"
            extra_layers += 1
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            stage = "initial" if index == 0 else "final" if index == len(network.layers) - 2 else "pyramid"
            kind = "conv" if isinstance(layer, nn.Conv2d) else "convt"
            name = f"{stage}:{layer.in_channels}-{layer.out_channels}:{kind}"
        for key in layer.state_dict():
            names[f"layers.{index}.{key}"] = f"main.{name}.{key}"
    return names
