"""How fast training and sampling are, against a loop as anyone would write it from the paper, in turns in one run.

    python benchmarks/speed.py
    python benchmarks/speed.py --resolutions 32,64 --lipschitz clip --rounds 9

The plain loop has the same networks and batches: eager, in float32 and PyTorch's default memory layout, a backward pass
for real and one for generated images, losses read after every iteration. Ours is the trainer with all that it does
between two steps. An iteration is five critic steps and one generator step on batches of 64. Each round times both, one
after the other; printed are medians, and the median of the rounds' ratios. The ceiling is what these networks' own
convolutions reach, each alone, forward and backward, in the faster of the two memory layouts.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hf_wgan import DCGANCritic, DCGANGenerator, ImageSet, TrainingConfig, WGANPipeline, WGANTrainer
from hf_wgan.signals import Interrupts

BATCH, N_CRITIC, LATENT_DIM, NUM_IMAGES, NEVER = 64, 5, 100, 512, 10**9
LEAST_SECONDS = 1.0  # of each contender in a round
OPTIMIZERS = {
    "clip": {"optimizer": "rmsprop", "generator_learning_rate": 5e-5, "critic_learning_rate": 5e-5},
    "gp": {"optimizer": "adam", "generator_learning_rate": 1e-4, "critic_learning_rate": 1e-4, "adam_beta2": 0.9},
}


def networks(resolution: int, channels: int, width: int, lipschitz: str) -> tuple[DCGANGenerator, DCGANCritic]:
    torch.manual_seed(0)
    norm_type = "batch" if lipschitz == "clip" else "layer"
    return (
        DCGANGenerator(sample_size=resolution, out_channels=channels, latent_dim=LATENT_DIM, width=width),
        DCGANCritic(sample_size=resolution, in_channels=channels, width=width, norm_type=norm_type),
    )


class PlainLoop:
    """The reference."""

    def __init__(self, images: Tensor, width: int, lipschitz: str, device: torch.device):
        channels, resolution = images.shape[1:3]
        self.generator, self.critic = (each.to(device) for each in networks(resolution, channels, width, lipschitz))
        self.images, self.lipschitz, self.device = images, lipschitz, device
        players = (self.generator, self.critic)
        if lipschitz == "clip":
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
                self.penalty(real, fake).backward()
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

    def penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        share = torch.rand(BATCH, 1, 1, 1, device=self.device)
        between = (share * real + (1 - share) * fake).requires_grad_(True)
        scores = self.critic(between)
        (gradient,) = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)
        return 10 * ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


class Ours:
    """The trainer, step by step."""

    def __init__(self, images: Tensor, width: int, lipschitz: str, precision: str, folder: Path):
        AcceleratorState._reset_state(reset_partial_state=True)  # it keeps one precision for a process
        channels, resolution = images.shape[1:3]
        config = TrainingConfig(
            output_dir=str(folder),
            train_batch_size=BATCH,
            n_critic=N_CRITIC,
            lipschitz=lipschitz,
            mixed_precision=precision,
            max_train_steps=NEVER,
            validation_steps=NEVER,
            checkpointing_steps=NEVER,
            **OPTIMIZERS[lipschitz],
        )
        self.trainer = WGANTrainer(*networks(resolution, channels, width, lipschitz), ImageSet(images), config)
        self.report = self.trainer._start()
        self.report.bar.disable = True
        self.interrupts = Interrupts()

    def iterate(self) -> None:
        self.trainer._go_on(self.report, self.interrupts)


def seconds(iterate: Callable[[], None], count: int, device: torch.device) -> float:
    """An iteration."""
    began = time.perf_counter()
    for _ in range(count):
        iterate()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def in_turns(contenders: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each contender's iterations, a list of the rounds; and one round before them to warm up."""
    counts = {}
    for name, iterate in contenders.items():
        iterate()
        counts[name] = max(1, round(LEAST_SECONDS / seconds(iterate, 1, device)))
    found = defaultdict(list)
    for number in range(rounds):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            found[name].append(seconds(contenders[name], counts[name], device))
    return found


