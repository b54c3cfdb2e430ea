"""Spaces: what goes up, that it serves the model where this package is not installed, and what a person keeps."""

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys

import gradio
import pytest
import torch
from conftest import tiny_critic, tiny_generator
from gradio_client import Client
from hub_server import hub
from huggingface_hub import ModelCard, RepoCard, snapshot_download
from PIL import Image

import hf_wgan.pipelines.demo
from hf_wgan import InputError, WGANPipeline
from hf_wgan.cli.publish import push, space
from hf_wgan.hub.space import SpacePush, push_space


@pytest.fixture
def server(tmp_path):
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        yield server


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "wgan-tiny"
    WGANPipeline(tiny_generator(), tiny_critic()).save_pretrained(folder)
    return folder


@pytest.fixture
def model(server, folder):
    """On the Hub, with a card."""
    push([str(folder), "--hub_model_id", "me/tiny"])
    card = ModelCard.load("me/tiny")
    card.data.license = "apache-2.0"
    server.put("me/tiny", {**server.files("me/tiny"), "README.md": str(card).encode()})
    return "me/tiny"


def push_demo(*arguments):
    return space([str(each) for each in arguments])


def card_of(server, space):
    return RepoCard(server.files(space)["README.md"].decode())


def test_a_space_has_the_program_the_package_and_a_card(server, model, capsys):
    assert push_demo(model, "--hub_space_id", "me/play") == 0
    assert capsys.readouterr().out.endswith(f"Pushed to {server.endpoint}/spaces/me/play.\n")
    files = server.files("spaces/me/play")
    assert {name for name in files if "/" not in name} == {".gitattributes", "README.md", "app.py", "requirements.txt"}
    assert {name.split("/")[0] for name in files if "/" in name} == {"hf_wgan"}
    assert "hf_wgan/pipelines/demo.py" in files and not any("__pycache__" in name for name in files)
    requirements = dict(line.split("==") for line in files["requirements.txt"].decode().splitlines())
    assert requirements["torch"] == torch.__version__.partition("+")[0] and "hf_wgan" not in requirements
    assert len(server.commits("spaces/me/play")) == 2, "the one that made it, and ours"
    data = card_of(server, "spaces/me/play").data.to_dict()
    assert (data["sdk"], data["sdk_version"], data["app_file"]) == ("gradio", gradio.__version__, "app.py")
    assert data["models"] == ["me/tiny"] and data["license"] == "apache-2.0"


def test_by_default_a_space_is_called_as_its_model_is(server, model, folder):
    assert push_demo(model) == push_demo(folder) == 0
    assert {"spaces/me/tiny", "spaces/me/wgan-tiny"} <= set(server.repositories)


def test_a_space_serves_the_model_from_the_hub_where_the_package_is_not_installed(
    server, model, folder, python_without_the_package, tmp_path
):
    push_demo(model, "--hub_space_id", "me/play")
    snapshot_download("me/play", repo_type="space", local_dir=tmp_path / "space")
    environment = {
        **os.environ,
        **server.environment(),
        "HF_HOME": str(tmp_path / "home"),
        "GRADIO_TEMP_DIR": str(tmp_path / "files"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("PYTHONPATH", None)
    options = {"cwd": tmp_path / "space", "env": environment, "text": True}
    where = "import importlib.util; print(importlib.util.find_spec('hf_wgan').origin)"
    server.requests.clear()
    process = subprocess.Popen([python_without_the_package, "app.py"], stdout=subprocess.PIPE, **options)
    try:
        found = subprocess.check_output([python_without_the_package, "-c", where], **options)
        assert found.strip() == str(tmp_path / "space" / "hf_wgan" / "__init__.py")
        address = re.search(r"http://127\.0\.0\.1:\d+", next(line for line in process.stdout if "http" in line))[0]
        client = Client(address, verbose=False, download_files=str(tmp_path / "downloads"))
        (shown,), _ = client.predict(5, 1, 4, "all", api_name="/images")
        client.close()
    finally:
        process.kill()
        process.communicate()
    assert any("/me/tiny/resolve/" in request for request in server.requests)
    expected = WGANPipeline.from_pretrained(folder)(generator=torch.Generator().manual_seed(5)).images[0]
    assert Image.open(shown["image"]).tobytes() == expected.tobytes()


def test_the_pipeline_of_a_folder_goes_into_the_space(server, folder, tmp_path, monkeypatch):
    (folder / "notes.txt").write_text("private")
    assert push_demo(folder, "--hub_space_id", "me/play") == 0
    snapshot_download("me/play", repo_type="space", local_dir=tmp_path / "space")
    files = {name.removeprefix("model/") for name in server.files("spaces/me/play") if name.startswith("model/")}
    names = ("config.json", "diffusion_pytorch_model.safetensors")
    parts = [f"{part}/{name}" for part in ("generator", "critic") for name in names]
    assert files == {"model_index.json", *parts}
    assert "models" not in card_of(server, "spaces/me/play").data.to_dict()

    shown = []
    monkeypatch.setattr(hf_wgan.pipelines.demo, "page", lambda *given: given)
    monkeypatch.setattr(hf_wgan.pipelines.demo, "launch", shown.append)
    runpy.run_path(str(tmp_path / "space" / "app.py"))
    [(pipeline, name)] = shown
    assert name == "wgan-tiny"
    images = [
        each(4, generator=torch.Generator().manual_seed(0), output_type="pt").images
        for each in (pipeline, WGANPipeline.from_pretrained(folder))
    ]
    assert torch.equal(*images)


def test_another_push_replaces_the_program_and_keeps_what_a_person_wrote_into_the_card(server, model, folder):
    push_demo(folder, "--hub_space_id", "me/play")
    files = server.files("spaces/me/play")
    card = files["README.md"].decode().replace("👀", "🐱")  # as the Hub drew it
    card = re.sub("sdk_version: .*", "sdk_version: 4.0.0", card) + "\nMy words.\n"
    by_hand = {"README.md": card.encode(), "notes.md": b"mine", "app.py": b"changed", "hf_wgan/old.py": b"old"}
    server.put("spaces/me/play", {**files, **by_hand})
    assert push_demo(model, "--hub_space_id", "me/play") == 0
    after = server.files("spaces/me/play")
    assert after["notes.md"] == b"mine" and after["app.py"] != b"changed"
    assert "hf_wgan/old.py" not in after and not any(name.startswith("model/") for name in after)
    card = card_of(server, "spaces/me/play")
    assert "My words." in card.text and card.data.emoji == "🐱" and card.data.sdk_version == gradio.__version__
    assert "[me/tiny]" in card.text and card.data.models == ["me/tiny"]

    commits = server.commits("spaces/me/play")
    assert push_demo(model, "--hub_space_id", "me/play") == 0
    assert server.commits("spaces/me/play") == commits, "nothing has changed"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda server: server.fail("POST .*/commit/", 500), "500"),
        (lambda server: server.fail("POST .*/commit/", 412), "somebody else changed the repository meanwhile"),
        (lambda server: server.fail("POST .*/commit/", 401), "log in by `hf auth login`"),
        (lambda server: server.drop(pattern="POST .*/commit/"), ""),
    ],
)
def test_a_push_that_fails_changes_nothing_and_names_the_command_that_finishes_it(fault, says, server, model, capsys):
    push_demo(model, "--hub_space_id", "me/play", "--hub_private_repo")
    server.put("spaces/me/play", {"README.md": b"by hand"})
    fault(server)
    assert push_demo(model, "--hub_space_id", "me/play", "--hub_private_repo") == 2
    *_, error, command = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: The demo of {model} was not pushed to me/play: ") and says in error
    assert server.files("spaces/me/play") == {"README.md": b"by hand"}
    assert command == f"hf-wgan space {model} --hub_space_id me/play --hub_private_repo"
    assert push_demo(*shlex.split(command)[2:]) == 0
    assert "app.py" in server.files("spaces/me/play")


