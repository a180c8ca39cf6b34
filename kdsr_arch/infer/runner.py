"""Calls any network on images or clips in the form it wants, guided by its traits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import Traits, unwrap
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.ops.color import rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
from kdsr_arch.ops.copying import copy_network


class Runner:
    """Runs one network on ``lq`` (B, C, h, w) or (B, T, C, h, w), C = 3 (RGB) or 1 (Y), float in [0, 1].

    Args:
        net: the network (bare, compiled or wrapped); its training mode and gradients are the caller's business.
        traits: how it wants to be called.
    """

    def __init__(self, net: nn.Module, traits: Traits) -> None:
        self.net = net
        self.traits = traits
        self.name = type(unwrap(net)).__name__
        self._multiple, self._least = traits.lr_multiple, traits.lr_minimum  # of LR heights and widths
        self._gray = 1 + traits.scale**2 if traits.input == "both" else 1  # channels of an input of luma
        self._fast: tuple[object, nn.Module] | None = None

    def forward(self, lq: Tensor, clip: int | None = None) -> Tensor:
        """Run the network; the output is in its own color.

        Args:
            lq: images (B, C, h, w), or clips (B, T, C, h, w).
            clip: number N of frames wanted: the middle N of T. The extra frames at both ends fill windows; an image or
                recurrent network is given the middle N alone. Absent: T - num_frame + 1.

        Returns:
            (B, C, H, W) for images; (B, N, C, H, W) for clips, N = 1 included. A window network sees the B * N windows
            of a call as its batch, frame fastest, and so does an image network its frames.

        Raises:
            UserError: shapes that the network cannot take.
        """
        self._check(lq)
        frames = self._color(lq)
        if lq.dim() == 4:
            return self._call(frames, self.net)
        if self.traits.mode == "recurrent":
            return self._call(self._middle(frames, clip), self.net)
        if clip is None:
            clip = max(lq.shape[1] - self.traits.num_frame + 1, 0)
        return self._windows(frames, self._indices(lq.shape[1], clip), self.net)

    @torch.no_grad()
    def restore(self, lq: Tensor, clip: int | None = None, windows: Sequence[Sequence[int]] | None = None) -> Tensor:
        """Restore full images at test time: in the color of ``lq``, for any height and width.

        Args:
            lq: images (B, C, h, w), or clips (B, T, C, h, w).
            clip: as in ``forward``; absent, all T frames are restored, the outermost ones filling windows at the ends.
            windows: of a clip, the frame numbers of each window to restore, given to the network all at once; absent,
                those that ``clip`` says, one at a time. No recurrent network takes them.

        Returns:
            (B, C, H, W), or (B, N, C, H, W) for clips.
        """
        padded = self._pad(lq)
        self._check(padded)
        frames, net = self._color(padded), self.inference_net()
        if lq.dim() == 4:
            sr, given = self._call(frames, net), lq
        elif self.traits.mode == "recurrent":
            sr, given = self._call(self._middle(frames, clip), net), self._middle(lq, clip)
        else:
            index = windows or self._indices(lq.shape[1], clip)
            batches = [index] if windows else [[window] for window in index]
            sr = torch.cat([self._windows(frames, batch, net) for batch in batches], 1)
            given = lq[:, [window[len(window) // 2] for window in index]]
        self.check_size(sr, padded)
        enlarged = [side * self.traits.enlargement for side in lq.shape[-2:]]
        sr = sr[..., : enlarged[0], : enlarged[1]]
        if self.traits.color != "y" or lq.shape[-3] == 1:
            return sr
        chroma = upsample_bicubic(rgb_to_ycbcr(given)[..., 1:, :, :], self.traits.enlargement)
        return ycbcr_to_rgb(torch.cat([sr, chroma], dim=-3))

    def check_size(self, sr: Tensor, lq: Tensor) -> None:
        """Refuse an output of another size than the traits promise: they may be no more than what a user believed."""
        (height, width), sides, by = sr.shape[-2:], lq.shape[-2:], self.traits.enlargement
        if (height, width) == (by * sides[0], by * sides[1]):
            return
        own = height // sides[0]
        if (height, width) == (own * sides[0], own * sides[1]):
            raise UserError(f"network {self.name} enlarges by {own}, not {by}: give its own scale")
        raise UserError(
            f"network {self.name} makes {height}x{width} of {sides[0]}x{sides[1]}, which is no enlargement by {by}: "
            "give its own scale, or a network that keeps the borders"
        )

    def inference_net(self) -> nn.Module:
        """Return the network's form for inference (``for_inference``, `fold`), if any; made anew when weights change.

        A network that somebody watches through hooks is run as it is.
        """
        make = getattr(self.net, "for_inference", None) or (foldable(self.net) and partial(fold, self.net))
        if not make or self.net.training or any(m._forward_hooks for m in self.net.modules()):
            return self.net
        tensors = (*self.net.parameters(), *self.net.buffers())
        version = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
        if self._fast is None or self._fast[0] != version:
            self._fast = (version, make())
        return self._fast[1]

    def _call(self, frames: Tensor, net: nn.Module) -> Tensor:
        """Run ``net`` on images, windows or a whole clip in its color."""
        if self.traits.upsampled_input:
            frames = upsample_bicubic(frames, self.traits.scale)
        return self._restored(net(frames), frames)

    def _restored(self, output: Any, given: Tensor) -> Tensor:
        """Refuse what is no image, and colors that a network makes of luma: only luma of RGB has a meaning here."""
        if not isinstance(output, Tensor):
            raise UserError(
                f"network {self.name} returns a {type(output).__name__}, but must return the restored image alone, as "
                "one tensor; terms reach what is inside a network by taps"
            )
        if given.shape[-3] == 1 and output.shape[-3] > 1:
            raise UserError(
                f"network {self.name} is given 1 channel and gives {output.shape[-3]}: luma comes out of luma, or RGB "
                "out of RGB (num_in_ch, num_out_ch)"
            )
        return output

    def _windows(self, frames: Tensor, index: Sequence[Sequence[int]], net: nn.Module) -> Tensor:
        """Restore one frame of (B, T, C, h, w) for each list of frame numbers in ``index``: (B, N, C, H, W)."""
        first, width = index[0][0], len(index[0])
        used = sorted({i for window in index for i in window})
        # as in training: a list of numbers would have to be sent to a GPU, and waited for
        sliding = [*map(list, index)] == [[*range(i, i + width)] for i in range(first, first + len(index))]
        frames = frames[:, first : used[-1] + 1] if sliding else frames[:, used]
        if self.traits.upsampled_input:  # each frame once, however many windows share it
            frames = upsample_bicubic(frames, self.traits.scale)
        if sliding:
            windows = frames.unfold(1, width, 1).movedim(-1, 2)
        else:
            windows = frames[:, torch.tensor([[used.index(i) for i in window] for window in index])]
        batch = windows.flatten(0, 1).contiguous()
        out = self._restored(net(batch if self.traits.mode == "window" else batch.squeeze(1)), batch)
        return out.unflatten(0, (frames.shape[0], len(index)))

    def _indices(self, total: int, clip: int | None) -> Sequence[Sequence[int]]:
        """The frame numbers of each window: of all frames, the ends padded, or of the middle ``clip`` frames."""
        num_frame = self.traits.num_frame
        if clip is None:
            return [window_indices(i, total, num_frame) for i in range(total)]
        first = self._margin(total, clip)
        return [list(range(i, i + num_frame)) for i in range(first, first + clip)]

    def _check(self, lq: Tensor) -> None:
        name, gray = self.name, self._gray
        if lq.dim() not in (4, 5) or lq.shape[-3] not in (gray, 3 * gray):
            raise UserError(
                f"network {name} got an input of shape {tuple(lq.shape)}: expected (B, C, h, w) or "
                f"(B, T, C, h, w) with C = {gray} or {3 * gray}"
            )
        if lq.dim() == 4 and self.traits.mode != "image":
            window = self.traits.mode == "window"
            need = f"windows of {self.traits.num_frame}" if window else f"clips of at least {self.traits.min_clip}"
            raise UserError(
                f"network {name} restores {need} frames, but got single images of shape {tuple(lq.shape)}: "
                "use a video data set, or another network"
            )
        if self.traits.color == "rgb" and lq.shape[-3] == gray:
            raise UserError(f"network {name} takes RGB, but got 1-channel frames: use a color data set")
        unit = self._multiple
        if any(side % unit for side in lq.shape[-2:]):
            raise UserError(
                f"network {name} takes LR heights and widths that are multiples of {unit}, got "
                f"{lq.shape[-2]}x{lq.shape[-1]}: choose gt_size divisible by {unit * self.traits.scale}"
            )
        if min(lq.shape[-2:]) < self._least:
            raise UserError(
                f"network {name} takes LR frames of at least {self._least} pixels a side, got "
                f"{lq.shape[-2]}x{lq.shape[-1]}: enlarge gt_size"
            )

    def _color(self, lq: Tensor) -> Tensor:
        return rgb_to_y(lq) if self.traits.color == "y" and lq.shape[-3] == 3 else lq

    def _middle(self, lq: Tensor, clip: int | None) -> Tensor:
        """The middle ``clip`` frames, for a recurrent network."""
        count = lq.shape[1] if clip is None else clip
        if count < self.traits.min_clip:
            raise UserError(
                f"recurrent network {self.name} takes clips of at least {self.traits.min_clip} frames, got {count}: "
                f"set clip_length to {self.traits.min_clip} or more"
            )
        first = self._margin(lq.shape[1], count)
        return lq[:, first : first + count]

    def _margin(self, total: int, count: int) -> int:
        """Number of the first frame needed for the middle ``count`` outputs of ``total`` frames."""
        extra = total - (count + self.traits.num_frame - 1)
        if count < 1 or extra < 0 or extra % 2:
            raise UserError(
                f"network {self.name} with windows of {self.traits.num_frame} cannot restore the middle "
                f"{max(count, 1)} frame(s) of a clip of {total}: check clip_length and num_frame"
            )
        return extra // 2

    def _pad(self, lq: Tensor) -> Tensor:
        """Pad bottom and right by reflection up to the network's multiple and smallest size."""
        down, right = (self.traits.lr_side(side) - side for side in lq.shape[-2:])
        if not down and not right:
            return lq
        flat = lq.reshape(-1, *lq.shape[-3:])
        mode = "reflect" if down < lq.shape[-2] and right < lq.shape[-1] else "replicate"  # reflection needs room
        return F.pad(flat, (0, right, 0, down), mode=mode).reshape(
            *lq.shape[:-2], lq.shape[-2] + down, lq.shape[-1] + right
        )


