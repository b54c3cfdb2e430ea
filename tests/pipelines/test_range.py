"""What the pipeline does besides plain sampling: truncation, candidates, scores, paths and inversion."""

import math

import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from PIL import Image

from hf_wgan import InputError, WGANPipeline, WGANTrainer, load_images
from hf_wgan.data import DataConfig
from hf_wgan.models.factory import ARCHITECTURES, NetworkConfig, build_networks
from hf_wgan.models.layers import ClassVectors
from hf_wgan.pipelines import pipeline_wgan
from hf_wgan.pipelines.pipeline_wgan import latent_path, truncated
from hf_wgan.utils.errors import NotFiniteError


def make(num_classes=None, channels=1):
    pipeline = WGANPipeline(
        tiny_generator(num_classes=num_classes, out_channels=channels),
        tiny_critic(num_classes=num_classes, in_channels=channels),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_truncated_latents_have_the_cut_off_distribution():
    latents = torch.randn(20_000, generator=seeded())
    cut = truncated(latents, 0.5)
    assert cut.abs().max() <= 0.5
    assert torch.equal(cut.argsort(), latents.argsort()), "each at its own quantile"
    expected = torch.nn.init.trunc_normal_(torch.empty(20_000), a=-0.5, b=0.5, generator=seeded(1)).std()
    assert cut.std() == pytest.approx(expected.item(), rel=0.02)
    assert torch.allclose(truncated(latents, 50), latents, atol=1e-5), "as good as none"
    assert truncated(latents, None) is latents


@pytest.mark.parametrize("limit", [1e-6, 0.5, 3.0, 8.0, 8.5, 10.0, 37.0, 50.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_truncated_latents_are_finite_and_in_order_however_far_out(limit, dtype):
    positive = torch.linspace(0, 60, 10_001, dtype=dtype)
    latents = torch.cat([-positive.flip(0), positive[1:]])
    cut = truncated(latents, limit)
    assert cut.isfinite().all() and cut.dtype == dtype
    assert (cut.diff() >= 0).all() and torch.equal(cut, -cut.flip(0))
    assert (cut.double().abs() <= torch.tensor(limit, dtype=dtype).double()).all()
    assert (cut.abs() <= latents.abs()).all()
    exact = latents.double()
    near = exact.abs() < 5
    expected = 2**0.5 * torch.erfinv(torch.erf(exact[near] / 2**0.5) * math.erf(limit / 2**0.5))
    assert torch.allclose(cut[near].double(), expected, atol=0, rtol=1e-6)


def test_truncation_near_the_limit_of_precision_keeps_what_is_nearer():
    assert truncated(torch.tensor([9.0], dtype=torch.float64), 10.0).item() == pytest.approx(8.99999, abs=1e-4)
    assert truncated(torch.tensor([10.0], dtype=torch.float64), 9.0).item() == pytest.approx(8.99999, abs=1e-4)
    twice = -torch.special.ndtri(torch.tensor(math.erfc(9 / 2**0.5), dtype=torch.float64))
    assert truncated(torch.tensor([9.0], dtype=torch.float64), 9.0).item() == pytest.approx(twice.item(), abs=1e-9)


def test_latents_far_out_are_images_or_are_named():
    pipeline = make()
    assert pipeline(latents=torch.full((2, 4), 9.0), truncation=10.0, output_type="pt").images.isfinite().all()
    for value in (float("nan"), float("inf"), -float("inf")):
        latents = torch.full((2, 4), value)
        for call in (
            lambda wrong: pipeline(latents=wrong),
            lambda wrong: pipeline(latents=wrong, truncation=1.0),
            lambda wrong: pipeline.interpolate(wrong),
        ):
            with pytest.raises(InputError, match="latents hold NaN or infinity: must be finite"):
                call(latents)
        cut = truncated(latents, 1.0)
        assert cut.isnan().all() if math.isnan(value) else torch.equal(cut, torch.full((2, 4), math.copysign(1, value)))
    half = make().to(dtype=torch.float16)
    with pytest.raises(InputError, match=r"latents up to 1e\+06: the generator returns NaN or infinity for them"):
        half(latents=torch.full((2, 4), 1e6))
    next(half.generator.parameters()).data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="the model's weights are damaged"):
        half(latents=torch.zeros(2, 4))


def test_truncation_of_a_pipeline():
    pipeline = make()
    few, all_of_them = (pipeline(64, generator=seeded(), output_type="pt", truncation=t).images for t in (0.1, None))
    assert few.std(dim=0).mean() < 0.3 * all_of_them.std(dim=0).mean()
    with pytest.raises(InputError, match="truncation=-1: must be positive"):
        pipeline(truncation=-1)


@pytest.mark.parametrize("kind", ["pt", "np", "pil", "one"])
@pytest.mark.parametrize("channels", [1, 3])
def test_scores_are_those_of_the_critic(kind, channels):
    pipeline = make(channels=channels)
    images = (torch.rand(5, channels, 8, 8, generator=seeded()) * 255).round() / 255
    with torch.no_grad():
        expected = pipeline.critic.eval()(images * 2 - 1)
    array = images.permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray((each.squeeze() * 255).round().astype(np.uint8)) for each in array]
    given = {"pt": images, "np": array, "pil": pictures, "one": pictures[0]}[kind]
    pipeline.critic.train()
    scores = pipeline.score(given, chunk_size=2)
    assert torch.allclose(scores, expected[: len(scores)], atol=1e-5)
    assert len(scores) == (1 if kind == "one" else 5) and scores.dtype == torch.float32
    assert pipeline.critic.training


def test_scores_of_classes():
    pipeline = make(num_classes=3)
    torch.nn.init.normal_(pipeline.critic.class_embedding.weight)
    images = torch.rand(4, 1, 8, 8, generator=seeded())
    assert not torch.allclose(pipeline.score(images, class_labels=0), pipeline.score(images, class_labels=1))


def test_scores_of_a_model_that_draws_its_classes():
    pipeline = make(num_classes=3)
    pipeline.generator.register_to_config(class_frequencies=[1, 2, 3])
    images = pipeline(6, generator=seeded(), output_type="pt").images
    with pytest.raises(InputError, match=r"class_labels are missing.*pipeline\.class_numbers"):
        pipeline.score(images)
    source = seeded()
    labels = pipeline.class_numbers(None, 6, source)
    assert torch.equal(pipeline(6, generator=source, class_labels=labels, output_type="pt").images, images)
    assert len(pipeline.score(images, labels)) == 6


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (torch.zeros(2, 1, 9, 8), r"of shape \(2, 1, 9, 8\): must be PIL images, an array \(N, 8, 8, 1\)"),
        (torch.zeros(0, 1, 8, 8), r"of shape \(0, 1, 8, 8\)"),
        (torch.full((1, 1, 8, 8), -1.0), r"images from -1 to -1: must be in \[0, 1\], or of uint8"),
        (torch.full((1, 1, 8, 8), 255.0), "images from 255 to 255"),
        (torch.full((1, 1, 8, 8), float("nan")), "images from nan to nan"),
        ("picture.png", "of type str"),
        ([], "of type list"),
        (Image.new("LAB", (0, 4)), "images: it has 0 × 4 pixels"),
    ],
)
def test_images_that_do_not_fit_are_named(given, says):
    with pytest.raises(InputError, match=says):
        make().score(given)


