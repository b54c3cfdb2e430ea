"""Converted checkpoints compute what the authors' networks compute: against a forward pass that is written here from
the names and shapes in their checkpoints, and shares no code with the package."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hf_wgan import DCGANGenerator, InputError, MLPGenerator, WGANPipeline
from hf_wgan.cli.convert import convert
from hf_wgan.pipelines.convert import convert_original

LATENT_DIM = 5


def normal(*shape, fan_in):
    return torch.randn(shape) * (2 / fan_in) ** 0.5


def layer_weights(layers):
    """The authors' state dict of convolutions (kind `conv` or `convt`), given as (name, weight shape), with trained-
    looking batch norms wherever a layer is called `batchnorm`."""
    weights = OrderedDict()
    for name, shape in layers:
        if name.endswith("batchnorm"):
            (channels,) = shape
            weights[f"main.{name}.weight"] = 0.5 + torch.rand(channels)
            weights[f"main.{name}.bias"] = 0.3 * torch.randn(channels)
            weights[f"main.{name}.running_mean"] = 0.3 * torch.randn(channels)
            weights[f"main.{name}.running_var"] = 0.5 + torch.rand(channels)
            weights[f"main.{name}.num_batches_tracked"] = torch.tensor(1000)
        else:
            fan_in = shape[0] * 4 if name.endswith("convt") else shape[1] * shape[2] * shape[3]
            weights[f"main.{name}.weight"] = normal(*shape, fan_in=fan_in)
    return weights


def extra_layers(count, width, norm):
    for index in range(count):
        yield f"extra-layers-{index}:{width}:conv", (width, width, 3, 3)
        if norm:
            yield f"extra-layers-{index}:{width}:batchnorm", (width,)


def dcgan_generator(size=16, channels=3, width=4, extra=0, norm=True):
    def layers():
        wide = width * size // 8
        yield f"initial:{LATENT_DIM}-{wide}:convt", (LATENT_DIM, wide, 4, 4)
        if norm:
            yield f"initial:{wide}:batchnorm", (wide,)
        while wide > width:
            yield f"pyramid:{wide}-{wide // 2}:convt", (wide, wide // 2, 4, 4)
            wide //= 2
            if norm:
                yield f"pyramid:{wide}:batchnorm", (wide,)
        yield from extra_layers(extra, width, norm)
        yield f"final:{width}-{channels}:convt", (width, channels, 4, 4)

    return layer_weights(layers())


def dcgan_critic(size=16, channels=3, width=6, extra=0, norm=True):
    def layers():
        yield f"initial:{channels}-{width}:conv", (width, channels, 4, 4)
        yield from extra_layers(extra, width, norm)
        wide = width
        while wide < width * size // 8:
            yield f"pyramid:{wide}-{2 * wide}:conv", (2 * wide, wide, 4, 4)
            wide *= 2
            if norm:
                yield f"pyramid:{wide}:batchnorm", (wide,)
        yield f"final:{wide}-1:conv", (1, wide, 4, 4)

    return layer_weights(layers())


def perceptron(inputs, width, outputs):
    weights = OrderedDict()
    for index, fan_in, fan_out in [(0, inputs, width), (2, width, width), (4, width, width), (6, width, outputs)]:
        weights[f"main.{index}.weight"] = normal(fan_out, fan_in, fan_in=fan_in)
        weights[f"main.{index}.bias"] = 0.2 * torch.randn(fan_out)
    return weights


def mlp_generator(size=16, channels=3, width=7):
    return perceptron(LATENT_DIM, width, channels * size**2)


def mlp_critic(size=16, channels=3, width=9):
    return perceptron(channels * size**2, width, 1)


def through_convolutions(weights, x, activation):
    """The layers in the order of the checkpoint, all but the last activated; batch norms in evaluation mode."""
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in weights))
    for name, after in zip(names, [*names[1:], ""]):
        get = {key.rpartition(".")[2]: value for key, value in weights.items() if key.startswith(name + ".")}
        stage, _, kind = name.removeprefix("main.").split(":")
        if kind == "batchnorm":
            x = F.batch_norm(x, get["running_mean"], get["running_var"], get["weight"], get["bias"], training=False)
        elif stage.startswith("extra-layers"):
            x = F.conv2d(x, get["weight"], stride=1, padding=1)
        elif kind == "convt":
            stride, padding = (1, 0) if stage == "initial" else (2, 1)
            x = F.conv_transpose2d(x, get["weight"], stride=stride, padding=padding)
        else:
            stride, padding = (1, 0) if stage == "final" else (2, 1)
            x = F.conv2d(x, get["weight"], stride=stride, padding=padding)
        if after and not after.endswith("batchnorm"):
            x = activation(x)
    return x


def through_perceptron(weights, x):
    for index in (0, 2, 4):
        x = torch.relu(F.linear(x, weights[f"main.{index}.weight"], weights[f"main.{index}.bias"]))
    return F.linear(x, weights["main.6.weight"], weights["main.6.bias"])


def original_images(weights, latents, size, channels):
    if "main.0.weight" in weights:
        return through_perceptron(weights, latents).reshape(-1, channels, size, size)
    return torch.tanh(through_convolutions(weights, latents[:, :, None, None], torch.relu))


def original_score(weights, images):
    if "main.0.weight" in weights:
        return through_perceptron(weights, images.flatten(1)).mean()
    return through_convolutions(weights, images, lambda x: F.leaky_relu(x, 0.2)).mean()


class Run:
    """A folder as the authors' training leaves it, of a DCGAN of 3x16x16 images with 4 channels unless told."""

    def __init__(self, folder):
        self.folder = folder
        self.generator, self.critic, self.config = (
            folder / name for name in ("netG_epoch_24.pth", "netD_epoch_24.pth", "generator_config.json")
        )

    def save(self, generator=None, critic=None, **settings):
        torch.save(dcgan_generator() if generator is None else generator, self.generator)
        torch.save(dcgan_critic() if critic is None else critic, self.critic)
        defaults = {"imageSize": 16, "nz": LATENT_DIM, "nc": 3, "ngf": 4, "ngpu": 1, "n_extra_layers": 0}
        self.config.write_text(json.dumps({**defaults, "noBN": False, "mlp_G": False, **settings}) + "\n")
        return self

    def convert(self):
        return convert_original(self.generator, self.config, self.critic)

    def error(self):
        """The one line that a person is told."""
        with pytest.raises(InputError) as caught:
            self.convert()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    return Run(tmp_path)