def window_indices(center: int, total: int, num_frame: int, padding: str = "replicate") -> list[int]:
    """List the frames of the window around frame ``center`` of a clip of ``total`` frames.

    Args:
        padding: what stands for frames beyond the ends. For the 5-frame window of frame 0, the two frames before it
            are: replicate 0 0; reflection 2 1; reflection_circle 4 3; circle 3 4 (the names of BasicSR's
            ``generate_frame_indices``).

    Raises:
        UserError: a clip too short for the padding.
    """
    last, reach = total - 1, num_frame // 2
    beyond: dict[str, tuple[Callable[[int], int], Callable[[int], int]]] = {  # before the first, after the last
        "replicate": (lambda i: 0, lambda i: last),
        "reflection": (lambda i: -i, lambda i: 2 * last - i),
        "reflection_circle": (lambda i: center + reach - i, lambda i: center - reach - (i - last)),
        "circle": (lambda i: num_frame + i, lambda i: i - num_frame),
    }
    before, after = beyond[padding]
    index = [before(i) if i < 0 else after(i) if i > last else i for i in range(center - reach, center + reach + 1)]
    if min(index) < 0 or max(index) > last:
        raise UserError(
            f"a clip of {total} frame(s) is too short for windows of {num_frame} with padding '{padding}': "
            "use padding 'replicate' or longer clips"
        )
    return index


def foldable(net: nn.Module) -> list[str]:
    """List the layers that train as several branches: paths to a method ``folded()``, which returns the one to run."""
    return [path for path, module in net.named_modules() if path and hasattr(module, "folded")]


def fold(net: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode with those layers replaced; results stay the same to rounding."""
    net = copy_network(net).eval()
    for path in foldable(net):
        parent, _, name = path.rpartition(".")
        setattr(net.get_submodule(parent), name, net.get_submodule(path).folded())  # type: ignore[operator]
    return net


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, then give each of its modules its own training flag back."""
    flags = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