def test_a_private_model_needs_a_secret_and_it_is_said(server, model, capsys):
    server.put(model, server.files(model), private=True)
    assert push_demo(model, "--hub_space_id", "me/play", "--hub_private_repo") == 0
    assert f"{model} is private: in the Space's settings, add a token" in capsys.readouterr().out
    assert server.repositories["spaces/me/play"].private


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["me/nothing"], "is neither a pipeline folder nor a model that can be loaded from the Hub"),
        (["{folder}", "--hub_space_id", "not a name"], "hub_space_id='not a name': "),
        (["{empty}"], "holds no pipeline: there is no model_index.json in it"),
        (["{folder}", "--hub_token", "wrong"], "no valid token"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, says, server, folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert push_demo(*(each.format(folder=folder, empty=tmp_path / "empty") for each in arguments)) == 2
    assert says in next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert not server.repositories


def test_the_token_is_never_shown():
    push = SpacePush("me/tiny", "me/play", token="hf_secret")
    assert "hf_secret" not in repr(push) + push.command()
    with pytest.raises(InputError, match="hub_space_id"):
        SpacePush("me/tiny", "a/b/c")


def test_a_space_of_networks_of_ones_own_has_their_code(server, tmp_path, monkeypatch):
    source = "from hf_wgan import DCGANCritic\n\n\nclass MyCritic(DCGANCritic):\n    pass\n"
    (tmp_path / "author").mkdir()
    (tmp_path / "author" / "mycritics.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path / "author")
    critic = importlib.import_module("mycritics").MyCritic(8, 1, 8)
    WGANPipeline(tiny_generator(), critic).save_pretrained(tmp_path / "mine")
    assert push_demo(tmp_path / "mine", "--hub_space_id", "me/play") == 0
    files = server.files("spaces/me/play")
    assert b"import mycritics\n" in files["app.py"] and b"class MyCritic" in files["mycritics.py"]
    assert files["mycritics.py"] == (tmp_path / "mine" / "critic" / "mycritics.py").read_bytes()
    monkeypatch.delitem(sys.modules, "mycritics")
    snapshot_download("me/play", repo_type="space", local_dir=tmp_path / "space")
    monkeypatch.syspath_prepend(tmp_path / "space")
    shown = []
    monkeypatch.setattr(hf_wgan.pipelines.demo, "page", lambda *given: given)
    monkeypatch.setattr(hf_wgan.pipelines.demo, "launch", shown.append)
    runpy.run_path(str(tmp_path / "space" / "app.py"))
    assert type(shown[0][0].critic).__name__ == "MyCritic"
    monkeypatch.delitem(sys.modules, "mycritics")
    with pytest.raises(InputError, match=r"cannot have the code of mycritics.*--import mycritics"):
        push_space(SpacePush(str(tmp_path / "mine"), "me/other"))
    assert "spaces/me/other" not in server.repositories
