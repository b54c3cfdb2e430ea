"""Pushes through the unmodified client, to a Hub on loopback."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import huggingface_hub.utils._http
import pytest
import torch
from conftest import tiny_critic, tiny_generator, tiny_images
from hub_server import hub

from hf_wgan import InputError, WGANPipeline, WGANTrainer
from hf_wgan.cli.publish import PushConfig, push
from hf_wgan.hub.publish import Push, push_folder
from hf_wgan.utils.errors import PushError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder; not to be changed."""
    from hf_wgan import TrainingConfig

    folder = tmp_path_factory.mktemp("trained") / "wgan-tiny"
    small = {"max_train_steps": 2, "train_batch_size": 8, "logging_steps": 1, "n_critic": 1, "num_validation_images": 4}
    config = TrainingConfig(output_dir=str(folder), validation_steps=1, checkpointing_steps=1, **small)
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), config).train()
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "wgan-tiny"))


@pytest.fixture
def server(tmp_path):
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        yield server


@pytest.fixture
def no_waiting(monkeypatch):
    """The client waits between its repetitions; here it does not."""
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)


def run_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images_of(name, **options):
    pipeline = WGANPipeline.from_pretrained(name, **options)
    return pipeline(4, generator=torch.Generator().manual_seed(0), output_type="pt").images


def test_what_belongs_on_the_hub_goes_up_in_one_commit_and_nothing_else(server, folder):
    (folder / "notes.txt").write_text("private")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "generator.safetensors").write_text("private")
    assert push_folder(folder, Push("me/tiny")) == f"{server.endpoint}/me/tiny"
    assert len(server.commits("me/tiny")) == 2, "the empty one that made it, and ours"
    assert set(server.files("me/tiny")) == {
        *(".gitattributes", "README.md", "model_index.json", "training_config.json", "metrics.jsonl", "curves.png"),
        *("hf_wgan_pipeline_wgan.py", "training.webp", *(f"samples/step-00000{step}.png" for step in range(3))),
        *(f"{part}/{file}" for part in ("generator", "critic") for file in ("config.json", "hf_wgan_dcgan.py")),
        *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("generator", "critic")),
    }


def test_the_newest_checkpoint_goes_up_where_it_is_asked_for(server, folder):
    push_folder(folder, Push("me/tiny", with_checkpoint=True))
    checkpoints = {name.split("/")[0] for name in server.files("me/tiny") if name.startswith("checkpoint")}
    assert checkpoints == {"checkpoint-000002"}
    assert "checkpoint-000002/optimizers.pt" in server.files("me/tiny")
    push_folder(folder, Push("me/tiny"))
    assert "checkpoint-000002/optimizers.pt" in server.files("me/tiny"), "a later push leaves it there"


