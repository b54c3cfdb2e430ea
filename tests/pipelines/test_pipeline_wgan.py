import itertools
import re
import warnings

import accelerate
import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator
from diffusers import DiffusionPipeline

from hf_wgan import InputError, WGANPipeline


@pytest.fixture
def pipeline():
    pipeline = WGANPipeline(tiny_generator(), tiny_critic())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_every_output_type_holds_the_same_images(channels, mode):
    pipeline = WGANPipeline(tiny_generator(out_channels=channels))
    tensor, array, pictures = (
        pipeline(5, generator=seeded(0)[0], output_type=output_type).images for output_type in ("pt", "np", "pil")
    )
    assert tensor.shape == (5, channels, 8, 8)
    assert array.shape == (5, 8, 8, channels)
    assert tensor.min() >= 0 and tensor.max() <= 1
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert [picture.mode for picture in pictures] == [mode] * 5
    stacked = np.stack([np.asarray(picture).reshape(8, 8, channels) for picture in pictures])
    assert np.array_equal(stacked, (array * 255).round())


def test_images_are_those_of_the_network_in_evaluation_mode(pipeline):
    latents = torch.randn(3, 4)
    pipeline.generator.train()
    images = pipeline(latents=latents, output_type="pt").images
    assert pipeline.generator.training, "the caller's network is left as it was"
    pipeline.generator.eval()
    with torch.no_grad():
        expected = pipeline.generator(latents) / 2 + 0.5
    assert torch.allclose(images, expected, atol=1e-6)


def test_images_out_of_range_are_clamped(pipeline):
    with torch.no_grad():
        pipeline.generator.layers[-2].weight.mul_(1e3)
    pipeline.generator.layers[-1] = torch.nn.Identity()
    images = pipeline(4, output_type="pt").images
    assert (images.min(), images.max()) == (0, 1)


@pytest.mark.parametrize("frequencies", [None, [30, 0, 60, 10]], ids=["in turn", "by frequency"])
@pytest.mark.parametrize("num_classes", [None, 4])
def test_a_list_of_generators_makes_image_k_the_same_in_any_batch(num_classes, frequencies):
    generator = tiny_generator(num_classes=num_classes, class_frequencies=num_classes and frequencies)
    if num_classes:
        torch.nn.init.normal_(generator.class_embedding.weight)
    pipeline = WGANPipeline(generator)
    together = pipeline(5, generator=seeded(0, 1, 2, 3, 4), output_type="pt").images
    for seed in range(5):
        alone = pipeline(1, generator=seeded(seed), output_type="pt").images
        assert torch.allclose(together[seed], alone[0], atol=1e-6)
    turned = pipeline(2, generator=seeded(4, 2), output_type="pt").images
    assert torch.allclose(turned, together[[4, 2]], atol=1e-6)


def test_chunks_change_nothing_but_the_memory(pipeline, monkeypatch):
    sizes = []
    forward = pipeline.generator.forward
    monkeypatch.setattr(pipeline.generator, "forward", lambda z: sizes.append(len(z)) or forward(z))
    whole = pipeline(10, generator=seeded(0)[0], output_type="pt").images
    chunked = pipeline(10, generator=seeded(0)[0], output_type="pt", chunk_size=4).images
    assert sizes == [10, 4, 4, 2]
    assert torch.allclose(whole, chunked, atol=1e-6)


def test_thousands_of_images_are_chunked_without_being_asked(pipeline, monkeypatch):
    sizes = []
    monkeypatch.setattr(pipeline.generator, "forward", lambda z: sizes.append(len(z)) or torch.zeros(len(z), 1, 8, 8))
    pipeline.generator.register_to_config(sample_size=64)
    assert len(pipeline(1000).images) == 1000
    assert max(sizes) * 64 * 64 <= 2**20


def test_a_progress_bar_counts_the_chunks(pipeline, capsys):
    pipeline.set_progress_bar_config(disable=False)
    pipeline(2)
    assert not capsys.readouterr().err
    pipeline(6, chunk_size=2)
    assert "3/3" in capsys.readouterr().err


def test_return_dict_false_gives_a_tuple(pipeline):
    (images,) = pipeline(2, return_dict=False)
    assert len(images) == 2


@pytest.mark.parametrize("with_critic", [True, False])
def test_a_saved_pipeline_makes_the_same_images(with_critic, tmp_path):
    pipeline = WGANPipeline(tiny_generator(), tiny_critic() if with_critic else None)
    pipeline.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.rglob("*.*")} == {
        "model_index.json",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "hf_wgan_pipeline_wgan.py",
        "hf_wgan_dcgan.py",
    }
    loaded = WGANPipeline.from_pretrained(tmp_path)
    assert (loaded.critic is not None) == with_critic
    images = [each(3, generator=seeded(1)[0], output_type="np").images for each in (pipeline, loaded)]
    assert np.array_equal(*images)


def test_a_pipeline_of_networks_in_the_wrong_order_is_refused():
    with pytest.raises(InputError, match=r"^generator: the config of DCGANCritic has no latent_dim"):
        WGANPipeline(tiny_critic(), tiny_generator())


