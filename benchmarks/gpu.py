"""Check the package on this machine's GPU, and time it there, in about eight minutes, as one table.

    python benchmarks/gpu.py                      # on a machine with an NVIDIA GPU
    python benchmarks/gpu.py --jobs 4             # four checks at a time, as far as nothing is timed
    python benchmarks/gpu.py --only graphs,two    # some of the checks
    python benchmarks/gpu.py --cpu                # the same checks on the CPU, small: whether this file itself is right

Please send us the table: most of what the package does on GPUs was derived and simulated on CPUs. Every check is a
process of its own with a time limit. `pass` and `fail` say whether something is right, `slow` that it is right and
slower than it should be, `info` is a figure, and `skip` says what is missing. The exit code is 1 if a check failed.
"""

import argparse
import copy
import gc
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import diffusers
import numpy as np
import speed
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from hf_wgan import (
    DCGANCritic,
    DCGANGenerator,
    ImageSet,
    RunConfig,
    TrainingConfig,
    WGANPipeline,
    WGANTrainer,
    build_trainer,
)
from hf_wgan.algorithm.execution import Execution
from hf_wgan.algorithm.lipschitz import CONSTRAINTS, GradientPenalty
from hf_wgan.data import DataConfig
from hf_wgan.models.factory import ARCHITECTURES, NetworkConfig, build_networks
from hf_wgan.training.graphs import GraphedStep
from hf_wgan.training.presets import FOR_COLOUR, PRESETS
from hf_wgan.utils.errors import DeviceMemoryError, one_line

ROOT = Path(__file__).parents[1]
CPU = "--cpu" in sys.argv
sys.path.insert(0, str(ROOT / "tests"))  # for the recorder that stands for CUDA graphs on a CPU
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
PATIENCE = 6 if CPU else 1  # by how much longer a check may take than on a GPU
NEVER = 10**9
SIZES = {"dcgan": 8, "mlp": 8, "resnet": 32, "r3gan": 16}
ADAM = {"optimizer": "adam", "adam_beta1": 0.0, "adam_beta2": 0.9}
GP = {"lipschitz": "gp", **ADAM}
SCHEDULES = {"lipschitz": "r1r2", "optimizer": "adamw", "lr_scheduler": "cosine", "max_train_steps": 20}
SCHEDULES |= {"gradient_penalty_weight_end": 0.1, "adam_beta2_end": 0.99}


class Row(NamedTuple):
    """A line of the table."""

    status: str
    name: str
    detail: str


class Check(NamedTuple):
    """A check: what it yields, the seconds that it may take on a GPU, and whether it times something there."""

    function: Callable[[], Iterator[Row]]
    limit: int
    is_timed: bool


CHECKS: dict[str, Check] = {}


def check(limit: int, is_timed: bool = False) -> Callable[[Callable[[], Iterator[Row]]], Callable[[], Iterator[Row]]]:
    def register(function: Callable[[], Iterator[Row]]) -> Callable[[], Iterator[Row]]:
        CHECKS[function.__name__] = Check(function, limit, is_timed)
        return function

    return register


def judged(name: str, function: Callable[..., tuple[bool, str]], *args: Any, otherwise: str = "fail") -> Row:
    """Run a function that says whether something is right, and how; an error means that it is not."""
    gc.collect()  # trainers before this one, which hold themselves, and their memory on the device
    if CUDA:
        torch.cuda.empty_cache()
    try:
        good, detail = function(*args)
    except (torch.OutOfMemoryError, DeviceMemoryError) as error:
        traceback.print_exc()
        return Row("skip", name, f"needs more memory than is free here: {one_line(error)[:160]}")
    except Exception as error:
        traceback.print_exc()
        return Row("fail", name, f"{type(error).__name__}: {one_line(error)[:200]}")
    return Row("pass" if good else otherwise, name, detail)


def trainer(
    architecture: str = "dcgan",
    size: int | None = None,
    channels: int = 1,
    width: int = 8,
    double: bool = False,
    graphed: bool = False,
    norm: str | None = None,
    flips: bool = False,
    memory_limit_gb: float | None = None,
    num_images: int = 64,
    **settings: Any,
) -> WGANTrainer:
    """Build a trainer of small networks, the same every time."""
    AcceleratorState._reset_state(reset_partial_state=True)
    lipschitz, size = settings.get("lipschitz", "clip"), size or SIZES[architecture]
    classes = 10 if settings.get("class_conditional") else None
    if norm is None:
        norm = "layer" if CONSTRAINTS[lipschitz].has_penalty else "none" if lipschitz == "spectral" else "batch"
    options: dict[str, Any] = {"latent_dim": 16, "generator_width": width, "critic_width": width}
    if architecture in ("dcgan", "resnet"):
        options |= {"critic_norm_type": norm, "generator_norm_type": "none" if norm == "none" else "batch"}
    torch.manual_seed(0)
    config = NetworkConfig(architecture=architecture, **options)
    networks = build_networks(config, size, channels, classes, spectral_norm=lipschitz == "spectral")
    rng = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (num_images, channels, size, size), generator=rng, dtype=torch.uint8)
    data = DataConfig(resolution=size, random_flip=flips, memory_limit_gb=memory_limit_gb)
    plain = {
        "output_dir": tempfile.mkdtemp(prefix="hf_wgan-gpu-"),
        "train_batch_size": 8,
        "n_critic": 2,
        "max_train_steps": NEVER,
        "validation_steps": NEVER,
        "checkpointing_steps": NEVER,
        "num_validation_images": 4,
        "generator_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "cuda_graphs": graphed and CUDA,
        "sync_batch_norm": torch.cuda.device_count() > 1,
    }
    run = WGANTrainer(
        *(network.double() if double else network for network in networks),
        ImageSet(pixels, labels=torch.arange(num_images) % 10, config=data),
        TrainingConfig(**{**plain, **settings}),
    )
    if graphed and not CUDA:
        from recorder import recorded

        run.iteration = GraphedStep(run.algorithm, run.config.n_critic, run.random.rng, recorded)
    return run


