"""How fast training and sampling are, against a loop as anyone would write it from the paper, in turns in one run.

    python benchmarks/speed.py
    python benchmarks/speed.py --resolutions 32,64 --lipschitz clip --rounds 9 -- --no-fast_paths
    python benchmarks/speed.py --architectures resnet,r3gan --resolutions 32 --width 32 --lipschitz gp,r1r2

The plain loop has the same networks and batches: eager, in float32 and PyTorch's default memory layout, a backward pass
for real and one for generated images, losses read after every iteration. Ours is the trainer with all that it does
between two steps. An iteration is five critic steps and one generator step on batches of 64. Each has a process of its
own, and each round times both, one after the other; printed are medians, and the median of the rounds' ratios. The
ceiling is what these networks' own convolutions and products reach, each alone, forward and backward, in the faster of
the two memory layouts. Memory is the most that the process had in its hands, libraries included; on a GPU, that was
allocated. What follows -- is passed to ours.
"""

import argparse
import copy
import dataclasses
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from options import split_options
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hf_wgan import ImageSet, TrainingConfig, WGANPipeline, WGANTrainer
from hf_wgan.models.factory import ARCHITECTURES
from hf_wgan.models.layers import PooledConv2d, UpsampledConv2d
from hf_wgan.pipelines.pipeline_wgan import PIXELS_PER_CHUNK
from hf_wgan.training.fast import has_bf16_arithmetic
from hf_wgan.training.report import ProgressCallback
from hf_wgan.utils.memory import kept_memory
from hf_wgan.utils.options import OptionParser

BATCH, N_CRITIC, LATENT_DIM, NUM_IMAGES, NEVER = 64, 5, 100, 512, 10**9
spawning = multiprocessing.get_context("spawn")
LEAST_SECONDS = 1.0  # of each contender in a round
OPTIMIZERS = {
    "clip": {"optimizer": "rmsprop", "generator_learning_rate": 5e-5, "critic_learning_rate": 5e-5},
    "gp": {"optimizer": "adam", "generator_learning_rate": 1e-4, "critic_learning_rate": 1e-4, "adam_beta2": 0.9},
}
OPTIMIZERS["r1r2"] = OPTIMIZERS["gp"]


class Setting(NamedTuple):
    """What is timed."""

    architecture: str
    resolution: int
    channels: int
    width: int
    lipschitz: str

    def networks(self) -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        norm = {} if self.architecture == "r3gan" else {"norm_type": "batch" if self.lipschitz == "clip" else "layer"}
        generator, critic = ARCHITECTURES[self.architecture]
        common = {"sample_size": self.resolution, "width": self.width}
        return (
            generator(out_channels=self.channels, latent_dim=LATENT_DIM, **common),
            critic(in_channels=self.channels, **norm, **common),
        )

    def __str__(self) -> str:
        return f"{self.architecture} {self.resolution}×{self.resolution}×{self.channels}"


def make_plain(layer: nn.Module) -> None:
    """Make a layer work as the papers' code does, with the same weights."""
    convolution = nn.Conv2d.forward
    if isinstance(layer, UpsampledConv2d):
        layer.forward = lambda maps: convolution(layer, functional.interpolate(maps, scale_factor=2))
    elif isinstance(layer, PooledConv2d):
        layer.forward = lambda maps: functional.avg_pool2d(convolution(layer, maps), 2)
    else:
        for kind in (nn.Conv2d, nn.ConvTranspose2d):
            if isinstance(layer, kind):
                layer.__class__ = kind


