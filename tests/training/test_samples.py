import os
import signal

import numpy as np
import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from PIL import Image

from hf_wgan import ImageSet, TrainerCallback, WGANTrainer
from hf_wgan.data import DataConfig, RealBatches
from hf_wgan.training import report, samples
from hf_wgan.training.samples import first_real_images, sample_images, save_grids_as_video
from hf_wgan.utils import files
from hf_wgan.utils.grids import image_grid


def trainer(config, **options):
    return WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config, **options)


class Until(TrainerCallback):
    """Ends the run after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def test_grids_come_at_0_and_at_steps_that_double_up_to_the_interval(tiny_config, tmp_path):
    seldom = {"logging_steps": 100, "checkpointing_steps": 100, "n_critic": 1}
    trainer(tiny_config(max_train_steps=14, validation_steps=6, **seldom)).train()
    steps = [int(path.stem[5:]) for path in files.sample_grids(tmp_path / "run")]
    assert steps == [0, 1, 2, 4, 6, 12, 14]


def test_early_grids_do_without_most_of_the_batches_that_measure_statistics(tiny_config, tmp_path):
    run, numbers = trainer(tiny_config(max_train_steps=5, validation_steps=5)), []
    pipeline = run.pipeline
    run.pipeline = lambda *args, **kwargs: numbers.append(kwargs.get("num_batches", 50)) or pipeline(*args, **kwargs)
    run.train()
    assert numbers == [1, 1, 1, 1, 50, 50], "steps 0, 1, 2 and 4; step 5 and the saved pipeline"


def test_a_run_that_is_interrupted_at_once_has_samples(tiny_config, tmp_path):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    run = trainer(tiny_config(validation_steps=1000, max_train_steps=9), callbacks=[Interrupt])
    run.train()
    assert run.interrupted == signal.SIGTERM
    assert [int(path.stem[5:]) for path in files.sample_grids(tmp_path / "run")] == [0, 1, 2, 3]
    assert (tmp_path / "run" / files.VIDEO).is_file()


def test_real_images_are_those_of_the_first_batches_as_the_networks_see_them():
    dataset = tiny_images(channels=3)
    dataset.config = DataConfig(random_flip=True)
    batches = RealBatches(dataset, 8, seed=3)
    next(batches)
    pictures = first_real_images(batches, 12)
    assert len(pictures) == 12 and pictures[0].mode == "RGB" and batches.position == 1
    expected = torch.cat([batches.batch(0).images, batches.batch(1).images[:4]])
    found = torch.from_numpy(np.stack([np.array(picture) for picture in pictures])).permute(0, 3, 1, 2)
    assert torch.allclose(found / 127.5 - 1, expected, atol=1e-5)
    assert len(first_real_images(batches, 1000)) == 24, "not more than there are"


def test_the_grid_of_real_images_is_written_with_the_first_samples(tiny_config, tmp_path):
    run = trainer(tiny_config(max_train_steps=1))
    run.train()
    expected = image_grid(first_real_images(run.real_batches, 4))
    assert np.array_equal(Image.open(tmp_path / "run" / "samples" / "real.png"), expected)
    files_of_the_run = [path.name for path in files.sample_grids(tmp_path / "run")]
    assert "real.png" not in files_of_the_run, "it is no sample"


def test_a_video_shows_the_grids_in_order_and_of_many_some(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "MAX_FRAMES", 5)
    (tmp_path / "samples").mkdir()
    for step in range(9):
        Image.new("L", (32, 32), 25 * step).save(files.sample_grid(tmp_path, step))
    Image.new("L", (16, 16)).save(files.sample_grid(tmp_path, 4))  # of another run's size
    save_grids_as_video(tmp_path)
    with Image.open(tmp_path / files.VIDEO) as video:
        greys = []
        for frame in range(video.n_frames):
            video.seek(frame)
            greys.append(video.convert("L").getpixel((5, 5)))
    assert np.allclose(greys, [0, 50, 150, 200], atol=4)


def test_a_video_that_cannot_be_written_costs_nothing_else(tmp_path, capsys):
    (tmp_path / "samples").mkdir()
    for step in range(2):
        files.sample_grid(tmp_path, step).write_bytes(b"no picture")
    save_grids_as_video(tmp_path)
    assert "training.webp was not written" in capsys.readouterr().err


@pytest.mark.parametrize("steps, lines", [(1003, ["About 50.0 minutes to go."]), (4, [])])
def test_the_time_to_the_end_is_estimated_once_without_the_first_step_and_the_samples(
    steps, lines, tiny_config, monkeypatch, capsys
):
    """Unless the run is about to end."""
    clock = [100.0]
    monkeypatch.setattr(report, "time", type("Clock", (), {"monotonic": lambda: clock[0]}))
    run = trainer(tiny_config(max_train_steps=steps, logging_steps=100), callbacks=[Until(5)])

    def takes(seconds, function):
        def later(*arguments):
            clock[0] += seconds(clock[0])
            return function(*arguments)

        return later

    monkeypatch.setattr(run, "step", takes(lambda now: 3 if now > 100 else 60, run.step))
    monkeypatch.setattr("hf_wgan.training.trainer.sample_images", takes(lambda now: 100, sample_images))
    run.train()
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("About")] == lines  # 3 seconds each of a thousand steps


@pytest.mark.parametrize("logging_steps, saved", [(2, "pipeline, samples and curves"), (3, "pipeline and samples")])
def test_the_last_line_names_curves_only_where_there_are_some(logging_steps, saved, tiny_config, capsys):
    """A run that is stopped before its first report has none."""
    run = trainer(tiny_config(logging_steps=logging_steps), callbacks=[Until(2)])
    run.train()
    assert (run.output_dir / files.CURVES).is_file() == ("curves" in saved)
    assert capsys.readouterr().err.splitlines()[-1] == f"Saved the {saved} in {run.output_dir}."


def test_images_of_a_set_of_one_channel_are_grey():
    images = ImageSet(torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16))
    (picture,) = first_real_images(RealBatches(images, 1, seed=0), 4)
    assert picture.mode == "L" and np.array_equal(picture, np.arange(256).reshape(16, 16))