def test_pictures_are_read_as_training_reads_them(tmp_path):
    ramp = np.linspace(0, 1, 24)[None].repeat(24, 0)
    clear = np.zeros((24, 24, 4), np.uint8)
    clear[:, 12:] = (255, 0, 0, 255)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path / "sixteen.png")
    Image.fromarray((ramp * 4095).astype(np.uint16)).save(tmp_path / "twelve.png")
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(clear).save(tmp_path / "transparent.png")
    Image.fromarray((ramp.T * 255).astype(np.uint8)).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray((ramp[:8] * 255).astype(np.uint8)).save(tmp_path / "wide.png")
    pipeline = make(channels=3)
    for path in tmp_path.iterdir():
        folder = tmp_path / path.stem
        folder.mkdir()
        path.rename(folder / path.name)
        trained_on = load_images(DataConfig(train_data_dir=str(folder), resolution=8, channels=3)).images
        read = (pipeline.pixels(Image.open(folder / path.name)) * 255).round().to(torch.uint8)
        assert torch.equal(read, trained_on), path.name
        assert read.float().std() > 20, path.name


@pytest.mark.parametrize("classes", [None, 3])
def test_the_best_of_several_candidates(classes):
    pipeline = make(num_classes=classes)
    plain = pipeline(20, generator=seeded(), output_type="pt", chunk_size=7).images
    best = pipeline(20, generator=seeded(), output_type="pt", chunk_size=7, num_candidates=4).images
    labels = None if classes is None else [number % classes for number in range(20)]
    before, after = (pipeline.score(images, labels) for images in (plain, best))
    assert (after >= before - 1e-5).all() and after.mean() > before.mean()
    rng = seeded()
    drawn = [torch.randn(20, 4, generator=rng) for _ in range(4)]
    scores = torch.stack([pipeline.score(pipeline(latents=each, output_type="pt").images, labels) for each in drawn])
    assert torch.allclose(after, scores.max(dim=0).values, atol=1e-5)


