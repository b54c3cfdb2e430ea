"""A whole life of a run on a disk that becomes full at each of its writes in turn: nothing made before is lost."""

import builtins
import errno
import io
import json
import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hub_server import hub
from safetensors import SafetensorError

from hf_wgan.cli.evaluate import evaluate
from hf_wgan.cli.export import export
from hf_wgan.cli.generate import generate
from hf_wgan.cli.plot import plot
from hf_wgan.cli.publish import push
from hf_wgan.cli.train import train
from hf_wgan.hub.card import write_card
from hf_wgan.pipelines.demo import stored
from hf_wgan.training.checkpoint import damage
from hf_wgan.utils import files

FULL = os.strerror(errno.ENOSPC)
WORDS = "What I found out in three weeks."
SIZE = "--resolution 8 --max_train_samples 40 --generator_width 8 --critic_width 8 --latent_dim 4 --train_batch_size 8"
SHORT = (
    "--n_critic 1 --logging_steps 1 --validation_steps 1 --num_validation_images 4 --checkpointing_steps 1 --use_ema"
)
MEASURED = "--evaluation_steps 1 --evaluation_features pixels --num_evaluation_images 16 --checkpoints_total_limit 9"
TRAIN = [*SIZE.split(), *SHORT.split(), *MEASURED.split()]
CLOCK = {files.CARD, files.METRICS, files.CONFIG, files.EVALUATION}  # files that say how long something took


class Disk:
    """A disk for everything below a folder, which has room for a number of writes."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.room, self.writes = folder, None, 0
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", self._opening(builtins.open if module is builtins else io.open))
        monkeypatch.setattr(os, "mkdir", self._failing(os.mkdir, 0))
        monkeypatch.setattr(torch, "save", self._failing(torch.save, 1))
        for module in (safetensors.torch, safetensors.numpy):
            monkeypatch.setattr(module, "serialize_file", self._failing(module.serialize_file, 1, SafetensorError))

    @contextmanager
    def with_room_for(self, writes):
        self.room, self.writes = writes, 0
        try:
            yield
        finally:
            self.room = None

    def _is_full(self, path):
        if not isinstance(path, (str, os.PathLike)) or not Path(path).is_relative_to(self.folder):
            return False
        self.writes += 1
        return self.room is not None and self.writes > self.room

    def _opening(self, function):
        def opening(path, mode="r", *args, **options):
            file = function(path, mode, *args, **options)  # which empties a file or makes one even now
            if set(mode) & set("wax+") and self._is_full(path):
                file.close()
                raise OSError(errno.ENOSPC, FULL, str(path))
            return file

        return opening

    def _failing(self, function, place, kind=OSError):
        def failing(*args, **options):
            if self._is_full(args[place]):
                if place:
                    Path(args[place]).touch()
                if kind is SafetensorError:
                    raise SafetensorError(f"Error while serializing: I/O error: {FULL} (os error {errno.ENOSPC})")
                raise OSError(errno.ENOSPC, FULL, str(args[place]))
            return function(*args, **options)

        return failing


@pytest.fixture
def disk(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    return Disk(tmp_path / "disk", monkeypatch)


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A run of one step and what was made of it, with a person's words in the card."""
    folder = tmp_path_factory.mktemp("lived")
    run = str(folder / "run")
    assert train([*TRAIN, "--max_train_steps", "1", "--output_dir", run]) == 0
    assert evaluate([run, "--features", "pixels", "--num_images", "16"]) == 0
    with open(folder / "run" / files.CARD, "a") as card:
        card.write(f"\n{WORDS}\n")
    assert generate([run, "--num_images", "3", "--seed", "9", "--output_dir", str(folder / "images")]) == 0
    assert generate([run, *VIDEO, "--seed", "9", "--output_dir", str(folder / "video")]) == 0
    (folder / "model.pt2").write_bytes(b"an earlier file")
    (folder / "runs.png").write_bytes(b"an earlier picture")
    return folder


