"""Modulated deformable convolution (DCNv1 and v2) in plain PyTorch, for CPU and CUDA.

The values are those of ``torchvision.ops.deform_conv2d``: a sample at a fractional position is the bilinear mean of
its four neighbors, neighbors outside the image being 0, so that a sample one pixel or more outside is 0.

Design. All kernel taps of all offset groups are sampled by one ``grid_sample`` per block of output rows, whose result
is already the column matrix of an ordinary convolution; one batched matrix product finishes it. Columns are 9 times
the size of the input, hence the blocks: they stay in cache on the CPU, and memory stays bounded for any image size.
The backward pass samples again instead of keeping them.

Sources: Dai et al., "Deformable Convolutional Networks", ICCV 2017, eq. 2-4; Zhu et al., "Deformable ConvNets v2",
CVPR 2019, eq. 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdsr_arch.errors import UserError
from kdsr_arch.ops.warp import pad_to_power_of_two, sample_bilinear, to_fraction_within_pixel

# Bytes of column matrix per block of rows. Measured on CPU: flat from 4 to 16 MB, 1.5 times slower unblocked; the
# backward pass pays one gradient image per block.
_CPU_BLOCK = 8 << 20
_GPU_BLOCK = 512 << 20
_BILINEAR, _ZEROS = 0, 0  # enumeration values of aten's grid sampler

Pair = tuple[int, int]


class _Geometry(NamedTuple):
    """The static numbers of one call. Sides and positions are (height, width)."""

    batch: int
    groups: int
    offset_groups: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    image: Pair
    out: Pair

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def shifts(self, offset: Tensor, top: int, bottom: int) -> Tensor:
        """View the offsets of some output rows: (B * G, taps, 2, rows, Wo), dy before dx."""
        return offset.view(self.batch * self.offset_groups, self.taps, 2, *self.out)[:, :, :, top:bottom]

    def factors(self, mask: Tensor, top: int, bottom: int) -> Tensor:
        """View the mask of some output rows: (B * G, 1, taps, rows, Wo)."""
        return mask.view(self.batch * self.offset_groups, 1, self.taps, *self.out)[:, :, :, top:bottom]


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = (1, 1),
    padding: int | Pair = (0, 0),
    dilation: int | Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Compute a deformable convolution: a drop-in for ``torchvision.ops.deform_conv2d``.

    Args:
        input: (B, C, H, W).
        offset: (B, G * 2 * kh * kw, Ho, Wo) in pixels; channel ``2k`` of a group is dy of tap k, ``2k + 1`` its dx,
            taps row by row. Any finite or infinite value is allowed; NaN gives NaN at that position.
        weight: (O, C / groups, kh, kw); the number of groups follows from its shape, that of offset groups G from
            the shape of ``offset``.
        bias: (O,) or None.
        mask: (B, G * kh * kw, Ho, Wo), the factor of each sample, or None for 1 everywhere.

    Returns:
        (B, O, Ho, Wo) in the dtype of ``input``. Half precision and autocast are computed in float32.

    Raises:
        UserError: shapes that do not fit together.
    """
    geometry = _geometry(input, offset, weight, _pair(stride), _pair(padding), _pair(dilation), mask)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    with torch.autocast(input.device.type, enabled=False):
        operands = [t if t is None else t.to(dtype).contiguous() for t in (input, offset, mask, weight)]
        y = _DeformConv.apply(*operands, geometry)
        if bias is not None:
            y = y + bias.to(dtype).view(1, -1, 1, 1)
    return y.to(input.dtype)