class PlainLoop:
    """The reference."""

    def __init__(self, images: Tensor, setting: Setting, device: torch.device):
        self.generator, self.critic = (player.to(device) for player in setting.networks())
        for layer in (*self.generator.modules(), *self.critic.modules()):
            make_plain(layer)
        self.images, self.lipschitz, self.device = images, setting.lipschitz, device
        players = (self.generator, self.critic)
        if self.lipschitz == "clip":
            self.optimizers = [torch.optim.RMSprop(player.parameters(), lr=5e-5) for player in players]
        else:
            self.optimizers = [torch.optim.Adam(player.parameters(), lr=1e-4, betas=(0.5, 0.9)) for player in players]
        self.losses: list[float] = []

    def iterate(self, n_critic: int = N_CRITIC) -> None:
        generator_optimizer, critic_optimizer = self.optimizers
        for parameter in self.critic.parameters():
            parameter.requires_grad = True
        for _ in range(n_critic):
            real = self.images[torch.randint(len(self.images), (BATCH,))].to(self.device).float() / 127.5 - 1
            fake = self.generator(torch.randn(BATCH, LATENT_DIM, device=self.device)).detach()
            critic_optimizer.zero_grad()
            real_loss = -self.critic(real).mean()
            real_loss.backward()
            fake_loss = self.critic(fake).mean()
            fake_loss.backward()
            if self.lipschitz == "gp":
                self.gradient_penalty(real, fake).backward()
            elif self.lipschitz == "r1r2":
                (5 * (self.squared_gradients(real) + self.squared_gradients(fake))).backward()
            critic_optimizer.step()
            if self.lipschitz == "clip":
                for parameter in self.critic.parameters():
                    parameter.data.clamp_(-0.01, 0.01)
        for parameter in self.critic.parameters():
            parameter.requires_grad = False
        generator_optimizer.zero_grad()
        loss = -self.critic(self.generator(torch.randn(BATCH, LATENT_DIM, device=self.device))).mean()
        loss.backward()
        generator_optimizer.step()
        self.losses += [real_loss.item() + fake_loss.item(), loss.item()]

    def gradient_penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        share = torch.rand(BATCH, 1, 1, 1, device=self.device)
        gradient = self.gradient(share * real + (1 - share) * fake)
        return 10 * ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()

    def squared_gradients(self, images: Tensor) -> Tensor:
        return self.gradient(images).square().flatten(1).sum(dim=1).mean()

    def gradient(self, images: Tensor) -> Tensor:
        images = images.detach().requires_grad_(True)
        scores = self.critic(images)
        return torch.autograd.grad(scores, images, torch.ones_like(scores), create_graph=True)[0]


class Ours:
    """The trainer, step by step."""

    def __init__(self, images: Tensor, setting: Setting, precision: str, folder: Path, extra: Sequence[str] = ()):
        config = TrainingConfig(
            output_dir=str(folder),
            train_batch_size=BATCH,
            n_critic=N_CRITIC,
            lipschitz=setting.lipschitz,
            mixed_precision=precision,
            max_train_steps=NEVER,
            validation_steps=NEVER,
            checkpointing_steps=NEVER,
            **OPTIMIZERS[setting.lipschitz],
        )
        config = dataclasses.replace(config, **OptionParser(TrainingConfig).parse(extra).options)
        self.trainer = WGANTrainer(*setting.networks(), ImageSet(images), config)
        self.trainer.remove_callback(ProgressCallback)
        self.steps = self.trainer.iterate()

    def iterate(self) -> None:
        next(self.steps)


def seconds(iterate: Callable[[], None], count: int, device: torch.device) -> float:
    """Return the seconds of one iteration."""
    began = time.perf_counter()
    for _ in range(count):
        iterate()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def peak_megabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.is_file():  # not getrusage, whose figure begins with that of the process that started this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1e3
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class Contender:
    """One that iterates in a process of its own, when asked to."""

    def __init__(self, images: Tensor, setting: Setting, precision: str | None, extra: list[str]):
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(theirs, images, setting, precision, extra), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str, *args: Any) -> Any:
        self._pipe.send((what, *args))
        return self._pipe.recv()

    def seconds(self, count: int) -> float:
        return self.ask("seconds", count)

    def end(self) -> None:
        self._pipe.send(("end",))
        self._process.join()


