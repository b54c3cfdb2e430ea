"""The example of own networks: trained, pushed to a Hub, and loaded in a new process."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import torch
from hub_server import hub

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = "max_train_steps=3000, evaluation_steps=200"
FEW_STEPS = "max_train_steps=6, evaluation_steps=2, logging_steps=2, train_batch_size=8, num_evaluation_images=60"
LOAD = """
import sys, torch
import attention  # the file that the model carries
from hf_wgan import WGANPipeline
pipeline = WGANPipeline.from_pretrained("me/wgan-attention")
images = pipeline(4, generator=torch.Generator().manual_seed(0), output_type="pt").images
torch.save((images, pipeline.score(images), pipeline.generator.config.latent_prior), sys.argv[1])
"""


def test_it_is_short():
    files = [EXAMPLES / name for name in ("own_networks.py", "attention.py")]
    own_networks, attention = [len(file.read_text().splitlines()) for file in files]
    assert own_networks < 60 and attention < 30


def at_once(monkeypatch, tmp_path, *words):
    """Write the script with few steps to the current folder, to be run with these words."""
    source = (EXAMPLES / "own_networks.py").read_text()
    assert STEPS in source
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text(source.replace(STEPS, FEW_STEPS).replace("0.9 * self.last", "0.0 * self.last"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", ["own_networks.py", *words])


def test_without_a_repository_it_only_trains(tmp_path, monkeypatch, capsys):
    at_once(monkeypatch, tmp_path)
    runpy.run_path("script.py", run_name="__main__")
    assert (tmp_path / "wgan-attention" / "model_index.json").is_file()
    assert "Pushed" not in capsys.readouterr().out


def test_it_trains_stops_early_and_a_new_process_loads_the_same_model(tmp_path, monkeypatch, capsys):
    at_once(monkeypatch, tmp_path, "me/wgan-attention")
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        names = runpy.run_path("script.py", run_name="__main__")
        said = capsys.readouterr().out
        assert "Step 4: the Fréchet distance hardly falls any more" in said
        assert f"Pushed to {server.endpoint}/me/wgan-attention" in said
        assert names["trainer"].state.global_step == 4
        images = names["pipeline"](4, generator=torch.Generator().manual_seed(0), output_type="pt").images

        stranger = tmp_path / "stranger"
        stranger.mkdir()
        (stranger / "attention.py").write_bytes(server.files("me/wgan-attention")["critic/attention.py"])
        environment = {**os.environ, **server.environment("hf_me"), "HF_HOME": str(tmp_path / "home")}
        environment["PYTHONPATH"] = os.pathsep.join([str(stranger), environment.get("PYTHONPATH", "")])
        subprocess.run([sys.executable, "-c", LOAD, "loaded.pt"], env=environment, check=True)
    loaded_images, scores, prior = torch.load("loaded.pt")
    assert prior == "uniform"
    assert torch.equal(loaded_images, images) and torch.equal(scores, names["pipeline"].score(images))
