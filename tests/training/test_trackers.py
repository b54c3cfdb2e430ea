"""Each tracker's files are read back by its own API."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_critic, tiny_generator, tiny_images

from hf_wgan import InputError, WGANTrainer
from hf_wgan.training.trackers import Trackers, tracker_names

SCALARS = {"critic_loss", "generator_loss", "wasserstein_estimate", "images_per_second"}


def train(config):
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config).train()


def test_tensorboard(tiny_config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_config(report_to="tensorboard"))
    folders = {path.parent for path in (tmp_path / "run" / "logs").rglob("events.out.tfevents.*")}
    found = [EventAccumulator(str(folder)).Reload() for folder in folders]
    (events,) = [each for each in found if "critic_loss" in each.Tags()["scalars"]]
    assert set(events.Tags()["scalars"]) >= SCALARS
    assert [event.step for event in events.Scalars("critic_loss")] == [1, 2, 3, 4]
    pictures = events.Images("samples")
    assert [(picture.step, picture.width > 0) for picture in pictures] == [(step, True) for step in (0, 1, 2, 4)]
    (hyperparameters,) = (tmp_path / "run" / "logs").rglob("hparams.yml")
    assert "n_critic: 2" in hyperparameters.read_text()
    assert "hub_token" not in hyperparameters.read_text()


def test_trackio(tiny_config, tmp_path):
    """In a process of its own, as the library decides when it is imported where it keeps its files."""
    code = f"""
from conftest import tiny_critic, tiny_generator, tiny_images
from hf_wgan import TrainingConfig, WGANTrainer
config = TrainingConfig(output_dir={str(tmp_path / "run")!r}, max_train_steps=4, train_batch_size=8, logging_steps=1,
    n_critic=2, validation_steps=2, num_validation_images=4, report_to="trackio")
WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config).train()
import trackio
(run,) = trackio.Api().runs("hf_wgan")
assert run.name == "run", run
assert run.config["n_critic"] == 2 and "hub_token" not in run.config, run.config
logs = trackio.SQLiteStorage.get_logs("hf_wgan", "run")
steps = [row["step"] for row in logs if "critic_loss" in row]
assert steps == [1, 2, 3, 4], logs
assert {SCALARS!r} <= set(next(row for row in logs if "critic_loss" in row)), logs
pictures = [(row["step"], row["samples"]) for row in logs if "samples" in row]
assert [step for step, _ in pictures] == [0, 1, 2, 4], pictures
from pathlib import Path
assert all((Path(trackio.TRACKIO_DIR) / "media" / picture["file_path"]).is_file() for _, picture in pictures), pictures
print("read back")
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": str(Path(__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "read back" in result.stdout, result.stderr


def test_names():
    assert tracker_names("none") == []
    assert tracker_names("tensorboard, trackio,tensorboard") == ["tensorboard", "trackio"]
    assert tracker_names("tensorboard,") == ["tensorboard"] and tracker_names(",none") == []
    assert {"tensorboard", "trackio"} <= set(tracker_names("all"))
    with pytest.raises(InputError, match="report_to=' ,': holds no name; name one, or several separated by commas"):
        tracker_names(" ,")
    with pytest.raises(InputError, match="report_to='sketchpad': must be all, none, or some of"):
        tracker_names("sketchpad")
    with pytest.raises(InputError, match="report_to='tensorboard,aim': aim is not installed; pip install aim"):
        tracker_names("tensorboard,aim")


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tiny_config, tmp_path, monkeypatch, capfd):
    from accelerate.tracking import TensorBoardTracker

    def full(self, values, step):
        raise OSError("no space left")

    monkeypatch.setattr(TensorBoardTracker, "log", full)
    train(tiny_config(report_to="tensorboard"))
    assert capfd.readouterr().err.count("tensorboard failed (no space left) and is dropped; training continues.") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


def test_one_that_cannot_be_started_is_named(monkeypatch):
    class Broken:
        log_with = ("wandb",)

        def init_trackers(self, *args):
            raise ValueError("no API key")

    with pytest.raises(InputError, match=r"report_to: wandb cannot be started \(no API key\)"):
        Trackers(Broken(), "run", {})