def test_an_option_of_saving_that_has_no_effect_is_refused(pipeline, tmp_path):
    for options, message in [
        ({"varient": "fp16"}, r"varient='fp16': WGANPipeline\.save_pretrained takes variant, "),
        ({"repo_id": "me/model"}, "repo_id: has no effect without push_to_hub=True"),
    ]:
        with pytest.raises(InputError, match=message):
            pipeline.save_pretrained(tmp_path / "saved", **options)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_shows_the_same_image_for_a_seed(dtype, tmp_path):
    WGANPipeline(tiny_generator()).save_pretrained(tmp_path)
    full, half = (WGANPipeline.from_pretrained(tmp_path, torch_dtype=each) for each in (torch.float32, dtype))
    assert half.generator.dtype == dtype
    images = [each(2, generator=seeded(1)[0], output_type="np").images for each in (full, half)]
    assert np.abs(images[0] - images[1]).max() < 0.02
    assert len(half(2).images) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"output_type": "jpeg"}, "output_type='jpeg'"),
        ({"latents": torch.zeros(2, 7)}, r"latents of shape \(2, 7\): must be \(N, 4\)"),
        ({"latents": torch.zeros(0, 4)}, r"latents of shape \(0, 4\)"),
        ({"latents": torch.full((1, 4), float("inf"))}, "latents hold NaN or infinity"),
        ({"latents": torch.zeros(2, 4), "batch_size": 3}, "batch_size=3 with 2 latents"),
        ({"latents": torch.zeros(1, 4), "generator": torch.Generator()}, "generator and latents were both given"),
        ({"generator": seeded(1, 2), "batch_size": 3}, "list of 2 for batch_size=3"),
        ({"latents": np.zeros((2, 4))}, r"latents of type ndarray: must be a tensor \(N, 4\)"),
        ({"chunk_size": 0}, "chunk_size=0"),
        *(
            ({name: value}, f"{name}={value!r}: must be a whole number")
            for name, value in itertools.product(
                ("batch_size", "chunk_size", "num_candidates"), (2.0, "2", True, float("nan"), -1, [2])
            )
        ),
        *(
            ({name: value}, f"{name}={value!r}: must be positive")
            for name, value in itertools.product(
                ("truncation", "rejection_temperature"), (0, -1, "1", True, float("nan"), [1])
            )
        ),
        ({"generator": 42}, r"generator=42: must be a torch.Generator, such as torch.Generator\(\).manual_seed\(42\)"),
        ({"generator": [1, 2], "batch_size": 2}, r"generator=1: must be a torch.Generator"),
        ({"generator": "42"}, "generator='42': must be a torch.Generator$"),
        ({"class_labels": 1}, "class_labels=1: the model has no classes"),
    ],
)
def test_bad_arguments_are_named(pipeline, arguments, message):
    with pytest.raises(InputError, match=message if "\\" in message else re.escape(message).replace(r"\$", "$")):
        pipeline(**arguments)


def test_numbers_of_numpy_and_torch_are_numbers(pipeline):
    images = pipeline(
        np.int64(3), seeded(0)[0], chunk_size=np.int32(2), truncation=np.float32(1), output_type="pt"
    ).images
    assert torch.allclose(images, pipeline(3, seeded(0)[0], truncation=1, output_type="pt").images, atol=1e-6)
    assert len(pipeline(2, tuple(seeded(0, 1))).images) == 2


@pytest.mark.parametrize(
    "labels",
    [
        *(1, np.int64(1), torch.tensor(1), "b", [1, 1], (1, "b"), [np.int64(1), torch.tensor(1)], range(1, 3)),
        *(np.array([1, 1]), np.uint8([1, 1]), torch.tensor([1, 1]), np.array(["b", "b"])),
    ],
    ids=repr,
)
def test_class_labels_in_every_form(labels):
    pipeline = WGANPipeline(tiny_generator(num_classes=3, class_names=["a", "b", "c"]), tiny_critic(num_classes=3))
    torch.nn.init.normal_(pipeline.generator.class_embedding.weight)
    latents = torch.randn(2, 4, generator=seeded(0)[0])
    expected = pipeline(latents=latents, class_labels=[1, 2] if isinstance(labels, range) else [1, 1], output_type="pt")
    images = pipeline(latents=latents, class_labels=labels, output_type="pt").images
    assert torch.equal(images, expected.images)
    assert len(pipeline.score(images, labels)) == len(pipeline.invert(images, 1, 2, 1, class_labels=labels)) == 2


@pytest.mark.parametrize("label", [1.0, True, np.float64(1), np.bool_(True), torch.tensor(1.5), "d", b"b", None, -1, 3])
def test_class_labels_that_are_none_are_named(label):
    pipeline = WGANPipeline(tiny_generator(num_classes=3, class_names=["a", "b", "c"]))
    with pytest.raises(InputError, match=r"class_labels=.*: must be a number from 0 to 2, or one of 'a', 'b', 'c'"):
        pipeline(2, class_labels=[0, label])


