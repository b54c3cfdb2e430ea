"""Commands read pictures of more than 8 bits as the training of the model did."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from hf_wgan import WGANPipeline, load_images
from hf_wgan.cli import common
from hf_wgan.cli.evaluate import evaluate
from hf_wgan.cli.export import export
from hf_wgan.cli.generate import generate
from hf_wgan.cli.train import train
from hf_wgan.data import DataConfig
from hf_wgan.pipelines.export import load_exported
from hf_wgan.utils import files

TINY = (
    "--generator_width 8 --critic_width 8 --resolution 8 --train_batch_size 4 --n_critic 1 --max_train_steps 2 "
    "--checkpointing_steps 1 --logging_steps 1 --evaluation_steps 2 --evaluation_features pixels "
    "--num_evaluation_images 20"
)
RANGE = "uint16:0,16383"


def write(folder, highest, number=20):
    folder.mkdir(parents=True)
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    for index in range(number):
        Image.fromarray((ramp * highest * (index + 1) / number).astype(np.uint16)).save(folder / f"{index}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on 16-bit images, whose held-out split alone has a smaller range."""
    folder = tmp_path_factory.mktemp("trained")
    write(folder / "deep" / "train", 5000)
    write(folder / "deep" / "test", 4000)
    write(folder / "other", 3000)
    assert train([*words(folder), "--output_dir", str(folder / "run")]) == 0
    return folder


def words(folder):
    options = ["--train_data_dir", str(folder / "deep"), "--held_out_split", "test", "--cache_dir", str(folder / "c")]
    return [*TINY.split(), *options]


def record_of(run):
    return json.loads((run / files.CONFIG).read_text())


def estimates(run):
    *_, last = map(json.loads, (run / files.METRICS).read_text().splitlines())
    return last["critic_estimate"], last["critic_estimate_held_out"]


def difference(folder):
    """Return by how much the mean score of the held-out images is higher, with an explicit range for both splits."""
    explicit = {"train_data_dir": str(folder / "deep"), "resolution": 8, "value_range": "0,16383"}
    sets = [load_images(DataConfig(dataset_split=split, **explicit)).images for split in ("train", "test")]
    real, held_out = (WGANPipeline.from_pretrained(folder / "run").score(images).mean().item() for images in sets)
    return held_out - real


def test_a_run_measures_its_held_out_split_in_the_range_of_its_training(trained):
    real, held_out = estimates(trained / "run")
    assert held_out - real == pytest.approx(difference(trained), abs=1e-4)
    record = record_of(trained / "run")
    assert record["dataset"]["config"]["value_range"] == record["generator"]["value_range"] == RANGE


def test_a_run_repeated_from_its_record_or_resumed_has_its_range(trained, tmp_path):
    again = tmp_path / "again"
    assert train(["--config", str(trained / "run" / files.CONFIG), "--output_dir", str(again)]) == 0
    weights = [load_file(run / "generator" / "diffusion_pytorch_model.safetensors") for run in (trained / "run", again)]
    assert all((weights[0][name] == value).all() for name, value in weights[1].items())
    assert record_of(again)["dataset"] == record_of(trained / "run")["dataset"]
    assert estimates(again) == estimates(trained / "run")
    more = ["--output_dir", str(again), "--resume_from_checkpoint", "latest", "--max_train_steps", "3"]
    assert train([*words(trained), *more]) == 0
    explicit = ["--max_train_steps", "4", "--value_range", "0,16383"]
    assert train([*words(trained), *more, *explicit]) == 0, "the pixels are the same"


@pytest.mark.parametrize(("options", "expected"), [([], RANGE), (["--value_range", "0,3000"], "0,3000")])
def test_a_model_is_trained_further_in_its_range_unless_another_is_named(options, expected, trained, tmp_path):
    further = ["--pretrained_model_name_or_path", str(trained / "run"), "--train_data_dir", str(trained / "other")]
    tiny = ["--train_batch_size", "4", "--max_train_steps", "1"]
    assert train([*further, *tiny, *options, "--output_dir", str(tmp_path / "run")]) == 0
    record = record_of(tmp_path / "run")
    assert record["dataset"]["config"]["value_range"] == record["generator"]["value_range"] == expected


def measured(model, options, capsys):
    capsys.readouterr()
    assert evaluate([str(model), "--features", "pixels", "--num_images", "20", *options]) == 0
    return json.loads(capsys.readouterr().out)["metrics"]


def test_evaluation_of_a_run_its_checkpoint_or_its_copy_has_its_range(trained, tmp_path, capsys):
    cache = ["--cache_dir", str(trained / "c")]
    options = ["--held_out_split", "test", *cache]
    figures = measured(trained / "run", options, capsys)
    before, after = figures["critic_estimate"], figures["critic_estimate_held_out"]
    assert (before, after) == pytest.approx(estimates(trained / "run"), abs=1e-4)
    assert after - before == pytest.approx(difference(trained), abs=1e-4)
    named = ["--train_data_dir", str(trained / "deep"), *options]
    model = shutil.copytree(trained / "run", tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint*", "*.json"))
    for path in (trained / "run").glob("**/*.json"):  # as a model that is pushed, without its record
        if path.name in (files.INDEX, "config.json") and "checkpoint" not in str(path):
            shutil.copyfile(path, model / path.relative_to(trained / "run"))
    without = measured(model, named, capsys)
    assert without == {name: value for name, value in figures.items() if name in without}
    assert without["critic_estimate_held_out"] == figures["critic_estimate_held_out"]
    of_checkpoint = measured(files.checkpoints(trained / "run")[-1], named, capsys)
    estimate = of_checkpoint["critic_estimate_held_out"] - of_checkpoint["critic_estimate"]
    assert estimate == pytest.approx(difference(trained), abs=1e-4)


def test_other_images_are_read_in_the_range_of_the_model_unless_another_is_named(trained, tmp_path):
    run, earlier, file = trained / "run", tmp_path / "earlier", tmp_path / "run.pt2"
    shutil.copytree(run, earlier, ignore=shutil.ignore_patterns("checkpoint*"))
    config = json.loads((earlier / "generator" / "config.json").read_text())
    assert config.pop("value_range") == RANGE, "which models of an earlier version lack"
    (earlier / "generator" / "config.json").write_text(json.dumps(config))
    assert export([str(run), "--format", "torch", "--output", str(file)]) == 0

    def brightest(pipeline, **options):
        options = {"train_data_dir": str(trained / "other"), **options}
        return int(load_images(common.training_data_of("model", "", pipeline, options)).images.max())

    assert brightest(load_exported(file, trust_remote_code=True)) == round(3000 / 16383 * 255)
    assert brightest(WGANPipeline.from_pretrained(run)) == round(3000 / 16383 * 255)
    assert brightest(WGANPipeline.from_pretrained(run), value_range="0,3000") == 255
    assert brightest(WGANPipeline.from_pretrained(earlier)) == round(3000 / 4095 * 255)


def test_pictures_to_invert_have_the_range_of_the_model(trained, tmp_path):
    run, out = str(trained / "run"), ["--output_dir", str(tmp_path / "out")]
    assert generate([run, "--invert", str(trained / "other" / "19.png"), *out]) == 0
    target, _ = np.split(np.asarray(Image.open(tmp_path / "out" / "inverted.png")), 2, axis=1)
    assert target.max() == round(3000 / 16383 * 255)