def test_the_best_of_several_for_each_of_a_list_of_seeds():
    pipeline = make()
    together = pipeline(3, generator=[seeded(k) for k in range(3)], output_type="pt", num_candidates=3).images
    alone = pipeline(1, generator=seeded(2), output_type="pt", num_candidates=3).images
    assert torch.allclose(together[2:], alone, atol=1e-6)


def test_candidates_need_a_critic_and_draws():
    pipeline = WGANPipeline(tiny_generator())
    for call in (lambda: pipeline(num_candidates=2), lambda: pipeline.score(torch.zeros(1, 1, 8, 8))):
        with pytest.raises(InputError, match="the pipeline has no critic"):
            call()
    with pytest.raises(InputError, match="num_candidates=2 with latents"):
        make()(latents=torch.zeros(1, 4), num_candidates=2)
    with pytest.raises(InputError, match="num_candidates=0"):
        make()(num_candidates=0)


@pytest.mark.parametrize("classes", [None, 3])
def test_rejection_reweights_the_samples_by_their_scores(classes):
    pipeline = make(num_classes=classes)
    plain = pipeline(12_000, generator=seeded(1), output_type="pt").images
    chosen = pipeline(9000, generator=seeded(2), output_type="pt", rejection_temperature=1.5).images
    labels = [None if classes is None else [number % classes for number in range(n)] for n in (12_000, 9000)]
    before, after = (pipeline.score(images, given).double() for images, given in zip((plain, chosen), labels))
    for each in range(classes or 1):  # the classes stay in turn, whatever their scores
        plain, found = (scores[each :: classes or 1] for scores in (before, after))
        weights = (plain / (1.5 * plain.std())).exp()
        gain = (weights * plain).sum() / weights.sum() - plain.mean()
        assert found.mean() - plain.mean() == pytest.approx(gain.item(), rel=0.15)


def test_rejection_for_each_of_a_list_of_seeds():
    pipeline = make()
    together = pipeline(5, generator=[seeded(k) for k in range(5)], output_type="pt", rejection_temperature=0.7).images
    alone = pipeline(1, generator=seeded(3), output_type="pt", rejection_temperature=0.7).images
    assert torch.allclose(together[3:4], alone, atol=1e-6)


@pytest.mark.parametrize("classes, references", [(None, 1024), (16, 4 * 1024), (64, 4 * 256), (1000, 4 * 64)])
def test_rejection_compares_with_fewer_samples_of_each_of_many_classes(classes, references):
    pipeline, scored = make(num_classes=classes), []
    pipeline.critic.register_forward_hook(lambda critic, inputs, scores: scored.append(len(scores)))
    pipeline(4, class_labels=None if classes is None else range(4), rejection_temperature=1e9, generator=seeded())
    assert references <= sum(scored) <= references + 8, "at this temperature nearly every sample is accepted"


def test_rejection_says_what_is_wrong():
    for given, says in (
        ({"rejection_temperature": 0}, "rejection_temperature=0: must be positive"),
        ({"rejection_temperature": 1, "num_candidates": 2}, "num_candidates=2 with rejection_temperature=1"),
        ({"rejection_temperature": 1, "latents": torch.zeros(1, 4)}, "rejection_temperature=1 with latents"),
        ({"rejection_temperature": 1e-9, "batch_size": 9}, "accepted none of 1,000 samples.*choose a higher"),
    ):
        with pytest.raises(InputError, match=says):
            make()(**given)
    with pytest.raises(InputError, match="the pipeline has no critic"):
        WGANPipeline(tiny_generator())(rejection_temperature=1)