@torch.no_grad()
def assert_same(pipeline, generator, critic, size=16, channels=3):
    latents = torch.randn(6, LATENT_DIM)
    images = original_images(generator, latents, size, channels)
    assert images.std() > 0.1
    assert (pipeline.generator(latents) - images).abs().max() <= 1e-6
    score = original_score(critic, images)
    assert 1e-3 < score.abs() < 10
    assert (pipeline.critic(images).mean() + score).abs() <= 1e-6, "theirs score real images low, ours high"


@pytest.mark.parametrize("size, channels", [(16, 1), (16, 3), (32, 1), (32, 3), (64, 1), (64, 3)])
@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("norm", [True, False], ids=["batch-norm", "no-batch-norm"])
def test_a_dcgan_makes_the_same_images_and_scores(norm, extra, size, channels, run):
    generator, critic = (make(size, channels, extra=extra, norm=norm) for make in (dcgan_generator, dcgan_critic))
    settings = {"imageSize": size, "nc": channels, "n_extra_layers": extra, "noBN": not norm}
    assert_same(run.save(generator, critic, **settings).convert(), generator, critic, size, channels)


@pytest.mark.parametrize("size, channels", [(16, 1), (16, 3), (20, 3), (32, 1), (64, 3)])
def test_an_mlp_makes_the_same_images_and_scores(size, channels, run):
    generator, critic = mlp_generator(size, channels), mlp_critic(size, channels)
    run.save(generator, critic, imageSize=size, nc=channels, ngf=7, mlp_G=True)
    assert_same(run.convert(), generator, critic, size, channels)


