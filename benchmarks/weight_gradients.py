"""How fast the gradients of bfloat16 weights are by a matrix product, over oneDNN's own, on this machine's CPU.

    python benchmarks/weight_gradients.py

A ratio above 1 means that the product is faster. Each row is a convolution of as many channels as it makes, each column
a size of its smaller maps. `MIN_CHANNELS` and `MAX_PIXELS` in `hf_wgan/algorithm/derivatives.py` follow from the table.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from speed import machine

from hf_wgan.algorithm.derivatives import Geometry, weight_gradient_by_product

SIZES = (4, 8, 16, 32)
KERNELS = {"3×3": (3, 1, 1), "4×4, stride 2": (4, 2, 1)}  # size, stride, padding


def seconds(function: Callable[[], object], rounds: int) -> float:
    function()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def ratio(kernel: tuple[int, int, int], batch: int, channels: int, size: int, rounds: int) -> float:
    width, stride, padding = kernel
    geometry = Geometry((stride, stride), (padding, padding), (1, 1), False, (0, 0), 1)
    large, weight = (
        torch.randn(shape, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        for shape in ((batch, channels, size * stride, size * stride), (channels, channels, width, width))
    )
    small = torch.randn_like(torch.conv2d(large, weight, None, stride, padding))
    plain = torch.ops.aten.convolution_backward
    own = seconds(lambda: plain(small, large, weight, None, *geometry, (False, True, False)), rounds)
    return own / seconds(lambda: weight_gradient_by_product(small, large, weight.shape, geometry), rounds)


def main(args: argparse.Namespace) -> None:
    print(f"{machine()}\n")
    print(f"| convolution | batch | channels | {' | '.join(f'{size}×{size}' for size in SIZES)} |")
    print(f"|---|---|---|{'---|' * len(SIZES)}")
    for name, kernel in KERNELS.items():
        for batch in (32, 64):
            for channels in (32, 64, 128, 256):
                cells = [f"{ratio(kernel, batch, channels, size, args.rounds):.2f}" for size in SIZES]
                print(f"| {name} | {batch} | {channels} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed, for the median")
    main(parser.parse_args())