def state_of(run: WGANTrainer) -> torch.Tensor:
    tensors = [tensor for network in run.state.networks.values() for tensor in network.state_dict().values()]
    tensors += run.state.ema.shadow_params if run.state.ema else []
    return torch.cat([tensor.detach().flatten().double().cpu() for tensor in tensors])


def steps(run: WGANTrainer, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Take steps; return their records and the state after them."""
    records = []
    for _ in range(number):
        records.append(torch.stack(run.step()))
        run.callbacks.call("on_step_end", record=None)  # by which adaptive augmentation goes on
    return torch.stack(records).double().cpu(), state_of(run)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


def equal(build: Callable[..., WGANTrainer], one: dict, other: dict, number: int, least: float) -> tuple[bool, str]:
    """Compare two ways to the same numbers."""
    runs = build(**one), build(**other)
    first, second = (steps(run, number) for run in runs)
    if flaw := flaw_of_graphs(runs[0]):
        return False, flaw
    far = max(apart(a, b) for a, b in zip(first, second))
    return far <= least and bool(first[0].isfinite().all()), f"apart by {far:.1e} after {number} iterations"


def flaw_of_graphs(run: WGANTrainer) -> str:
    """Return how the iterations of a run differ from recorded ones with branches, if they are to be recorded."""
    if not isinstance(run.iteration, GraphedStep):
        return ""
    if run.iteration.is_recorded:
        return run.iteration.failure and f"recorded without branches: {run.iteration.failure[:200]}"
    return f"the iterations were not recorded: {run.iteration.failure[:200]}"


# What is right.


@check(60)
def environment() -> Iterator[Row]:
    if CUDA:
        gpu = torch.cuda.get_device_properties(0)
        capability = f"{gpu.major}.{gpu.minor}"
        detail = (
            f"{torch.cuda.device_count()} × {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {capability}"
        )
    else:
        detail = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    yield Row("info", "machine", detail)
    yield Row(
        "info",
        "versions",
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, accelerate {accelerate.__version__}, diffusers "
        f"{diffusers.__version__}, Python {platform.python_version()}",
    )
    yield Row("pass" if CUDA or CPU else "fail", "device", f"{DEVICE}" if CUDA or CPU else "PyTorch sees no GPU")


@check(150)
def combinations() -> Iterator[Row]:
    """Every constraint with every architecture and precision."""
    wrong, number = [], 0
    for architecture in ["dcgan"] if CPU else ARCHITECTURES:
        for lipschitz in CONSTRAINTS:
            for precision in ["no", "bf16", "fp16"] if CUDA else ["no", "bf16"]:
                number += 1
                name = f"{architecture}, {lipschitz}, {precision}"
                options = ADAM if number % 2 else {}
                try:
                    run = trainer(architecture, lipschitz=lipschitz, mixed_precision=precision, **options)
                    records, after = steps(run, 3)
                    if not (records.isfinite().all() and after.isfinite().all()):
                        wrong.append(f"{name}: not finite")
                except Exception as error:
                    traceback.print_exc()
                    wrong.append(f"{name}: {one_line(error)[:100]}")
    yield Row("fail" if wrong else "pass", "every combination trains", "; ".join(wrong[:4]) or f"{number} of them")


@check(120)
def fast_paths() -> Iterator[Row]:
    runs: dict[str, dict[str, Any]] = {
        "clip": {},
        "gp": GP,
        "lazy r1r2, r3gan": {"architecture": "r3gan", "lipschitz": "r1r2", "penalty_interval": 2, "optimizer": "adamw"},
        "lp, resnet, classes": {"architecture": "resnet", "lipschitz": "lp", "class_conditional": True, **ADAM},
        "accumulated": {"augmentation": "color,translation,cutout", "gradient_accumulation_steps": 2, **GP},
    }
    for name, settings in runs.items():
        settings = {"double": True, **settings}
        yield judged(f"fast paths, {name}", equal, trainer, settings, {**settings, "fast_paths": False}, 8, 1e-7)


@check(60)
def against_cpu() -> Iterator[Row]:
    def gradients(device: torch.device | str, dtype: torch.dtype, own: bool) -> torch.Tensor:
        torch.manual_seed(0)
        generator = DCGANGenerator(sample_size=32, width=16).double()
        critic = DCGANCritic(sample_size=32, width=16, norm_type="layer").double()
        for network in (generator, critic):
            network.to(device, dtype, memory_format=torch.channels_last)
        rng = torch.Generator().manual_seed(1)
        latents = torch.randn(8, 100, generator=rng, dtype=torch.float64).to(device, dtype)
        real = torch.rand(8, 3, 32, 32, generator=rng, dtype=torch.float64).to(device, dtype)
        fake = generator(latents)
        in_the_middle = GradientPenalty(10.0, lambda shape, **options: torch.full(shape, 0.5, **options))
        score = Execution(fast_paths=own).penalty_score(critic, ())
        penalty = in_the_middle.penalty(score, real, fake.detach())
        (critic(fake).mean() - critic(real).mean() + penalty).backward()
        weights = [weight for network in (generator, critic) for weight in network.parameters()]
        return torch.cat([weight.grad.flatten().double().cpu() for weight in weights])

    def compared(dtype: torch.dtype, own: bool, least: float) -> tuple[bool, str]:
        torch.backends.cudnn.allow_tf32 = False
        far = apart(gradients(DEVICE, dtype, own), gradients("cpu", torch.float64, False))
        return far < least, f"gradients of loss and penalty are apart from the CPU's in float64 by {far:.1e}"

    for dtype, least in ((torch.float64, 1e-9), (torch.float32, 5e-3)):
        for own in (False, True):
            whose = "our derivatives" if own else "PyTorch's derivatives"
            name = f"the device computes as the CPU does, {str(dtype).removeprefix('torch.')}, {whose}"
            yield judged(name, compared, dtype, own, least)


@check(150)
def graphs() -> Iterator[Row]:
    runs: dict[str, dict[str, Any]] = {
        "clip": {},
        "averaged": {"use_ema": True},
        "gp": GP,
        "lazy r1r2": {"architecture": "r3gan", "lipschitz": "r1r2", "penalty_interval": 2, "optimizer": "adamw"},
        "classes and flips": {"class_conditional": True, "flips": True},
        "augmented": {"lipschitz": "dragan", "augmentation": "color,translation,cutout"},
        "adaptive augmentation": {
            "augmentation": "color,translation,cutout",
            "adaptive_augmentation": True,
            "adaptive_augmentation_images": 100,
        },
        "spectral, resnet": {"architecture": "resnet", "lipschitz": "spectral", **ADAM},
        "plain paths": {"lipschitz": "gp", "fast_paths": False},
        "schedules, r3gan": {"architecture": "r3gan", **SCHEDULES},
        "lazy in every phase": {"n_critic": 2, "penalty_interval": 3, **GP},
    }
    for name, settings in runs.items():
        settings = {"double": True, **settings}
        least = 1e-5 if "lr_scheduler" in settings else 1e-8  # what is scheduled is in float32 there
        if CUDA or "lr_scheduler" not in settings:
            yield judged(f"graphs, {name}", equal, trainer, {**settings, "graphed": True}, settings, 14, least)
        else:
            yield Row("skip", f"graphs, {name}", "what is scheduled is on the device with GPUs only")


@check(120)
def graphs_again() -> Iterator[Row]:
    """Record an iteration anew after a change, and without branches where these cannot be recorded."""

    def equal_after(change: Callable[[WGANTrainer], Any], before: Callable[[WGANTrainer], Any]) -> tuple[bool, str]:
        runs = [trainer(double=True, graphed=graphed) for graphed in (True, False)]
        states = []
        for run in runs:
            before(run)
            steps(run, 6)
            change(run)
            states.append(steps(run, 6))
        far = max(apart(a, b) for a, b in zip(*states))
        flaw = flaw_of_graphs(runs[0])
        return far <= 1e-8 and not flaw, flaw or f"apart by {far:.1e} after 6 and 6 iterations"

    def unfrozen(is_trained: bool) -> Callable[[WGANTrainer], Any]:
        return lambda run: next(run.critic.parameters()).requires_grad_(is_trained)

    def clip_less(run: WGANTrainer) -> None:
        run.algorithm.constraint.clip_value *= 2  # type: ignore[attr-defined]

    yield judged("graphs, another clip value", equal_after, clip_less, lambda run: None)
    yield judged("graphs, a weight that is frozen at first", equal_after, unfrozen(True), unfrozen(False))

    def without_branches(read: Callable[[], Any]) -> tuple[bool, str]:
        plain, graphed = trainer(double=True), trainer(double=True, graphed=True)
        branched = Execution.branched

        @contextmanager
        def failing(self: Execution) -> Iterator[None]:
            with branched(self):
                yield
                read()

        Execution.branched = failing  # type: ignore[method-assign]
        try:
            recorded = steps(graphed, 8)
        finally:
            Execution.branched = branched  # type: ignore[method-assign]
        assert isinstance(graphed.iteration, GraphedStep)
        far = max(apart(a, b) for a, b in zip(recorded, steps(plain, 8)))
        clip_less(graphed)  # after which it is recorded anew
        records, _ = steps(graphed, 4)
        failure, is_recorded = graphed.iteration.failure, graphed.iteration.is_recorded
        good = far <= 1e-8 and bool(failure) and is_recorded and bool(records.isfinite().all())
        return good, f"apart by {far:.1e}, recorded: {is_recorded}, after: {failure[:120]}"

    def used_up() -> None:
        raise torch.OutOfMemoryError("a stand-in for memory that is used up")

    yield judged("graphs, the host waits in a branch", without_branches, torch.ones((), device=DEVICE).item)
    yield judged("graphs, memory is used up", without_branches, used_up)


def deterministic() -> None:
    """Let two plain runs be equal, whose gradients of weights in TF32 else differ from time to time."""
    torch.backends.cudnn.deterministic = True


@check(120)
def graphs_in_half() -> Iterator[Row]:
    deterministic()
    size = {"width": 8} if CPU else {"size": 32, "channels": 3, "width": 32, "train_batch_size": 32}
    for name, settings in {"clip": {}, "gp, averaged": {**GP, "use_ema": True}}.items():
        for precision in ("bf16", "no"):
            same = {**size, **settings, "mixed_precision": precision}
            yield judged(f"graphs, {name}, {precision}", equal, trainer, {**same, "graphed": True}, same, 12, 0.02)


@check(120)
def graphs_and_data() -> Iterator[Row]:
    """Record while another thread reads and pins batches."""

    def recorded(settings: dict[str, Any]) -> tuple[bool, str]:
        for _ in range(1 if CPU else 4):
            run = trainer(size=16 if CPU else 64, channels=3, num_images=256, graphed=True, **settings)
            records, _ = steps(run, 8)
            if flaw := flaw_of_graphs(run):
                return False, flaw
        return bool(records.isfinite().all()), "8 iterations"

    yield judged("graphs, images read ahead", recorded, {"memory_limit_gb": 1e-6})
    yield judged("graphs, images on the device", recorded, {})


def spoiled(run: WGANTrainer, step: int) -> WGANTrainer:
    """Let a weight become NaN before a step, once."""
    take = run.step

    def spoiling() -> Any:
        if run.state.global_step == step and run.state.progress.restores == 0:
            next(run.critic.parameters()).data.view(-1)[:1] = math.nan
        return take()

    run.step = spoiling  # type: ignore[method-assign]
    return run


@check(120)
def restore() -> Iterator[Row]:
    deterministic()
    common = {"on_nan": "restore", "max_train_steps": 16, "checkpointing_steps": 5, "logging_steps": 1}

    def restored(settings: dict[str, Any]) -> tuple[bool, str]:
        plain, graphed = (spoiled(trainer(graphed=value, **common, **settings), 8) for value in (False, True))
        plain.train()
        graphed.train()
        restores, far = (
            (plain.state.progress.restores, graphed.state.progress.restores),
            apart(state_of(graphed), state_of(plain)),
        )
        good = restores == (1, 1) and far < (1e-3 if CUDA else 1e-8) and not flaw_of_graphs(graphed)
        return good, flaw_of_graphs(graphed) or f"graphs and the plain step end {far:.1e} apart"

    for name, settings in {"clip": {}, "gp": GP, "averaged": {"use_ema": True}}.items():
        yield judged(f"back to a checkpoint, {name}", restored, settings)


@check(150)
def resume() -> Iterator[Row]:
    deterministic()

    def resumed(settings: dict[str, Any]) -> tuple[bool, str]:
        common = {"checkpointing_steps": 6, "logging_steps": 2, "max_train_steps": 12, **settings}
        whole, first = trainer(**common), trainer(**common)
        whole.train()
        for _ in first.iterate():
            if first.state.global_step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
        second = trainer(**common, output_dir=first.config.output_dir, resume_from_checkpoint="latest")
        second.train()
        far = apart(state_of(second), state_of(whole))
        went_on = first.state.global_step == 7 and second.state.global_step == 12
        good = went_on and far < (1e-3 if CUDA else 1e-8) and not flaw_of_graphs(second)
        return good, flaw_of_graphs(second) or f"7 and 5 steps end {far:.1e} apart from 12"

    runs: dict[str, dict[str, Any]] = {
        "clip": {},
        "gp": GP,
        "averaged": {"use_ema": True, **GP},
        "graphs": {"graphed": True},
        "cosine rate": {"lr_scheduler": "cosine", **ADAM},
    }
    for name, settings in runs.items():
        yield judged(f"resumed, {name}", resumed, settings)


@check(90)
def float16() -> Iterator[Row]:
    if not CUDA:
        yield Row("skip", "float16", "Accelerate has it on GPUs only")
        return

    def scaled(settings: dict[str, Any]) -> tuple[bool, str]:
        run = trainer(mixed_precision="fp16", width=16, **settings)
        run.accelerator.scaler.scale(torch.zeros((), device=DEVICE))  # which begins it
        run.accelerator.scaler.update(2.0**40)  # the first gradients overflow, and their update is tried again
        records, _ = steps(run, 20)
        scale = run.accelerator.scaler.get_scale()
        return bool(records.isfinite().all()) and scale < 2.0**40, f"loss scale {scale:g} after 20 steps"

    for name, settings in {"clip": {}, "gp": GP}.items():
        yield judged(f"float16, {name}", scaled, settings)


@check(60)
def tf32() -> Iterator[Row]:
    def refused() -> tuple[bool, str]:
        torch.backends.fp32_precision = "tf32"
        trainer(allow_tf32=False)
        backends: Any = torch.backends
        precisions = {
            name: module.fp32_precision
            for name, module in {"convolutions": backends.cudnn.conv, "products": backends.cuda.matmul}.items()
        }
        return "tf32" not in precisions.values(), f"--no-allow_tf32 after a script allowed it: {precisions}"

    def exact(allowed: bool) -> tuple[bool, str]:
        run = trainer(size=64, channels=3, width=64, allow_tf32=allowed, norm="none", lipschitz="gp")
        images = torch.rand(16, 3, 64, 64, device=DEVICE) * 2 - 1
        with torch.no_grad():
            scores, right = run.critic(images), copy.deepcopy(run.critic).double()(images.double())
        error = apart(scores.double(), right)
        return (error > 2e-5) == allowed, f"scores are off by {error:.1e}"

    if CUDA and torch.cuda.get_device_capability()[0] >= 8:
        for allowed in (True, False):
            yield judged(f"allow_tf32={allowed}", exact, allowed)
    yield judged("TF32 as the options say", refused)


@check(90)
def dynamo() -> Iterator[Row]:
    """Train what `accelerate launch --dynamo_backend` compiles."""
    os.environ["ACCELERATE_DYNAMO_BACKEND"] = "EAGER"
    for name, settings in {"clip": {}, "gp": GP}.items():
        yield judged(
            f"compiled by Accelerate, {name}",
            lambda settings: (bool(steps(trainer(**settings), 2)[0].isfinite().all()), "trains"),
            settings,
        )


TOGETHER: dict[str, dict[str, Any]] = {
    "gp": {"norm": "none", **GP},
    "lazy r1r2": {"lipschitz": "r1r2", "penalty_interval": 2, "norm": "none", "augmentation": "color,translation"},
    "classes, averaged": {"lipschitz": "gp", "norm": "none", "class_conditional": True, "use_ema": True},
    "clip": {},
}


@check(150)
def two() -> Iterator[Row]:
    """Two processes: on two GPUs by NCCL, together on one GPU or on a CPU by gloo."""
    from processes import free_port

    folder, several = tempfile.mkdtemp(prefix="hf_wgan-gpu-"), CUDA and torch.cuda.device_count() > 1
    environment = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(free_port()), "FOLDER": folder}
    command = [sys.executable, __file__, "--run", "one_of_two", *(["--cpu"] if CPU else [])]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(0 if CUDA and not several else rank)} for rank in range(2)]
    processes = [subprocess.Popen(command, env=environment | rank) for rank in ranks]
    with suppress(subprocess.TimeoutExpired):  # before this check itself is ended, which would leave them behind
        for process in processes:
            process.wait(60 * PATIENCE)
    for process in processes:
        process.kill()
    codes = [process.wait() for process in processes]
    how = "NCCL, two GPUs" if several else "gloo, one GPU" if CUDA else "gloo, a CPU"
    if any(codes):
        yield Row("fail", "two processes", f"{how}: exit codes {codes}")
        return

    def compared(name: str, settings: dict[str, Any]) -> tuple[bool, str]:
        _, alone = steps(trainer(double=True, train_batch_size=8, **settings), 6)
        one, other = (torch.load(Path(folder, f"{name} {rank}.pt")) for rank in range(2))
        if name == "clip" and not several:  # each process has its own batch-norm statistics
            return bool(one.isfinite().all()), f"{how}: trains"
        far = apart(one, alone)
        return torch.equal(one, other) and far < 1e-8, f"{how}: apart from one process by {far:.1e}"

    for name, settings in TOGETHER.items():
        yield judged(f"two processes, {name}", compared, name, settings)
    yield Row("info", "agreement of two processes", Path(folder, "agreement").read_text())


def one_of_two() -> None:
    rank, folder = os.environ["RANK"], os.environ["FOLDER"]
    if CUDA and torch.cuda.device_count() == 1:  # which NCCL refuses to share
        torch.distributed.init_process_group("gloo")
    for name, settings in TOGETHER.items():
        run = trainer(double=True, train_batch_size=4, **settings)
        torch.save(steps(run, 6)[1], Path(folder, f"{name} {rank}.pt"))
    from hf_wgan.training.agreement import Agreement

    agreement, began = Agreement(run.accelerator), time.perf_counter()
    for _ in range(100):
        agreement.largest([0])
    Path(folder, "agreement").write_text(f"{1e4 * (time.perf_counter() - began):.0f} µs each")
    run.accelerator.end_training()


@check(150)
def command() -> Iterator[Row]:
    """`hf-wgan train` as a person runs it, and again, resumed."""
    root = Path(tempfile.mkdtemp(prefix="hf_wgan-gpu-"))
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(80):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(root / "photos" / f"{number}.png")
    options = {"train_data_dir": root / "photos", "output_dir": root / "run", "resolution": 32, "train_batch_size": 16}
    options |= {"generator_width": 16, "critic_width": 16, "num_validation_images": 4, "checkpointing_steps": 10}
    options |= {"mixed_precision": "bf16", "lipschitz": "gp", "critic_norm_type": "layer", "optimizer": "adam"}
    words = ["train", "--use_ema", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]

    def ran(more: list[str]) -> tuple[bool, str]:
        environment = {**os.environ, "HF_HOME": str(root / "home")}
        run = subprocess.run(
            [sys.executable, "-m", "hf_wgan", *words, *more], env=environment, capture_output=True, text=True
        )
        sys.stderr.write(run.stderr)
        lines = [line for line in run.stderr.splitlines() if line.strip()]
        opening = next((line for line in lines if line.startswith("Training ")), "")
        is_on_device = DEVICE.type in opening and ("as CUDA graphs" in run.stderr or not CUDA)
        return run.returncode == 0 and is_on_device, (opening if is_on_device else lines[-1])[-120:]

    yield judged("hf-wgan train", ran, ["--max_train_steps", "20"])
    yield judged("hf-wgan train, resumed", ran, ["--max_train_steps", "30", "--resume_from_checkpoint", "latest"])


@check(200)
def suite() -> Iterator[Row]:
    """Run the repository's own tests of the step, which mean the CPU, and those that need a GPU."""
    files = [f"tests/training/test_{name}.py" for name in ("graphs", "machines")] + ["tests/algorithm/test_step.py"]
    runs = {"the repository's tests": files} | (
        {"its tests on a GPU": ["--gpu", "-k", "test_on_a_gpu", files[0]]} if CUDA else {}
    )
    for name, words in runs.items():
        command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", *words]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        sys.stderr.write(run.stdout + run.stderr)
        yield Row("fail" if run.returncode else "pass", name, (run.stdout.splitlines() or ["no output"])[-1])


# How fast it is.


def seconds(iterate: Callable[[], Any]) -> float:
    """Return the seconds of one iteration, the least of three rounds."""
    speed.seconds(iterate, 3 if CPU else 8, DEVICE)
    count = max(1, round((0.1 if CPU else 0.4) / speed.seconds(iterate, 1, DEVICE)))
    return min(speed.seconds(iterate, count, DEVICE) for _ in range(3))


def setting(size: int, channels: int, lipschitz: str) -> speed.Setting:
    return speed.Setting("dcgan", 16 if CPU else size, channels, 8 if CPU else 64, lipschitz)


def ours(chosen: speed.Setting, precision: str = "no", *words: str) -> speed.Ours:
    AcceleratorState._reset_state(reset_partial_state=True)
    rng = torch.Generator().manual_seed(0)
    shape = (1024, chosen.channels, chosen.resolution, chosen.resolution)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    return speed.Ours(images, chosen, precision, Path(tempfile.mkdtemp(prefix="hf_wgan-gpu-"), "run"), words)


@check(60, is_timed=True)
def host_waits() -> Iterator[Row]:
    if not CUDA:
        yield Row("skip", "host waits", "needs a GPU")
        return

    def waits(settings: dict[str, Any]) -> tuple[bool, str]:
        run = trainer(n_critic=5, **settings)
        steps(run, 6)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            run.step()
            torch.cuda.set_sync_debug_mode("default")
        places = Counter(
            f"{Path(warning.filename).name}:{warning.lineno}"
            for warning in caught
            if "called a synchronizing CUDA operation" in str(warning.message)
        )
        if flaw := flaw_of_graphs(run):
            return False, flaw
        return not places, f"{sum(places.values())} an iteration {dict(places.most_common(4)) or ''}"

    runs = {"clip": {}, "classes and flips": {"class_conditional": True, "flips": True}, "gp": GP}
    for name, settings in {**runs, "graphs": {"graphed": True}}.items():
        yield judged(f"host waits, {name}", waits, settings, otherwise="slow")


def contest(chosen: speed.Setting) -> Iterator[Row]:
    """Time the trainer against a plain loop, in turns within one process."""
    times: dict[str, float] = {}

    def plain(allowed: bool) -> Callable[[], Any]:
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
        shape = (1024, chosen.channels, chosen.resolution, chosen.resolution)
        return speed.PlainLoop(torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE), chosen, DEVICE).iterate

    contenders: dict[str, Callable[[], Callable[[], Any]]] = {
        "plain, float32": lambda: plain(False),
        "plain, TF32": lambda: plain(True),
        "ours": lambda: ours(chosen).iterate,
        "ours, float32": lambda: ours(chosen, "no", "--no-allow_tf32").iterate,
        "ours, bf16": lambda: ours(chosen, "bf16").iterate,
    }
    if CUDA:
        contenders["ours, no graphs"] = lambda: ours(chosen, "no", "--no-cuda_graphs").iterate
        contenders["ours, bf16, no graphs"] = lambda: ours(chosen, "bf16", "--no-cuda_graphs").iterate
    for name, build in contenders.items():

        def measured(name: str = name, build: Callable[[], Callable[[], Any]] = build) -> tuple[bool, str]:
            times[name] = taken = seconds(build())
            return True, f"{1e3 * taken:.2f} ms an iteration, {5 * speed.BATCH / taken:,.0f} real images/s"

        row = judged(f"{chosen}, {chosen.lipschitz}: {name}", measured)
        yield row._replace(status="info") if row.status == "pass" else row
    pairs = [("ours", "plain, TF32"), ("ours, float32", "plain, float32"), ("ours, bf16", "ours")]
    pairs += [("ours", "ours, no graphs"), ("ours, bf16", "ours, bf16, no graphs")]
    for one, other in pairs:
        if one in times and other in times:
            ratio = times[other] / times[one]
            status = "info" if CPU else "pass" if ratio >= 0.97 else "slow"
            yield Row(status, f"{chosen}, {chosen.lipschitz}: {one}", f"{ratio:.2f} times as fast as {other}")