@pytest.mark.parametrize("norm", [True, False], ids=["batch-norm", "no-batch-norm"])
def test_the_critic_may_be_of_another_kind_than_the_generator(norm, run):
    # Their main.py: --noBN and --mlp_G are of the generator alone, whose critic is a DCGAN with batch norm or, by
    # --mlp_D, an MLP.
    generator = dcgan_generator(norm=norm, extra=1)
    for critic in (dcgan_critic(norm=True, extra=1), mlp_critic()):
        assert_same(run.save(generator, critic, n_extra_layers=1, noBN=not norm).convert(), generator, critic)
    generator, critic = mlp_generator(), dcgan_critic(norm=norm, extra=1)
    assert_same(run.save(generator, critic, n_extra_layers=1, mlp_G=True, ngf=7).convert(), generator, critic)


def test_no_batch_norm_goes_before_mlp_as_in_the_authors_code(run):
    generator = dcgan_generator(norm=False)
    pipeline = run.save(generator, noBN=True, mlp_G=True).convert()
    assert isinstance(pipeline.generator, DCGANGenerator)


def test_an_odd_width_is_rounded_down_as_in_the_authors_dcgan_but_not_in_their_mlp(run):
    generator, critic = dcgan_generator(width=4), dcgan_critic()
    assert_same(run.save(generator, critic, ngf=5).convert(), generator, critic)
    assert run.save(mlp_generator(width=5), ngf=5, mlp_G=True).convert().generator.config.width == 5


def test_the_pipeline_is_the_same_after_saving_and_loading(run):
    generator, critic = dcgan_generator(extra=1), dcgan_critic(extra=1)
    run.save(generator, critic, n_extra_layers=1).convert().save_pretrained(run.folder / "pipeline")
    pipeline = WGANPipeline.from_pretrained(run.folder / "pipeline")
    assert_same(pipeline, generator, critic)
    latents = torch.randn(4, LATENT_DIM)
    expected = original_images(generator, latents, 16, 3) / 2 + 0.5
    assert (pipeline(latents=latents, output_type="pt").images - expected).abs().max() <= 1e-6


def test_without_a_critic_there_is_only_a_generator(run):
    run.save(critic={})
    pipeline = convert_original(run.generator, run.config)
    assert pipeline.critic is None and len(pipeline(2).images) == 2


def data_parallel(name):
    return f"module.{name}"


def dotted(name):
    """As in the authors' code until December 2018; only the critic's first layer has another order."""
    if name.startswith("main.initial:") and name.endswith(":conv.weight"):
        return f"main.initial.conv.{name.split(':')[1]}.weight"
    return name.replace(":", ".")


@pytest.mark.parametrize("rename", [data_parallel, dotted])
def test_other_spellings_of_the_names_are_read(rename, run):
    generator, critic = dcgan_generator(32, extra=2), dcgan_critic(32, extra=2)
    respelled = [{rename(name): value for name, value in weights.items()} for weights in (generator, critic)]
    assert_same(run.save(*respelled, imageSize=32, n_extra_layers=2).convert(), generator, critic, 32)


def test_checkpoints_from_before_batches_were_counted_are_read(run):
    generator, critic = dcgan_generator(), dcgan_critic()
    old = [{k: v for k, v in weights.items() if "num_batches" not in k} for weights in (generator, critic)]
    run.save()
    torch.save(OrderedDict(old[0]), run.generator, _use_new_zipfile_serialization=False)
    torch.save(OrderedDict(old[1]), run.critic, _use_new_zipfile_serialization=False)
    assert_same(run.convert(), generator, critic)


def test_half_precision_becomes_float32(run):
    generator, critic = (
        OrderedDict((k, v.half()) for k, v in make().items()) for make in (dcgan_generator, dcgan_critic)
    )
    pipeline = run.save(generator, critic).convert()
    assert {value.dtype for value in pipeline.generator.parameters()} == {torch.float32}
    generator, critic = (OrderedDict((k, v.float()) for k, v in old.items()) for old in (generator, critic))
    assert_same(pipeline, generator, critic)


def test_a_checkpoint_from_cuda_is_read_on_the_cpu(run, monkeypatch):
    generator, critic = dcgan_generator(), dcgan_critic()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")  # what a CUDA tensor is saved with
        run.save(generator, critic)
    pipeline = run.convert()
    assert {value.device.type for value in pipeline.generator.parameters()} == {"cpu"}
    assert_same(pipeline, generator, critic)