def _serve(pipe: Connection, images: Tensor, setting: Setting, precision: str | None, extra: list[str]) -> None:
    """Serve one contender in a process of its own; `precision` None is the plain loop."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        if precision is None:
            contender: PlainLoop | Ours = PlainLoop(images, setting, device)
        else:
            contender = Ours(images, setting, precision, Path(folder, "run"), extra)
        while (question := pipe.recv())[0] != "end":
            pipe.send(
                {
                    "seconds": lambda count: seconds(contender.iterate, count, device),
                    "flops": lambda: flops(contender.iterate),
                    "megabytes": lambda: peak_megabytes(device),
                    "breakdown": lambda count: breakdown(contender, count),
                }[question[0]](*question[1:])
            )


def in_turns(contenders: dict[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """Measure the contenders in turns after a warm-up round; return the seconds of each, a list of the rounds."""
    counts = {}
    for name, timed_iterations in contenders.items():
        timed_iterations(1)
        counts[name] = max(1, round(LEAST_SECONDS / timed_iterations(1)))
    measured = defaultdict(list)
    for number in range(rounds):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            measured[name].append(contenders[name](counts[name]))
    return measured


class FlopCount(TorchDispatchMode):
    """Counts the floating point operations of convolutions and matrix products, two for a multiply-add.

    The formulas are those of PyTorch's FlopCounterMode, which cannot count the gradient of a penalty.
    """

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def flops(iterate: Callable[[], None]) -> int:
    with FlopCount() as counter:
        iterate()
    return counter.total


def ceiling(generator: nn.Module, critic: nn.Module, dtype: torch.dtype, device: torch.device) -> float:
    """Measure the FLOP/s of all layers that multiply, each alone, forward and backward, over all of them together."""
    calls = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0].shape, output.shape))

    for network in (generator, critic):
        for layer in network.modules():
            if not [*layer.children()]:
                layer.register_forward_hook(note)
    with torch.no_grad():
        critic(generator(torch.randn(BATCH, LATENT_DIM, device=device)))
    work = spent = 0.0
    for layer, shape_in, shape_out in calls:
        layer._forward_hooks.clear()
        times = []
        for layout in (torch.contiguous_format, torch.channels_last):

            def laid_out(tensor: Tensor, layout: torch.memory_format = layout) -> Tensor:
                return tensor.to(memory_format=layout) if tensor.ndim == 4 else tensor

            layer = layer.to(dtype=dtype, memory_format=layout)
            inputs = laid_out(torch.randn(shape_in, dtype=dtype, device=device)).requires_grad_()
            gradient = laid_out(torch.randn(shape_out, dtype=dtype, device=device))

            def both(layer: nn.Module = layer, inputs: Tensor = inputs, gradient: Tensor = gradient) -> None:
                torch.autograd.grad(layer(inputs), [inputs, *layer.parameters()], gradient)

            work_of_layer = flops(both)
            if not work_of_layer:  # normalisation, activations
                break
            times.append(min(seconds(both, 3, device) for _ in range(3)))
        else:
            work += work_of_layer
            spent += min(times)
    return work / spent


@contextmanager
def timed(spent: dict[str, float], owner: Any, attribute: str, name: str) -> Iterator[None]:
    function = getattr(owner, attribute)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - began

    setattr(owner, attribute, wrapped)
    try:
        yield
    finally:
        setattr(owner, attribute, function)


def breakdown(ours: Ours, count: int) -> dict[str, float]:
    """Return the parts' shares of an iteration, by the host's clock: for CPUs."""
    trainer, spent = ours.trainer, defaultdict(float)
    step = trainer.algorithm
    players = (step.generator_optimizer, "step"), (step.critic_optimizer, "step")
    with (
        timed(spent, type(trainer.real_batches), "__next__", "data"),
        timed(spent, step.generator, "forward", "generator forward"),
        timed(spent, step.critic, "forward", "critic forward"),
        timed(spent, step.execution, "backward", "backward"),
        timed(spent, *players[0], "optimizers"),
        timed(spent, *players[1], "optimizers"),
        timed(spent, step.constraint, "after_step", "clamp"),
        timed(spent, step, "penalty", "penalty"),
        timed(spent, trainer.meter, "read", "report"),
    ):
        whole = count * seconds(ours.iterate, count, trainer.accelerator.device)
    spent["rest"] = whole - sum(spent.values())
    return {name: round(value / whole, 4) for name, value in spent.items()}


def training(
    args: argparse.Namespace, extra: list[str], setting: Setting, device: torch.device
) -> list[dict[str, Any]]:
    shape = (setting.channels, setting.resolution, setting.resolution)
    images = torch.randint(0, 256, (NUM_IMAGES, *shape), dtype=torch.uint8)
    precisions = args.precisions.split(",")
    plain, *ours = (Contender(images, setting, precision, extra) for precision in [None, *precisions])
    contenders = {"plain": plain, **dict(zip(precisions, ours))}
    measured = in_turns({name: contender.seconds for name, contender in contenders.items()}, args.rounds)
    work = plain.ask("flops")
    rows = []
    for precision, contender in zip(precisions, ours):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        with kept_memory():
            limit = ceiling(*setting.networks(), dtype, device)
        mine, reference = (statistics.median(measured[name]) for name in (precision, "plain"))
        ratios = sorted(a / b for a, b in zip(measured["plain"], measured[precision]))
        rows.append(
            {
                "networks": str(setting),
                "constraint": setting.lipschitz,
                "precision": "float32" if precision == "no" else precision,
                "plain, s": round(reference, 3),
                "ours, s": round(mine, 3),
                "images/s": round((N_CRITIC + 1) * BATCH / mine),
                "ratio": round(statistics.median(ratios), 2),
                "of all rounds": f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
                "GFLOP/s": round(work / mine / 1e9),
                "ceiling": round(limit / 1e9),
                "share": f"{work / mine / limit:.0%}",
                "plain, MB": round(plain.ask("megabytes")),
                "ours, MB": round(contender.ask("megabytes")),
                "shares": contender.ask("breakdown", max(1, round(2 / mine))) if device.type == "cpu" else None,
            }
        )
        print(json.dumps(rows[-1], ensure_ascii=False), file=sys.stderr, flush=True)
    for contender in contenders.values():
        contender.end()
    return rows


@torch.no_grad()
def sampling(args: argparse.Namespace, resolution: int, device: torch.device) -> dict[str, Any]:
    """Time the pipeline against the bare network in the same chunks, both to tensors; and one image at a time."""
    channels = 1 if resolution <= 32 else 3
    setting = Setting("dcgan", resolution, channels, args.width, "clip")
    generator = setting.networks()[0].to(device).eval()
    pipeline = WGANPipeline(generator).to(device)
    pipeline.set_progress_bar_config(disable=True)
    number = args.num_samples
    latents = torch.randn(number, LATENT_DIM, device=device)
    chunk = max(1, PIXELS_PER_CHUNK // resolution**2)

    def bare() -> None:
        torch.cat([generator(part) for part in latents.split(chunk)])

    half = WGANPipeline(copy.deepcopy(generator).to(torch.bfloat16))
    half.set_progress_bar_config(disable=True)
    calls = {
        "bare": bare,
        "pipeline": lambda: pipeline(latents=latents, output_type="pt"),
        "bf16": lambda: half(latents=latents, output_type="pt"),
        "PIL": lambda: pipeline(latents=latents),
        "one": lambda: pipeline(latents=latents[:1], output_type="pt"),
    }
    measured = in_turns(
        {name: lambda count, call=call: seconds(call, count, device) for name, call in calls.items()}, args.rounds
    )
    row: dict[str, Any] = {"images": f"{resolution}×{resolution}×{channels}"}
    row["bare network, images/s"] = round(number / statistics.median(measured["bare"]))
    for name, label in {"pipeline": "pipeline", "PIL": "to PIL", "bf16": "in bf16"}.items():
        row[f"{label}, images/s"] = round(number / statistics.median(measured[name]))
        row[f"{label}, ratio"] = round(statistics.median(a / b for a, b in zip(measured["bare"], measured[name])), 2)
    row["one image, ms"] = round(1000 * statistics.median(measured["one"]), 2)
    if args.compile:
        generator.compile(mode="reduce-overhead" if device.type == "cuda" else None)
        row["first compiled call, s"] = round(seconds(calls["one"], 1, device), 1)
        row["compiled, ms"] = round(1000 * statistics.median(seconds(calls["one"], 20, device) for _ in range(5)), 2)
    print(json.dumps(row, ensure_ascii=False), file=sys.stderr, flush=True)
    return row


def draw(rows: list[dict[str, Any]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.34 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['networks']}  {row['constraint']}  {row['precision']}" for row in rows]
    colours = ["C0" if row["precision"] == "float32" else "C1" for row in rows]
    bars = axes.barh(names, [row["ratio"] for row in rows], color=colours)
    axes.bar_label(bars, fmt="%.2f×", padding=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("training speed, the plain float32 loop being 1")
    figure.savefig(path, dpi=120)


def machine() -> str:
    """Describe what computes, and what it is able to do."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    bf16 = "with" if has_bf16_arithmetic(torch.device("cpu")) else "without"
    return f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()} {bf16} bf16 arithmetic"


