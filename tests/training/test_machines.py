"""Machines that are not this one, as far as they can be imitated: CPUs without bf16, Windows, a Mac's GPU."""

import copy
import errno
import fcntl
import json
import mmap
import os
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from conftest import tiny_critic, tiny_generator, tiny_images
from PIL import Image
from processes import ended, start_run
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_wgan import ImageSet, InputError, TrainingConfig, WGANPipeline, WGANTrainer, load_images
from hf_wgan.algorithm.augment import OPERATIONS
from hf_wgan.algorithm.lipschitz import CONSTRAINTS
from hf_wgan.data import DataConfig, RealBatches
from hf_wgan.metrics.classifier import train_classifier
from hf_wgan.metrics.contrastive import train_contrastive
from hf_wgan.pipelines.pipeline_wgan import truncated
from hf_wgan.training import agreement, fast, setup
from hf_wgan.training.advice import memorisation
from hf_wgan.training.fast import FastPaths, bf16_slowdown
from hf_wgan.utils import files
from hf_wgan.utils.processes import PATIENCE, this_process


def test_bf16_is_left_out_with_a_line_where_the_cpu_has_none(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup, "has_bf16_arithmetic", lambda device: False)
    monkeypatch.setattr(setup, "bf16_slowdown", lambda: 73.2)
    WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config(mixed_precision="bf16")).train()
    said = capsys.readouterr().err
    assert said.count("this CPU has no bf16 arithmetic, and a product takes 73 times as long as in float32") == 1
    assert "bfloat16 weights" not in said, "no fast path for it"
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert record["machine"]["mixed_precision"] == "no"


def test_the_slowdown_of_bf16_is_measured():
    assert 0 < bf16_slowdown(16) < 1e4


def test_a_cpu_that_only_converts_has_no_bf16_arithmetic(monkeypatch):
    """As AVX-512 without bf16 instructions, which PyTorch takes for enough."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    for slowdown, has_arithmetic in ((5.0, False), (0.3, True)):
        monkeypatch.setattr(fast, "bf16_slowdown", lambda: slowdown)  # noqa: B023
        assert fast.has_bf16_arithmetic(torch.device("cpu")) is has_arithmetic


def as_torchrun_does():
    os.environ.pop("ACCELERATE_USE_CPU")
    init = torch.distributed.init_process_group
    torch.distributed.init_process_group = lambda *rest, **options: print(options) or init(*rest, **options)


def test_processes_of_torchrun_on_a_cpu_find_each_other_and_wait_for_each_other(tmp_path):
    options = ["--train_batch_size", "4", "--max_train_steps", "2"]
    assert ended(start_run(tmp_path / "run", options, num_processes=2, before=as_torchrun_does)) == [0, 0]
    assert f"'timeout': {PATIENCE!r}" in (tmp_path / "run.log").read_text()
    record = json.loads((tmp_path / "run" / "training_config.json").read_text())
    assert record["machine"]["num_processes"] == 2


@pytest.mark.parametrize("own", [{"10.0.0.1": "10.0.0.7"}, {"10.0.0.1": "127.0.1.1", "192.0.2.1": "10.0.0.7"}])
def test_gloo_takes_the_interface_by_which_other_machines_are_reached(monkeypatch, own):
    """Debian resolves a machine's own name to 127.0.1.1."""
    addresses = {"lo": "127.0.0.1", "eth0": "192.168.0.7", "eth1": "10.0.0.7"}
    interfaces = {name: [SimpleNamespace(address=address)] for name, address in addresses.items()}
    monkeypatch.setattr(agreement.psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(agreement, "own_address_towards", own.get)
    monkeypatch.setattr(os, "environ", {})
    agreement.choose_interface("10.0.0.1")
    assert os.environ == {"GLOO_SOCKET_IFNAME": "eth1"}
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    agreement.choose_interface("10.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth0", "a person has chosen it"


def test_every_command_may_be_kept_off_the_gpu(monkeypatch):
    monkeypatch.setattr(PartialState, "default_device", torch.device("mps"))
    assert this_process().device.type == "cpu"
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    assert this_process().device.type == "mps"


@pytest.mark.parametrize("settings", [{}, {"sync_batch_norm": False}])
def test_batch_norm_on_several_gpus_has_the_statistics_of_all_or_of_each_process(tiny_config, settings):
    gpus = SimpleNamespace(device=torch.device("cuda"), num_processes=8)
    fast = FastPaths()
    network = setup.placed(tiny_generator(), tiny_config(**settings), gpus, fast)
    assert any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in network.modules()) == (not settings)


def test_processes_that_accelerate_does_not_know_are_refused(tiny_config, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ | {"WORLD_SIZE": "2"})  # to which some versions of Accelerate add
    del os.environ["ACCELERATE_USE_CPU"]
    with pytest.raises(InputError, match=r"^2 processes were started.*: set num_processes"):
        WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config())


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_gpus_of_other_makers_get_contiguous_memory(device):
    parts = {"num_processes": 1, "gradient_accumulation_steps": 1}
    other = SimpleNamespace(device=torch.device(device), mixed_precision="no", **parts)
    assert not FastPaths.of(TrainingConfig(), other).channels_last


