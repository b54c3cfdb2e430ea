import math
import re

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hf_wgan import (
    DCGANCritic,
    DCGANGenerator,
    InputError,
    MLPCritic,
    MLPGenerator,
    R3GANCritic,
    R3GANGenerator,
    ResNetCritic,
    ResNetGenerator,
)
from hf_wgan.models.factory import shape_of
from hf_wgan.models.layers import MapToVector, ModulatedBatchNorm2d, PooledConv2d, UpsampledConv2d, VectorToMap
from hf_wgan.models.network import Network
from hf_wgan.training.snapshot import portable_copy

PAIRS = [
    (DCGANGenerator, DCGANCritic),
    (MLPGenerator, MLPCritic),
    (ResNetGenerator, ResNetCritic),
    (R3GANGenerator, R3GANCritic),
]
GENERATORS, CRITICS = zip(*PAIRS)
OF_ANY_SHAPE = PAIRS[1:]
SIZE = {DCGANCritic: 16, MLPCritic: 16, ResNetCritic: 32, R3GANCritic: 16}
WIDTH = {DCGANCritic: 4, MLPCritic: 16, ResNetCritic: 4, R3GANCritic: 8}
LABELS = torch.tensor([2, 0])


def built(generator_class, critic_class, size=None, channels=3, seed=0, spectral_norm=False, class_names=None, **both):
    size, width = size or SIZE[critic_class], WIDTH[critic_class]
    torch.manual_seed(seed)
    return (
        generator_class(size, channels, latent_dim=5, width=width, class_names=class_names, **both),
        critic_class(size, channels, width=width, spectral_norm=spectral_norm, **both),
    )


def some_images(critic, count=2):
    return torch.rand(count, *shape_of(critic), generator=torch.Generator().manual_seed(3)) * 2 - 1


def some_latents(generator, count=2):
    return torch.randn(count, generator.config.latent_dim, generator=torch.Generator().manual_seed(4))