def test_a_pushed_model_makes_the_same_images_in_a_new_process(server, folder, tmp_path):
    expected = images_of(folder)
    push_folder(folder, Push("tiny"))
    shutil.rmtree(folder)
    code = """
import sys, torch
from hf_wgan import DCGANGenerator, WGANPipeline
pipeline = WGANPipeline.from_pretrained("me/tiny", cache_dir=sys.argv[1])
images = pipeline(4, generator=torch.Generator().manual_seed(0), output_type="pt").images
generator = DCGANGenerator.from_pretrained("me/tiny", subfolder="generator", cache_dir=sys.argv[1])
same = all(torch.equal(one, other) for one, other in zip(generator.parameters(), pipeline.generator.parameters()))
torch.save((images, same, generator.training), sys.argv[2])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "other"), str(tmp_path / "images.pt")]
    environment = {**os.environ, **server.environment("hf_me")}
    subprocess.run(command, env=environment, check=True)
    images, component_is_the_same, training = torch.load(tmp_path / "images.pt")
    assert torch.equal(images, expected)
    assert component_is_the_same and not training


def test_a_second_push_takes_away_what_the_run_no_longer_has_and_leaves_what_is_not_ours(server, folder):
    push_folder(folder, Push("me/tiny", variant="fp16"))
    server.put("me/tiny", {**server.files("me/tiny"), "notes/mine.txt": b"by hand", "samples/step-009999.png": b"old"})
    before = server.files("me/tiny")["generator/diffusion_pytorch_model.fp16.safetensors"]
    WGANPipeline(tiny_generator(), None).save_pretrained(folder)
    shutil.rmtree(folder / "critic")
    push_folder(folder, Push("me/tiny"))
    files = server.files("me/tiny")
    assert files["notes/mine.txt"] == b"by hand"
    assert "samples/step-009999.png" not in files and not any(name.startswith("critic/") for name in files)
    after = files["generator/diffusion_pytorch_model.fp16.safetensors"]
    assert after != before, "a variant that is there belongs to the weights beside it"


def test_a_push_without_changes_makes_no_commit(server, folder):
    push_folder(folder, Push("me/tiny"))
    commits = server.commits("me/tiny")
    push_folder(folder, Push("me/tiny"))
    assert server.commits("me/tiny") == commits


@pytest.mark.parametrize("variant, dtype", [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_variant_lies_beside_the_full_weights(variant, dtype, server, folder):
    push_folder(folder, Push("me/tiny", variant=variant))
    full = images_of("me/tiny")
    half = WGANPipeline.from_pretrained("me/tiny", variant=variant, torch_dtype=dtype)
    assert half.generator.dtype == dtype
    latents = torch.Generator().manual_seed(0)
    assert (half(4, generator=latents, output_type="pt").images.float() - full).abs().max() < 0.02
    with pytest.raises(InputError, match="variant='int3': me/tiny has no weights of this variant"):
        WGANPipeline.from_pretrained("me/tiny", variant="int3")


def test_weights_too_large_for_a_variant_are_named(server, folder):
    generator = tiny_generator()
    torch.nn.init.constant_(generator.layers[0].weight, 1e5)
    WGANPipeline(generator).save_pretrained(folder)
    with pytest.raises(InputError, match=r"variant='fp16': layers\.0\.weight of .* is not finite"):
        push_folder(folder, Push("me/tiny", variant="fp16"))
    with pytest.raises(InputError, match="variant='fp8': must be fp16 or bf16"):
        Push("me/tiny", variant="fp8")


def test_a_branch_is_made_and_a_pull_request_changes_no_branch(server, folder):
    push_folder(folder, Push("me/tiny"))
    main = server.commits("me/tiny")
    message = {"commit_message": "Another run"}
    WGANPipeline(tiny_generator(width=4)).save_pretrained(folder)
    assert push_folder(folder, Push("me/tiny", revision="wide", **message)) == f"{server.endpoint}/me/tiny"
    url = push_folder(folder, Push("me/tiny", create_pr=True, **message))
    assert re.search(r"/discussions/\d+$", url)
    assert server.commits("me/tiny") == main
    widths = [
        WGANPipeline.from_pretrained("me/tiny", revision=revision).generator.config.width
        for revision in (None, "wide", "refs/pr/1", main[0])
    ]
    assert widths == [8, 4, 4, 8]


def test_a_private_repository_opens_for_its_owner_alone(server, folder):
    push_folder(folder, Push("me/secret", private=True))
    with pytest.raises(OSError):
        WGANPipeline.from_pretrained("me/secret", token=False)
    assert images_of("me/secret", token="hf_me").shape == (4, 1, 8, 8)


def test_what_a_person_wrote_on_the_hub_survives_and_comes_back(server, folder):
    push_folder(folder, Push("me/tiny"))
    card = server.files("me/tiny")["README.md"].decode()
    edited = card.replace("license: unknown", "license: mit") + "\nTrained in my kitchen.\n"
    server.put("me/tiny", {**server.files("me/tiny"), "README.md": edited.encode()})
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text().replace('"step": 2', '"step": 77'))
    push_folder(folder, Push("me/tiny"))
    card = server.files("me/tiny")["README.md"].decode()
    assert "Trained in my kitchen." in card and "license: mit" in card and "77 generator updates" in card
    assert card == (folder / "README.md").read_text()


def test_the_usage_blocks_of_a_published_card_run(server, folder):
    push_folder(folder, Push("me/tiny"))
    shutil.rmtree(folder)
    blocks = server.files("me/tiny")["README.md"].decode().split("```python\n")[1:]
    assert len(blocks) == 2 and all('from_pretrained("me/tiny"' in block for block in blocks)
    for block in blocks:
        names = {}
        exec(block.split("```")[0], names)
        assert len(names["images"]) == 16


def test_a_change_that_comes_between_is_not_overwritten(server, folder, monkeypatch):
    push_folder(folder, Push("me/tiny"))
    (folder / "curves.png").write_bytes(b"another")
    from hf_wgan.hub import publish

    def meanwhile(*arguments):
        server.put("me/tiny", {**server.files("me/tiny"), "README.md": b"Somebody's words"})
        return make_card(*arguments)

    make_card = publish.make_card
    monkeypatch.setattr(publish, "make_card", meanwhile)
    with pytest.raises(PushError, match="somebody else changed the repository meanwhile"):
        push_folder(folder, Push("me/tiny"))
    assert server.files("me/tiny")["README.md"] == b"Somebody's words"


@pytest.mark.parametrize(
    "token, repo_id, reason",
    [
        (None, "me/tiny", "no valid token; log in by `hf auth login`, or set HF_TOKEN or --hub_token"),
        ("hf_unknown", "me/tiny", "no valid token"),
        ("hf_me", "somebody/tiny", "the token has no right to write there"),
    ],
)
def test_a_push_without_the_right_says_so_and_loses_nothing(token, repo_id, reason, folder, tmp_path):
    before = run_of(folder)
    with hub() as server, server.online(token, tmp_path / "cache"):
        with pytest.raises(PushError, match=re.escape(reason)) as error:
            push_folder(folder, Push(repo_id))
    assert "Nothing is lost" in str(error.value)
    assert run_of(folder) == before


def test_the_command_that_completes_a_push_says_all_but_the_token():
    push = Push("me/a", "hf_secret", True, "dev", True, "It's new", "fp16", True)
    command = shlex.split(push.command(Path("my runs/wgan")))
    assert command == [
        *("hf-wgan", "push", "my runs/wgan", "--hub_model_id", "me/a", "--hub_private_repo"),
        *("--create_pr", "--with_checkpoint", "--revision", "dev", "--variant", "fp16", "--commit_message", "It's new"),
    ]
    assert "hf_secret" not in repr(push)


def finish(message):
    """Do what the message of a failed push says, as a person would."""
    words = shlex.split(message.splitlines()[-1])
    assert words[:2] == ["hf-wgan", "push"]
    assert push(words[2:]) == 0


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_connection_lost_at_any_request_of_a_push_loses_nothing(when, folder, tmp_path, no_waiting):
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        push_folder(folder, Push("me/whole", variant="fp16"))
        whole, num_requests = server.files("me/whole"), len(server.requests)
    assert num_requests > 10
    for number in range(1, num_requests + 1):
        shutil.rmtree(tmp_path / "cache")
        files = run_of(folder)
        with hub() as server, server.online("hf_me", tmp_path / "cache"):
            server.drop(at=number, when=when, times=None)
            try:
                push_folder(folder, Push("me/whole", variant="fp16"))
                failed = None
            except PushError as error:
                failed = str(error)
            server.heal()
            seen = server.files("me/whole") if "me/whole" in server.repositories else {}
            assert set(seen) <= {".gitattributes"} or seen == whole, "all of it is there, or nothing"
            if failed:
                assert run_of(folder) == files, "the folder is as it was"
                finish(failed)
            assert server.files("me/whole") == whole


def test_the_printed_command_completes_a_push_in_a_process_of_its_own(folder, tmp_path, no_waiting):
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        server.fail(r"POST .*/commit/", status=503)
        with pytest.raises(PushError, match="503") as error:
            push_folder(folder, Push("me/tiny"))
        command = str(error.value).splitlines()[-1]
        subprocess.run(
            command.replace("hf-wgan", f"{shlex.quote(sys.executable)} -m hf_wgan", 1),
            shell=True,
            cwd=ROOT,
            env={**os.environ, **server.environment("hf_me")},
            check=True,
        )
        assert "generator/diffusion_pytorch_model.safetensors" in server.files("me/tiny")


def test_the_hubs_busy_moments_are_waited_out(server, folder, no_waiting):
    server.fail(r"PUT ", status=503, times=3)
    push_folder(folder, Push("me/tiny"))
    assert "model_index.json" in server.files("me/tiny")


def test_without_a_network_the_message_says_so(folder, monkeypatch):
    with pytest.raises(PushError, match=r"(?i)offline"):
        push_folder(folder, Push("me/tiny"))


@pytest.mark.parametrize("repo_id", ["a/b/c", "me/ tiny", "", "me/--x"])
def test_names_that_no_repository_can_have_are_refused(repo_id):
    with pytest.raises(InputError, match="hub_model_id="):
        Push(repo_id)


def test_a_card_that_the_hub_would_not_take_is_said_to_be_so(server, folder):
    (folder / "README.md").write_text("---\nlicense: mine\n---\nBy hand.\n")
    with pytest.raises(PushError, match=r"Invalid metadata in README\.md.*license"):
        push_folder(folder, Push("me/tiny"))
    assert len(server.commits("me/tiny")) == 1


def test_a_folder_without_a_whole_pipeline_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"no model_index\.json"):
        push_folder(tmp_path, Push("me/tiny"))
    (folder / "generator" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="is missing"):
        push_folder(folder, Push("me/tiny"))


# From a pipeline.


def test_a_pipeline_of_a_run_takes_the_runs_record_along(server, folder):
    url = WGANPipeline.from_pretrained(folder).push_to_hub("me/tiny", commit_message="From Python", variant="fp16")
    assert url == f"{server.endpoint}/me/tiny"
    files = server.files("me/tiny")
    assert "samples/step-000002.png" in files and "generator/diffusion_pytorch_model.fp16.safetensors" in files
    assert b"2 generator updates" in files["README.md"]


def test_a_pipeline_with_other_weights_does_not_claim_the_runs_record(server, folder):
    pipeline = WGANPipeline.from_pretrained(folder)
    torch.nn.init.zeros_(pipeline.generator.layers[0].weight)
    pipeline.save_pretrained(folder.parent / "changed", push_to_hub=True, private=True)
    files = server.files("me/changed")
    assert "samples/step-000002.png" not in files and b"generator updates" not in files["README.md"]


def test_a_push_from_a_pipeline_keeps_the_published_card(server, folder):
    push_folder(folder, Push("me/tiny"))
    card = server.files("me/tiny")["README.md"] + b"\nBy hand.\n"
    server.put("me/tiny", {**server.files("me/tiny"), "README.md": card})
    WGANPipeline.from_pretrained("me/tiny").push_to_hub("me/tiny")
    assert b"By hand." in server.files("me/tiny")["README.md"]


def test_a_failed_push_of_a_pipeline_names_what_exists(server, folder, tmp_path, no_waiting):
    server.fail("POST .*/commit/", status=503, times=None)
    pushes = {
        "FOLDER": lambda: WGANPipeline(tiny_generator()).push_to_hub("me/tiny", variant="fp16"),
        str(folder): lambda: WGANPipeline.from_pretrained(folder).push_to_hub("me/tiny", variant="fp16"),
        str(tmp_path / "new"): lambda: WGANPipeline(tiny_generator()).save_pretrained(
            tmp_path / "new", push_to_hub=True, repo_id="me/tiny"
        ),
    }
    for place, call in pushes.items():
        with pytest.raises(PushError) as error:
            call()
        command = shlex.split(str(error.value).splitlines()[-1])
        assert command[:5] == ["hf-wgan", "push", place, "--hub_model_id", "me/tiny"]
        assert tempfile.gettempdir() not in str(error.value).replace(str(tmp_path), "").replace(str(folder), "")
        if place == "FOLDER":
            assert "pipeline.save_pretrained('FOLDER')" in str(error.value)
        else:
            server.heal()
            finish(str(error.value))
            server.fail("POST .*/commit/", status=503, times=None)


# From training.


def train(tiny_config, **changes):
    trainer = WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config(push_to_hub=True, **changes))
    return trainer.train()


def test_training_pushes_what_it_leaves(server, tiny_config, tmp_path, capfd):
    pipeline = train(tiny_config, hub_model_id="me/tiny", hub_token="hf_me", hub_private_repo=True)
    assert f"Pushed to {server.endpoint}/me/tiny" in capfd.readouterr().err
    assert len(server.commits("me/tiny")) == 2
    images = pipeline(4, generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert torch.equal(images_of("me/tiny"), images)
    config = json.loads(server.files("me/tiny")["training_config.json"])
    assert "hub_token" not in config["training"]
    assert server.files("me/tiny")["README.md"] == (tmp_path / "run" / "README.md").read_bytes()


def test_a_failed_push_is_no_failure_of_training(server, tiny_config, tmp_path, capfd, no_waiting):
    server.fail("POST", status=500, times=None)
    train(tiny_config)
    said = capfd.readouterr().err
    assert (
        said.index("A push to run would fail now") < said.index("100%") < said.index("was not pushed to the Hub as run")
    )
    command = said[said.index("hf-wgan push ") :].splitlines()[0]
    server.heal()
    finish(command)
    assert images_of("me/run").shape == images_of(tmp_path / "run").shape


def test_with_the_checkpoint_strategy_the_model_can_be_seen_while_it_trains(server, tiny_config, monkeypatch):
    steps = {"max_train_steps": 6, "checkpointing_steps": 2}
    slow = WGANTrainer.step
    monkeypatch.setattr(WGANTrainer, "step", lambda self: (time.sleep(0.5), slow(self))[1])
    train(tiny_config, hub_strategy="checkpoint", **steps)
    revisions = server.commits("me/run")[:-1]
    assert len(revisions) >= 2, "once during the run, and at its end"
    assert all(images_of("me/run", revision=revision).shape == (4, 1, 8, 8) for revision in revisions)
    assert not any("optimizers" in name for name in server.files("me/run"))


def test_a_push_that_fails_meanwhile_does_not_stop_training(server, tiny_config, capfd, no_waiting):
    server.fail("POST", status=500, times=None)
    train(tiny_config, hub_strategy="checkpoint")
    said = capfd.readouterr().err
    assert "Step 2 was not pushed, training continues" in said and "this command completes the push" in said


def test_a_name_that_cannot_be_is_refused_before_training(tiny_config):
    with pytest.raises(InputError, match="hub_model_id='a/b/c'"):
        tiny_config(push_to_hub=True, hub_model_id="a/b/c")


@pytest.mark.parametrize("how", ["push_folder", "push_to_hub"])
def test_nothing_that_is_published_names_a_place_on_this_machine(how, server, folder, trained, tmp_path):
    """The run was on a local folder, its networks were loaded from one, and its features are of a local classifier."""
    at_home = {"train_data_dir": str(tmp_path / "photos of me"), "cache_dir": "~/cache", "dataset_revision": None}
    for path in (folder, *folder.glob("checkpoint-*")):
        record = json.loads((path / "training_config.json").read_text())
        record["dataset"] |= {"name": "relative/place/photos of me", "config": at_home}
        record["training"]["overwrite_output_dir"] = True
        record["command"] = f"hf-wgan train --train_data_dir '{tmp_path}/photos of me' --seed 1"
        (path / "training_config.json").write_text(json.dumps(record))
    settings = {"features": f"classifier:{tmp_path}/classifier", "num_images": 5}
    row = {"metric_type": "m", "metric_name": "m", "metric_value": 1, "settings": settings}
    (folder / "evaluation.json").write_text(json.dumps([row]))
    pipeline = WGANPipeline.from_pretrained(folder)
    pipeline.generator.save_pretrained(folder / "generator")
    assert str(tmp_path) in (folder / "generator" / "config.json").read_text(), (
        "diffusers says where it was loaded from"
    )
    if how == "push_folder":
        push_folder(folder, Push("me/tiny", with_checkpoint=True))
    else:
        pipeline.push_to_hub("me/tiny")
    published = server.files("me/tiny")
    for place in (str(tmp_path), str(trained.parent), "~/cache", "relative/place"):
        assert not [name for name, data in published.items() if place.encode() in data], place
    record = json.loads(published["training_config.json"])
    assert record["dataset"]["config"]["train_data_dir"] == "photos of me" == record["dataset"]["name"]
    assert record["command"] == "hf-wgan train --train_data_dir 'photos of me' --seed 1"
    assert json.loads(published["evaluation.json"])[0]["settings"]["features"] == "classifier:classifier"
    manifests = [name for name in published if name.endswith("manifest.json")]
    assert len(manifests) == (how == "push_folder")
    for manifest in manifests:  # the checkpoint is whole as it was published
        for name, entry in json.loads(published[manifest]).items():
            data = published[f"{os.path.dirname(manifest)}/{name}"]
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"]), name


def test_what_a_checkpoints_manifest_does_not_name_is_not_pushed(server, folder):
    (folder / "checkpoint-000002" / "notes.py").write_text("private")
    push_folder(folder, Push("me/tiny", with_checkpoint=True))
    assert not [name for name in server.files("me/tiny") if "notes" in name]


def test_a_message_of_a_commit_may_have_several_lines():
    assert PushConfig(commit_message="Title\n\nBody").commit_message == "Title\n\nBody"
