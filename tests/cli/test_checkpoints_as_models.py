import json

import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from PIL import Image

from hf_wgan import InputError, WGANPipeline, WGANTrainer
from hf_wgan.cli.common import load_pipeline
from hf_wgan.cli.evaluate import run_of
from hf_wgan.cli.generate import generate
from hf_wgan.training.checkpoint import damage


def trained(config):
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config).train()


def images_of(pipeline):
    return pipeline(4, generator=torch.Generator().manual_seed(0), output_type="np").images


@pytest.mark.parametrize("use_ema", [False, True])
def test_a_checkpoint_is_the_pipeline_that_the_run_would_have_saved_there(use_ema, tiny_config, tmp_path):
    average = {"use_ema": True, "ema_rampup_ratio": 1.0} if use_ema else {}
    trained(tiny_config(**average, generator_learning_rate=1e-2))
    saved, loaded = (load_pipeline(str(tmp_path / name)) for name in ("run", "run/checkpoint-000004"))
    for name, value in saved.generator.state_dict().items():
        assert torch.equal(value, loaded.generator.state_dict()[name]), name
    assert np.array_equal(images_of(saved), images_of(loaded))
    earlier = load_pipeline(str(tmp_path / "run" / "checkpoint-000002"))
    assert isinstance(earlier, WGANPipeline) and not np.array_equal(images_of(earlier), images_of(saved))


def test_a_checkpoint_is_sampled_and_left_as_it_is(tiny_config, tmp_path):
    trained(tiny_config())
    checkpoint = tmp_path / "run" / "checkpoint-000002"
    before = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*"))
    assert generate([str(checkpoint), "--num_images", "4", "--output_dir", str(tmp_path / "images")]) == 0
    assert Image.open(next((tmp_path / "images").glob("*.png"))).size
    with run_of(str(checkpoint)) as folder:
        assert folder is None, "no figures are recorded in it"
    assert sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*")) == before and not damage(checkpoint)


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
