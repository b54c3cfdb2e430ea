"""Convolutions, rectifiers and layer norms with faster first and second derivatives, equal to PyTorch's.

PyTorch computes the second derivative of a convolution, which a gradient penalty needs at every critic step, by a
convolution with kernels as large as the images. Here every derivative is a convolution, the gradient by the input or
the gradient by the weight, each by the kernel made for it (as in the code of Karras et al. 2020, arXiv 2006.06676).
The second derivative of a rectifier is zero, for which PyTorch fills a tensor and sends it through the rest of the
graph; here that part of the graph is left out. It is a third of the penalty's work for a critic without normalisation.
PyTorch computes the second derivative of a layer norm by a hundred kernels; here it has a closed form.

A gradient is left out only where autograd itself says that nobody receives it (see `_is_needed`), so the results are
PyTorch's for every critic and every way to differentiate it.
"""

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

Size = tuple[int, int]

MIN_CHANNELS, MAX_PIXELS = 32, 16
"""With fewer channels, or more pixels in the smaller maps, oneDNN's own gradient of bfloat16 weights is faster than a
matrix product: `python benchmarks/weight_gradients.py`."""


class Geometry(NamedTuple):
    """Everything about a convolution but its tensors. Sizes are (vertical, horizontal), in pixels."""

    stride: Size
    padding: Size
    dilation: Size
    transposed: bool
    output_padding: Size
    groups: int


class FastDerivatives(TorchFunctionMode):
    """Replace some functions, and so all layers made of them, inside a context.

    These are `conv2d`, `conv_transpose2d`, `relu`, `leaky_relu` and `group_norm`. Autocast is respected. Forms that
    gain nothing are left to PyTorch: in-place rectifiers, `padding="same"`, single images without a batch dimension,
    complex numbers, several groups of channels to normalise, and on a CPU a convolution of two to four groups.

    Example:
        >>> with FastDerivatives():
        ...     scores = critic(images)
        >>> (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
        >>> gradient.square().sum().backward()
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replacement = _REPLACEMENTS.get(function, function)
        return replacement(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or not _gains(input, groups):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation), False, (0, 0), groups)
    return _convolution(input, weight, bias, geometry)


def _conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    if not _gains(input, groups):
        return torch.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation), True, _pair(output_padding), groups)
    return _convolution(input, weight, bias, geometry)


def _gains(input: Tensor, groups: int) -> bool:
    """Return whether the functions of this file support such a convolution, and are faster."""
    if input.ndim != 4 or not input.is_floating_point():
        return False
    if input.device.type != "cpu" or groups == 1:
        return True
    # PyTorch's second derivative loops over the groups: for a few of them that is as fast.
    return groups > (3 if input.is_contiguous(memory_format=torch.channels_last) else 4)


def _convolution(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    device = input.device.type
    if torch.is_autocast_enabled(device) and input.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        input, weight = input.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _Convolution.apply(input, weight, bias, geometry)


# A convolution is linear in its input and in its weight, and so are the gradients by either. Each of the three
# functions below therefore has the other two for its derivatives, to any order.


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(input, weight, bias)
        ctx.geometry = geometry
        return torch.ops.aten.convolution(input, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        input, weight, bias = ctx.saved_tensors
        is_needed = _is_needed(ctx, 0, input), _is_needed(ctx, 1, weight)
        by_bias = None if bias is None or not _is_needed(ctx, 2, bias) else gradient.sum(dim=(0, 2, 3))
        if not torch.is_grad_enabled():  # both at once, which shares their work
            return *_gradients(gradient, input, weight, ctx.geometry, is_needed), by_bias, None
        by_input = by_weight = None
        if is_needed[0]:
            by_input = _InputGradient.apply(gradient, weight, input.detach(), ctx.geometry)
        if is_needed[1]:
            by_weight = _WeightGradient.apply(gradient, input, weight.detach(), ctx.geometry)
        return by_input, by_weight, by_bias, None


class _InputGradient(torch.autograd.Function):
    """Compute the gradient by the input, which has the shape and the layout of `like`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.geometry = geometry
        return _gradients(gradient, like, weight, geometry, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, by_input: Tensor) -> Any:
        gradient, weight = ctx.saved_tensors
        by_gradient = by_weight = None
        if _is_needed(ctx, 0, gradient):
            by_gradient = _Convolution.apply(by_input, weight, None, ctx.geometry)
        if _is_needed(ctx, 1, weight):
            by_weight = _WeightGradient.apply(gradient, by_input, weight.detach(), ctx.geometry)
        return by_gradient, by_weight, None, None


