"""The teacher as a store is filled from it, and what the border of a crop does to what it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.data.store.teacher_store import OUTPUT
from kdsr_arch.device import pick_device
from kdsr_arch.distill.taps import Recorder, Value, fold, resolve
from kdsr_arch.errors import UserError
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.options.schema import Options


class LiveTeacher:
    """The teacher on whole images or crops of them: its output in its own color, and its taps, each (F, C, H, W).

    Args:
        net: the teacher.
        opt: options; read are `scale`, `num_gpu` and `teacher.amp`.
        taps: names of taps.
        pool: taps of so many times the LR size, or of a multiple of that, are averaged over so many pixels a side.

    Attributes:
        zoom: size of what it is given, relative to the LR image: 1, or the scale where it is given the ground truth.
        recurrent: whether it restores all frames that it is given, F of them; others restore one.
        forms: of each tap and of the output, as far as they were made: `ratio`, its size relative to the LR image, and
            `pooled`, over how many pixels a side it was averaged.

    Raises:
        UserError: a teacher that is given LR and ground truth together, or a tap that it has not.
    """

    def __init__(self, net: nn.Module, opt: Options, taps: Sequence[str], pool: int = 1) -> None:
        device = pick_device(opt.num_gpu)
        self.traits = traits_of(net, opt.scale)
        if self.traits.input == "both":
            raise UserError(
                "cache-teacher: this teacher is given LR image and ground truth together, of which no store is made; "
                "train with the live teacher"
            )
        self.recurrent, self.pool = self.traits.mode == "recurrent", pool
        self.zoom = self.traits.scale if self.traits.input == "gt" else 1
        self.net = net.eval().requires_grad_(False).to(device)
        self.aliases = {name: resolve(net, self.traits, name) for name in taps}
        self.restorer = Restorer(Runner(net, self.traits), device, opt.teacher.amp)
        self.forms = {OUTPUT: {"ratio": self.traits.scale, "pooled": 1}}

    def __call__(self, frames: Tensor) -> dict[str, Tensor]:
        """Run the teacher on the middle one of a few frames; a recurrent one on all of them.

        Args:
            frames: (n, C, h, w), n = 1 for a teacher of images; the HR image for a privileged one.

        Returns:
            Its output and its taps, (F, C, H, W) float32 on the CPU: F = n for a recurrent teacher, else 1.

        Raises:
            UserError: a tap that is no map of a whole multiple of the LR size.
        """
        if self.traits.color == "y" and frames.shape[1] == 3:
            frames = rgb_to_y(frames)
        with Recorder(self.net, list(self.aliases.values())) as taps:
            if self.traits.mode == "image":
                output = self.restorer.image(frames[0])[None]
            else:
                output = self.restorer.frames(frames, range(len(frames)) if self.recurrent else [len(frames) // 2])
        size = [side // self.zoom for side in frames.shape[-2:]]
        padded = [self.traits.lr_side(side) // self.zoom for side in frames.shape[-2:]]
        maps = {path: self._cut(path, fires, len(output), size, padded) for path, fires in taps.items()}
        found = {OUTPUT: output, **maps}
        return {
            name: self.restorer.checked(value, f"cache-teacher, {name}").float().cpu() for name, value in found.items()
        }

    def _cut(self, path: str, fires: list[Value], count: int, size: Sequence[int], padded: Sequence[int]) -> Tensor:
        """A tap of `count` frames without what padding added, averaged where it is to be.

        Only maps of a whole multiple of the LR size can be cropped.
        """
        value = fold(fires, 1, self.recurrent, f"cache-teacher: tap '{path}'").value
        if not isinstance(value, Tensor) or value.dim() != 4 or len(value) != count:
            raise UserError(
                f"cache-teacher: tap '{path}' gives no single feature map (C, H, W) of each frame: store another"
            )
        ratio = value.shape[-1] // padded[1]
        if ratio < 1 or tuple(value.shape[-2:]) != (padded[0] * ratio, padded[1] * ratio):
            raise UserError(
                f"cache-teacher: tap '{path}' is {value.shape[-2]}x{value.shape[-1]} for an input of "
                f"{padded[0]}x{padded[1]}: only maps of a whole multiple of the LR size can be cropped "
                "with the images"
            )
        value, pooled = value[..., : size[0] * ratio, : size[1] * ratio], 1 if ratio % self.pool else self.pool
        self.forms[path] = {"ratio": ratio // pooled, "pooled": pooled}
        return F.avg_pool2d(value.float(), pooled)


# ------------------------------------------------------------------------------------------------ the border of a crop

_LOCAL_DB = 60.0  # fp16 alone gives about 80 dB
_ADVICE = (
    "Its output depends on the image beyond the crop and its border: stored whole images do not give the loss of live "
    "training. Store crops restored alone instead, exact everywhere: kdsr cache-teacher ... --crops 32"
)


@dataclass(frozen=True)
class Probe:
    """What a crop's own border does: the teacher on a crop against the crop of the teacher on the whole image.

    Attributes:
        patch: LR side of the crop.
        all_db, inner_db: PSNR between the two over the crop, and over its inner half (a quarter of each side cut off).
    """

    patch: int
    all_db: float
    inner_db: float

    @property
    def looks_further(self) -> bool:
        """Whether crops of stored whole images are not what live training would see, even far from their border."""
        return self.inner_db < _LOCAL_DB

    def __str__(self) -> str:
        said = (
            f"crops of {self.patch} LR pixels: the teacher on a crop alone is {self.all_db:.1f} dB from the stored "
            f"crop of the whole image, {self.inner_db:.1f} dB in its inner half. The stored one has seen what lies "
            "beyond the crop's border"
        )
        return f"{said}. {_ADVICE}" if self.looks_further else said


def measure_border(teacher: LiveTeacher, frames: Tensor, whole: np.ndarray, patch: int) -> Probe | None:
    """Compare the two on the middle of an image; None where the crop is the whole image.

    Args:
        frames: (n, C, h, w); of HR size where the teacher is privileged.
        whole: the teacher's output on it, (F, C, H, W).
        patch: LR side of the crop, 0 for half the image.
    """
    zoom, scale = teacher.zoom, teacher.traits.scale
    height, width = (side // zoom for side in frames.shape[-2:])
    side = min(patch or min(height, width) // 2, height, width)
    if side == height == width:
        return None
    top, left = (height - side) // 2, (width - side) // 2
    crop = frames[..., top * zoom : (top + side) * zoom, left * zoom : (left + side) * zoom]
    stored = torch.from_numpy(whole.astype(np.float16).astype(np.float32))
    stored = stored[..., top * scale : (top + side) * scale, left * scale : (left + side) * scale]
    error = (teacher(crop)[OUTPUT] - stored).double().square()
    margin = side * scale // 4
    inner = error[..., margin:-margin, margin:-margin]
    return Probe(side, *(float(-10 * torch.log10(part.mean().clamp(min=1e-12))) for part in (error, inner)))