@check(110, is_timed=True)
def speed_64() -> Iterator[Row]:
    yield from contest(setting(64, 3, "clip"))


@check(80, is_timed=True)
def speed_32() -> Iterator[Row]:
    yield from contest(setting(32, 1, "clip"))


@check(100, is_timed=True)
def speed_128() -> Iterator[Row]:
    yield from contest(setting(128, 3, "clip"))


@check(100, is_timed=True)
def speed_penalty() -> Iterator[Row]:
    yield from contest(setting(64, 3, "gp"))


@check(150, is_timed=True)
def presets() -> Iterator[Row]:
    """Time an iteration of every preset with its own networks, in bf16 unless its networks gain nothing by it."""
    folder = Path(tempfile.mkdtemp(prefix="hf_wgan-gpu-"))
    rng = np.random.default_rng(0)
    for number in range(64):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{number}.png")
    common: dict[str, Any] = {"train_data_dir": str(folder), "max_train_steps": NEVER, "logging_steps": 100}
    common |= {"validation_steps": NEVER, "checkpointing_steps": NEVER}
    if CPU:
        common |= {"generator_width": 8, "critic_width": 8, "train_batch_size": 2}

    def timed(preset: str, size: int, precision: str) -> tuple[bool, str]:
        taken: list[float] = []
        for graphs in (None, False):
            AcceleratorState._reset_state(reset_partial_state=True)
            settings: dict[str, Any] = {"preset": preset, "resolution": size, "mixed_precision": precision}
            settings["cuda_graphs"] = graphs
            config = RunConfig.resolve(
                **common, **settings, output_dir=tempfile.mkdtemp(prefix="hf_wgan-gpu-") + "/run"
            )
            run = build_trainer(config)
            speed.seconds(run.step, 1 if CPU else 12, DEVICE)
            taken.append(min(speed.seconds(run.step, 1 if CPU else 8, DEVICE) for _ in range(1 if CPU else 3)))
            is_graphed = isinstance(run.iteration, GraphedStep)
            if graphs is None and CUDA and (flaw := flaw_of_graphs(run) if is_graphed else "no graphs by default"):
                return False, flaw
        number, ms = config.training.train_batch_size, [1e3 * value for value in taken]
        detail = f"{ms[0]:.2f} ms an iteration with {number} images a batch, {ms[1]:.2f} without graphs"
        return ms[0] < 1.03 * ms[1], detail

    for preset in PRESETS:
        size, precision = 64 if preset == FOR_COLOUR else 32, "no" if preset.startswith("r3gan") else "bf16"
        row = judged(f"{preset}, {size} pixels, {precision}", timed, preset, size, precision, otherwise="slow")
        yield row if CUDA or row.status == "fail" else row._replace(status="info")


