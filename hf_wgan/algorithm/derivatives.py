"""Convolutions and rectifiers whose derivatives, first and second, do no more work than they must.

PyTorch takes the second derivative of a convolution, which a gradient penalty needs at every critic step, by a
convolution with kernels as large as the images. Here every derivative is a convolution, a transposed one, or the
gradient of the weights, each with the kernel made for it (as in the code of Karras et al. 2020, arXiv 2006.06676).
The second derivative of a rectifier is zero, which PyTorch fills a tensor with and sends through the rest of the graph;
here that part of the graph is left out. It is a third of what a critic without normalisation spends on its penalty.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

Size = tuple[int, int]

MIN_CHANNELS = 32
"""Below, oneDNN's own gradient of bfloat16 weights is faster than a matrix product."""


class Geometry(NamedTuple):
    """Of a convolution, in pixels: (vertical, horizontal)."""

    stride: Size
    padding: Size
    dilation: Size
    transposed: bool
    output_padding: Size
    groups: int

    def reversed(self, weight: Tensor, size_in: torch.Size, size_out: torch.Size) -> "Geometry":
        """Of the convolution that takes the gradient by the output to the gradient by the input."""
        if self.transposed:
            return self._replace(transposed=False, output_padding=(0, 0))
        kernel = weight.shape[2:]
        left_over = [
            size_in[2 + i]
            - ((size_out[2 + i] - 1) * self.stride[i] - 2 * self.padding[i] + self.dilation[i] * (kernel[i] - 1) + 1)
            for i in range(2)
        ]
        return self._replace(transposed=True, output_padding=(left_over[0], left_over[1]))


class FastDerivatives(TorchFunctionMode):
    """A context in which `conv2d` and `conv_transpose2d`, and so all layers made of them, are those of this file; with
    `points` also `relu` and `leaky_relu`. Autocast is heeded.

    Args:
        points: A leaf by which the outcome is differentiated first, with `create_graph=True`, and by nothing else; then
            the outcome of that is differentiated, by everything but the points. Work for other gradients is left out,
            which PyTorch does by itself for its own functions only.
    """

    def __init__(self, points: Tensor | None = None):
        super().__init__()
        self.points = points

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.conv2d:
            return self._conv2d(*args, **(kwargs or {}))
        if function is torch.conv_transpose2d:
            return self._conv_transpose2d(*args, **(kwargs or {}))
        if self.points is not None and function is F.leaky_relu:
            return _leaky_relu(*args, **(kwargs or {}))
        if self.points is not None and function is F.relu:
            return _relu(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or input.ndim != 4:
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation), False, (0, 0), groups)
        return self._convolution(input, weight, bias, geometry)

    def _conv_transpose2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        if input.ndim != 4:
            return torch.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
        geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation), True, _pair(output_padding), groups)
        return self._convolution(input, weight, bias, geometry)

    def _convolution(self, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        penalised = None if self.points is None else "points" if input is self.points else "maps"
        device = input.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            input, weight = input.to(dtype), weight.to(dtype)
        output = _Convolution.apply(input, weight, geometry, penalised)
        return output if bias is None else output + bias.to(output.dtype)[:, None, None]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, geometry: Geometry, penalised: str | None = None) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry, ctx.penalised = geometry, penalised
        stride, padding, dilation, transposed, output_padding, groups = geometry
        return torch.ops.aten.convolution(
            input, weight, None, stride, padding, dilation, transposed, output_padding, groups
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        input, weight = ctx.saved_tensors
        first = torch.is_grad_enabled()  # with create_graph
        wanted = (
            ctx.needs_input_grad[0] and (first or ctx.penalised != "points"),
            ctx.needs_input_grad[1] and not (first and ctx.penalised),
        )
        if not first:
            return *_gradients(gradient, input, weight, ctx.geometry, wanted), None, None
        by_input = by_weight = None
        if wanted[0]:
            back = ctx.geometry.reversed(weight, input.shape, gradient.shape)
            by_input = _Convolution.apply(gradient, weight, back)
        if wanted[1]:
            by_weight = _WeightGradient.apply(gradient, input, weight.detach(), ctx.geometry)
        return by_input, by_weight, None, None


class _WeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, input: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(gradient, input)
        ctx.geometry = geometry
        return _gradients(gradient, input, like, geometry, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, by_weight: Tensor) -> Any:
        gradient, input = ctx.saved_tensors
        by_gradient = by_input = None
        if ctx.needs_input_grad[0]:
            by_gradient = _Convolution.apply(input, by_weight, ctx.geometry)
        if ctx.needs_input_grad[1]:
            back = ctx.geometry.reversed(by_weight, input.shape, gradient.shape)
            by_input = _Convolution.apply(gradient, by_weight, back)
        return by_gradient, by_input, None, None


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return _LeakyReLU.apply(input, negative_slope)


def _relu(input: Tensor, inplace: bool = False) -> Tensor:
    return _LeakyReLU.apply(input, 0.0)


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(input)
        ctx.slope = slope
        return torch.ops.aten.leaky_relu(input, slope)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (input,) = ctx.saved_tensors
        return _LeakyReLUGradient.apply(gradient, input.detach(), ctx.slope), None


class _LeakyReLUGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, input: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(input)
        ctx.slope = slope
        return torch.ops.aten.leaky_relu_backward(gradient, input, slope, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (input,) = ctx.saved_tensors
        return _LeakyReLUGradient.apply(gradient, input, ctx.slope), None, None


def _gradients(gradient: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool]) -> Any:
    """By the input and by the weights."""
    small, large = (input, gradient) if geometry.transposed else (gradient, input)
    by_product = (
        wanted[1]
        and input.device.type == "cpu"
        and input.dtype == torch.bfloat16
        and geometry.groups == 1
        and geometry.dilation == (1, 1)
        and min(weight.shape[:2]) >= MIN_CHANNELS
        and small.shape[2] > 1
    )
    by_input, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, input, weight, None, *geometry, (wanted[0], wanted[1] and not by_product, False)
    )
    if by_product:
        by_weight = _weight_gradient_by_product(small, large, weight.shape, geometry)
    return by_input, by_weight


def _weight_gradient_by_product(small: Tensor, large: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    """Of the small maps with the patches of the large ones, which in channels-last memory lie in rows.

    Args:
        small: `(N, S, h, w)`.
        large: `(N, L, H, W)`.
        shape: `(S, L, kernel height, kernel width)`.
    """
    number, channels, height, width = large.shape
    (above, left), (down, right) = geometry.padding, geometry.stride
    padded = large.new_zeros(number, height + 2 * above, width + 2 * left, channels)
    padded[:, above : above + height, left : left + width] = large.permute(0, 2, 3, 1)
    image, row, pixel, _ = padded.stride()
    patches = padded.as_strided(
        (number, small.shape[2], small.shape[3], shape[2], shape[3] * channels),
        (image, down * row, right * pixel, row, 1),
    ).reshape(-1, shape[2] * shape[3] * channels)
    maps = small.permute(0, 2, 3, 1).reshape(-1, shape[0])
    return (maps.t() @ patches).view(shape[0], shape[2], shape[3], channels).permute(0, 3, 1, 2)