class FlopCount(TorchDispatchMode):
    """Floating point operations of convolutions and products, two a multiply-add. PyTorch's FlopCounterMode, which this
    takes the formulas of, cannot count a penalty's gradient."""

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
    """FLOP/s of the networks' convolutions, each alone, forward and backward, over all of them together."""
    calls = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0].shape, output.shape))

    for network in (generator, critic):
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                layer.register_forward_hook(note)
    with torch.no_grad():
        critic(generator(torch.randn(BATCH, LATENT_DIM, device=device)))
    work = spent = 0.0
    for layer, shape_in, shape_out in calls:
        layer._forward_hooks.clear()
        times = []
        for layout in (torch.contiguous_format, torch.channels_last):
            layer = layer.to(dtype=dtype, memory_format=layout)
            inputs = torch.randn(shape_in, dtype=dtype, device=device).to(memory_format=layout).requires_grad_()
            gradient = torch.randn(shape_out, dtype=dtype, device=device).to(memory_format=layout)

            def both(layer: nn.Module = layer, inputs: Tensor = inputs, gradient: Tensor = gradient) -> None:
                torch.autograd.grad(layer(inputs), [inputs, *layer.parameters()], gradient)

            both()
            times.append(min(seconds(both, 3, device) for _ in range(3)))
        work += flops(both)
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
    """Shares of an iteration, by the host's clock: for CPUs."""
    trainer, spent = ours.trainer, defaultdict(float)
    step = trainer.step
    players = (step.generator_optimizer, "step"), (step.critic_optimizer, "step")
    with (
        timed(spent, type(trainer.real_batches), "__next__", "data"),
        timed(spent, step.generator, "forward", "generator forward"),
        timed(spent, step.critic, "forward", "critic forward"),
        timed(spent, step, "backward", "backward"),
        timed(spent, *players[0], "optimizers"),
        timed(spent, *players[1], "optimizers"),
        timed(spent, step.constraint, "after_step", "clamp"),
        timed(spent, step, "_penalty", "penalty"),
        timed(spent, trainer, "_report", "report"),
    ):
        whole = count * seconds(ours.iterate, count, trainer.accelerator.device)
    spent["rest"] = whole - sum(spent.values())
    return {name: round(value / whole, 4) for name, value in spent.items()}


def training(given: argparse.Namespace, resolution: int, lipschitz: str, device: torch.device) -> list[dict[str, Any]]:
    channels = 1 if resolution <= 32 else 3
    images = torch.randint(0, 256, (NUM_IMAGES, channels, resolution, resolution), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        plain = PlainLoop(images, given.width, lipschitz, device)
        ours = {
            precision: Ours(images, given.width, lipschitz, precision, Path(folder, precision))
            for precision in given.precisions.split(",")
        }
        contenders = {"plain": plain.iterate, **{name: each.iterate for name, each in ours.items()}}
        found = in_turns(contenders, given.rounds, device)
        work = flops(plain.iterate)
        rows = []
        for precision, each in ours.items():
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            limit = ceiling(*networks(resolution, channels, given.width, lipschitz), dtype, device)
            mine, reference = (statistics.median(found[name]) for name in (precision, "plain"))
            ratio = statistics.median(a / b for a, b in zip(found["plain"], found[precision]))
            rows.append(
                {
                    "images": f"{resolution}×{resolution}×{channels}",
                    "lipschitz": lipschitz,
                    "precision": "float32" if precision == "no" else precision,
                    "plain_seconds": round(reference, 4),
                    "seconds": round(mine, 4),
                    "ratio": round(ratio, 2),
                    "gflops": round(work / mine / 1e9),
                    "ceiling_gflops": round(limit / 1e9),
                    "share_of_ceiling": round(work / mine / limit, 2),
                    "shares": breakdown(each, max(1, round(2 / mine))) if device.type == "cpu" else None,
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            each.report.close()
    return rows


@torch.no_grad()
def sampling(given: argparse.Namespace, resolution: int, device: torch.device) -> dict[str, Any]:
    """The pipeline against the bare network in the same chunks, both to tensors."""
    channels = 1 if resolution <= 32 else 3
    generator = networks(resolution, channels, given.width, "clip")[0].to(device).eval()
    pipeline = WGANPipeline(generator).to(device)
    pipeline.set_progress_bar_config(disable=True)
    number = 2 * max(1, 2**20 // resolution**2)
    latents = torch.randn(number, LATENT_DIM, device=device)

    def bare() -> None:
        torch.cat([generator(chunk) for chunk in latents.split(number // 2)])

    found = in_turns(
        {"bare": bare, "pipeline": lambda: pipeline(latents=latents, output_type="pt")}, given.rounds, device
    )
    ratio = statistics.median(a / b for a, b in zip(found["bare"], found["pipeline"]))
    speed = number / statistics.median(found["pipeline"])
    return {
        "images": f"{resolution}×{resolution}×{channels}",
        "images_per_second": round(speed),
        "ratio": round(ratio, 3),
    }


def main(given: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolutions = [int(each) for each in given.resolutions.split(",")]
    rows = [
        row
        for lipschitz in given.lipschitz.split(",")
        for resolution in resolutions
        for row in training(given, resolution, lipschitz, device)
    ]
    samples = [sampling(given, resolution, device) for resolution in resolutions]
    print(
        f"\n{device.type}, {torch.get_num_threads()} threads, width {given.width}, batch {BATCH}, "
        f"{given.rounds} rounds\n"
    )
    for table in (rows, samples):
        columns = [name for name in table[0] if name != "shares"]
        for cells in (columns, ["---"] * len(columns), *([row[name] for name in columns] for row in table)):
            print(f"| {' | '.join(map(str, cells))} |")
        print()
    for row in rows:
        if row["shares"]:
            parts = ", ".join(f"{name} {share:.1%}" for name, share in row["shares"].items())
            print(f"{row['images']}, {row['lipschitz']}, {row['precision']}: {parts}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", default="16,32,64,128", help="some, separated by commas; grey up to 32 pixels")
    parser.add_argument("--lipschitz", default="clip,gp", help="one or both")
    parser.add_argument("--precisions", default="no,bf16", help="of ours; the plain loop is in float32")
    parser.add_argument("--width", type=int, default=64, help="of both networks")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    main(parser.parse_args())