@pytest.mark.parametrize("name", ["generator", "critic", "config"])
def test_a_missing_file_is_named(name, run):
    path = getattr(run.save(), name)
    path.unlink()
    assert run.error().startswith(f"{path}: there is no such file;")


class Network(torch.nn.Module):
    """Stands for the authors' classes."""


@pytest.mark.parametrize("content", [Network(), [torch.nn.Linear(2, 2)]], ids=["module", "module-in-a-list"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["generator", "critic"])
def test_a_pickled_network_is_refused_in_favour_of_its_state_dict(name, zipped, content, run):
    path = getattr(run.save(), name)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    error = run.error()
    assert error.startswith(f"{path}: ")
    assert "whole pickled network" in error and "state_dict()" in error


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 cut short", b"\x80\x02}q\x00"])
def test_what_is_no_checkpoint_is_said_to_be_none(content, run):
    run.save().generator.write_bytes(content)
    assert run.error().startswith(f"{run.generator}: is no checkpoint")


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1], {"epoch": 3}, {"state_dict": {"main.0.weight": torch.zeros(1)}}]
)
def test_a_checkpoint_of_something_else_holds_no_state_dict(content, run):
    torch.save(content, run.save().generator)
    assert run.error().startswith(f"{run.generator}: holds no state dict")


@pytest.mark.parametrize("content", ["", "{", "imageSize: 64", b"\xff\xfe\x00".decode("latin1")])
def test_a_config_that_is_not_json_is_named(content, run):
    run.save().config.write_text(content, encoding="latin1")
    assert run.error().startswith(f"{run.config}: is not JSON")


@pytest.mark.parametrize("missing", ["imageSize", "nz", "nc", "ngf", "n_extra_layers", "noBN", "mlp_G"])
def test_a_setting_that_the_config_lacks_is_named(missing, run):
    settings = json.loads(run.save().config.read_text())
    del settings[missing]
    run.config.write_text(json.dumps(settings))
    assert run.error().startswith(f"{run.config}: has no {missing}; give the generator_config.json")


@pytest.mark.parametrize("content", ["[64, 100]", "64", "null"])
def test_a_config_of_something_else_lacks_the_settings(content, run):
    run.save().config.write_text(content)
    assert run.error().startswith(f"{run.config}: has no imageSize;")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"imageSize": 48}, "imageSize=48: must be one of 8, 16, 32, 64, 128, 256"),
        ({"imageSize": 512}, "imageSize=512: must be one of 8, 16, 32, 64, 128, 256"),
        ({"imageSize": "64"}, "imageSize='64': must be a whole number"),
        ({"nz": 0}, "nz=0: must be a whole number"),
        ({"nz": 1.5}, "nz=1.5: must be a whole number"),
        ({"nc": 5}, "nc=5: must be one of 1, 2, 3, 4"),
        ({"ngf": -64}, "ngf=-64: must be a whole number"),
        ({"ngf": True}, "ngf=True: must be a whole number"),
        ({"n_extra_layers": None}, "n_extra_layers=None: must be a whole number"),
        ({"noBN": "no"}, "noBN='no': must be true or false"),
        ({"mlp_G": 0}, "mlp_G=0: must be true or false"),
    ],
)
def test_a_nonsense_setting_is_named_with_what_would_be_right(settings, message, run):
    assert run.save(**settings).error().startswith(f"{run.config}: {message}")


