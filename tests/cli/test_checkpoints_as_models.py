import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import pictures, tiny_critic, tiny_generator, tiny_images
from datasets import ClassLabel, Dataset, Features
from datasets import Image as Picture
from PIL import Image

from hf_wgan import ImageSet, InputError, WGANPipeline, WGANTrainer
from hf_wgan.cli.common import ModelOptions, load_pipeline
from hf_wgan.cli.evaluate import run_of
from hf_wgan.cli.generate import generate
from hf_wgan.cli.train import train
from hf_wgan.data import DataConfig, images_of
from hf_wgan.training.checkpoint import CLASS_COUNTS, STATES, damage


def trained(config):
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config).train()


def samples_of(pipeline):
    return pipeline(4, generator=torch.Generator().manual_seed(0), output_type="np").images


def labelled_images():
    """Two classes, one of them rare."""
    return ImageSet(tiny_images().images, labels=(torch.arange(24) >= 18).long())


def streamed_images():
    features = Features({"image": Picture(), "label": ClassLabel(names=["a", "b"])})
    images = Dataset.from_dict({"image": pictures(24, "L"), "label": [0] * 18 + [1] * 6}, features=features)
    config = DataConfig(resolution=8, label_column="label", dataloader_num_workers=0)
    return images_of(images.to_iterable_dataset(), config)