def run(network, *labels):
    return network((some_images if type(network) in CRITICS else some_latents)(network), *labels)


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("norm_type", ["batch", "none"])
def test_dcgan_pairs_fit_at_every_size(size, norm_type):
    generator, critic = built(DCGANGenerator, DCGANCritic, size, norm_type=norm_type, num_extra_layers=1)
    images = generator(torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert critic(images).shape == (2,)
    has_batch_norm = [any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) for network in (generator, critic)]
    assert has_batch_norm == [norm_type == "batch"] * 2


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"upsampling": "nearest", "num_extra_layers": 1}])
def test_modulated_batch_norm_is_batch_norm_with_scales_and_shifts_of_the_latents(options):
    generator = DCGANGenerator(16, 1, latent_dim=5, width=4, modulated=True, **options)
    labels = [LABELS] if "num_classes" in options else []
    latents, inputs = some_latents(generator), []
    for module in generator.modules():
        if isinstance(module, ModulatedBatchNorm2d):
            module.register_forward_hook(lambda norm, arguments, output: inputs.append((norm, *arguments, output)))
    generator(latents, *labels)
    sizes = [maps.shape[-1] for _, maps, _, _ in inputs]
    assert sizes == ([4, 8, 8] if "num_extra_layers" in options else [4, 8]), "all but that of full size"
    for norm, maps, vectors, output in inputs:
        assert torch.equal(vectors[:, :5], latents) and vectors.shape[1] == (37 if labels else 5)
        scales, shifts = norm.modulation(vectors).chunk(2, dim=1)
        mean, variance = maps.mean(dim=(0, 2, 3), keepdim=True), maps.var(dim=(0, 2, 3), keepdim=True, correction=0)
        normalised = (maps - mean) / (variance + 1e-5).sqrt()
        expected = normalised * (1 + scales)[:, :, None, None] + shifts[:, :, None, None]
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
@pytest.mark.parametrize("num_extra_layers", [0, 1])
def test_the_last_map_of_each_smaller_size_adds_to_the_image(upsampling, num_extra_layers):
    options = {"latent_dim": 5, "width": 4, "upsampling": upsampling, "num_extra_layers": num_extra_layers}
    generator = DCGANGenerator(32, 2, output_skips=True, **options).eval()
    plain = DCGANGenerator(32, 2, **options).eval()
    plain.load_state_dict(generator.state_dict(), strict=False)
    latents, maps = some_latents(generator), {}
    for number, layer in enumerate(generator.layers):
        layer.register_forward_hook(lambda layer, arguments, output, number=number: maps.update({number: output}))
    images = generator(latents)
    parts = [(skip(maps[int(number)]), maps[int(number)]) for number, skip in generator.skips.items()]
    assert [part.shape[2] for part, _ in parts] == [4, 8, 16]
    assert parts[-1][1].shape[1] == 4 and int(list(generator.skips)[-1]) == 8 + 3 * num_extra_layers
    added = torch.zeros_like(parts[0][0])
    for part, _ in parts:
        added = nn.functional.interpolate(added + part, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(images.atanh(), plain(latents).atanh() + added, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("pair", PAIRS)
def test_pairs_fit_for_every_number_of_channels(pair, channels):
    generator, critic = built(*pair, channels=channels)
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, *shape_of(generator)) and shape_of(generator) == shape_of(critic)
    assert shape_of(generator)[0] == channels
    assert critic(images).shape == (3,)


@pytest.mark.parametrize("network_class", GENERATORS + CRITICS)
def test_docstrings_tell_parameters_and_flops_at_the_default_arguments(network_class):
    with torch.device("meta"):
        network = network_class()
        channels, height, width = shape_of(network)
        one = torch.empty(1, network.config.latent_dim if network_class in GENERATORS else channels, height, width)
    with FlopCounterMode(display=False) as flops:
        network.eval()(one[:, :, 0, 0] if network_class in GENERATORS else one)
    told = re.search(r"([\d,]+) parameters, and ([\d,]+) FLOPs for an image of (\d+) pixels", network_class.__doc__)
    found = sum(parameter.numel() for parameter in network.parameters()), flops.get_total_flops(), height
    assert [int(number.replace(",", "")) for number in told.groups()] == list(found)


@pytest.mark.parametrize("pair", OF_ANY_SHAPE)
def test_images_may_be_wider_than_high(pair, tmp_path):
    generator, critic = built(*pair, size=(32, 96))
    for network in (generator, critic):
        network.eval().save_pretrained(tmp_path)
        loaded = type(network).from_pretrained(tmp_path)  # whose config holds a list
        assert shape_of(loaded) == shape_of(network) == (3, 32, 96)
        assert torch.equal(run(loaded), run(network))
    images = run(generator)
    assert images.shape == (2, 3, 32, 96) and critic(images).shape == (2,)
    with pytest.raises(InputError, match=r"must be \(N, 3, 32, 96\)"):
        critic(images.transpose(2, 3))


@pytest.mark.parametrize("pair", PAIRS)
def test_a_size_given_as_one_number_stays_one_in_the_config(pair):
    assert all(network.config.sample_size == SIZE[pair[1]] for network in built(*pair))


@pytest.mark.parametrize("critic_class", [DCGANCritic, ResNetCritic])
@pytest.mark.parametrize(
    "norm_type, norm_class",
    [("none", None), ("batch", nn.BatchNorm2d), ("layer", nn.GroupNorm), ("instance", nn.InstanceNorm2d)],
)
def test_critics_have_the_normalisation_that_is_asked_for(critic_class, norm_type, norm_class):
    torch.manual_seed(0)
    critic = critic_class(32, 1, width=4, norm_type=norm_type)
    norms = [m for m in critic.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d))]
    assert bool(norms) == bool(norm_class) and all(isinstance(norm, norm_class) for norm in norms)
    assert all(norm.weight.shape == norm.bias.shape for norm in norms), "each with a learned scale and shift"
    images = some_images(critic, 4)
    is_alone = torch.allclose(critic(images)[:2], critic(images[:2]), atol=1e-5)
    assert is_alone == (norm_type != "batch"), "only batch normalisation makes scores depend on other images"