def test_as_many_pixels_at_once_are_scored_and_compared_at_every_size(monkeypatch):
    monkeypatch.setattr(pipeline_wgan, "PIXELS_PER_CHUNK", 2 * 8 * 8)
    pipeline, sizes = make(), []
    images = torch.rand(70, 1, 8, 8, generator=seeded())
    pipeline.critic.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    assert len(pipeline.score(images[:5])) == 5 and sizes == [2, 2, 1]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "cdist", lambda a, b, **_: sizes.append(len(b)) or torch.zeros(len(a), len(b)))
        pipeline.neighbours(images[:1], images)
    assert sizes[3:] == [32, 32, 6]


def test_neighbours_are_the_nearest_by_pixels(monkeypatch):
    monkeypatch.setattr(pipeline_wgan, "REFERENCES_PER_CHUNK", 7)
    pipeline = make()
    references = torch.rand(30, 1, 8, 8, generator=seeded())
    images = references[[7, 3]] * 0.9 + 0.1 * references[[8, 4]]
    numbers, distances = pipeline.neighbours(images, references, num_neighbours=30)
    exact = (images[:, None] - references[None]).square().mean(dim=(2, 3, 4)).sqrt()
    assert numbers[:, 0].tolist() == [7, 3] and torch.allclose(distances, exact.sort(dim=1).values, atol=1e-6)
    numbers, distances = pipeline.neighbours(references[5:6], references)
    assert numbers.tolist() == [[5]] and distances.tolist() == [[0]]
    bytes_ = (references * 255).byte()
    numbers, distances = pipeline.neighbours(bytes_[5:6].float() / 255, bytes_)
    assert numbers.tolist() == [[5]] and distances.tolist() == [[0]]
    with pytest.raises(InputError, match="num_neighbours=31 of 30 references"):
        pipeline.neighbours(images, references, num_neighbours=31)


@pytest.mark.parametrize("method", ["spherical", "linear"])
@pytest.mark.parametrize("loop", [False, True])
def test_a_path_goes_through_its_latents(method, loop):
    stops = torch.randn(3, 100, generator=seeded())
    path = latent_path(stops, 9 if loop else 7, method, loop)
    assert path.shape == (9 if loop else 7, 100)
    assert torch.allclose(path[::3], stops, atol=1e-5)
    if method == "spherical":
        assert (path.norm(dim=1) > 0.99 * stops.norm(dim=1).min()).all(), "no shorter than latents are"
    else:
        assert torch.allclose(path[1], stops[0] * 2 / 3 + stops[1] / 3, atol=1e-5)


