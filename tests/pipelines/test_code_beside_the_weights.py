"""Code in a model's folder or repository, under every name that any diffusers takes code from, never runs."""

import json
import os
import sys
from types import ModuleType

import huggingface_hub
import pytest
import torch
from conftest import tiny_critic, tiny_generator
from hub_server import hub

from hf_wgan import DCGANCritic, DCGANGenerator, InputError, WGANPipeline

# What the index may name as the library of a network, and still be loaded from: all are imported.
LIBRARIES = ("hf_wgan_dcgan", "hf_wgan", "hf_wgan.models", "hf_wgan.models.dcgan", "mynets")
PIPELINES = ("hf_wgan_pipeline_wgan", "WGANPipeline", "pipeline", "model_index", "None", "__init__", "conftest")
STEMS = (*LIBRARIES, *(library.replace(".", "/") for library in LIBRARIES), *PIPELINES, "HF_WGAN", "diffusers", "torch")
WAYS = ("folder", "online", "whole snapshot, online", "whole snapshot, offline")


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that is there once any code of the model has run."""
    mynets = ModuleType("mynets")
    mynets.DCGANGenerator, mynets.DCGANCritic = DCGANGenerator, DCGANCritic
    monkeypatch.setitem(sys.modules, "mynets", mynets)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "marker"


def hostile(folder, marker, library):
    """Save a pipeline whose index names the library, with code under every name in every folder of it."""
    WGANPipeline(tiny_generator(), tiny_critic()).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"generator": [library, "DCGANGenerator"], "critic": [library, "DCGANCritic"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    code = f"""
open({str(marker)!r}, "w")
from hf_wgan import DCGANCritic, DCGANGenerator, WGANPipeline
"""
    for part in (folder, folder / "generator", folder / "critic"):
        for stem in STEMS:
            for path in (part / f"{stem}.py", part / stem / "__init__.py"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(code)
    config = folder / "generator" / "config.json"
    auto_map = {"auto_map": {"AutoModel": "hf_wgan.DCGANGenerator"}, "_custom": "hf_wgan.py"}
    config.write_text(json.dumps(json.loads(config.read_text()) | auto_map))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_no_file_beside_the_weights_is_run(library, way, marker, tmp_path):
    folder = tmp_path / "model"
    hostile(folder, marker, library)
    if way == "folder":
        pipeline = WGANPipeline.from_pretrained(folder)
    else:
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with hub() as server, server.online("hf_me", tmp_path / "cache"):
            server.put("me/model", files)
            if way != "online":
                huggingface_hub.snapshot_download("me/model")
            pipeline = WGANPipeline.from_pretrained("me/model", local_files_only="offline" in way)
    assert type(pipeline) is WGANPipeline
    assert (type(pipeline.generator), type(pipeline.critic)) == (DCGANGenerator, DCGANCritic)
    assert pipeline(2, output_type="pt").images.isfinite().all()
    assert not marker.exists() and not any(tmp_path.joinpath("modules").rglob("*.py"))


def test_a_download_takes_no_code_along(marker, tmp_path):
    hostile(tmp_path / "model", marker, "hf_wgan")
    paths = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        server.put("me/model", {path.relative_to(tmp_path / "model").as_posix(): path.read_bytes() for path in paths})
        WGANPipeline.from_pretrained("me/model")
    assert list((tmp_path / "cache").rglob("config.json")) and not list((tmp_path / "cache").rglob("*.py"))


def test_code_behind_a_link_is_not_run(marker, tmp_path):
    hostile(tmp_path / "outside", marker, "hf_wgan")
    model = tmp_path / "model"
    model.mkdir()
    for path in (tmp_path / "outside").iterdir():
        os.symlink(path, model / path.name)
    assert type(WGANPipeline.from_pretrained(model).generator) is DCGANGenerator
    assert not marker.exists()


@pytest.mark.parametrize(
    "entry, message",
    [
        (["HF_WGAN", "DCGANGenerator"], "names .* as generator"),
        (["hf_wgan/", "DCGANGenerator"], "names .* as generator"),
        (["./hf_wgan", "DCGANGenerator"], "names .* as generator"),
        (["hf_wgan", "Evil"], "names .* as generator"),
        (["hf_wgan", ["DCGANGenerator"]], "names .* as generator"),
        (["hf_wgan", "WGANPipeline"], "names .* as generator"),
        ([["hf_wgan"], "DCGANGenerator"], "names .* as generator"),
        (["hf_wgan", "DCGANGenerator", "more"], "names .* as generator"),
        ("hf_wgan", "names no generator"),
    ],
    ids=str,
)
def test_an_index_that_names_no_known_network_is_refused(entry, message, marker, tmp_path):
    hostile(tmp_path, marker, "hf_wgan")
    index = json.loads((tmp_path / "model_index.json").read_text()) | {"generator": entry}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        WGANPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["hf_wgan", "pipeline", "WGANPipeline", "None"])
def test_a_pipeline_class_of_the_folder_is_never_used(name, marker, tmp_path):
    hostile(tmp_path, marker, "hf_wgan")
    for options in ({"custom_pipeline": name}, {"custom_pipeline": str(tmp_path)}, {"custom_revision": "main"}):
        with pytest.raises(InputError, match=f"{next(iter(options))}=.*WGANPipeline.from_pretrained takes dtype"):
            WGANPipeline.from_pretrained(tmp_path, trust_remote_code=True, **options)
    index = json.loads((tmp_path / "model_index.json").read_text()) | {"_class_name": [name, "WGANPipeline"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="describes no Wasserstein GAN pipeline"):
        WGANPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    assert not marker.exists()


def test_networks_that_are_passed_replace_those_of_the_folder(tmp_path):
    WGANPipeline(tiny_generator(), tiny_critic()).save_pretrained(tmp_path)
    generator = tiny_generator(width=4)
    pipeline = WGANPipeline.from_pretrained(tmp_path, generator=generator, critic=None)
    assert pipeline.generator is generator and pipeline.critic is None


def test_sharded_weights_load_from_a_folder_and_from_the_hub(tmp_path):
    saved = WGANPipeline(tiny_generator(), tiny_critic())
    saved.save_pretrained(tmp_path / "model", max_shard_size="1KB")
    assert len(list((tmp_path / "model" / "generator").glob("*.safetensors"))) > 1
    paths = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        server.put("me/model", {path.relative_to(tmp_path / "model").as_posix(): path.read_bytes() for path in paths})
        for name in (tmp_path / "model", "me/model"):
            loaded = WGANPipeline.from_pretrained(name, dtype={"critic": torch.float16, "default": torch.float32})
            assert all(map(torch.equal, loaded.generator.parameters(), saved.generator.parameters()))
            assert loaded.critic.dtype == torch.float16