@check(60, is_timed=True)
def launches() -> Iterator[Row]:
    """Kernels an iteration, and the share of the time in which the device works on them."""
    from torch.profiler import ProfilerActivity, profile

    def profiled(lipschitz: str, precision: str) -> tuple[bool, str]:
        iterate = ours(setting(64, 3, lipschitz), precision).iterate
        taken = seconds(iterate)
        with profile(activities=[ProfilerActivity.CUDA if CUDA else ProfilerActivity.CPU]) as trace:
            speed.seconds(iterate, 3, DEVICE)
        events = [event for event in trace.events() if not CUDA or str(event.device_type).endswith("CUDA")]
        busy = sum(event.time_range.elapsed_us() if CUDA else event.self_cpu_time_total for event in events) / 3e6
        kind = "kernels" if CUDA else "operators"
        return (
            busy > 0.85 * taken,
            f"{len(events) // 3:,} {kind} an iteration, which fill {busy / taken:.0%} of the time",
        )

    for lipschitz, precision in (("clip", "no"), ("clip", "bf16"), ("gp", "bf16")):
        row = judged(f"launches, {lipschitz}, {precision}", profiled, lipschitz, precision, otherwise="slow")
        yield row if CUDA or row.status == "fail" else row._replace(status="info")


@check(60, is_timed=True)
def sampling() -> Iterator[Row]:
    @torch.no_grad()
    def sampled(size: int) -> tuple[bool, str]:
        number = 64 if CPU else 10_000 if size < 128 else 2_000
        generator = DCGANGenerator(sample_size=size, width=8 if CPU else 64).to(DEVICE).eval()
        pipelines = WGANPipeline(generator), WGANPipeline(copy.deepcopy(generator).to(torch.bfloat16))
        for pipeline in pipelines:
            pipeline.set_progress_bar_config(disable=True)
        latents, chunk = torch.randn(number, 100, device=DEVICE), max(1, 2**20 // size**2)
        calls: dict[str, Callable[[], Any]] = {
            "bare network": lambda: torch.cat([generator(part) for part in latents.split(chunk)]),
            "pipeline": lambda: pipelines[0](latents=latents, output_type="pt"),
            "in bf16": lambda: pipelines[1](latents=latents, output_type="pt"),
            "to PIL": lambda: pipelines[0](latents=latents),
        }
        taken = {
            name: statistics.median(speed.seconds(call, 1, DEVICE) for _ in range(4)) for name, call in calls.items()
        }
        rates = ", ".join(f"{name} {number / value:,.0f}" for name, value in taken.items())
        return taken["pipeline"] < 1.15 * taken["bare network"], f"{rates} images/s"

    for size in (16,) if CPU else (32, 64, 128):
        row = judged(f"sampling, {size} pixels", sampled, size, otherwise="slow")
        yield row if CUDA or row.status == "fail" else row._replace(status="info")


@check(150, is_timed=True)
def compiled() -> Iterator[Row]:
    def compiles(*words: str) -> tuple[bool, str]:
        if CPU:  # without the compiler's back end, which takes minutes on a CPU
            before = torch.nn.Module.compile
            torch.nn.Module.compile = lambda self: before(self, backend="eager")  # type: ignore[method-assign]
        began = time.perf_counter()
        iterate = ours(setting(64, 3, "clip"), "bf16", "--compile", *words).iterate
        speed.seconds(iterate, 4, DEVICE)
        first, taken = time.perf_counter() - began, seconds(iterate)
        return True, f"{1e3 * taken:.2f} ms an iteration, after {first:.0f} s"

    for words in [[]] if CPU else [[], ["--cuda_graphs"]]:
        yield judged(f"{' '.join(['--compile', *words])} in bf16", compiles, *words)


def process(name: str, logs: Path) -> list[Row]:
    """Run a check in a process of its own."""
    patience = CHECKS[name].limit * PATIENCE
    words = [sys.executable, __file__, "--run", name, *(["--cpu"] if CPU else [])]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    environment |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if CPU else {}
    log = logs / f"{name}.log"
    with open(log, "w") as file:
        try:
            run = subprocess.run(
                words,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                timeout=patience,
            )
            output, end = run.stdout, f"ended with exit code {run.returncode}" if run.returncode else ""
        except subprocess.TimeoutExpired as error:
            output, end = (error.stdout or b"").decode(), f"was not done after {patience} s"
    rows = [Row(*json.loads(line[1:])) for line in output.splitlines() if line.startswith("@")]
    if end or not rows:
        rows.append(Row("fail", name, f"{end or 'printed nothing'}; {log} has its output"))
    return rows


def main(args: argparse.Namespace) -> int:
    if args.run == "one_of_two":
        one_of_two()
        return 0
    if args.run:
        for row in CHECKS[args.run].function():
            print("@" + json.dumps(row), flush=True)
        return 0
    names = args.only.split(",") if args.only else list(CHECKS)
    if unknown := set(names) - set(CHECKS):
        print(f"error: --only {','.join(unknown)}: must be some of {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    logs, rows, began = args.logs or Path(tempfile.mkdtemp(prefix="hf_wgan-gpu-logs-")), list[Row](), time.monotonic()
    logs.mkdir(parents=True, exist_ok=True)
    print("| | check | |\n|---|---|---|")
    groups = [[name for name in names if CHECKS[name].is_timed == is_timed] for is_timed in (False, True)]
    for group, jobs in zip(groups, (args.jobs, 1)):
        with ThreadPoolExecutor(jobs) as pool:
            for result in as_completed(pool.submit(process, name, logs) for name in group):
                for row in result.result():
                    rows.append(row)
                    print(f"| {row.status} | {row.name} | {row.detail} |".replace("\n", " "), flush=True)
    counts = Counter(row.status for row in rows)
    words = ", ".join(f"{number} {status}" for status, number in counts.items())
    print(
        f"\n{words}, {len(names)} checks in {time.monotonic() - began:.0f} s; the logs are in {logs}", file=sys.stderr
    )
    return 1 if counts["fail"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="small, on the CPU")
    parser.add_argument("--only", help=f"some of {', '.join(CHECKS)}, separated by commas")
    parser.add_argument("--jobs", type=int, default=1, help="checks at a time; what is timed runs alone")
    parser.add_argument("--logs", type=Path, help="folder of the checks' output; by default a new temporary one")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    raise SystemExit(main(parser.parse_args()))