class _WeightGradient(torch.autograd.Function):
    """Compute the gradient by the weight, which has the shape and the layout of `like`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, input: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(gradient, input)
        ctx.geometry = geometry
        return _gradients(gradient, input, like, geometry, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, by_weight: Tensor) -> Any:
        gradient, input = ctx.saved_tensors
        by_gradient = by_input = None
        if _is_needed(ctx, 0, gradient):
            by_gradient = _Convolution.apply(input, by_weight, None, ctx.geometry)
        if _is_needed(ctx, 1, input):
            by_input = _InputGradient.apply(gradient, by_weight, input.detach(), ctx.geometry)
        return by_gradient, by_input, None, None


def _is_needed(ctx: Any, index: int, tensor: Tensor) -> bool:
    """Return whether anything receives the gradient by this input in the backward pass that is under way.

    PyTorch skips gradients that nobody asked for in its own functions only; a function written in Python has to ask.
    `torch.autograd.grad(scores.sum(), points, create_graph=True)` needs no gradient by a weight, unless that weight
    depends on the points; and a leaf whose `requires_grad` was switched off after the forward pass takes none.
    """
    if not ctx.needs_input_grad[index]:
        return False
    if tensor.is_leaf and not tensor.requires_grad:
        return False
    if tensor.is_leaf and not isinstance(tensor, torch.nn.Parameter):
        return True  # querying a leaf that was passed to `torch.autograd.grad` raises, and catching that is slow
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[index][0])
    except (AttributeError, RuntimeError):
        return True


def _gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, is_needed: tuple[bool, bool]
) -> Any:
    """Return the gradients by the input and by the weight, None for one that is not needed."""
    if input.device.type == "cpu" and geometry.groups > 1 and _is_slow_in_rows(gradient, weight):
        gradient, input, weight = (
            tensor.contiguous(memory_format=torch.channels_last) for tensor in (gradient, input, weight)
        )
    small, large = (input, gradient) if geometry.transposed else (gradient, input)
    by_product = (
        is_needed[1]
        and input.device.type == "cpu"
        and input.dtype == torch.bfloat16
        and geometry.groups == 1
        and geometry.dilation == (1, 1)
        and min(weight.shape[:2]) >= MIN_CHANNELS
        and 1 < small.shape[2:].numel() <= MAX_PIXELS
    )
    by_input, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, input, weight, None, *geometry, (is_needed[0], is_needed[1] and not by_product, False)
    )
    if by_product:
        by_weight = weight_gradient_by_product(small, large, weight.shape, geometry)
    return by_input, by_weight


def _is_slow_in_rows(gradient: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN's gradients of a grouped convolution are several times faster with channels last.

    It works on blocks of eight channels, and groups of two to seven leave such blocks incomplete.
    """
    return 1 < weight.shape[1] < 8 or gradient.shape[2:].numel() == 1