@pytest.mark.parametrize("critic_class", [DCGANCritic, ResNetCritic])
def test_layer_normalisation_is_over_channels_and_space(critic_class):
    norm = next(m for m in critic_class(32, 1, width=4, norm_type="layer").modules() if isinstance(m, nn.GroupNorm))
    maps = norm(torch.randn(3, norm.num_channels, 5, 5) * torch.arange(1, norm.num_channels + 1)[:, None, None] + 7)
    assert torch.allclose(maps.mean(dim=(1, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(maps.var(dim=(1, 2, 3), unbiased=False), torch.ones(3), atol=1e-3)
    assert maps.var(dim=(2, 3)).std() > 0.1, "not over each channel's space"


@pytest.mark.parametrize("critic_class", CRITICS)
def test_spectral_normalisation_gives_every_weight_the_norm_1(critic_class):
    _, critic = built(*PAIRS[CRITICS.index(critic_class)], spectral_norm=True, num_classes=3)
    layers = [module for module in critic.modules() if isinstance(module, (nn.Conv2d, nn.Linear, nn.Embedding))]
    assert any(isinstance(layer, nn.Embedding) for layer in layers)
    for layer in layers:
        for _ in range(300):  # each use in training mode is one power iteration
            layer.weight  # noqa: B018
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(start_dim=1))[0].item()
        assert largest == pytest.approx(1, abs=1e-3), layer
    assert run(critic, LABELS).isfinite().all()


def test_spectral_normalisation_changes_scores_only_by_a_factor_a_layer():
    plain, normal = (built(*PAIRS[1], spectral_norm=spectral_norm)[1].eval() for spectral_norm in (False, True))
    with torch.no_grad():
        for before, after in zip(plain.layers[::2], normal.layers[::2]):
            ratio = after.weight / before.weight
            assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4) and abs(ratio[0, 0] - 1) > 0.01


OPTIONS = [{}, {"spectral_norm": True}, {"num_classes": 3}, {"num_classes": 3, "spectral_norm": True}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("critic_class", CRITICS)
def test_critics_with_every_option_survive_saving_and_copying(critic_class, options, tmp_path):
    critic = built(*PAIRS[CRITICS.index(critic_class)], **options)[1]
    labels = [LABELS] if "num_classes" in options else []
    run(critic, *labels)  # one more power iteration
    critic.eval().save_pretrained(tmp_path)
    scores = run(critic, *labels)
    assert scores.shape == (2,) and scores.std() > 0
    for copy in (
        critic_class.from_pretrained(tmp_path),
        critic_class.from_pretrained(tmp_path, low_cpu_mem_usage=False),
        portable_copy(critic),
    ):
        assert all(torch.equal(value, critic.state_dict()[name]) for name, value in copy.state_dict().items())
        # To rounding only: some processors add up otherwise where a weight lies otherwise in memory.
        assert torch.allclose(run(copy, *labels), scores, rtol=1e-5, atol=1e-6)
        assert copy.config.get("spectral_norm") == options.get("spectral_norm", False)


@pytest.mark.parametrize("norm", [{}, {"norm_type": "none"}])
@pytest.mark.parametrize("pair", PAIRS)
def test_conditional_generators_survive_saving_and_copying(pair, norm, tmp_path):
    norm = norm if pair[0] in (DCGANGenerator, ResNetGenerator) else {}
    generator = built(*pair, num_classes=3, class_names=["cat", "dog", "cow"], **norm)[0]
    for parameter in generator.parameters():  # away from where classes are alike
        nn.init.normal_(parameter, 0.0, 0.3)
    generator.eval().save_pretrained(tmp_path)
    images = run(generator, LABELS)
    assert (images - run(generator, LABELS.flip(0))).abs().max() > 0.01, "the class matters"
    for copy in (
        pair[0].from_pretrained(tmp_path),
        pair[0].from_pretrained(tmp_path, low_cpu_mem_usage=False),
        portable_copy(generator),
    ):
        assert torch.equal(run(copy, LABELS), images)
        assert list(copy.config.class_names) == ["cat", "dog", "cow"] and copy.config.num_classes == 3


@pytest.mark.parametrize("critic_class", CRITICS)
def test_scores_of_a_class_are_the_plain_ones_and_the_projection(critic_class):
    critic = built(*PAIRS[CRITICS.index(critic_class)], num_classes=3)[1].eval()
    nn.init.normal_(critic.class_embedding.weight)
    plain = built(*PAIRS[CRITICS.index(critic_class)])[1].eval()
    assert critic.state_dict().keys() - plain.state_dict().keys() == {"class_embedding.weight"}
    plain.load_state_dict({name: value for name, value in critic.state_dict().items() if "embedding" not in name})
    images = some_images(critic)
    inputs = []
    last = [module for module in plain.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]
    last.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    scores = plain(images)
    features = inputs[0].flatten(start_dim=2).sum(dim=2) if inputs[0].ndim == 4 else inputs[0]
    expected = [
        scores[i] + sum(critic.class_embedding.weight[LABELS[i], c] * features[i, c] for c in range(features.shape[1]))
        for i in range(2)
    ]
    found = critic(images, LABELS)
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)
    assert not torch.equal(found, scores)


def test_the_projection_formula_by_hand():
    critic = MLPCritic(1, 1, width=2, num_layers=2, num_classes=2)
    hidden, _, score = critic.layers
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        hidden.bias.copy_(torch.tensor([0.5, 2.0]))  # x = 1: the features are 1.5 and 1
        score.weight.copy_(torch.tensor([[2.0, 10.0]]))
        score.bias.fill_(0.25)  # 2 · 1.5 + 10 · 1 + 0.25 = 13.25
        critic.class_embedding.weight.copy_(torch.tensor([[0.0, 0.0], [4.0, 7.0]]))  # 4 · 1.5 + 7 · 1 = 13
    assert critic(torch.ones(2, 1, 1, 1), torch.tensor([0, 1])).tolist() == [13.25, 26.25]


@pytest.mark.parametrize("pair", PAIRS)
def test_at_first_the_class_does_not_matter_to_the_critic_but_soon_does(pair):
    critic = built(*pair, num_classes=3)[1].eval()
    assert torch.equal(run(critic, LABELS), run(critic, LABELS.flip(0)))
    run(critic, LABELS).sum().backward()
    gradient = critic.class_embedding.weight.grad
    assert gradient[LABELS].any(dim=1).all() and not gradient[1].any()


@pytest.mark.parametrize("pair", PAIRS)
def test_networks_without_classes_have_nothing_for_them(pair):
    for network in built(*pair):
        assert not any("class" in name or "scales" in name for name in network.state_dict())
        assert not any(isinstance(module, nn.Embedding) for module in network.modules())


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("pair", PAIRS)
def test_labels_that_do_not_fit_are_named(pair, index):
    plain, conditional = built(*pair)[index], built(*pair, num_classes=3)[index]
    with pytest.raises(InputError, match="class_labels were given"):
        run(plain, LABELS)
    with pytest.raises(InputError, match="class_labels are missing: the network has 3 classes"):
        run(conditional)
    for labels in (LABELS[:1], LABELS[:, None], LABELS.int(), LABELS.float()):
        with pytest.raises(InputError, match=r"class_labels of shape .*: must be \(2,\), int64"):
            run(conditional, labels)
    with pytest.raises(InputError, match=r"class_labels of type list: must be a tensor \(2,\), int64"):
        run(conditional, LABELS.tolist())
    assert run(conditional, LABELS).isfinite().all()


@pytest.mark.parametrize("size, generator_parameters, critic_parameters", [(64, 3_576_704, 2_765_568)])
def test_dcgan_has_the_layers_of_the_authors_code(size, generator_parameters, critic_parameters):
    # Counted by hand for nz 100, nc 3, ngf = ndf = 64, no extra layers.
    assert sum(p.numel() for p in DCGANGenerator(size).parameters()) == generator_parameters
    assert sum(p.numel() for p in DCGANCritic(size).parameters()) == critic_parameters


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "layer, convolution, inputs",
    [
        (MapToVector(6, 3, 4), nn.Conv2d(6, 3, 4, bias=False), (5, 6, 4, 4)),
        (VectorToMap(6, 3, 4), nn.ConvTranspose2d(6, 3, 4, bias=False), (5, 6, 1, 1)),
    ],
)
def test_a_product_between_map_and_vector_is_the_convolution_of_the_same_weights(layer, convolution, inputs, layout):
    inputs = torch.randn(inputs).to(memory_format=layout)
    convolution.load_state_dict(layer.to(memory_format=layout).state_dict())
    expected = convolution(inputs)
    found = layer(inputs)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last), "the layout that the next convolution works in"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["up", "down"])