def test_a_path_between_latents_of_one_direction():
    latents = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert torch.allclose(latent_path(latents, 3), torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    assert latent_path(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 5).isfinite().all()
    assert torch.allclose(
        latent_path(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 3)[[0, 2]], torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    )


def test_frames_of_a_path():
    pipeline = make()
    frames = pipeline.interpolate(torch.randn(2, 4, generator=seeded()), num_frames=5).images
    assert [frame.size for frame in frames] == [(8, 8)] * 5
    for change, says in (
        ({"method": "cubic"}, "method='cubic'"),
        ({"num_frames": 1}, "num_frames=1"),
        ({"num_frames": 2.5}, "num_frames=2.5"),
        ({"latents": torch.zeros(1, 4)}, r"latents of shape \(1, 4\)"),
    ):
        with pytest.raises(InputError, match=says):
            pipeline.interpolate(**{"latents": torch.zeros(2, 4), **change})


@pytest.mark.parametrize("frequencies", [None, [5, 1, 3]])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_path_goes_through_the_classes_of_its_points_and_between_them_without_a_jump(architecture, frequencies):
    config = NetworkConfig(architecture=architecture, generator_width=8, critic_width=8, latent_dim=4)
    generator, critic = build_networks(config, 32, 1, num_classes=3, class_frequencies=frequencies)
    for module in generator.modules():
        if isinstance(module, ClassVectors):
            torch.nn.init.normal_(module.weight)  # those of batch normalisation start alike
    pipeline = WGANPipeline(generator, critic)
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(3, 4, generator=seeded())
    for labels in (None, [2, 0, 2], 1):
        points = pipeline(latents=latents, class_labels=labels, output_type="pt").images
        frames = pipeline.interpolate(latents, 201, class_labels=labels, output_type="pt").images
        assert torch.allclose(frames[[0, 100, 200]], points, atol=1e-5)
        steps = frames.diff(dim=0).abs().amax(dim=(1, 2, 3))
        assert steps.max() < 0.15 * (points[0] - points[1]).abs().max()
    alike = pipeline.interpolate(latents[[0, 0]], 3, class_labels=[0, 1], output_type="pt").images
    assert not torch.allclose(alike[0], alike[1]) and not torch.allclose(alike[1], alike[2])


def test_a_generator_that_mixes_no_classes_changes_them_halfway():
    pipeline = make(num_classes=3)
    pipeline.generator.mixes_classes = False
    latents = torch.randn(2, 4, generator=seeded())
    frames = pipeline.interpolate(latents, 4, class_labels=[2, 0], output_type="pt").images
    for number, label in enumerate([2, 2, 0, 0]):
        of_class = pipeline.interpolate(latents, 4, class_labels=label, output_type="pt").images
        assert torch.allclose(frames[number], of_class[number], atol=1e-6)


@pytest.mark.parametrize("classes", [None, 3])
def test_an_image_of_the_generator_is_found_again(classes):
    pipeline = make(num_classes=classes)
    for parameter in pipeline.generator.parameters():
        parameter.data.mul_(4)
    labels = {} if classes is None else {"class_labels": [1, 2, 0]}
    images = pipeline(3, generator=seeded(), output_type="pt", **labels).images
    requires_grad = [parameter.requires_grad for parameter in pipeline.generator.parameters()]
    latents = pipeline.invert(images, num_candidates=50, generator=seeded(1), **labels)
    assert latents.shape == (3, 4) and not latents.requires_grad
    found = pipeline(latents=latents, output_type="pt", **labels).images
    candidates = pipeline(50, generator=seeded(1), output_type="pt", class_labels=1 if classes else None).images
    nearest = (candidates - images[:1]).square().mean(dim=(1, 2, 3)).min()
    assert (found[:1] - images[:1]).square().mean() < nearest / 3
    assert [parameter.requires_grad for parameter in pipeline.generator.parameters()] == requires_grad
    with pytest.raises(InputError, match="num_steps=0"):
        pipeline.invert(images, num_steps=0, **labels)


@pytest.mark.parametrize("classes", [None, 3])
def test_inversion_passes_few_images_through_the_generator_at_once(classes, monkeypatch):
    pipeline = make(num_classes=classes)
    if classes:
        torch.nn.init.normal_(pipeline.generator.class_embedding.weight, std=10)
    images = torch.rand(6, 1, 8, 8, generator=seeded())
    labels = {} if classes is None else {"class_labels": [1, 0, 1, 1, 0, 1]}
    options = {"num_steps": 3, "num_candidates": 20, "num_starts": 2, **labels}
    whole = pipeline.invert(images, generator=seeded(1), **options)
    sizes = []
    pipeline.generator.register_forward_hook(lambda network, inputs, outputs: sizes.append(len(outputs)))
    monkeypatch.setattr(pipeline_wgan, "PIXELS_PER_CHUNK", 5 * 8 * 8)
    chunked = pipeline.invert(images, generator=seeded(1), **options)
    assert max(sizes) == 5
    of_candidates = 20 * (2 if classes else 1)
    assert sum(sizes) == of_candidates + 6 * 2 * (3 + 1), "candidates are generated once for each class"
    assert torch.allclose(chunked, whole, atol=1e-5)
    for number in range(6):
        own = {} if classes is None else {"class_labels": [labels["class_labels"][number]]}
        alone = pipeline.invert(images[number : number + 1], generator=seeded(1), **{**options, **own})
        assert torch.allclose(alone[0], whole[number], atol=1e-5)


def test_the_classes_of_images_are_found():
    pipeline = make(num_classes=3)
    torch.nn.init.normal_(pipeline.generator.class_embedding.weight, std=100)
    images = pipeline(3, generator=seeded(), output_type="pt", class_labels=[1, 2, 0]).images
    assert pipeline.closest_classes(images, generator=seeded(1)) == [1, 2, 0]
    assert pipeline.closest_classes(images, num_candidates=1, generator=seeded(1)) == [1, 2, 0]
    pipeline.generator.register_to_config(class_frequencies=[4, 0, 2])
    assert set(pipeline.closest_classes(images, generator=seeded(1))) == {0, 2}, "1 is never drawn"
    with pytest.raises(InputError, match=r"class_labels are missing.*pipeline\.closest_classes"):
        pipeline.invert(images)
    with pytest.raises(InputError, match="num_candidates=0"):
        pipeline.closest_classes(images, num_candidates=0)
    with pytest.raises(InputError, match="has no classes"):
        make().closest_classes(images)


def test_many_images_leave_the_weights_as_they_can_be_saved(tmp_path):
    pipeline = make()
    latents = torch.randn(200, 4, generator=seeded())
    with torch.no_grad():
        expected = pipeline.generator.eval()(latents) / 2 + 0.5
    assert torch.allclose(pipeline(latents=latents, output_type="pt").images, expected.clamp(0, 1), atol=1e-6)
    assert all(parameter.is_contiguous() for parameter in pipeline.generator.parameters())
    pipeline.save_pretrained(tmp_path)


def test_names_of_classes_win_over_their_numbers():
    pipeline = make(num_classes=4)
    pipeline.generator.register_to_config(class_names=["2", "10", "cat", "7"])
    numbers = pipeline.class_numbers(["2", "10", "cat", "7", "3", "0", 2, 0], 8)
    assert numbers == [0, 1, 2, 3, 3, 0, 2, 0]
    for wrong in ("4", "dog", "-1", 4, True, 1.0):
        with pytest.raises(
            InputError, match=r"class_labels=.*: must be a number from 0 to 3, or one of '2', '10', 'cat'"
        ):
            pipeline(1, class_labels=wrong if isinstance(wrong, (int, str)) and wrong is not True else [wrong])


def test_a_picture_of_16_bits_has_the_brightness_that_it_had_in_training(tmp_path, tiny_config, caplog):
    """Alone it would be shown from black to white."""
    (tmp_path / "deep").mkdir()
    for number in range(8):
        values = np.linspace(0, 600 * (number + 1), 64).reshape(8, 8)
        Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep" / f"{number}.png")
    images = load_images(DataConfig(train_data_dir=str(tmp_path / "deep"), resolution=8))
    trained = WGANTrainer(tiny_generator(), tiny_critic(), images, tiny_config(max_train_steps=1)).train()
    trained.save_pretrained(tmp_path / "saved")
    caplog.clear()
    loaded = WGANPipeline.from_pretrained(tmp_path / "saved")
    alone = WGANPipeline(tiny_generator(), tiny_critic())
    dark = Image.open(tmp_path / "deep" / "0.png")
    assert alone.pixels(dark).max() > 0.5 and alone.preprocessing.ranges == ()
    scored = images.images.float() / 255
    for pipeline in (trained, loaded, WGANPipeline.from_pretrained(tmp_path / "run"), WGANPipeline.from_pipe(loaded)):
        assert pipeline.generator.config.value_range == "uint16:0,16383"
        assert pipeline.pixels(dark).max() < 0.05
        pictures = [Image.open(tmp_path / "deep" / f"{number}.png") for number in range(8)]
        assert torch.equal(pipeline.score(pictures).sort().values, pipeline.score(scored).sort().values)
        pipeline.set_progress_bar_config(disable=True)
        latents = pipeline.invert(dark, num_steps=1, num_candidates=2, generator=seeded())
        assert torch.equal(latents, pipeline.invert(pipeline.pixels(dark), 1, 2, generator=seeded()))
    assert "value_range" not in caplog.text, "diffusers warns of entries that it does not expect"
    assert "value_range" not in loaded.critic.config


def test_a_model_of_8_bits_has_no_range_in_its_config(tiny_config, tmp_path):
    pipeline = WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config(max_train_steps=1)).train()
    assert "value_range" not in pipeline.generator.config
    assert "value_range" not in (tmp_path / "run" / "generator" / "config.json").read_text()


def test_a_damaged_range_in_a_config_is_one_line():
    pipeline = make()
    pipeline.generator.register_to_config(value_range=[0, 1])
    with pytest.raises(InputError, match=r"value_range=\[0, 1\]: must be LOW,HIGH"):
        pipeline.score(Image.new("L", (8, 8)))