def weight_gradient_by_product(small: Tensor, large: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    """Multiply the small maps by the patches of the large ones, which lie in rows in channels-last memory.

    Args:
        small: `(N, S, h, w)`.
        large: `(N, L, H, W)`.
        shape: `(S, L, kernel height, kernel width)`.
        geometry: The convolution from the large maps to the small ones.

    Returns:
        The gradient by the weight, of that shape.
    """
    number, channels, height, width = large.shape
    (above, left), (down, right) = geometry.padding, geometry.stride
    padded = large.new_zeros(number, height + 2 * above, width + 2 * left, channels)
    padded[:, above : above + height, left : left + width] = large.permute(0, 2, 3, 1)
    image, row, pixel, _ = padded.stride()
    patches = padded.as_strided(
        (number, small.shape[2], small.shape[3], shape[2], shape[3] * channels),
        (image, down * row, right * pixel, row, 1),
    ).reshape(-1, shape[2] * shape[3] * channels)  # (N·h·w, kernel height · kernel width · L)
    maps = small.permute(0, 2, 3, 1).reshape(-1, shape[0])  # (N·h·w, S)
    return (maps.t() @ patches).view(shape[0], shape[2], shape[3], channels).permute(0, 3, 1, 2)


def _relu(input: Tensor, inplace: bool = False) -> Tensor:
    return F.relu(input, inplace=True) if inplace else _LeakyReLU.apply(input, 0.0)


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    if inplace or negative_slope <= 0:
        return F.leaky_relu(input, negative_slope, inplace)
    return _LeakyReLU.apply(input, negative_slope)


class _LeakyReLU(torch.autograd.Function):
    """Apply leaky ReLU, or ReLU with slope 0.

    Like PyTorch's own, ReLU saves its output and leaky ReLU its input, so that the same tensors may be changed
    in place.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, slope: float) -> Tensor:
        output = torch.ops.aten.leaky_relu(input, slope) if slope else torch.ops.aten.relu(input)
        ctx.save_for_backward(input if slope else output)
        ctx.slope = slope
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (signs,) = ctx.saved_tensors
        return _LeakyReLUGradient.apply(gradient, signs.detach(), ctx.slope), None


class _LeakyReLUGradient(torch.autograd.Function):
    """Of `signs` only the signs matter."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, signs: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(signs)
        ctx.slope = slope
        if not slope:
            return torch.ops.aten.threshold_backward(gradient, signs, 0)
        return torch.ops.aten.leaky_relu_backward(gradient, signs, slope, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (signs,) = ctx.saved_tensors
        return _LeakyReLUGradient.apply(gradient, signs, ctx.slope), None, None


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    if num_groups != 1 or input.ndim < 2 or input.numel() == 0 or not input.is_floating_point():
        return F.group_norm(input, num_groups, weight, bias, eps)
    maps = input.to(torch.promote_types(input.dtype, torch.float32))  # half precision would lose the variance
    output = _Normalization.apply(maps, eps)
    if weight is not None:
        output = _Affine.apply(output, weight.to(maps.dtype), None if bias is None else bias.to(maps.dtype))
    elif bias is not None:
        output = output + _of_channels(bias, maps)
    else:
        output = output.clone()  # which may be changed in place
    return output.to(input.dtype)


class _Affine(torch.autograd.Function):
    """Multiply each channel by its weight and add its bias."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(maps, weight, bias)
        weight = _of_channels(weight, maps)
        return maps * weight if bias is None else torch.addcmul(_of_channels(bias, maps), maps, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        maps, weight, bias = ctx.saved_tensors
        gradient = _maps(_rows(gradient, maps), maps)
        is_needed = (
            _is_needed(ctx, 0, maps),
            _is_needed(ctx, 1, weight),
            bias is not None and _is_needed(ctx, 2, bias),
        )
        if not torch.is_grad_enabled():
            return _of_affine(gradient, maps, weight, is_needed)
        others = [dim for dim in range(maps.ndim) if dim != 1]
        by_maps = _Affine.apply(gradient, weight, None) if is_needed[0] else None
        by_weight = (gradient * maps).sum(others) if is_needed[1] else None
        return by_maps, by_weight, gradient.sum(others) if is_needed[2] else None


def _of_affine(gradient: Tensor, maps: Tensor, weight: Tensor | None, is_needed: tuple[bool, bool, bool]) -> Any:
    """Return the gradients of `_Affine` by the maps, the weight and the bias.

    It is a batch normalisation with mean 0 and variance 1, whose gradients are one kernel.
    """
    zeros, ones = _zeros_and_ones(maps.shape[1], maps.dtype, maps.device)
    gradients = torch.ops.aten.native_batch_norm_backward(
        gradient, maps, ones if weight is None else weight, zeros, ones, zeros, ones, False, 0.0, is_needed
    )
    # CUDA's kernel for channels-last maps returns all three, and autograd takes none for an input that is None.
    return tuple(value if needed else None for value, needed in zip(gradients, is_needed))


@functools.cache
def _zeros_and_ones(number: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.zeros(number, dtype=dtype, device=device), torch.ones(number, dtype=dtype, device=device)


# Write x̂ for the normalised maps, r for the reciprocal of their standard deviation, and means over all elements of an
# image. The gradient by the maps, of a gradient u, is P(u), where
#     P(u) = r (u - mean(u) - x̂ mean(u x̂))
# is symmetric: it is its own transpose. The gradient of ⟨v, P(u)⟩ by the maps is
#     -r (x̂ mean(v P(u)) + P(v) mean(u x̂) + P(u) mean(v x̂)).
# An image is a row of numbers in the order in which they lie in memory, of which mean and variance know nothing.


class _Normalization(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, eps: float) -> Tensor:
        rows = _rows(maps, maps)
        normalised, mean, scale = torch.native_layer_norm(rows, rows.shape[1:], None, None, eps)
        normalised = _maps(normalised, maps)
        ctx.save_for_backward(maps, normalised, mean, scale)
        ctx.eps = eps
        return normalised

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        maps, *statistics = ctx.saved_tensors
        return _NormalizationGradient.apply(
            gradient, maps, *(statistic.detach() for statistic in statistics), ctx.eps
        ), None


class _NormalizationGradient(torch.autograd.Function):
    """P. `normalised`, `mean` and `scale` follow from the maps."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, maps: Tensor, normalised: Tensor, mean: Tensor, scale: Tensor, eps: float
    ) -> Tensor:
        projected, sums = _projected(gradient, maps, mean, scale)
        ctx.save_for_backward(gradient, maps, normalised, mean, scale, projected, sums)
        ctx.eps = eps
        return _maps(projected, maps)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> Any:
        gradient, maps, normalised, mean, scale, projected, sums = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative follows, by PyTorch
            # Views, as derivatives are partial: the gradient may depend on the maps.
            gradient, maps = gradient.view_as(gradient), maps.view_as(maps)
            output = _plain_gradient(gradient, maps, ctx.eps)
            return *_derivatives(output, [gradient, maps], direction), None, None, None, None
        own, own_sums = _projected(direction, maps, mean, scale)
        by_maps = None
        if _is_needed(ctx, 1, maps):
            rows = _rows(direction, maps)[None]  # whose channels are the images
            _, products, _ = _of_affine(rows, projected[None], None, (False, True, False))
            factor = (scale / -rows.shape[2]).flatten()
            factors = [sums[:, None] for sums in torch._foreach_mul([products, sums, own_sums], [factor] * 3)]
            total = (_rows(normalised, maps) * factors[0]).addcmul_(own, factors[1]).addcmul_(projected, factors[2])
            by_maps = _maps(total, maps)
        return _maps(own, maps), by_maps, None, None, None, None


def _derivatives(output: Tensor, inputs: list[Tensor], direction: Tensor) -> list[Tensor | None]:
    known = [tensor for tensor in inputs if tensor.requires_grad]
    derivatives = iter(torch.autograd.grad(output, known, direction, create_graph=True))
    return [next(derivatives) if tensor.requires_grad else None for tensor in inputs]


def _plain_gradient(gradient: Tensor, maps: Tensor, eps: float) -> Tensor:
    dims = list(range(1, maps.ndim))
    variance, mean = torch.var_mean(maps, dims, correction=0, keepdim=True)
    scale = (variance + eps).rsqrt()
    normalised = (maps - mean) * scale
    centred = gradient - gradient.mean(dims, keepdim=True)
    return scale * (centred - normalised * (gradient * normalised).mean(dims, keepdim=True))


def _projected(gradient: Tensor, maps: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return P(u) in rows `(N, C·H·W)`, and the sums of u x̂, `(N,)`.

    These are the gradients of a batch normalisation whose channels are the images.
    """
    _, ones = _zeros_and_ones(len(maps), maps.dtype, maps.device)
    projected, sums, _ = torch.ops.aten.native_batch_norm_backward(
        _rows(gradient, maps)[None],
        _rows(maps, maps)[None],
        ones,  # without which a GPU returns no sums
        None,
        None,
        mean.flatten(),
        scale.flatten(),
        True,
        0.0,
        (True, True, False),
    )
    return projected[0], sums


def _is_channels_last(maps: Tensor) -> bool:
    return maps.ndim == 4 and not maps.is_contiguous() and maps.is_contiguous(memory_format=torch.channels_last)


def _rows(maps: Tensor, like: Tensor) -> Tensor:
    """Return maps as `(N, C·H·W)`, in the order in which another tensor of their shape lies in memory."""
    return (maps.permute(0, 2, 3, 1) if _is_channels_last(like) else maps).flatten(1).contiguous()


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    """Return what `_rows` was called for."""
    if not _is_channels_last(like):
        return rows.view(like.shape)
    number, channels, height, width = like.shape
    return rows.view(number, height, width, channels).permute(0, 3, 1, 2)


def _of_channels(vector: Tensor, maps: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (maps.ndim - 2))


_REPLACEMENTS = {
    F.group_norm: _group_norm,
    torch.conv2d: _conv2d,
    torch.conv_transpose2d: _conv_transpose2d,
    F.relu: _relu,
    F.leaky_relu: _leaky_relu,
}