def test_resampling_and_a_convolution_are_one_convolution_with_the_same_derivatives(kind, bias, layout):
    layer = (UpsampledConv2d if kind == "up" else PooledConv2d)(3, 5, bias=bias).double().to(memory_format=layout)
    plain = nn.Conv2d(3, 5, 3, padding=1, bias=bias).double()
    plain.load_state_dict(layer.state_dict())
    in_turn = (
        nn.Sequential(nn.Upsample(scale_factor=2), plain) if kind == "up" else nn.Sequential(plain, nn.AvgPool2d(2))
    )
    derivatives = []
    for function, weights in ((layer, layer.parameters()), (in_turn, plain.parameters())):
        inputs = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        inputs = inputs.to(memory_format=layout).requires_grad_()
        outputs = function(inputs)
        (first,) = torch.autograd.grad(outputs.sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), [inputs, *weights])
        derivatives.append([outputs, first, *second])
    for found, expected in zip(*derivatives, strict=True):
        assert found.shape == expected.shape and expected.abs().max() > 0
        assert (found - expected).abs().max() < 1e-10


@pytest.mark.parametrize("size", [8, 32, 64])
def test_a_smooth_dcgan_generator_has_a_map_of_half_the_width_at_full_size(size):
    generator = DCGANGenerator(size, width=8, upsampling="nearest")
    assert generator(torch.randn(2, 100)).shape == (2, 3, size, size)
    doubling = [layer for layer in generator.modules() if isinstance(layer, UpsampledConv2d)]
    assert len(doubling) == math.log2(size / 4) and doubling[-1].out_channels == 4
    assert not [layer for layer in generator.modules() if type(layer) is nn.ConvTranspose2d]