VIDEO = ["--video", "gif", "--num_images", "2", "--num_frames", "4"]
LIFE = {
    "a new run": lambda to: train([*TRAIN, "--max_train_steps", "1", "--overwrite_output_dir", *output(to / "new")]),
    "a resumed run": lambda to: train(
        [*TRAIN, "--max_train_steps", "2", "--resume_from_checkpoint", "latest", *output(to / "run")]
    ),
    "evaluate": lambda to: evaluate([str(to / "run"), "--features", "pixels", "--num_images", "16", "--seed", "1"]),
    "push": lambda to: push([str(to / "run"), "--hub_model_id", "me/model"]),
    "the card": lambda to: print_errors(lambda: write_card(to / "run")),
    "generate": lambda to: generate(
        [str(to / "run"), "--num_images", "3", "--scores", "--overwrite_output_dir", *output(to / "images")]
    ),
    "a video": lambda to: generate([str(to / "run"), *VIDEO, "--overwrite_output_dir", *output(to / "video")]),
    "export": lambda to: export([str(to / "run"), "--format", "torch", "--output", str(to / "model.pt2")]),
    "plot": lambda to: plot([str(to / "run"), "--output", str(to / "runs.png")]),
    "the demo": lambda to: print_errors(lambda: demo_file(to / "run" / "served")),
}
EVERY = {"a new run": 7}  # a resumed run has all of its writes
COSTS_A_LINE = {"a new run", "a resumed run", "push"}  # curves.png, or the card of a push that is done


def output(folder):
    return ["--output_dir", str(folder)]


def demo_file(cache):
    class Component:
        GRADIO_CACHE = str(cache)

    stored(Component, "walk.gif", b"a video")


def print_errors(function):
    """Returns the exit code of a command that does this."""
    from hf_wgan.cli.common import command

    return command(lambda words: function() or 0)([])


def content(folder):
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != files.LOCK]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def timeless(found):
    """What is the same to the byte in a repetition."""
    return {
        name: data
        for name, data in found.items()
        if Path(name).name not in CLOCK and not re.search("checkpoint-|served", name)
    }


@pytest.mark.parametrize("name", LIFE)
def test_a_disk_that_becomes_full_at_any_write_costs_nothing_that_was_there(name, disk, lived, tmp_path, capsys):
    live = LIFE[name]
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        folder = disk.folder / "home"

        def start():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(lived, folder)

        start()
        before = content(folder)
        disk.writes = 0
        assert live(folder) == 0
        writes, done = disk.writes, content(folder)
        assert writes
        capsys.readouterr()
        for room in range(0, writes, EVERY.get(name, 1)):
            start()
            with disk.with_room_for(room):
                code = live(folder)
            said = capsys.readouterr().err
            left = content(folder)
            where = f"write {room + 1} of {writes}: {said}"
            assert code == 1 or (code == 0 and name in COSTS_A_LINE), where
            assert code == 0 or [line for line in said.splitlines() if line.startswith("error: ")], where
            check(before, left, done, folder, where)
            if room % 6 == 0 or writes < 10:
                assert live(folder) == 0, f"{where}\n{capsys.readouterr().err}"
                again = content(folder)
                assert timeless(again) == timeless(done), where
                assert timeless(done).keys() <= again.keys(), where
                check(before, again, done, folder, where)


def check(before, left, done, folder, where):
    """Each file is whole: as it was before, or as it is when nothing fails."""
    for name, data in before.items():
        if name.startswith("run/best/") or name == "run/evaluation.json":
            continue  # removed or replaced with the weights that they are about
        assert name in left, f"{name} is gone after {where}"
        if name in timeless(left):
            assert left[name] in (data, done.get(name)), f"{name} is neither old nor new after {where}"
    assert WORDS.encode() in left["run/README.md"], where
    for name, data in left.items():
        if name.endswith(".json"):
            json.loads(data)
    assert left["run/metrics.jsonl"].count(b"\n") >= 1
    for run in (folder / "run", folder / "new"):
        for checkpoint in files.checkpoints(run):
            assert not damage(checkpoint), where
    best = {name: data for name, data in left.items() if name.startswith("run/best/")}
    assert timeless(best) in (
        {key: value for key, value in timeless(of).items() if key in best} for of in (before, done)
    )
    assert len(best) == len([name for name in before if name.startswith("run/best/")]), where
