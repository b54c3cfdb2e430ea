"""Loading from a Hub on loopback, through the unmodified clients: what is whole, and what is not."""

import io
import json
import pickle
import struct
import subprocess
import sys
import time

import pytest
import torch
from conftest import tiny_critic, tiny_generator
from diffusers import DiffusionPipeline
from hub_server import hub
from safetensors.torch import load, save

from hf_wgan import DCGANCritic, DCGANGenerator, InputError, WGANPipeline
from hf_wgan.cli.common import load_pipeline

WEIGHTS = "generator/diffusion_pytorch_model.safetensors"
PICKLED = "generator/diffusion_pytorch_model.bin"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a pipeline's repository."""
    folder = tmp_path_factory.mktemp("whole")
    WGANPipeline(tiny_generator(), tiny_critic()).save_pretrained(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def server(tmp_path):
    with hub() as server, server.online("hf_me", tmp_path / "cache"):
        yield server


def images_of(pipeline):
    return pipeline(3, generator=torch.Generator().manual_seed(0), output_type="pt").images


def test_after_one_download_a_model_loads_without_a_network(whole, tmp_path):
    with hub() as server, server.online(None, tmp_path / "cache"):
        server.put("me/tiny", whole)
        online = images_of(WGANPipeline.from_pretrained("me/tiny"))
        num_requests = len(server.requests)
        local = WGANPipeline.from_pretrained("me/tiny", local_files_only=True)
        assert len(server.requests) == num_requests
        elsewhere = WGANPipeline.from_pretrained("me/tiny", cache_dir=tmp_path / "elsewhere")
        assert len(server.requests) > num_requests
    # From here on HF_HUB_OFFLINE=1, as in all of these tests.
    offline = WGANPipeline.from_pretrained("me/tiny", cache_dir=tmp_path / "cache")
    component = DCGANGenerator.from_pretrained("me/tiny", subfolder="generator", cache_dir=tmp_path / "cache")
    assert all(torch.equal(images_of(each), online) for each in (local, elsewhere, offline, WGANPipeline(component)))
    with pytest.raises(OSError):
        WGANPipeline.from_pretrained("me/other", cache_dir=tmp_path / "cache")


def test_single_networks_load_from_the_hub(server, whole):
    server.put("me/tiny", whole)
    generator = DCGANGenerator.from_pretrained("me/tiny", subfolder="generator")
    critic = DCGANCritic.from_pretrained("me/tiny", subfolder="critic", torch_dtype=torch.float16)
    assert torch.equal(images_of(WGANPipeline(generator)), images_of(WGANPipeline.from_pretrained("me/tiny")))
    assert critic.dtype == torch.float16


def test_no_code_of_the_repository_is_run_or_asked_for(server, whole):
    spoilt = {name: b"raise SystemExit('ran')" if name.endswith(".py") else data for name, data in whole.items()}
    server.put("me/tiny", spoilt)
    assert type(WGANPipeline.from_pretrained("me/tiny")) is WGANPipeline
    assert type(WGANPipeline.from_pretrained("me/tiny", trust_remote_code=True).generator) is DCGANGenerator


def test_diffusers_own_loader_asks_before_it_runs_the_carried_code(server, whole):
    server.put("me/tiny", whole)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained("me/tiny")
    trusted = DiffusionPipeline.from_pretrained("me/tiny", trust_remote_code=True)
    assert torch.equal(images_of(trusted), images_of(WGANPipeline.from_pretrained("me/tiny")))


def test_importing_the_package_changes_no_class_of_diffusers():
    code = """
import diffusers, diffusers.pipelines.pipeline_loading_utils
classes = [diffusers.ConfigMixin, diffusers.ModelMixin, diffusers.DiffusionPipeline]
before = [dict(vars(base)) for base in classes], set(dir(diffusers))
import hf_wgan
assert before == ([dict(vars(base)) for base in classes], set(dir(diffusers)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_busy_hub_is_said_to_be_busy(server, whole):
    server.put("me/tiny", whole)
    server.fail("GET", status=503, times=None)
    with pytest.raises(InputError, match=r"me/tiny.*503"):
        load_pipeline("me/tiny")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def pickled(marker):
    file = io.BytesIO()
    pickle.dump(Payload(marker), file)
    return file.getvalue()


def tensors(change):
    """Rewrites the generator's weights."""

    def spoil(files, marker):
        files[WEIGHTS] = save(change(load(files[WEIGHTS])), {"format": "pt"})

    return spoil


def contents(name, change):
    """Rewrites a file's bytes; None takes it away."""

    def spoil(files, marker):
        data = change(files[name]) if change else None
        files.pop(name)
        if data is not None:
            files[name] = data

    return spoil


def values(name, **changes):
    """Rewrites values of a JSON file; None takes one away."""

    def spoil(files, marker):
        merged = {**json.loads(files[name]), **changes}
        files[name] = json.dumps({key: value for key, value in merged.items() if value is not None}).encode()

    return spoil


def only_pickled(files, marker):
    for name in [name for name in files if name.endswith(".safetensors")]:
        del files[name]
        files[name.replace(".safetensors", ".bin")] = pickled(marker)


def one_pickled(files, marker):
    files[PICKLED] = pickled(marker)
    del files[WEIGHTS]


def evil_module(entry, path):
    """Names a module whose code writes the marker, and brings it along."""

    def spoil(files, marker):
        values("model_index.json", **entry)(files, marker)
        files[path] = f"open({str(marker)!r}, 'w')".encode()

    return spoil


def sharded_outside(files, marker):
    index = {"metadata": {"total_size": 1}, "weight_map": {"layers.0.weight": "../../../outside.safetensors"}}
    files["generator/diffusion_pytorch_model.safetensors.index.json"] = json.dumps(index).encode()
    del files[WEIGHTS]


def outside(files, marker):
    files["../../outside.py"] = b"outside"
    files["generator/../../../outside.safetensors"] = b"outside"


CONFIG = "generator/config.json"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
SPOILT = {
    "only pickled weights": (only_pickled, "no safetensors weights"),
    "one network pickled": (one_pickled, "safetensors"),
    "weights missing": (contents(WEIGHTS, None), "diffusion_pytorch_model.safetensors"),
    "truncated weights": (contents(WEIGHTS, lambda data: data[: len(data) // 2]), f"(?i){WEIGHTS} .*incomplete"),
    "garbage for weights": (contents(WEIGHTS, lambda data: b"\xff" * 500), f"{WEIGHTS} .*header"),
    "a header of a terabyte": (
        contents(WEIGHTS, lambda data: struct.pack("<Q", 2**40) + data[8:]),
        f"(?i){WEIGHTS} .*large",
    ),
    "empty weights": (contents(WEIGHTS, lambda data: b""), f"(?i){WEIGHTS} .*small"),
    "an LFS pointer for weights": (contents(WEIGHTS, lambda data: LFS_POINTER), "git-lfs"),
    "a tensor of another shape": (
        tensors(lambda state: {name: value[:1].clone() if value.ndim > 1 else value for name, value in state.items()}),
        f"{WEIGHTS} .*layers.0.weight",
    ),
    "a tensor missing": (
        tensors(lambda state: {name: value for name, value in state.items() if name != "layers.0.weight"}),
        f"{WEIGHTS} .*missing.*layers.0.weight",
    ),
    "a tensor too many": (tensors(lambda state: {**state, "more": torch.ones(1)}), f"{WEIGHTS} .*unexpected.*more"),
    "weights of another config": (values(CONFIG, norm_type="none"), f"{WEIGHTS} .*does not fit"),
    "shards outside": (sharded_outside, "outside"),
    "config missing": (contents(CONFIG, None), "config.json"),
    "config no JSON": (contents(CONFIG, lambda data: b"{"), "config.json.* not a valid JSON"),
    "config a list": (contents(CONFIG, lambda data: b"[1]"), "config.json describes no network"),
    "config of another class": (
        values(CONFIG, _class_name="DCGANCritic"),
        "describes DCGANCritic, not a DCGANGenerator",
    ),
    "2^40 channels": (values(CONFIG, width=2**40), "width=1099511627776"),
    "2^40 layers": (values(CONFIG, num_extra_layers=2**40), "num_extra_layers=1099511627776"),
    "2^16 by 2^16 channels": (values(CONFIG, sample_size=256, width=2**16, latent_dim=2**16), "at most 4.3e"),
    "words for numbers": (values(CONFIG, latent_dim="ten"), "latent_dim='ten'"),
    "unknown quantization": (values(CONFIG, quantization_config={"quant_method": "evil"}), "evil"),
    "no index": (contents("model_index.json", None), "model_index.json"),
    "index no JSON": (contents("model_index.json", lambda data: b"\x00"), "model_index.json|JSON|value"),
    "index a list": (contents("model_index.json", lambda data: b"[]"), "describes no Wasserstein GAN pipeline"),
    "no generator": (values("model_index.json", generator=[None, None]), "names .* as generator"),
    "generator not named": (values("model_index.json", generator=None), "names no generator"),
    "a module of Python": (values("model_index.json", generator=["os", "system"]), r"names \['os', 'system'\]"),
    "a module never imported": (values("model_index.json", generator=["antigravity", "fly"]), "antigravity"),
    "no network of ours": (values("model_index.json", generator=["hf_wgan", "InputError"]), "InputError"),
    "a class we lack": (values("model_index.json", generator=["hf_wgan_dcgan", "Evil"]), "Evil"),
    "code for a network": (
        evil_module({"generator": ["evil", "Evil"]}, "generator/evil.py"),
        r"names \['evil', 'Evil'\] as generator",
    ),
    "code for the pipeline": (
        evil_module({"_class_name": ["evil", "Evil"]}, "evil.py"),
        "describes no Wasserstein GAN pipeline",
    ),
    "code for a further part": (
        evil_module({"../evil": ["evil", "Evil"]}, "../evil/evil.py"),
        r"names \['evil', 'Evil'\] as \.\./evil",
    ),
    "another kind of pipeline": (
        values("model_index.json", _class_name="DDPMPipeline", unet=["diffusers", "UNet2DModel"]),
        "describes no Wasserstein GAN pipeline, but DDPMPipeline",
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_repository_is_refused_and_runs_nothing(kind, server, whole, tmp_path):
    spoil, message = SPOILT[kind]
    marker = tmp_path / "marker"
    files = dict(whole)
    spoil(files, marker)
    server.put("me/spoilt", files)
    start = time.monotonic()
    with pytest.raises((OSError, ValueError), match=message):  # InputError is a ValueError
        WGANPipeline.from_pretrained("me/spoilt", trust_remote_code=True)
    with pytest.raises(Exception):  # noqa: B017 - diffusers' own words
        DiffusionPipeline.from_pretrained("me/spoilt")
    assert not marker.exists()
    assert time.monotonic() - start < 20


def test_file_names_that_lead_outside_are_never_written(server, whole, tmp_path):
    files = dict(whole)
    outside(files, None)
    server.put("me/spoilt", files)
    before = set(tmp_path.rglob("*"))
    assert WGANPipeline.from_pretrained("me/spoilt").critic is not None
    assert not [path for path in set(tmp_path.rglob("*")) - before if path.name.startswith("outside")]


def test_a_network_with_pickled_weights_only_is_refused_with_the_reason(server, whole, tmp_path):
    files, marker = dict(whole), tmp_path / "marker"
    one_pickled(files, marker)
    server.put("me/spoilt", files)
    with pytest.raises(OSError, match="Only safetensors are loaded: pickled weights can run code"):
        DCGANGenerator.from_pretrained("me/spoilt", subfolder="generator")
    assert not marker.exists()


def test_pickled_weights_beside_safe_ones_are_not_read(server, whole, tmp_path):
    marker = tmp_path / "marker"
    server.put("me/tiny", {**whole, PICKLED: pickled(marker), "pytorch_model.bin": pickled(marker)})
    WGANPipeline.from_pretrained("me/tiny")
    assert not marker.exists() and not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("load_pipeline", [WGANPipeline.from_pretrained, DiffusionPipeline.from_pretrained])
def test_a_pipeline_without_a_generator_is_refused_where_it_is_loaded(load_pipeline, tmp_path):
    WGANPipeline(tiny_generator(), tiny_critic()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^generator=None: must be a network"):  # of the code that the model carries
        load_pipeline(tmp_path, generator=None, trust_remote_code=True)


@pytest.mark.parametrize("load_pickled", [WGANPipeline.from_pretrained, DCGANGenerator.from_pretrained])
def test_pickled_weights_cannot_be_asked_for(load_pickled, tmp_path):
    with pytest.raises(InputError, match="use_safetensors=False"):
        load_pickled(tmp_path, use_safetensors=False)
    with pytest.raises(InputError, match="safe_serialization=False"):
        WGANPipeline(tiny_generator()).save_pretrained(tmp_path, safe_serialization=False)


def test_a_folder_with_pickled_weights_only_says_why_it_is_refused(whole, tmp_path):
    for name in (PICKLED, CONFIG):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(whole.get(name, b""))
    with pytest.raises(InputError, match=r"only pickled weights \(diffusion_pytorch_model.bin\), which can run code"):
        DCGANGenerator.from_pretrained(tmp_path / "generator")
