"""Symbolic links in a model's folder are never written through, and never read for a push where they lead outside."""

import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from conftest import tiny_critic, tiny_generator, tiny_images
from hub_server import hub

from hf_wgan import InputError, WGANPipeline, WGANTrainer
from hf_wgan.hub.card import record_evaluation, write_card
from hf_wgan.hub.publish import BackgroundPushes, Push, push_folder
from hf_wgan.hub.space import SpacePush, push_space
from hf_wgan.training.run_folder import write_pipeline

KEY = "-----BEGIN PRIVATE KEY-----"
FIGURE = {"metric_type": "fid", "metric_name": "Fréchet distance", "metric_value": 1, "settings": {"features": "x"}}


@pytest.fixture
def run(tiny_config, tmp_path):
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config()).train()
    return tmp_path / "run"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "outside" / "id_rsa"
    path.parent.mkdir()
    path.write_text(KEY)
    return path


@pytest.fixture
def server(tmp_path):
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        yield server


def link(path, target):
    path.unlink(missing_ok=True)
    os.symlink(target, path)


def holds_key(server):
    return [name for repo in server.repositories for name, data in server.files(repo).items() if KEY.encode() in data]


LINKED = (
    *("README.md", "evaluation.json", "training_config.json", "metrics.jsonl", "model_index.json", "curves.png"),
    *("samples/step-000099.png", "generator/config.json", "generator/diffusion_pytorch_model.fp16.safetensors"),
)


@pytest.mark.parametrize("name", LINKED)
def test_a_push_refuses_a_link_that_leads_outside(name, run, secret, server):
    link(run / name, os.path.relpath(secret, (run / name).parent))
    for push in (
        lambda: push_folder(run, Push("me/model")),
        lambda: WGANPipeline(tiny_generator(), tiny_critic()).push_to_hub("me/other"),
    ):
        try:
            push()
        except InputError as error:
            assert f"{run / name} is a link to a file outside the folder" in str(error)
    assert "me/model" not in server.repositories and not holds_key(server)


def test_a_folder_behind_a_link_is_outside_too(run, secret, server):
    shutil.rmtree(run / "samples")
    (secret.parent / "step-1.png").write_text(KEY)
    os.symlink(secret.parent, run / "samples")
    with pytest.raises(InputError, match=r"samples/step-1\.png is a link"):
        push_folder(run, Push("me/model"))
    link(run / "critic" / "config.json", secret)
    with pytest.raises(InputError, match="is a link"):
        push_space(SpacePush(str(run), "me/space"))
    assert not holds_key(server)


def test_a_checkpoint_with_such_a_link_is_refused(run, secret, server):
    checkpoint = sorted(run.glob("checkpoint-*"))[-1]
    link(checkpoint / "optimizers.pt", secret)
    with pytest.raises(InputError, match=r"optimizers\.pt is a link"):
        push_folder(run, Push("me/model", with_checkpoint=True))


def test_a_push_during_training_leaves_it_out_and_says_so(run, secret, server, capsys):
    link(run / "curves.png", secret)
    pushes = BackgroundPushes(run, Push("me/model"))
    pushes.push_copy(7)
    pushes.finish()
    assert "Step 7 was not pushed, training continues" in capsys.readouterr().err and not holds_key(server)


def test_a_link_within_the_folder_is_pushed(run, server):
    shutil.move(run / "curves.png", run / "picture.png")
    os.symlink("picture.png", run / "curves.png")
    push_folder(run, Push("me/model"))
    assert server.files("me/model")["curves.png"] == (run / "picture.png").read_bytes()


def test_nothing_is_written_through_a_link_and_what_it_leads_to_is_not_copied(run, secret, tmp_path, server):
    new = tmp_path / "outside" / "new"
    victims = {
        name: tmp_path / "outside" / name.replace("/", "-") for name in ("README.md", f".README.{os.getpid()}.tmp.md")
    }
    for name, victim in victims.items():
        victim.write_text("export A=1\n")
        link(run / name, victim)
    link(run / "evaluation.json", new)
    record_evaluation(run, [FIGURE])
    write_card(run)
    assert all(victim.read_text() == "export A=1\n" for victim in victims.values()) and not new.exists()
    assert not (run / "README.md").is_symlink() and "export" not in (run / "README.md").read_text()
    push_folder(run, Push("me/model"))
    assert not [name for name, data in server.files("me/model").items() if b"export A" in data]


def test_the_lock_is_not_taken_through_a_link(run, secret, server):
    link(run / ".lock", secret)
    push_folder(run, Push("me/model"))
    assert secret.read_text() == KEY and not (run / ".lock").is_symlink()


def test_a_run_saves_its_raw_generator_into_its_own_folder(run, secret):
    elsewhere = secret.parent / "generator"
    shutil.move(run / "generator", elsewhere)
    os.symlink(elsewhere, run / "generator")
    before = {path: path.read_bytes() for path in elsewhere.iterdir()}
    write_pipeline(run, WGANPipeline(tiny_generator(), tiny_critic()), tiny_generator())
    assert {path: path.read_bytes() for path in elsewhere.iterdir()} == before
    assert (run / "generator" / "diffusion_pytorch_model.raw.safetensors").is_file()


def test_saving_a_pipeline_replaces_links(secret, tmp_path):
    pipeline = WGANPipeline(tiny_generator(), tiny_critic())
    pipeline.save_pretrained(tmp_path / "model")
    paths = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    for path in paths:
        link(path, secret)
    elsewhere = tmp_path / "outside" / "critic"
    shutil.move(tmp_path / "model" / "critic", elsewhere)
    os.symlink(elsewhere, tmp_path / "model" / "critic")
    pipeline.save_pretrained(tmp_path / "model")
    assert secret.read_text() == KEY and all(path.is_symlink() for path in elsewhere.iterdir())
    assert WGANPipeline.from_pretrained(tmp_path / "model").critic is not None


def test_the_hubs_cache_is_read_and_never_changed(run, server):
    push_folder(run, Push("me/model"))
    snapshot = Path(huggingface_hub.snapshot_download("me/model"))
    blobs = {path: path.read_bytes() for path in (snapshot / "README.md").resolve().parent.iterdir()}
    assert (snapshot / "README.md").is_symlink(), "as the cache has it where the system has links"
    push_folder(snapshot, Push("me/copy"))
    record_evaluation(snapshot, [FIGURE])
    WGANPipeline.from_pretrained(snapshot).save_pretrained(snapshot)
    assert all(path.read_bytes() == data for path, data in blobs.items())
    assert server.files("me/copy").keys() == server.files("me/model").keys()


def test_a_save_that_fails_changes_nothing(tmp_path, monkeypatch):
    WGANPipeline(tiny_generator(), tiny_critic()).save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(type(tiny_critic()), "save_pretrained", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        WGANPipeline(tiny_generator(width=4), tiny_critic()).save_pretrained(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