@pytest.mark.parametrize(
    ("capability", "precision", "allow_tf32", "expected"),
    [
        ((7, 5), "no", True, False),  # a T4 has no TF32
        ((7, 0), "fp16", True, True),
        ((7, 5), "bf16", True, False),  # and no bf16
        ((8, 0), "no", True, True),
        ((9, 0), "no", False, False),
        ((9, 0), "bf16", False, True),
        ((9, 0), "fp16", False, True),
    ],
)
def test_channels_last_is_for_tensor_cores(monkeypatch, capability, precision, allow_tf32, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    parts = {"num_processes": 1, "gradient_accumulation_steps": 1}
    gpu = SimpleNamespace(device=torch.device("cuda"), mixed_precision=precision, **parts)
    assert FastPaths.of(TrainingConfig(allow_tf32=allow_tf32), gpu).channels_last == expected


@pytest.mark.parametrize("before", ["tf32", "ieee", "none"])
@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_as_the_options_say_whatever_a_script_has_set(monkeypatch, before, allowed):
    monkeypatch.setattr(torch.backends, "fp32_precision", before)
    setup.choose_tf32(allowed)
    for operations in (torch.backends.cudnn.conv, torch.backends.cuda.matmul):
        assert operations.fp32_precision == ("tf32" if allowed else "ieee")


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP", "MEGATRON_LM"])
def test_launchers_for_large_networks_are_refused_in_a_line(tiny_config, monkeypatch, kind):
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(InputError, match=f"distributed_type {kind} is not supported.*; use MULTI_GPU, MULTI_CPU or NO"):
        WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_may_compile_the_networks(tiny_config, monkeypatch, precision):
    """As `accelerate launch --dynamo_backend eager` does."""

    def trained(**settings):
        AcceleratorState._reset_state(reset_partial_state=True)
        config = tiny_config(lipschitz="gp", optimizer="adam", mixed_precision=precision, **settings)
        trainer = WGANTrainer(tiny_generator(), tiny_critic(norm_type="layer"), tiny_images(), config)
        return trainer, torch.stack([torch.stack(trainer.step()) for _ in range(3)])

    _, plain = trained()
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    trainer, compiled = trained()
    assert hasattr(trainer.algorithm.critic, "_orig_mod")
    torch.testing.assert_close(compiled, plain, rtol=0.02 if precision == "bf16" else 1e-4, atol=1e-3)


class Refusing(TorchDispatchMode):
    """Refuse numbers of float64 on a device, as a Mac's GPU does."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (tensor.device.type, tensor.dtype) == (self.device, torch.float64):
                raise TypeError(f"Cannot convert a tensor to float64 on {self.device}: {function}")
        return result


class WithoutSources(TorchFunctionMode):
    """Draw from no source of random numbers, of which the meta device has none."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.rand, torch.randn):
            kwargs.pop("generator", None)
        return function(*args, **kwargs)


@pytest.fixture
def on_the_meta_device(monkeypatch):
    """The meta device stands for a GPU: whatever makes the host wait for a number fails there."""
    generator, autocast = torch.Generator, torch.autocast
    monkeypatch.setattr(Accelerator, "device", torch.device("meta"))
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator())
    monkeypatch.setattr(torch, "autocast", lambda device, *rest, **options: autocast("cpu", enabled=False))
    with WithoutSources():
        yield


