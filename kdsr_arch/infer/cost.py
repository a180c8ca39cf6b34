"""What a network costs: parameters, multiply-adds and run time per frame for one input size."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdsr_arch.infer.runner import Runner, evaluating, fold, foldable
from kdsr_arch.infer.traits import Traits, traits_of

STD_PAPER_SIZE = (180, 120)
"""LR width and height of the run-time comparison in the STD paper (Xiao et al., CVPR 2021), x4."""

_RECURRENT_FRAMES = 5


@dataclass(frozen=True)
class Cost:
    """Costs per restored frame.

    Attributes:
        parameters: number of parameters.
        multiply_adds: of the network per frame, without the enlargement or color conversion before it.
        milliseconds: median run time per frame.
        width, height: of the LR input.
        scale: H / h.
        device: where it ran.
        threads: CPU threads.
        runs: how many runs the median is of.
    """

    parameters: int
    multiply_adds: float
    milliseconds: float
    width: int
    height: int
    scale: int
    device: str
    threads: int
    runs: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters; {self.multiply_adds / 1e9:.2f} G multiply-adds and "
            f"{self.milliseconds:.1f} ms per frame for an LR input of {self.width}x{self.height} at x{self.scale} ("
            f"{where_run(self.device, self.threads)}, median of {self.runs})."
        )


def where_run(device: str, threads: int) -> str:
    """Say where a run time was measured: '2 CPU threads', or the device."""
    return f"{threads} CPU thread{'s' * (threads != 1)}" if device == "cpu" else device


def speed_input(traits: Traits, width: int, height: int, device: torch.device) -> tuple[Tensor, int]:
    """Make an LR input of the size asked for, rounded up to the network's multiple; count the frames it restores."""
    sides = [traits.lr_side(side) for side in (height, width)]
    generator = torch.Generator().manual_seed(0)
    if traits.mode == "image":
        lq = torch.rand(1, 3, *sides, generator=generator)
        if traits.input == "both":
            lq = traits.given(lq, torch.rand(1, 3, *(side * traits.scale for side in sides), generator=generator))
        return lq.to(device), 1
    frames = _RECURRENT_FRAMES if traits.mode == "recurrent" else traits.num_frame
    lq = torch.rand(1, frames, 3, *sides, generator=generator).to(device)
    return lq, frames if traits.mode == "recurrent" else 1


def _restore(runner: Runner, lq: Tensor) -> Tensor:
    """Restore what a user would: an image, a frame of a window or a clip, by the network's faster form."""
    return runner.restore(lq, clip=1 if runner.traits.mode == "window" else None)


def measure_cost(
    net: nn.Module,
    device: torch.device,
    scale: int | None = None,
    size: tuple[int, int] = STD_PAPER_SIZE,
    runs: int = 7,
    warm_up: int = 2,
    budget: float = 20.0,
) -> Cost:
    """Run the network on one frame (window, clip) of random values and count.

    Args:
        net: the network; runs in eval mode, and is given back as it was.
        device: where it is.
        scale: needed where the network does not fix its own.
        size: LR width and height.
        runs: how many timed runs; the median counts.
        warm_up: runs before those.
        budget: seconds after which no further run is begun (two at least are timed).
    """
    traits = traits_of(net, scale)
    runner = Runner(net, traits)
    lq, frames = speed_input(traits, *size, device)
    with evaluating(net):
        with torch.no_grad():
            multiply_adds = _count(runner, lq)
        with torch.inference_mode():
            times, began = [], time.perf_counter()
            for number in range(warm_up + runs):
                start = time.perf_counter()
                _restore(runner, lq)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if number >= warm_up:
                    times.append((time.perf_counter() - start) / frames)
                if len(times) >= 2 and time.perf_counter() - began > budget:
                    break
    return Cost(
        count_parameters(net),
        multiply_adds / frames,
        1e3 * statistics.median(times),
        lq.shape[-1],
        lq.shape[-2],
        traits.scale,
        device.type,
        torch.get_num_threads(),
        len(times),
    )


def _count(runner: Runner, lq: Tensor) -> int:
    """Multiply-adds of the network itself, on what the runner makes of ``lq``."""
    inputs: list[tuple] = []
    net = runner.inference_net()
    hook = net.register_forward_pre_hook(lambda _, args: inputs.append(args))
    try:
        _restore(runner, lq)
    finally:
        hook.remove()
    return count_flops(net, *inputs[0])


def count_flops(net: nn.Module, *inputs: Any) -> int:
    """Count the multiply-adds of one forward pass in evaluation mode, without gradient.

    Counted are convolutions (transposed and deformable ones as well), linear layers, matrix products and attention.
    Element-wise work, activations and the bilinear sampling of deformable convolutions are not, as is usual in the
    super-resolution literature. One multiply-add is one; some papers count two operations. A module that runs in
    another form than the published one tells by ``multiply_adds_per_pixel`` what that takes for each pixel it is given.

    Args:
        net: any network; its training mode is left as it was.
        inputs: its arguments; the network really runs on them.
    """
    # Ours runs as matrix products, which are counted; torchvision's compiled operator is one opaque call.
    operator = getattr(torch.ops.torchvision, "deform_conv2d", None)
    mapping = {} if operator is None else {operator: _deform_conv_operations}
    counter, before, surplus = FlopCounterMode(display=False, custom_mapping=mapping), list[int](), list[int]()

    def begin(module: nn.Module, args: tuple[Tensor]) -> None:
        before.append(counter.get_total_flops())

    def after(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        count, _, height, width = args[0].shape
        published = 2 * count * height * width * int(module.multiply_adds_per_pixel)  # type: ignore[arg-type]
        surplus.append(counter.get_total_flops() - before.pop() - published)

    told = [module for module in net.modules() if hasattr(module, "multiply_adds_per_pixel")]
    hooks = [module.register_forward_pre_hook(begin) for module in told]
    hooks += [module.register_forward_hook(after) for module in told]
    try:
        with evaluating(net), torch.no_grad(), counter:
            net(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    operations = counter.get_total_flops() - sum(surplus)
    return operations // 2  # the counter's floating point operations are two for each multiply-add


def count_parameters(net: nn.Module) -> int:
    """Count trainable and frozen parameters, shared ones once; of layers that fold, those that are left then."""
    return sum(parameter.numel() for parameter in (fold(net) if foldable(net) else net).parameters())


def _deform_conv_operations(*args: Any, out_shape: torch.Size, **kwargs: Any) -> int:
    return 2 * math.prod(args[1][1:]) * out_shape.numel()  # args[1]: the shape of the weight
