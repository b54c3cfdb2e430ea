"""The command lines as a person types them."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pictures, tiny_critic, tiny_generator
from hub_server import hub
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from hf_wgan import InputError, WGANPipeline
from hf_wgan.cli.evaluate import evaluate, evaluate_digits, train_classifier
from hf_wgan.cli.generate import generate
from hf_wgan.cli.plot import plot
from hf_wgan.cli.publish import push
from hf_wgan.cli.train import train as train_command
from hf_wgan.hub.publish import Push, push_folder
from hf_wgan.training.presets import PRESETS
from hf_wgan.utils.grids import image_grid

SCRIPTS = Path(__file__).parents[2] / "scripts"
TINY = "--generator_width 8 --critic_width 8 --resolution 8 --train_batch_size 8 --n_critic 1 --max_train_steps 4"
TINY += " --logging_steps 2 --num_validation_images 4"
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]


def run(command, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **options)


def train(arguments, output_dir):
    tiny, words = TINY.split(), arguments.split()
    named = {word.partition("=")[0] for word in words}
    tiny = [word for pair in zip(tiny[::2], tiny[1::2]) if pair[0] not in named for word in pair]
    return train_command([*tiny, *words, "--output_dir", str(output_dir)])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    WGANPipeline(tiny_generator(), tiny_critic()).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_every_script_explains_itself(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "\n\nhf-wgan " in said, "an example"
    assert "--help" in said


def test_training_through_accelerate_launch_leaves_a_pipeline(tmp_path):
    command = [*ACCELERATE, SCRIPTS / "train_wgan.py", *TINY.split(), "--output_dir", tmp_path / "run"]
    result = run(command)
    assert result.returncode == 0, result.stderr
    assert "4 of 4 steps (100%)" in result.stderr and "Wasserstein" in result.stderr and "images/s" in result.stderr
    assert "\r" not in result.stderr, "a log has nothing to go back over"
    assert len(WGANPipeline.from_pretrained(tmp_path / "run")(3).images) == 3


def test_two_processes_train_together_and_leave_one_set_of_files(tmp_path):
    # Accelerate's launcher starts one process for this; hf_wgan.cli.launch starts the other.
    launch = [*ACCELERATE, "--cpu", "--num_processes", "2", "--main_process_port", "29517"]
    result = run([*launch, SCRIPTS / "train_wgan.py", *TINY.split(), "--output_dir", tmp_path / "run"])
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert record["machine"]["num_processes"] == 2
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [
        2,
        4,
    ]
    assert result.stderr.count("Saved the pipeline") == 1
    assert "Warning" not in result.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name[0] != ".") == [
        "README.md",
        "checkpoint-000004",
        "critic",
        "curves.png",
        "generator",
        "hf_wgan_pipeline_wgan.py",
        "metrics.jsonl",
        "model_index.json",
        "samples",
        "training.webp",
        "training_config.json",
    ]
    assert len(WGANPipeline.from_pretrained(tmp_path / "run")(3).images) == 3


def test_two_processes_start_from_the_hub_and_push_to_it_once(tmp_path, model):
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        push_folder(Path(model), Push("me/older"))
        launch = ["--standalone", "--nproc_per_node", "2", SCRIPTS / "train_wgan.py"]
        options = "--pretrained_model_name_or_path me/older --train_batch_size 8 --max_train_steps 1 --n_critic 1"
        command = [sys.executable, "-m", "torch.distributed.run", *launch, *options.split()]
        command += ["--push_to_hub", "--hub_model_id", "me/newer", "--hub_token", "hf_me", "--license", "mit"]
        environment = {**server.environment(), "ACCELERATE_USE_CPU": "true"}
        result = run([*command, "--output_dir", tmp_path / "run"], env=environment)
        assert result.returncode == 0, result.stderr
        requests = server.requests[server.requests.index("POST /api/repos/create", 1) :]
        assert requests.count("POST /api/repos/create") == 2, "the main process's, at the start and at the end"
        assert len(server.commits("me/newer")) == 2
        record = json.loads(server.files("me/newer")["training_config.json"])
        card = ModelCard(server.files("me/newer")["README.md"].decode())
    assert record["machine"]["num_processes"] == 2
    assert record["command"].startswith("torchrun --standalone --nproc_per_node 2 ")
    assert "me/older" in record["command"] and "hf_me" not in record["command"]
    assert record["base_model"] == card.data.base_model == "me/older"
    assert card.data.license == "mit"


def fine_tune(model, arguments, output_dir):
    arguments = f"--train_batch_size 8 --n_critic 1 --max_train_steps 1 --num_validation_images 4 {arguments}"
    return train_command(
        ["--pretrained_model_name_or_path", model, *arguments.split(), "--output_dir", str(output_dir)]
    )


def test_fine_tuning_starts_from_the_published_networks(model, tmp_path):
    rates = "--generator_learning_rate 1e-30 --critic_learning_rate 1e-30 --clip_value 1000"
    assert fine_tune(model, rates, tmp_path / "run") == 0
    old, new = WGANPipeline.from_pretrained(model), WGANPipeline.from_pretrained(tmp_path / "run")
    for network in ("generator", "critic"):
        before, after = (getattr(each, network).parameters() for each in (old, new))
        assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(before, after))
    assert json.loads((tmp_path / "run" / "training_config.json").read_text())["dataset"]["config"]["resolution"] == 8


def test_a_published_generator_without_a_critic_gets_a_new_one(tmp_path, capsys):
    WGANPipeline(tiny_generator()).save_pretrained(tmp_path / "model")
    assert fine_tune(str(tmp_path / "model"), "--critic_width 4", tmp_path / "run") == 0
    assert "has no critic: a new one is trained" in capsys.readouterr().err
    assert WGANPipeline.from_pretrained(tmp_path / "run").critic.config.width == 4


@pytest.mark.parametrize("has_critic", [True, False])
@pytest.mark.parametrize("preset", ["", "--preset wgan-color", "--preset wgan-fast"])
def test_fine_tuning_is_repeated_from_its_record_and_its_dry_run(has_critic, preset, tmp_path, capsys):
    model = tmp_path / "model"
    WGANPipeline(tiny_generator(), tiny_critic() if has_critic else None).save_pretrained(model)
    own = "" if has_critic else "--critic_width 4"
    assert fine_tune(str(model), f"{preset} {own} --dry_run", tmp_path / "run") == 0
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    assert fine_tune(str(model), f"{preset} {own}", tmp_path / "run") == 0
    for number, config in enumerate((tmp_path / "run.yaml", tmp_path / "run" / "training_config.json")):
        again = tmp_path / f"again{number}"
        assert train_command(["--config", str(config), "--output_dir", str(again)]) == 0, capsys.readouterr().err
        files = [folder / "critic" / "diffusion_pytorch_model.safetensors" for folder in (tmp_path / "run", again)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_images_of_other_classes_than_the_published_networks_are_named(tmp_path, capsys):
    names = {"num_classes": 3, "class_names": ["cat", "dog", "cow"]}
    WGANPipeline(tiny_generator(**names), tiny_critic(num_classes=3)).save_pretrained(tmp_path / "model")
    assert fine_tune(str(tmp_path / "model"), "--class_conditional", tmp_path / "run") == 2
    assert "its classes (0, 1, 2, 3, 4, …) are none of the model's (cat, dog, cow)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--latent_dim 5 --critic_width 3", "critic_width, latent_dim: {model} has its networks already"),
        ("--resolution 16", "resolution=16: {model} generates images with 8"),
        ("--channels 3", "channels=3: {model} generates images with 1"),
        (
            "--revision elsewhere --pretrained_model_name_or_path nobody/nothing",
            "neither a pipeline folder nor a model",
        ),
    ],
)
def test_what_contradicts_the_published_networks_is_refused(arguments, message, model, tmp_path, capsys):
    assert fine_tune(model, arguments, tmp_path / "run") == 2
    assert message.format(model=model) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_pushing_says_where_to_and_a_mistake_is_one_line(model, tmp_path, capsys):
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        assert push([model, "--hub_model_id", "me/model", "--variant", "fp16"]) == 0
        assert capsys.readouterr().out == f"Pushed to {server.endpoint}/me/model.\n"
        assert push([model, "--hub_model_id", "me/model", "--hub_token", "wrong"]) == 2
        assert "no valid token" in capsys.readouterr().err
    assert push([str(tmp_path), "--hub_model_id", "me/model"]) == 2
    assert "holds no pipeline" in capsys.readouterr().err


@pytest.mark.parametrize("launcher", [[sys.executable], [*ACCELERATE, "--quiet"]], ids=["python", "accelerate"])
def test_ctrl_c_saves_what_there_is(launcher, tmp_path):
    command = [*launcher, SCRIPTS / "train_wgan.py", *TINY.split(), "--output_dir", tmp_path / "run"]
    command += ["--max_train_steps", "1000000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the launcher and the script alike
    said = process.communicate(timeout=200)[1]
    assert process.returncode != 0
    assert "--resume_from_checkpoint latest" in said
    assert len(WGANPipeline.from_pretrained(tmp_path / "run")(2).images) == 2


def test_a_process_without_input_and_outputs_trains(tmp_path):
    words = [sys.executable, SCRIPTS / "train_wgan.py", *TINY.split(), "--output_dir", tmp_path / "run"]
    assert run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words]).returncode == 0
    assert len(WGANPipeline.from_pretrained(tmp_path / "run")(2).images) == 2


def test_an_interrupted_run_ends_with_exit_code_130(tmp_path, monkeypatch):
    from hf_wgan.training import WGANTrainer

    def interrupted(self):
        self.interrupted = signal.SIGINT

    monkeypatch.setattr(WGANTrainer, "train", interrupted)
    assert train("", tmp_path / "run") == 130


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    result = run([sys.executable, SCRIPTS / "train_wgan.py", "--train_data_dir", tmp_path / "missing"])
    assert result.returncode == 2
    assert result.stderr == f"error: train_data_dir='{tmp_path / 'missing'}': there is no such folder\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--train_data_dir {empty}", "there are no image files in it"),
        ("--dataset_name {empty}", "cannot be loaded"),
        ("--resolution 20", "sample_size=20: a DCGAN makes square images of 8, 16, 32, 64, 128 or 256 pixels"),
        ("--train_batch_size 5000", "train_batch_size=5000: must be between 1 and the number of images, 1797"),
        ("--generator_learning_rate -1", "generator_learning_rate=-1.0: must be a finite number above 0"),
        ("--critic_learning_rate=-1e-4", "critic_learning_rate=-0.0001: must be a finite number above 0"),
        ("--clip 1", "unrecognized arguments: --clip 1"),
        ("--discriminator dcgan", "unrecognized arguments: --discriminator dcgan"),
        ("--mixed_precision fp8", "mixed_precision='fp8': must be one of no, fp16, bf16"),
        ("--n_critic 0", "n_critic=0: must be a whole number at least 1"),
        ("--resume_from_checkpoint checkpoint-000001", "there is no checkpoint there; name latest, or a path"),
        ("--config {empty}", "cannot be read (Is a directory); name a file in it, as a run's training_config.json"),
        ("--dataset_name https://huggingface.co/datasets/me/photos/tree/main", "is an address; name me/photos"),
        ("--dataset_name https://example.com/photos.zip", "is an address; download it, and name what is here"),
        ("--train_data_dir https://example.com/photos", "is an address; download it, and name what is here"),
        ("--pretrained_model_name_or_path https://huggingface.co/me/model", "is an address; name me/model"),
        ("--push_to_hub --hub_model_id https://huggingface.co/me/model/", "is an address; name me/model"),
    ],
)
def test_bad_input_to_training_is_one_clear_line(arguments, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert train(arguments.format(empty=tmp_path / "empty"), tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert message in error
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model_index.json").write_text("precious")
    assert train("", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "is not empty and holds no run" in error and "name another folder" in error
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model_index.json"]
    assert (tmp_path / "run" / "model_index.json").read_text() == "precious"


def test_a_folder_of_photos_trains_in_its_own_colours(tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(10):
        Image.new("RGB", (30, 20), (255, 25 * index, 0)).save(tmp_path / "photos" / f"{index}.jpg")
    assert train(f"--train_data_dir {tmp_path / 'photos'}", tmp_path / "run") == 0
    pipeline = WGANPipeline.from_pretrained(tmp_path / "run")
    assert pipeline(1).images[0].mode == "RGB"
    assert pipeline.generator.config.latent_dim == 100, "the digits' settings are for the digits alone"


def test_a_folder_can_be_streamed_flipped_and_cropped_at_random(tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(10):
        Image.new("RGB", (30, 20), (255, 25 * index, 0)).save(tmp_path / "photos" / f"{index}.jpg")
    source = f"--train_data_dir {tmp_path / 'photos'} --no-center_crop --random_flip"
    assert train(source, tmp_path / "cached") == 0
    assert train(f"{source} --streaming", tmp_path / "streamed") == 0
    for name in ("cached", "streamed"):
        record = json.loads((tmp_path / name / "training_config.json").read_text())
        assert record["dataset"]["config"]["random_flip"] is True
        assert WGANPipeline.from_pretrained(tmp_path / name)(1).images[0].mode == "RGB"


def test_a_bad_image_is_left_out_or_stops_the_run_with_exit_code_1(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for index in range(10):
        Image.new("RGB", (8, 8), (255, 25 * index, 0)).save(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "photos" / "5.png").write_bytes(b"")
    source = f"--train_data_dir {tmp_path / 'photos'}"
    assert train(f"{source} --on_bad_image error", tmp_path / "run") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "5.png: it is empty" in error
    assert not (tmp_path / "run").exists()
    assert train(source, tmp_path / "run") == 0
    assert capsys.readouterr().err.count("5.png") == 1


def test_mlp_networks_train_at_any_size(tmp_path):
    assert train("--architecture mlp --resolution 11", tmp_path / "run") == 0
    assert WGANPipeline.from_pretrained(tmp_path / "run")(1).images[0].size == (11, 11)


def test_generate_keeps_the_best_of_several_and_says_how_good(model, tmp_path):
    plain, best = tmp_path / "plain", tmp_path / "best"
    shared = ["--num_images", "5", "--scores", "--output_dir"]
    assert generate([model, *shared, str(plain)]) == 0
    assert generate([model, "--num_candidates", "4", *shared, str(best)]) == 0
    means = []
    for folder in (plain, best):
        header, *lines = (folder / "scores.csv").read_text().splitlines()
        names, scores = zip(*(line.split(",") for line in lines))
        assert header == "image,score" and set(names) == {f"{number:05d}.png" for number in range(5)}
        scores = [float(score) for score in scores]
        assert scores == sorted(scores, reverse=True)
        means.append(sum(scores))
    assert means[1] > means[0]


def test_generate_rejects_what_the_critic_does_not_accept(model, tmp_path):
    arguments = [model, "--num_images", "3", "--rejection_temperature", "0.5", "--seed"]
    assert generate([*arguments, "0", "--output_dir", str(tmp_path / "a")]) == 0
    assert generate([*arguments, "1", "--output_dir", str(tmp_path / "b")]) == 0
    one, other = (tmp_path / name for name in ("a/00002.png", "b/00001.png"))
    assert one.read_bytes() == other.read_bytes(), "image k comes from the seed plus k"


def test_generate_shows_the_nearest_training_images(tmp_path, capsys):
    assert train("--max_train_samples 40", tmp_path / "run") == 0
    arguments = ["--num_images", "4", "--num_neighbours", "3", "--output_dir"]
    assert generate([str(tmp_path / "run"), *arguments, str(tmp_path / "out")]) == 0
    assert "the nearest of 40 training images" in capsys.readouterr().out
    grid = Image.open(tmp_path / "out" / "neighbours.png")
    assert grid.width / grid.height == 4, "two rows of two images with three neighbours each"

    too_many = ["--num_images", "4", "--num_neighbours", "41", "--output_dir", str(tmp_path / "other")]
    assert generate([str(tmp_path / "run"), *too_many]) == 2
    output = capsys.readouterr()
    assert "num_neighbours=41: must be at most 40, the number of training images" in output.err
    assert "Saved" not in output.out and not (tmp_path / "other").exists(), "the corrected command can be run"

    (tmp_path / "run" / "training_config.json").unlink()
    assert generate([str(tmp_path / "run"), *arguments, str(tmp_path / "other")]) == 2
    assert "does not say what it was trained on; name the images" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_generate_makes_a_video(kind, model, tmp_path):
    arguments = [model, "--video", kind, "--num_images", "3", "--num_frames", "9", "--truncation", "1"]
    assert generate([*arguments, "--output_dir", str(tmp_path / "video")]) == 0
    video = Image.open(tmp_path / "video" / f"walk.{kind}")
    assert video.size == (256, 256) and 3 <= video.n_frames <= 9, "frames that look alike are joined"


def test_generate_makes_the_frames_of_a_video(model, tmp_path, capsys):
    arguments = [model, "--video", "frames", "--num_images", "2", "--num_frames", "5", "--output_dir", str(tmp_path)]
    assert generate(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number:05d}.png" for number in range(5)]
    assert "Saved 5 frames" in capsys.readouterr().out


@pytest.mark.parametrize("frequencies", [None, [5, 1, 3]])
@pytest.mark.parametrize("labels", [[], ["--class_labels", "2,0"]])
def test_a_video_passes_through_the_images_of_its_seeds(frequencies, labels, tmp_path):
    generator = tiny_generator(num_classes=3, class_frequencies=frequencies)
    WGANPipeline(generator, tiny_critic(num_classes=3)).save_pretrained(tmp_path / "model")
    for name, options in (("images", []), ("video", ["--video", "frames", "--num_frames", "4"])):
        arguments = [str(tmp_path / "model"), "--num_images", "4", "--seed", "7", "--output_dir", str(tmp_path / name)]
        assert generate([*arguments, *labels, *options]) == 0
    for number in range(4):
        image, frame = (
            np.asarray(Image.open(tmp_path / name / f"{number:05d}.png"), int) for name in ("images", "video")
        )
        assert np.abs(image - frame).max() <= 1


def test_a_video_without_an_encoder_says_what_to_install(model, tmp_path, capsys, monkeypatch):
    import diffusers.utils

    def missing(*args, **kwargs):
        raise ImportError("no encoder")

    monkeypatch.setattr(diffusers.utils, "export_to_video", missing)
    for known_before in (False, True):
        monkeypatch.setattr("hf_wgan.cli.generate.find_spec", lambda name, known=known_before: not known)
        folder = tmp_path / f"video-{known_before}"
        assert generate([model, "--video", "mp4", "--output_dir", str(folder)]) == 2
        assert "needs an encoder; pip install imageio imageio-ffmpeg" in capsys.readouterr().err
        assert folder.exists() != known_before, "frames are generated only where they may be written"


@pytest.mark.parametrize(
    "options, message",
    [
        (["--class_labels", "0,1,5", "--num_images", "2"], "class_labels='5': must be a number from 0 to 2"),
        (["--class_labels", "0,1,x", "--invert", "photo.png"], "class_labels='x': must be a number from 0 to 2"),
        (["--scores"], "scores=True: {model!r} has no critic"),
    ],
)
def test_what_is_known_to_fail_fails_before_an_image_is_generated(options, message, tmp_path, capsys, monkeypatch):
    model = str(tmp_path / "model")
    WGANPipeline(tiny_generator(num_classes=3), None).save_pretrained(model)

    def forbidden(*args, **kwargs):
        raise AssertionError("an image is generated")

    monkeypatch.setattr(WGANPipeline, "__call__", forbidden)
    assert generate([model, *options, "--output_dir", str(tmp_path / "out")]) == 2
    assert message.format(model=model) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("architecture", ["mlp", "resnet", "r3gan"])
def test_images_need_not_be_square(architecture, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(8):
        Image.new("RGB", (70, 40), (30 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    images = ["--train_data_dir", str(tmp_path / "photos"), "--resolution", "32", "--width", "64"]
    small = ["--generator_width", "8", "--critic_width", "8", "--train_batch_size", "4", "--num_validation_images", "2"]
    model = ["--architecture", architecture, "--output_dir", str(tmp_path / "model")]
    assert train_command([*images, *small, *model, "--max_train_steps", "1"]) == 0
    assert WGANPipeline.from_pretrained(tmp_path / "model")().images[0].size == (64, 32)
    again = ["--pretrained_model_name_or_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "again")]
    common = ["--train_batch_size", "4", "--num_validation_images", "2", "--max_train_steps", "1"]
    assert train_command([*images[:2], *common, *again]) == 0
    assert WGANPipeline.from_pretrained(tmp_path / "again")().images[0].size == (64, 32)
    assert train_command([*images[:2], "--width", "32", *common, *again, "--overwrite_output_dir"]) == 2


def test_generate_inverts_pictures(model, tmp_path, capsys):
    images = tmp_path / "images"
    generate([model, "--num_images", "3", "--output_dir", str(images)])
    (images / "grid.png").unlink()
    out = tmp_path / "inverted"
    assert generate([model, "--invert", str(images), "--output_dir", str(out)]) == 0
    assert "mean squared error" in capsys.readouterr().out
    assert load_file(out / "latents.safetensors")["latents"].shape == (3, 4)
    assert (out / "inverted.png").is_file()
    for wrong, says in (
        (out / "latents.safetensors", "no picture that can be read"),
        (tmp_path / "none", "no such file"),
    ):
        assert generate([model, "--invert", str(wrong), "--output_dir", str(tmp_path / "other")]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["--class_labels", "b,c,a"]])
def test_generate_inverts_pictures_within_their_classes(given, tmp_path):
    pipeline = WGANPipeline(tiny_generator(num_classes=3, class_names=["a", "b", "c"]))
    torch.nn.init.normal_(pipeline.generator.class_embedding.weight, std=100)
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    images = pipeline(3, torch.Generator().manual_seed(0), class_labels=["b", "c", "a"]).images
    for number, image in enumerate(images):
        image.save(tmp_path / "images" / f"{number}.png")
    arguments = ["--invert", str(tmp_path / "images"), "--output_dir", str(tmp_path / "inverted")]
    assert generate([str(tmp_path / "model"), *arguments, *given]) == 0
    assert load_file(tmp_path / "inverted" / "latents.safetensors")["class_labels"].tolist() == [1, 2, 0]


def test_generate_writes_images_and_a_grid(model, tmp_path):
    arguments = [model, "--num_images", "70", "--seed", "5", "--output_dir"]
    assert generate([*arguments, str(tmp_path / "images")]) == 0
    files = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert files == [*(f"{number:05d}.png" for number in range(70)), "grid.png"]
    assert Image.open(tmp_path / "images" / "grid.png").size == (512, 512)

    later = [model, "--num_images", "2", "--seed", "7", "--output_dir", str(tmp_path / "later")]
    assert generate(later) == 0
    one, other = (tmp_path / name for name in ("images/00003.png", "later/00001.png"))
    assert one.read_bytes() == other.read_bytes(), "image k comes from the seed plus k"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{missing}"], "is neither a pipeline folder nor a model that can be loaded from the Hub"),
        (["{empty}"], "holds no pipeline: there is no model_index.json in it"),
        (["{model}", "--num_images", "0"], "num_images=0"),
        (["{model}", "--video", "gif", "--num_frames", "1"], "num_frames=1: must be a whole number at least 2"),
        (["{model}", "--num_neighbours", "-1"], "num_neighbours=-1: must be a whole number at least 0"),
        (
            ["{model}", "--video", "gif", "--num_candidates", "2"],
            "num_candidates=2: has no effect with video; leave one of them out",
        ),
        (["{model}", "--invert", "x.png", "--scores"], "scores=True: has no effect with invert; leave one of them out"),
        (["{model}", "--invert", "{photo}", "--num_images", "3"], "num_images=3: has no effect with invert="),
        (["{model}", "--truncation", "0"], "truncation=0.0: must be a finite number above 0"),
        (["{model}", "--revision", "v1"], "revision='v1': has no effect with"),
        (["{model}", "--trust_remote_code"], "trust_remote_code=True: has no effect with a pipeline"),
        (["{model}", "--device", "cpu"], "ACCELERATE_USE_CPU=true keeps to the CPU"),
        (["{model}", "--samples", "3"], "samples is called num_images here"),
        (["{model}", "--seeds", "0-35"], "--seed 0 --num_images 36 makes those of the seeds 0 to 35"),
        (["--model", "{model}"], "unrecognized arguments: --model: model is no option; leave --model out"),
        (["{model}", "model"], "unrecognized arguments: model: put a name with spaces in quotes"),
        (["{model}", "--output_dir", "{full}"], "is not an empty folder"),
        ([], "the following arguments are required: model"),
    ],
)
def test_bad_input_to_generate_is_one_clear_line(arguments, message, model, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("missing", "empty", "full")}
    places["empty"].mkdir()
    places["full"].mkdir()
    (places["full"] / "photo.png").write_text("mine")
    places["photo"] = tmp_path / "photo.png"
    pictures(1)[0].save(places["photo"])
    arguments = [argument.format(model=model, **places) for argument in arguments]
    if "--output_dir" not in arguments:
        arguments += ["--output_dir", str(tmp_path / "out")]
    assert generate(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out").exists()
    assert (places["full"] / "photo.png").read_text() == "mine"


def test_evaluate_digits_prints_json(tmp_path, capsys):
    WGANPipeline(tiny_generator()).save_pretrained(tmp_path)
    assert evaluate_digits([str(tmp_path), "--num_images", "50"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_images"], report["seed"]) == (50, 0)
    assert report["read"] < 0.6, "untrained networks make no digits"


def test_evaluate_prints_every_figure_and_brings_the_card_up_to_date(tmp_path, capsys, short_training):
    assert train("", tmp_path / "run") == 0
    for features in ("pixels", "classifier", "pixels"):
        arguments = [str(tmp_path / "run"), "--num_images", "60", "--features", features]
        assert evaluate(arguments) == 0
        report = json.loads(capsys.readouterr().out)
        assert {"frechet_distance", "coverage", "copied_share", "critic_estimate"} <= set(report["metrics"])
        assert report["settings"]["num_images"] == 60
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [row["settings"]["features"][:6] for row in rows if row["metric_type"] == "recall"] == ["classi", "pixels"]
    results = (tmp_path / "run" / "README.md").read_text().partition("## Results")[2]
    assert results.count("| metric | value | real images in the samples' place |") == 2, "a table for each"
    assert results.count("| Fréchet distance |") == 2
    assert "features: pixels" in results and "compared with: training images of scikit-learn digits" in results


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "does not say what it was trained on; name the images with --dataset_name or --train_data_dir"),
        ("--num_images 3", "num_images=3: must be a whole number at least 16"),
        ("--train_data_dir nowhere", "nowhere"),
    ],
)
def test_bad_input_to_evaluate_is_one_clear_line(arguments, message, model, capsys):
    assert evaluate([model, *arguments.split()]) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and message in said


def test_figures_of_a_variant_are_shown_and_not_recorded(tmp_path, capsys):
    run = tmp_path / "run"
    assert train("--use_ema", run) == 0
    measured = [str(run), "--num_images", "16", "--features", "pixels"]
    for command, words in ((evaluate, measured), (evaluate_digits, [str(run), "--num_images", "20"])):
        assert command([*words, "--variant", "raw"]) == 0
        assert not (run / "evaluation.json").exists()
        assert command([*words, "--revision", "main"]) == 2
        assert "revision='main': has no effect with" in capsys.readouterr().err


def test_a_classifier_is_not_trained_into_other_files(model, capsys):
    assert train_classifier(["--output_dir", str(model), "--resolution", "16"]) == 2
    assert "is not an empty folder; name another\n" in capsys.readouterr().err


def test_a_picture_of_curves_makes_its_folder(tmp_path):
    assert train("", tmp_path / "run") == 0
    assert plot([str(tmp_path / "run"), "--output", str(tmp_path / "new" / "runs.png")]) == 0
    assert (tmp_path / "new" / "runs.png").is_file()


def test_a_classifier_is_trained_by_a_command_and_used_by_its_folder(tmp_path, capsys, short_training):
    digits = ["--resolution", "8", "--max_train_samples", "200"]
    folder = str(tmp_path / "classifier")
    assert train_classifier([*digits, "--output_dir", folder]) == 0
    assert f"for --features classifier:{folder}" in capsys.readouterr().out
    assert train("--max_train_samples 200", tmp_path / "run") == 0
    arguments = [str(tmp_path / "run"), "--num_images", "50", "--features", f"classifier:{folder}"]
    assert evaluate(arguments) == 0
    assert "classifier of 10 classes" in json.loads(capsys.readouterr().out)["settings"]["features"]


def train_preset(name, arguments, output_dir):
    small = f"--preset {name} --resolution 32 --generator_width 8 --critic_width 8 --train_batch_size 4"
    small += f" --max_train_steps 1 --num_validation_images 4 --logging_steps 1 {arguments}"
    return train_command([*small.split(), "--output_dir", str(output_dir)])


def test_the_settings_of_a_preset_are_recorded_and_the_card_names_it(tmp_path):
    assert train_preset("sngan", "", tmp_path / "run") == 0
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    settings = {**record["training"], **record["networks"]}
    expected = PRESETS["sngan"] | {"generator_width": 8, "critic_width": 8, "train_batch_size": 4}
    assert {option: settings[option] for option in expected} == expected
    assert (record["critic"]["pooling"], record["critic"]["norm_type"]) == ("sum", "none")
    assert "| preset | sngan |" in (tmp_path / "run" / "README.md").read_text()


def test_options_that_are_given_go_before_those_of_the_preset(tmp_path):
    assert (
        train_preset("wgan-gp", "--n_critic 2 --critic_learning_rate 3e-4 --architecture dcgan", tmp_path / "run") == 0
    )
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert (record["training"]["n_critic"], record["training"]["critic_learning_rate"]) == (2, 3e-4)
    assert record["training"]["gradient_penalty_weight"] == 10 and record["critic"]["class"] == "DCGANCritic"


def test_a_presets_normalisation_goes_with_networks_that_have_some(tmp_path):
    assert train_preset("wgan-gp", "--architecture r3gan", tmp_path / "run") == 0
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert record["critic"]["class"] == "R3GANCritic" and record["training"]["lipschitz"] == "gp"


def test_a_conditional_run_takes_its_classes_from_the_labels(tmp_path):
    assert train("--class_conditional", tmp_path / "run") == 0
    pipeline = WGANPipeline.from_pretrained(tmp_path / "run")
    assert pipeline.generator.config.num_classes == pipeline.critic.config.num_classes == 10
    assert len(pipeline(3, class_labels=7).images) == 3


def test_a_run_with_clusters_is_repeated_evaluated_and_fine_tuned(tmp_path):
    assert train("--num_clusters 5 --max_train_samples 20", tmp_path / "run") == 0
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    frequencies = record["generator"]["class_frequencies"]
    assert sum(frequencies) == 20 and len(frequencies) == record["critic"]["num_classes"] == 3
    assert (tmp_path / "run" / "samples" / "real.png").exists()
    pipeline = WGANPipeline.from_pretrained(tmp_path / "run")
    assert list(pipeline.generator.config.class_frequencies) == frequencies
    card = (tmp_path / "run" / "README.md").read_text()
    assert "num_classes 3" in card and "class_frequencies" not in card

    again = ["--config", str(tmp_path / "run" / "training_config.json"), "--output_dir", str(tmp_path / "again")]
    assert train_command(again) == 0
    files = [tmp_path / name / "generator" / "diffusion_pytorch_model.safetensors" for name in ("run", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()

    source = f"--pretrained_model_name_or_path {tmp_path / 'run'} --max_train_samples 12"
    tuning = f"{source} --max_train_steps 4 --train_batch_size 8 --output_dir {tmp_path / 'tuned'}"
    assert train_command(tuning.split()) == 0
    tuned = WGANPipeline.from_pretrained(tmp_path / "tuned").generator.config
    assert sum(tuned.class_frequencies) == 12
    assert len(tuned.class_frequencies) == tuned.num_classes == 3, "of which one is empty"
    again = [
        "--config",
        str(tmp_path / "tuned" / "training_config.json"),
        "--output_dir",
        str(tmp_path / "again tuned"),
    ]
    assert train_command(again) == 0


@pytest.mark.parametrize(
    "has_critic, arguments, message",
    [
        (True, "--class_conditional", "class_conditional=True: {model} was trained on clusters"),
        (False, "--class_conditional", "class_conditional=True: {model} was trained on clusters"),
        (True, "--dataset_name me/images --streaming", "streaming=True: {model} was trained on clusters"),
        (False, "--num_clusters 2", "num_clusters: {model} has its networks already"),
    ],
)
def test_what_a_model_of_clusters_cannot_be_trained_on_is_refused(has_critic, arguments, message, tmp_path, capsys):
    model, critic = str(tmp_path / "model"), tiny_critic(num_classes=3) if has_critic else None
    WGANPipeline(tiny_generator(num_classes=3, class_frequencies=[1, 2, 3]), critic).save_pretrained(model)
    assert fine_tune(model, arguments, tmp_path / "run") == 2
    assert message.format(model=model) in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_model_that_is_trained_further_keeps_its_classes(model, tmp_path):
    source = f"--pretrained_model_name_or_path {model} --preset wgan-color --max_train_steps 4 --train_batch_size 8"
    assert train_command([*source.split(), "--output_dir", str(tmp_path / "tuned")]) == 0
    assert not WGANPipeline.from_pretrained(tmp_path / "tuned").generator.config.num_classes


def test_a_stream_has_no_clusters(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    source = f"--train_data_dir {tmp_path / 'photos'} --streaming"
    assert train(f"{source} --preset wgan-color", tmp_path / "run") == 0
    assert not WGANPipeline.from_pretrained(tmp_path / "run").generator.config.num_classes
    assert train(f"{source} --num_clusters 2", tmp_path / "other") == 2
    assert "num_clusters=2: clusters are of the whole set, and this is a stream" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--lipschitz gp --resolution 16", "GradientPenalty with batch normalisation in the critic"),
        ("--preset wgan2", "preset='wgan2': must be one of wgan, wgan-gp"),
        ("--augmentation flip", "augmentation='flip'"),
        ("--lr_warmup_steps 5", "use one of constant_with_warmup"),
        ("--architecture r3gan --num_extra_layers 1", "num_extra_layers"),
    ],
)
def test_what_theory_or_architecture_forbids_is_one_line(arguments, message, tmp_path, capsys):
    assert train(arguments, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_figures_of_a_run_go_into_its_card_and_leave_it_when_its_weights_change(tmp_path):
    assert train("", tmp_path / "run") == 0
    for number in (40, 50):
        assert evaluate_digits([str(tmp_path / "run"), "--num_images", str(number)]) == 0
    results = {
        each.metric_type: each.metric_value for each in ModelCard.load(tmp_path / "run" / "README.md").data.eval_results
    }
    assert set(results) == {"digits_read", "rarest_digit", "class_agreement", "wasserstein_estimate"}
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [row["settings"]["samples"] for row in rows] == [50, 50, 50], "the newer ones"
    assert train("--resume_from_checkpoint latest --max_train_steps 6", tmp_path / "run") == 0
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert "digits_read" not in (tmp_path / "run" / "README.md").read_text()


def test_a_grid_enlarges_small_images_by_whole_factors():
    images = [Image.new("L", (10, 10), value) for value in range(5)]
    grid = image_grid(images, columns=3)
    assert grid.size == (3 * 170, 2 * 170)
    assert [grid.getpixel((170 * column + 85, 85)) for column in range(3)] == [0, 1, 2]
    assert image_grid([Image.new("RGB", (64, 64))] * 64).size == (512, 512)


def test_class_labels_are_names_before_they_are_numbers():
    from hf_wgan.cli.generate import split_labels

    pipeline = WGANPipeline(tiny_generator(num_classes=3, class_names=["cat, domestic", " dog ", "7"]))
    assert split_labels("cat, domestic", pipeline) == ["cat, domestic"]
    assert split_labels("7, dog ,1", pipeline) == ["7", " dog ", "1"]
    assert split_labels(None, pipeline) is None
    assert split_labels(" dog ,, 1 ,", pipeline) == [" dog ", "1"]
    with pytest.raises(InputError, match="class_labels=' ,': holds no class; name one"):
        split_labels(" ,", pipeline)
    assert pipeline.class_numbers(split_labels("7, dog ,0", pipeline), 3) == [2, 1, 0]