@pytest.mark.parametrize("lipschitz", CONSTRAINTS)
def test_training_needs_neither_float64_on_the_device_nor_its_numbers_on_the_host(
    on_the_meta_device, tiny_config, lipschitz
):
    networks = tiny_generator(), tiny_critic(norm_type="none", spectral_norm=lipschitz == "spectral")
    config = tiny_config(lipschitz=lipschitz, use_ema=True, augmentation=",".join(OPERATIONS), fast_paths=False)
    with Refusing("meta"):
        trainer = WGANTrainer(*networks, tiny_images(), config)
        for _ in range(2):
            record = trainer.step()
    assert {value.device.type for value in record} == {"meta"}


class EndOfTraining(Exception):
    pass


@pytest.mark.parametrize("train", [train_classifier, train_contrastive])
def test_networks_of_features_are_trained_on_the_device(on_the_meta_device, monkeypatch, train):
    def back(network):
        assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
        raise EndOfTraining  # as no weights come back from the meta device

    monkeypatch.setattr(torch.nn.Module, "cpu", back)
    images = ImageSet(torch.zeros(20, 1, 16, 16, dtype=torch.uint8), labels=torch.arange(20) % 2)
    with Refusing("meta"), pytest.raises(EndOfTraining):
        train(images, images, 0, 2, device="meta")


def test_what_is_memorised_needs_no_float64(on_the_meta_device):
    samples = SimpleNamespace(images=torch.zeros(24, 1, 8, 8, device="meta"))
    pipeline = Mock(return_value=samples, critic=tiny_critic().to("meta"))
    with Refusing("meta"), pytest.raises(RuntimeError, match="item"):  # at the end: a number of the meta device
        memorisation(pipeline, tiny_images(), tiny_images())


def test_truncation_needs_no_float64_on_the_device():
    with FakeTensorMode(), Refusing("mps"), torch.no_grad():
        latents = torch.empty(4, 8, device="mps")
        assert truncated(latents, 0.5).device == latents.device
        with pytest.raises(TypeError, match="float64"):
            latents.double()


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_the_average_returns_to_its_device(tiny_config):
    """The meta device stands for a GPU: what comes from the disk is on the CPU."""
    state = WGANTrainer(tiny_generator(), tiny_critic(), tiny_images(), tiny_config(use_ema=True)).state
    saved = copy.deepcopy(state.state_dict())
    for part in (*state.networks.values(), state.ema):
        part.to("meta")
    for checkpoint in (saved, {name: part for name, part in saved.items() if name != "ema"}):
        state.load_state_dict(checkpoint)
        assert {weights.device.type for weights in state.ema.shadow_params} == {"meta"}
        state.ema.step(state.generator.parameters())


@pytest.fixture
def windows(monkeypatch):
    """Refuse what Windows refuses: to open a folder, and to flush what is open for reading only."""
    open_, fsync = os.open, os.fsync

    def opened(path, flags, *rest, **options):
        if os.path.isdir(path) and not flags & os.O_DIRECTORY:  # which Python's own functions set, on Linux
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return open_(path, flags, *rest, **options)

    def flushed(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fsync(descriptor)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(files, "IS_WINDOWS", True)
    monkeypatch.delattr(mmap, "MADV_DONTNEED")


def test_windows_can_cache_train_and_save(windows, tiny_config, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(24):
        Image.new("L", (8, 8), 10 * number).save(tmp_path / "photos" / f"{number}.png")
    options = {"train_data_dir": str(tmp_path / "photos"), "cache_dir": str(tmp_path / "cache"), "channels": 1}
    images = load_images(DataConfig(resolution=8, **options))
    RealBatches(images, 4, 0, "meta")  # as on a GPU, which takes the whole set
    WGANTrainer(tiny_generator(), tiny_critic(), images, tiny_config()).train()
    assert len(WGANPipeline.from_pretrained(tmp_path / "run")(2).images) == 2
    manifest = json.loads((files.checkpoints(tmp_path / "run")[-1] / files.MANIFEST).read_text())
    assert not any("\\" in name for name in manifest)