def _geometry(
    x: Tensor, offset: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, mask: Tensor | None
) -> _Geometry:
    if x.dim() != 4 or offset.dim() != 4 or weight.dim() != 4:
        raise UserError(
            f"deform_conv2d: input, offset and weight must have 4 dimensions, "
            f"got {tuple(x.shape)}, {tuple(offset.shape)}, {tuple(weight.shape)}"
        )
    batch, channels, *image = x.shape
    kernel = (weight.shape[2], weight.shape[3])
    out = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(image, padding, dilation, kernel, stride, strict=True)
    )
    taps = kernel[0] * kernel[1]
    groups = max(1, offset.shape[1] // (2 * taps))
    expected = (batch, groups * 2 * taps, *out)
    if tuple(offset.shape) != expected:
        raise UserError(f"deform_conv2d: offset has shape {tuple(offset.shape)}, expected {expected}")
    if mask is not None and tuple(mask.shape) != (batch, groups * taps, *out):
        expected = (batch, groups * taps, *out)
        raise UserError(f"deform_conv2d: mask has shape {tuple(mask.shape)}, expected {expected}")
    if channels % groups or channels % weight.shape[1] or weight.shape[0] % (channels // weight.shape[1]):
        raise UserError(
            f"deform_conv2d: {channels} input channels do not divide into {groups} offset groups "
            f"and the groups of a weight of shape {tuple(weight.shape)}"
        )
    sides, out_sides = (image[0], image[1]), (out[0], out[1])
    return _Geometry(
        batch, channels // weight.shape[1], groups, kernel, stride, padding, dilation, image=sides, out=out_sides
    )


def _grouped_image(x: Tensor, geo: _Geometry) -> Tensor:
    """Return the image as (B * G, C / G, H', W'), padded to exact sides."""
    x = pad_to_power_of_two(x)
    return x.reshape(geo.batch * geo.offset_groups, x.shape[1] // geo.offset_groups, *x.shape[2:])


def _weight_matrix(weight: Tensor, geo: _Geometry) -> Tensor:
    """Return the weight as (B * groups, O / groups, C / groups * taps)."""
    shape = (geo.groups, weight.shape[0] // geo.groups, weight.shape[1] * geo.taps)
    return weight.reshape(1, *shape).expand(geo.batch, *shape).reshape(-1, *shape[1:])


def _grid(offset: Tensor, geo: _Geometry, sides: torch.Size, top: int, bottom: int) -> Tensor:
    """Return the grid of output rows top..bottom: (B * G, taps * rows, Wo, 2), (x, y) as fractions of ``sides``."""
    (kh, kw), (h, w), wo = geo.kernel, geo.image, geo.out[1]
    tap_y = _ramp(0, kh, geo.dilation[0], 0, offset).repeat_interleave(kw).view(1, -1, 1, 1)
    tap_x = _ramp(0, kw, geo.dilation[1], 0, offset).repeat(kh).view(1, -1, 1, 1)
    y = _ramp(top, bottom, geo.stride[0], geo.padding[0], offset).view(1, 1, -1, 1) + tap_y
    x = _ramp(0, wo, geo.stride[1], geo.padding[1], offset).view(1, 1, 1, -1) + tap_x
    shift = geo.shifts(offset, top, bottom)
    # From two pixels outside on, neither value nor gradient sees the image: clamping there changes nothing.
    y = to_fraction_within_pixel((shift[:, :, 0] + y).clamp_(-2, h + 1), sides[0])
    x = to_fraction_within_pixel((shift[:, :, 1] + x).clamp_(-2, w + 1), sides[1])
    return torch.stack((x, y), 1).view(len(shift), 2, geo.taps * (bottom - top), wo).permute(0, 2, 3, 1)


def _ramp(start: int, stop: int, step: int, minus: int, like: Tensor) -> Tensor:
    """Return step * i - minus for i in start..stop."""
    return torch.arange(start, stop, device=like.device, dtype=like.dtype).mul_(step).sub_(minus)


def _sample(image: Tensor, grid: Tensor, geo: _Geometry) -> Tensor:
    """Sample to (B * G, C / G, taps, rows, Wo)."""
    return sample_bilinear(image, grid).view(*image.shape[:2], geo.taps, grid.shape[1] // geo.taps, geo.out[1])


def _row_blocks(x: Tensor, geo: _Geometry) -> Iterator[Pair]:
    """Return ranges of output rows whose column matrix takes about the device's budget."""
    budget = _CPU_BLOCK if x.device.type == "cpu" else _GPU_BLOCK
    row_bytes = x.shape[0] * x.shape[1] * geo.taps * geo.out[1] * x.element_size()
    rows = max(1, budget // max(1, row_bytes))
    for top in range(0, geo.out[0], rows):
        yield top, min(top + rows, geo.out[0])


class _DeformConv(torch.autograd.Function):
    """Value and gradient, block of rows by block of rows; the gradient samples again instead of keeping columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, geo: _Geometry) -> Tensor:
        """Return the convolution without its bias, block of rows by block of rows."""
        ctx.geo = geo
        ctx.save_for_backward(x, offset, mask, weight)
        image, matrix = _grouped_image(x, geo), _weight_matrix(weight, geo)
        y = x.new_empty(geo.batch, weight.shape[0], *geo.out)
        for top, bottom in _row_blocks(x, geo):
            samples = _sample(image, _grid(offset, geo, image.shape[2:], top, bottom), geo)
            if mask is not None:
                samples *= geo.factors(mask, top, bottom)
            columns = samples.view(len(matrix), matrix.shape[2], (bottom - top) * geo.out[1])
            y[:, :, top:bottom] = torch.bmm(matrix, columns).view(*y.shape[:2], bottom - top, geo.out[1])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad_y.device.type, enabled=False):  # it may be called inside of one
            return *_gradients(ctx.geo, grad_y, *ctx.saved_tensors), None


def _gradients(
    geo: _Geometry, grad_y: Tensor, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor
) -> tuple[Tensor | None, ...]:
    """Return gradients by x, offset, mask and weight."""
    image, matrix = _grouped_image(x, geo), _weight_matrix(weight, geo)
    grad_image, grad_matrix = torch.zeros_like(image), torch.zeros_like(matrix)
    grad_offset, grad_mask = torch.empty_like(offset), None if mask is None else torch.empty_like(mask)
    for top, bottom in _row_blocks(x, geo):
        grid = _grid(offset, geo, image.shape[2:], top, bottom)
        samples = _sample(image, grid, geo)
        grad_rows = grad_y[:, :, top:bottom].reshape(*matrix.shape[:2], (bottom - top) * geo.out[1])
        grad_samples = torch.bmm(matrix.transpose(1, 2), grad_rows).view_as(samples)
        if mask is not None and grad_mask is not None:
            total = grad_samples[:, 0] * samples[:, 0]  # channel by channel: the whole product is not in memory
            for channel in range(1, samples.shape[1]):
                total.addcmul_(grad_samples[:, channel], samples[:, channel])
            geo.factors(grad_mask, top, bottom)[:, 0] = total
            samples *= geo.factors(mask, top, bottom)
            grad_samples *= geo.factors(mask, top, bottom)
        columns = samples.view(len(matrix), matrix.shape[2], grad_rows.shape[2])
        grad_matrix.baddbmm_(grad_rows, columns.transpose(1, 2))
        grad_block, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad_samples.flatten(2, 3), image, grid, _BILINEAR, _ZEROS, False, [True, True]
        )
        grad_image += grad_block
        grad_shift = grad_grid.view(len(grid), geo.taps, bottom - top, geo.out[1], 2)
        for number, (axis, side) in enumerate(((1, image.shape[2]), (0, image.shape[3]))):  # dy before dx
            geo.shifts(grad_offset, top, bottom)[:, :, number] = grad_shift[..., axis] * (2 / side)
    grad_x = grad_image.view(geo.batch, x.shape[1], *image.shape[2:])[:, :, : geo.image[0], : geo.image[1]]
    grad_weight = grad_matrix.view(geo.batch, *weight.shape).sum(0)
    return grad_x, grad_offset, grad_mask, grad_weight