# Whether there are classes, the images, and what the generator's config says of the classes.
KINDS = {
    "without classes": (False, tiny_images, {}),
    "labelled": (True, labelled_images, {}),
    "streamed": (True, streamed_images, {}),
    "clustered": (True, lambda: tiny_images().with_clusters(np.arange(24) // 18), {"class_frequencies": [18, 6]}),
}


def trained_with_classes(kind, config, **changes):
    has_classes, images, of_generator = KINDS[kind]
    classes = {"num_classes": 2} if has_classes else {}
    networks = tiny_generator(**classes, **of_generator), tiny_critic(**classes)
    WGANTrainer(*networks, images(), replace(config, class_conditional=has_classes, **changes)).train()


def assert_equal_states(one, other):
    for network in ("generator", "critic"):
        expected, state = (getattr(pipeline, network).state_dict() for pipeline in (one, other))
        assert expected.keys() == state.keys()
        for name, value in expected.items():
            assert torch.equal(value, state[name]), f"{network}: {name}"


@pytest.mark.parametrize("use_ema", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_the_pipeline_that_the_run_would_have_saved_there(kind, use_ema, tiny_config, tmp_path):
    average = {"use_ema": True, "ema_rampup_ratio": 1.0} if use_ema else {}
    trained_with_classes(kind, tiny_config(**average, generator_learning_rate=1e-2))
    saved, loaded = (load_pipeline(str(tmp_path / name)) for name in ("run", "run/checkpoint-000004"))
    assert_equal_states(saved, loaded)
    assert np.array_equal(samples_of(saved), samples_of(loaded))
    earlier = load_pipeline(str(tmp_path / "run" / "checkpoint-000002"))
    assert isinstance(earlier, WGANPipeline) and not np.array_equal(samples_of(earlier), samples_of(saved))


@pytest.mark.parametrize("kind", KINDS)
def test_the_raw_weights_of_a_checkpoint_are_those_that_the_run_would_have_saved(kind, tiny_config, tmp_path):
    trained_with_classes(kind, tiny_config(use_ema=True, ema_rampup_ratio=1.0, generator_learning_rate=1e-2))
    checkpoint = str(tmp_path / "run" / "checkpoint-000004")
    saved, loaded = (load_pipeline(model, ModelOptions(variant="raw")) for model in (str(tmp_path / "run"), checkpoint))
    assert_equal_states(saved, loaded)
    assert not np.array_equal(samples_of(loaded), samples_of(load_pipeline(checkpoint)))


@pytest.mark.parametrize(
    ("use_ema", "variant", "remedy"), [(True, "fp16", "use raw, or leave it out"), (False, "raw", "leave it out")]
)
def test_a_variant_that_a_checkpoint_does_not_have_is_one_line(use_ema, variant, remedy, tiny_config, tmp_path):
    trained(tiny_config(use_ema=use_ema))
    message = f"variant='{variant}': .*checkpoint-000002' has none of this name; {remedy}$"
    with pytest.raises(InputError, match=message):
        load_pipeline(str(tmp_path / "run" / "checkpoint-000002"), ModelOptions(variant=variant))


@pytest.mark.parametrize("kind", ["labelled", "streamed"])
def test_a_finished_run_that_is_resumed_saves_the_same_again(kind, tiny_config, tmp_path):
    config = tiny_config()
    trained_with_classes(kind, config)
    saved = load_pipeline(str(tmp_path / "run"))
    trained_with_classes(kind, config, resume_from_checkpoint="latest")
    assert_equal_states(saved, load_pipeline(str(tmp_path / "run")))
    assert_equal_states(saved, load_pipeline(str(tmp_path / "run" / "checkpoint-000004")))


def test_a_checkpoint_without_counts_of_classes_has_those_that_the_generator_records(tiny_config, tmp_path):
    trained_with_classes("clustered", tiny_config())
    checkpoint = tmp_path / "run" / "checkpoint-000004"
    states = torch.load(checkpoint / STATES, weights_only=True)
    assert states.pop(CLASS_COUNTS).tolist() == [18, 6]
    torch.save(states, checkpoint / STATES)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest[STATES]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert_equal_states(load_pipeline(str(tmp_path / "run")), load_pipeline(str(checkpoint)))


def test_a_checkpoint_is_sampled_and_left_as_it_is(tiny_config, tmp_path):
    trained(tiny_config())
    checkpoint = tmp_path / "run" / "checkpoint-000002"
    before = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*"))
    assert generate([str(checkpoint), "--num_images", "4", "--output_dir", str(tmp_path / "images")]) == 0
    assert Image.open(next((tmp_path / "images").glob("*.png"))).size
    with run_of(str(checkpoint)) as folder:
        assert folder is None, "no figures are recorded in it"
    assert sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*")) == before and not damage(checkpoint)


def test_training_starts_from_a_checkpoint_as_from_the_pipeline_that_it_would_have_saved(tmp_path):
    pngs = tmp_path / "pngs"
    pngs.mkdir()
    for number, picture in enumerate(pictures(24, "L")):
        picture.save(pngs / f"{number}.png")
    options = ["--train_data_dir", str(pngs), "--resolution", "8", "--train_batch_size", "4", "--max_train_steps", "2"]
    shape = ["--generator_width", "4", "--critic_width", "4", "--n_critic", "1", "--num_clusters", "3"]

    def train_in(name, *more):
        return train([*options, "--output_dir", str(tmp_path / name), *more])

    assert train_in("first", *shape) == 0
    for name, model in (("from-run", "first"), ("from-checkpoint", "first/checkpoint-000002")):
        assert train_in(name, "--n_critic", "1", "--pretrained_model_name_or_path", str(tmp_path / model)) == 0
    assert_equal_states(*(load_pipeline(str(tmp_path / name)) for name in ("from-run", "from-checkpoint")))


@pytest.mark.parametrize("content", ["{", "[]", '{"training": []}', '{"training": {}, "generator": {}}'])
def test_a_record_that_makes_no_sense_is_one_line_with_the_remedy(content, tiny_config, tmp_path):
    trained(tiny_config())
    checkpoint = tmp_path / "run" / "checkpoint-000004"
    (checkpoint / "training_config.json").write_text(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["training_config.json"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    message = r"checkpoint-000004/training_config.json: is damaged.*; remove this checkpoint, and take another$"
    with pytest.raises(InputError, match=message):
        load_pipeline(str(checkpoint))
    with pytest.raises(InputError, match=message):
        trained(tiny_config(max_train_steps=6, resume_from_checkpoint="latest"))


def test_a_damaged_checkpoint_and_one_of_other_networks_are_one_line(tiny_config, tmp_path):
    trained(tiny_config())
    checkpoint = tmp_path / "run" / "checkpoint-000002"
    record = json.loads((checkpoint / "training_config.json").read_text())
    (checkpoint / "training_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"checkpoint-000002': the checkpoint is damaged \(training_config.json has 2"):
        load_pipeline(str(checkpoint))
    record["generator"]["class"] = "MyGenerator"
    text = json.dumps(record)
    (checkpoint / "training_config.json").write_text(text)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["training_config.json"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="its generator is a MyGenerator, a class of your own; resume the run"):
        load_pipeline(str(checkpoint))