@pytest.mark.parametrize(
    "settings, has, asked",
    [
        ({"nz": 9}, "main.initial:5-8:convt.weight (5, 8, 4, 4)", "main.initial:9-8:convt.weight (9, 8, 4, 4)"),
        ({"nc": 1}, "main.final:4-3:convt.weight (4, 3, 4, 4)", "main.final:4-1:convt.weight (4, 1, 4, 4)"),
        (
            {"imageSize": 32},
            "main.initial:5-8:convt.weight (5, 8, 4, 4)",
            "main.initial:5-16:convt.weight (5, 16, 4, 4)",
        ),
        ({"noBN": True}, "main.initial:8:batchnorm.weight (8,)", "main.pyramid:8-4:convt.weight (8, 4, 4, 4)"),
        (
            {"n_extra_layers": 1},
            "main.final:4-3:convt.weight (4, 3, 4, 4)",
            "main.extra-layers-0:4:conv.weight (4, 4, 3, 3)",
        ),
        ({"mlp_G": True}, "main.initial:5-8:convt.weight (5, 8, 4, 4)", "main.0.weight (4, 5)"),
        (  # which would be 12 GiB
            {"mlp_G": True, "ngf": 40_000},
            "main.initial:5-8:convt.weight (5, 8, 4, 4)",
            "main.0.weight (40000, 5)",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_told_by_the_first_that_differs(settings, has, asked, run):
    error = run.save(**settings).error()
    assert error.startswith(f"{run.generator}: has {has} where {run.config} asks for {asked};")


def test_missing_weights_are_told_too(run):
    generator = dcgan_generator()
    del generator["main.final:4-3:convt.weight"]
    error = run.save(generator).error()
    assert f"has nothing more where {run.config} asks for main.final:4-3:convt.weight (4, 3, 4, 4)" in error
    critic = dcgan_critic()
    del critic["main.pyramid:12:batchnorm.running_var"]
    error = run.save(critic=critic).error()
    assert error.startswith(
        f"{run.critic}: has main.final:12-1:conv.weight (1, 12, 4, 4) where such a critic asks for "
    )
    assert "main.pyramid:12:batchnorm.running_var (12,)" in error


@pytest.mark.parametrize(
    "critic, takes",
    [
        (dcgan_critic(size=32), "images of 3x32x32"),
        (dcgan_critic(channels=1), "images of 1x16x16"),
        (mlp_critic(size=32), "images of 3072 values"),
        (mlp_critic(channels=1), "images of 256 values"),
    ],
)
def test_a_critic_of_other_images_than_the_generators_is_refused(critic, takes, run):
    error = run.save(critic=critic).error()
    assert error.startswith(f"{run.critic}: takes {takes}, where the generator makes images of 3x16x16;")


@pytest.mark.parametrize(
    "critic",
    [
        dcgan_generator(extra=1),
        {},
        {"main.0.weight": torch.zeros(4, 3, 4, 4)},
        {"main.initial:3-6:conv.weight": torch.zeros(6)},
    ],
)
def test_what_is_no_critic_is_refused(critic, run):
    assert run.save(critic=critic).error().startswith(f"{run.critic}: is no critic of the authors' code;")


def script(*arguments):
    return convert([str(argument) for argument in arguments])


def test_the_script_leaves_a_pipeline_and_says_how_to_see_it(run, capsys):
    generator, critic = dcgan_generator(), dcgan_critic()
    run.save(generator, critic)
    output = run.folder / "converted"
    assert script(run.generator, "--critic", run.critic, "--output_dir", output) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "DCGANGenerator and DCGANCritic" in printed
    assert f"hf-wgan generate {output}" in printed
    assert_same(WGANPipeline.from_pretrained(output), generator, critic)


def test_the_script_takes_a_config_from_elsewhere(run, tmp_path):
    elsewhere = run.save(mlp_generator(), mlp_G=True, ngf=7).config.rename(tmp_path / "settings.json")
    output = run.folder / "converted"
    assert script(run.generator, "--config", elsewhere, "--output_dir", output) == 0
    pipeline = WGANPipeline.from_pretrained(output)
    assert isinstance(pipeline.generator, MLPGenerator) and pipeline.critic is None


def test_the_script_leaves_a_folder_that_is_not_empty_alone_unless_told(run, capsys):
    run.save()
    output = Path(run.folder, "converted")
    output.mkdir()
    (output / "model_index.json").write_text("precious")
    assert script(run.generator, "--output_dir", output) == 2
    error = capsys.readouterr().err
    assert "is not an empty folder" in error and "--overwrite_output_dir" in error and error.count("\n") == 1
    assert (output / "model_index.json").read_text() == "precious"
    assert script(run.generator, "--output_dir", output, "--overwrite_output_dir") == 0
    assert len(WGANPipeline.from_pretrained(output)(2).images) == 2


def test_the_script_answers_a_mistake_in_one_line_and_writes_nothing(run, capsys):
    run.save(nz=9)
    assert script(run.generator, "--output_dir", run.folder / "converted") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run.generator}: ") and error.count("\n") == 1
    assert not (run.folder / "converted").exists()
