"""LR made on the training device for a whole batch: workers only read the HR that it depends on.

The batch is, bit for bit, the one that workers would have made: windows carry the context that the LR of the whole
frame needs, the rows are shrunk before the columns as MATLAB does, and flips come after that, since rounding between
the two makes the transposed frame's LR another image than the frame's transposed LR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdsr_arch.data.augment import Flip
from kdsr_arch.data.degraded import CONTEXT, DegradedSource
from kdsr_arch.data.fields import color_of, patch_of
from kdsr_arch.data.pairs import FramePairs
from kdsr_arch.data.store.codec import Window
from kdsr_arch.errors import UserError
from kdsr_arch.ops.bicubic import imresize_uint8_tensor
from kdsr_arch.ops.color import rgb_to_y

__all__ = ["DeviceDegrade", "device_degrade"]


@dataclass(frozen=True)
class DeviceDegrade:
    """Makes ``lq`` and ``gt`` of batches of wide HR windows.

    Args:
        scale, border: as of :class:`DegradedSource`, whose 'BI' this is.
        color: 'rgb' or 'y'.
        patch: side of the LR crop.
        margin: LR frames before the first and after the last ground truth; None for still images.
    """

    scale: int
    border: str
    color: str
    patch: int
    margin: int | None

    def check(self, size: tuple[int, int], where: str) -> None:
        """Raises UserError when an LR size (h, w) is too small for windows of one size, which batches need."""
        least = self.patch + 2 * CONTEXT
        if min(size) < least:
            raise UserError(
                f"{where} gives LR of {size[0]}x{size[1]}; 'degrade_on: device' needs {least}x{least} at this gt_size: "
                "lower gt_size, or leave degrade_on out"
            )

    def sample(self, pairs: FramePairs, keys: Sequence[str], window: Window, flip: Flip) -> dict[str, Any]:
        """What a worker reads.

        Returns:
            hr: (T, H, W, 3) uint8, the frames with context; place: (2,) row and column of the crop in them, in LR
            pixels; flip: (3,) bool.
        """
        frames, place = pairs.read_wide(keys, window)
        hr = torch.stack([torch.from_numpy(frame.copy()) for frame in frames])
        return {"hr": hr, "place": torch.tensor(place), "flip": torch.tensor(flip)}

    def __call__(self, batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """The batch with ``lq`` and ``gt`` on ``device`` in place of what :meth:`sample` gave."""
        places, flips = batch["place"].tolist(), batch["flip"].tolist()  # from the CPU: nothing waits
        hr = batch["hr"].to(device, non_blocking=True).permute(0, 1, 4, 2, 3)
        lq = imresize_uint8_tensor(hr, 1 / self.scale, self.border)
        gt = hr if self.margin is None else hr[:, self.margin : hr.shape[1] - self.margin]
        made = {"lq": self._crops(lq, places, flips, 1), "gt": self._crops(gt, places, flips, self.scale)}
        if self.margin is None:
            made = {name: images[:, 0] for name, images in made.items()}
        return {**{k: v for k, v in batch.items() if k not in ("hr", "place", "flip")}, **made}

    def _crops(self, frames: Tensor, places: list, flips: list, factor: int) -> Tensor:
        """(B, T, 3, H, W) uint8 -> (B, T, C, side, side) float32 in [0, 1]."""
        side = self.patch * factor
        crops = [
            _flipped(x[..., top * factor : top * factor + side, left * factor : left * factor + side], flip)
            for x, (top, left), flip in zip(frames, places, flips, strict=True)
        ]
        whole = torch.stack(crops).to(torch.float32)
        # by a tensor: CUDA multiplies by the inverse of a plain number, which is not the same in the last bit
        whole = whole / torch.full((), 255.0, device=whole.device)
        return rgb_to_y(whole) if self.color == "y" else whole


def _flipped(x: Tensor, flip: Sequence[bool]) -> Tensor:
    horizontal, vertical, transposed = flip
    x = x.flip([d for d, wanted in ((-1, horizontal), (-2, vertical)) if wanted])
    return x.transpose(-1, -2) if transposed else x


def device_degrade(opt: Mapping[str, Any], pairs: FramePairs, margin: int | None) -> DeviceDegrade | None:
    """What ``degrade_on: device`` asks for in training; None without it.

    Raises:
        UserError: the LR is stored, not bicubic, or not cropped.
    """
    if not pairs.on_device:
        return None
    name, patch, source = opt.get("name", "data set"), patch_of(opt), pairs.lq
    if not isinstance(source, DegradedSource):
        raise UserError(f"{name}: 'degrade_on: device' makes LR, but {source.name} keeps it; leave degrade_on out")
    if source.kind != "BI" or not patch:
        raise UserError(f"{name}: 'degrade_on: device' needs degradation 'BI' and a gt_size")
    return DeviceDegrade(pairs.scale, source.border, color_of(opt), patch // pairs.scale, margin)