def test_classes_are_drawn_by_their_frequencies_where_the_generator_has_some():
    generator = tiny_generator(num_classes=4, class_frequencies=[30, 0, 60, 10])
    torch.nn.init.normal_(generator.class_embedding.weight)
    pipeline = WGANPipeline(generator, tiny_critic(num_classes=4))
    spread = pipeline.class_numbers(None, 100)
    assert [spread[:50].count(number) for number in range(4)] == pytest.approx([15, 0, 30, 5], abs=1)
    assert [spread.count(number) for number in range(4)] == pytest.approx([30, 0, 60, 10], abs=1)
    for source in (torch.Generator().manual_seed(0), seeded(*range(1000))):
        drawn = pipeline.class_numbers(None, 1000, source)
        assert [drawn.count(number) for number in range(4)] == pytest.approx([300, 0, 600, 100], abs=60)

    images = pipeline(8, generator=seeded(*range(8)), output_type="pt").images
    again = pipeline.class_numbers(None, 8, sources := seeded(*range(8)))
    assert torch.equal(pipeline(8, generator=sources, class_labels=again, output_type="pt").images, images)
    latents = torch.randn(8, 4, generator=seeded(0)[0])
    given = [pipeline(latents=latents, output_type="pt").images for _ in range(2)]
    assert torch.equal(*given)
    assert torch.equal(given[0], pipeline(latents=latents, class_labels=spread[:8], output_type="pt").images)
    torch.manual_seed(0)
    assert len({tuple(pipeline(2, output_type="pt").images.flatten().tolist()) for _ in range(3)}) == 3


def test_a_pipeline_is_created_from_another_one(pipeline, tmp_path):
    shared = WGANPipeline.from_pipe(pipeline)
    assert type(shared) is WGANPipeline and shared.components == pipeline.components
    assert WGANPipeline.from_pipe(pipeline, critic=None).critic is None
    for name in ("dtype", "torch_dtype"):
        assert WGANPipeline.from_pipe(shared, **{name: torch.float64}).generator.dtype == torch.float64
    pipeline.to(dtype=torch.float32).save_pretrained(tmp_path)
    carried = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    assert WGANPipeline.from_pipe(carried).generator is carried.generator
    assert type(carried).from_pipe(pipeline).critic is pipeline.critic


def test_diffusers_leaves_out_a_component_that_is_passed_as_none(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    carried = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True, critic=None)
    assert carried.critic is None and len(carried(2).images) == 2
    WGANPipeline(tiny_generator()).save_pretrained(tmp_path)
    assert DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True).critic is None


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_precision_is_taken_by_either_name_without_a_warning(name, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        loaded = WGANPipeline.from_pretrained(tmp_path, **{name: torch.bfloat16})
    assert loaded.generator.dtype == loaded.critic.dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"dtype='float16': must be a torch.dtype"):
        WGANPipeline.from_pretrained(tmp_path, **{name: "float16"})


def everything(pipeline):
    """What the networks are used for."""
    calls = ({}, {"num_candidates": 3}, {"rejection_temperature": 2.0})
    images = [pipeline(70, seeded(0)[0], output_type="pt", chunk_size=40, **options).images for options in calls]
    scores = [pipeline.score(images[0][:5])]
    return images + scores + [pipeline.invert(images[0][:2], 3, 4, 1, generator=seeded(1)[0]).detach()]


@pytest.mark.parametrize("way", ["accelerate", "groups"])
def test_offloaded_networks_do_the_same(way, pipeline):
    expected = everything(pipeline)
    if way == "accelerate":  # as enable_sequential_cpu_offload does, which wants an accelerator
        for network in pipeline.components.values():
            accelerate.cpu_offload(network, torch.device("cpu"))
        assert pipeline.critic.device.type == "meta"
    else:
        for network in pipeline.components.values():
            network.enable_group_offload(
                onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
            )
    for result, wanted in zip(everything(pipeline), expected):
        assert torch.allclose(result, wanted, atol=1e-5)


class ColumnCritic(type(tiny_critic())):
    """A critic with scores of shape (N, 1)."""

    def forward(self, images):
        return super().forward(images)[:, None]


def test_scores_in_a_column_are_scores(pipeline):
    images = pipeline(5, seeded(0)[0], num_candidates=3, output_type="pt").images
    column = WGANPipeline(pipeline.generator, ColumnCritic.from_config(pipeline.critic.config))
    column.critic.load_state_dict(pipeline.critic.state_dict())
    column.set_progress_bar_config(disable=True)
    assert torch.equal(column(5, seeded(0)[0], num_candidates=3, output_type="pt").images, images)
    assert torch.equal(column.score(images), pipeline.score(images))
    assert len(column(5, rejection_temperature=2.0).images) == 5
    column.critic.forward = lambda images: torch.zeros(len(images), 2)
    with pytest.raises(InputError, match=r"ColumnCritic returns scores of shape \(5, 2\) for 5 images: must be \(N,\)"):
        column.score(images)


def test_a_network_without_a_config_is_named():
    with pytest.raises(InputError, match="critic: Linear has no config; must be a ModelMixin and ConfigMixin"):
        WGANPipeline(tiny_generator(), torch.nn.Linear(1, 1))
