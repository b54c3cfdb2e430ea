import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator

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


def test_a_list_of_generators_makes_image_k_the_same_in_any_batch(pipeline):
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
        ({"latents": torch.zeros(2, 4), "batch_size": 3}, "batch_size=3 with 2 latents"),
        ({"latents": torch.zeros(1, 4), "generator": torch.Generator()}, "generator and latents were both given"),
        ({"generator": seeded(1, 2), "batch_size": 3}, "list of 2 for batch_size=3"),
        ({"chunk_size": 0}, "chunk_size=0"),
    ],
)
def test_bad_arguments_are_named(pipeline, arguments, message):
    with pytest.raises(InputError, match=message):
        pipeline(**arguments)