def test_extra_layers_are_3x3_convolutions_at_the_finest_hidden_map():
    plain, extra = (built(DCGANGenerator, DCGANCritic, num_extra_layers=n) for n in (0, 2))
    for before, after in zip(plain, extra, strict=True):
        added = sum(p.numel() for p in after.parameters()) - sum(p.numel() for p in before.parameters())
        assert added == 2 * (4 * 4 * 3 * 3 + 2 * 4)  # width 4, with a batch norm each


def test_mlp_has_four_layers_of_512_units():
    linear = [layer for layer in MLPGenerator(32, 1).modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (100, 512),
        (512, 512),
        (512, 512),
        (512, 1024),
    ]
    assert isinstance(list(MLPCritic(32, 1).layers)[-1], nn.Linear)


def test_dcgan_weights_start_at_the_published_spread():
    for network in (DCGANGenerator(32), DCGANCritic(32)):
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                assert module.bias is None
                if module.weight.numel() > 10_000:
                    assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
                    assert abs(module.weight.mean().item()) < 0.001
            elif isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.5)
                assert not module.bias.any()


@pytest.mark.parametrize("pair", PAIRS)
def test_scores_are_unbounded_linear_in_the_last_layer_and_one_an_image(pair):
    _, critic = built(*pair)
    critic.eval()
    images = some_images(critic, 6)
    scores = critic(images)
    alone = torch.cat([critic(image[None]) for image in images])
    assert torch.allclose(scores, alone, atol=1e-5), "a score depends on its own image alone"
    assert scores.std() > 0, "nothing is averaged over the batch"

    last = [m for m in critic.modules() if isinstance(m, (nn.Conv2d, nn.Linear))][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(1e6)
    assert torch.allclose(critic(images), 1e6 * scores, rtol=1e-3), "no squashing function after the last layer"


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pair", PAIRS)
def test_critics_can_be_differentiated_twice(pair, options):
    _, critic = built(*pair, **options)
    images = some_images(critic).requires_grad_()
    labels = [LABELS] if "num_classes" in options else []
    (gradient,) = torch.autograd.grad(critic(images, *labels).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in critic.parameters())


@pytest.mark.parametrize("critic_class", CRITICS)
def test_critics_change_nothing_in_place(critic_class):
    critic = built(*PAIRS[CRITICS.index(critic_class)])[1]
    assert not any(getattr(module, "inplace", False) for module in critic.modules())
    images = some_images(critic)
    before = images.clone()
    critic(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("pair", PAIRS)
def test_networks_survive_save_pretrained_in_every_variant_and_type(pair, index, tmp_path):
    network = built(*pair)[index].eval()
    network.save_pretrained(tmp_path)
    network.save_pretrained(tmp_path, variant="fp16")
    assert not list(tmp_path.rglob("*.bin"))
    for options in ({}, {"variant": "fp16"}):
        loaded = type(network).from_pretrained(tmp_path, **options)
        assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), loaded.state_dict().values()))
    assert type(network).from_pretrained(tmp_path, torch_dtype=torch.float16).dtype == torch.float16


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: DCGANGenerator(48), "sample_size=48"),
        (lambda: DCGANCritic(512), "sample_size=512"),
        (lambda: DCGANGenerator(4), "sample_size=4"),
        (lambda: DCGANGenerator(out_channels=5), "out_channels=5"),
        (lambda: DCGANCritic(in_channels=0), "in_channels=0"),
        (lambda: DCGANGenerator(latent_dim=0), "latent_dim=0"),
        (lambda: DCGANCritic(width=-1), "width=-1"),
        (lambda: DCGANGenerator(num_extra_layers=-1), "num_extra_layers=-1"),
        (lambda: DCGANGenerator(norm_type="layer"), "norm_type='layer'"),
        (lambda: DCGANCritic(norm_type="group"), "norm_type='group'"),
        (lambda: DCGANGenerator(upsampling="bilinear"), "upsampling='bilinear'"),
        (lambda: DCGANGenerator(modulated=True, norm_type="none"), "modulated=True with norm_type='none'"),
        (lambda: DCGANGenerator(modulated=1.5), "modulated=1.5"),
        (lambda: DCGANGenerator(output_skips=1), "output_skips=1"),
        (lambda: DCGANCritic((32, 64)), "sample_size=.*square"),
        (lambda: DCGANCritic(spectral_norm="yes"), "spectral_norm='yes'"),
        (lambda: ResNetGenerator(norm_type="layer"), "norm_type='layer'"),
        (lambda: ResNetCritic(norm_type="group"), "norm_type='group'"),
        (lambda: ResNetGenerator(16), "sample_size=16.*multiples of 32, up to 128"),
        (lambda: ResNetCritic((32, 160)), "sample_size=.*multiples of 32, up to 128"),
        (lambda: ResNetGenerator(width=0), "width=0"),
        (lambda: ResNetCritic(width=2**16), "ResNetCritic with .* parameters: must have at most"),
        (lambda: ResNetGenerator(latent_dim=2**16, width=2**12), "ResNetGenerator with .* parameters"),
        (lambda: ResNetCritic(in_channels=5), "in_channels=5"),
        (lambda: R3GANGenerator(8), "sample_size=8.*multiples of 16, up to 256"),
        (lambda: R3GANCritic(512), "sample_size=512.*multiples of 16, up to 256"),
        (lambda: R3GANCritic((32, 32, 3)), "sample_size=.*two of them"),
        (lambda: R3GANGenerator("32"), "sample_size='32'"),
        (lambda: R3GANGenerator(width=12), "width=12: must be a multiple of 8"),
        (lambda: R3GANCritic(width=2**16), "R3GANCritic with .* parameters: must have at most"),
        (lambda: R3GANGenerator(latent_dim=2**40), "latent_dim=1099511627776"),
        (lambda: R3GANCritic(num_blocks=101), "num_blocks=101"),
        (lambda: MLPCritic(num_classes=2**16, width=2**16, sample_size=1), "MLPCritic with .* parameters"),
        (lambda: DCGANCritic(num_classes=2**16, width=2**10), "DCGANCritic with .* parameters"),
        *(
            (lambda c=network_class, n=number: c(num_classes=n), f"num_classes={number}")
            for network_class in GENERATORS + CRITICS
            for number in (0, 2**40, True)
        ),
        *(
            (lambda c=each: c(num_classes=2, class_names=["a"]), "1 class_names for num_classes=2")
            for each in GENERATORS
        ),
        (lambda: DCGANGenerator(class_names=["a"]), "1 class_names for num_classes=None"),
        (lambda: DCGANGenerator(num_classes=2, class_names=[1, 2]), "must be a list of strings"),
        (lambda: MLPGenerator(num_classes=3, class_names=["b", "a", "a"]), "class_names: 'a' names 2 classes"),
        (lambda: DCGANGenerator(sample_size=8.0), "sample_size=8.0"),
        (lambda: DCGANCritic(in_channels=True), "in_channels=True: must be one of 1, 2, 3, 4"),
        *(
            (lambda c=each: c(num_classes=2, class_frequencies=[1]), "1 class_frequencies for num_classes=2")
            for each in GENERATORS
        ),
        *(
            (lambda f=wrong: DCGANGenerator(num_classes=2, class_frequencies=f), "class_frequencies=.*: must be a list")
            for wrong in ([0, 0], [1, -1], ["1", 2], [True, 1], [1, float("nan")], [1, float("inf")], 3)
        ),
        (lambda: MLPGenerator(0), "sample_size=0"),
        (lambda: MLPCritic(num_layers=0), "num_layers=0"),
        (lambda: MLPCritic(width=2.5), "width=2.5"),
    ],
)
def test_arguments_out_of_range_are_named(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("pair", PAIRS)
def test_wrong_shapes_are_named(pair):
    generator, critic = built(*pair)
    with pytest.raises(InputError, match=r"latents of shape \(2, 6\): must be \(N, 5\)"):
        generator(torch.randn(2, 6))
    size = SIZE[pair[1]]
    message = rf"images of shape \(2, 1, {size}, {size}\): must be \(N, 3, {size}, {size}\)"
    with pytest.raises(InputError, match=message):
        critic(torch.randn(2, 1, size, size))


class Bias(Network):
    @register_to_config
    def __init__(self, latent_dim: int = 4):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(latent_dim))


class Plain(ModelMixin, ConfigMixin):
    """No `Network`: its constructor takes what training adds to a config, so that diffusers does not warn."""

    @register_to_config
    def __init__(self, latent_dim: int = 4, value_range: str | None = None, class_names: list[str] | None = None):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(latent_dim))


@pytest.mark.parametrize("network_class", [Bias, Plain])
def test_a_config_keeps_what_training_puts_there_also_where_the_constructor_does_not_know_of_it(
    network_class, tmp_path, caplog
):
    network, entries = network_class(latent_dim=3), {"value_range": "uint16:0,4095", "class_names": ["a", "b"]}
    network.register_to_config(**entries)
    network.save_pretrained(tmp_path)
    config = network_class.from_pretrained(tmp_path).config
    assert config.latent_dim == 3 and entries.items() <= dict(config).items()
    assert not caplog.text, "diffusers warns of entries that it does not expect"