def main(args: argparse.Namespace, extra: list[str]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolutions = [int(resolution) for resolution in args.resolutions.split(",")]
    samples = [sampling(args, resolution, device) for resolution in resolutions] if args.num_samples else []
    rows = [
        row
        for architecture in args.architectures.split(",")
        for lipschitz in args.lipschitz.split(",")
        for resolution in resolutions
        for row in training(
            args, extra, Setting(architecture, resolution, 1 if resolution <= 32 else 3, args.width, lipschitz), device
        )
    ]
    print(
        f"\n{machine()}, width {args.width}, batch {BATCH}, "
        f"{args.rounds} rounds{', ours with ' + ' '.join(extra) if extra else ''}\n"
    )
    for table in filter(None, (rows, samples)):
        columns = [name for name in table[0] if name != "shares"]
        for cells in (columns, ["---"] * len(columns), *([row[name] for name in columns] for row in table)):
            print(f"| {' | '.join(map(str, cells))} |")
        print()
    for row in rows:
        if row["shares"]:
            parts = ", ".join(f"{name} {share:.1%}" for name, share in row["shares"].items())
            print(f"{row['networks']}, {row['constraint']}, {row['precision']}: {parts}")
    if args.picture:
        draw(rows, args.picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", default="16,32,64,128", help="some, separated by commas; grey up to 32 pixels")
    parser.add_argument("--lipschitz", default="clip,gp", help="some of clip, gp and r1r2")
    parser.add_argument("--architectures", default="dcgan", help="some of dcgan, resnet and r3gan")
    parser.add_argument("--precisions", default="no,bf16", help="of ours; the plain loop is in float32")
    parser.add_argument("--width", type=int, default=64, help="of both networks")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--num_samples", type=int, default=10_000, help="of the pipeline; 0 leaves sampling out")
    parser.add_argument("--compile", action="store_true", help="also sample with torch.compile")
    parser.add_argument("--picture", help="file for a picture of the ratios")
    main(*split_options(parser))
