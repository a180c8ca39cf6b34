"""MTKD: several teachers, joined by a network that is trained along, and a student that follows what it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import CRITERIA, Context, DistillLoss, require_map
from kdsr_arch.losses.dct_swin import DCTSwin
from kdsr_arch.losses.detail_loss import WaveletLoss
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.registry import LOSS_REGISTRY

_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K


@LOSS_REGISTRY.register()
class MTKDLoss(DistillLoss):
    """d(S, J) + L1(J, HR), where J is what a network makes of all teachers' images; the student moves by d alone.

    Taps the outputs of `network_t`, `network_t2`, ...: ``{student: output, teacher: [t, t2, t3]}``. The second part
    trains the network that joins them, and is left out while a stage freezes this term. MTKD trains that network first
    and then fixes it: options/train_mtkd.yml has the two stages. It is part of the training state, not of the student's
    file.

    J is the teachers' mean plus what the network adds, over 255, so that it begins as that mean; the authors add a
    constant color (``base: color``).

    Source: Jiang et al., "MTKD: Multi-Teacher Knowledge Distillation for Image Super-Resolution", ECCV 2024, weight 1
    beside 0.1 times the pixel loss. Its text has the wavelet distance, its option files L1.

    Args:
        distance: d, 'wavelet' (see WaveletLoss), 'l1' or 'l2'.
        levels: of the wavelets; sides of crops must be multiples of 2^levels.
        base: what the network adds to, 'mean' or 'color'.
        num_feat: width of the network (published 96).
        depths: blocks of each of its groups (published [4, 4]).
        num_heads: heads of its attention (published 6).
        window_size: side of its windows in pixels (published 8).
    """

    about = About(
        "MTKD: several teachers, joined by a network that is trained along",
        "Jiang et al., ECCV 2024",
        "d(S(x), J) + mean |J - y|, J what a network makes of all teachers' images",
        "{student: output, teacher: [t, t2], loss_weight: 1}",
        options="train_mtkd.yml",
    )

    align_channels = False
    align_size = False
    context = True

    def __init__(
        self,
        distance: str = "wavelet",
        levels: int = 4,
        base: str = "mean",
        num_feat: int = 96,
        depths: Sequence[int] = (4, 4),
        num_heads: int = 6,
        window_size: int = 8,
    ) -> None:
        super().__init__()
        one_of("MTKDLoss", "distance", distance, ("wavelet", *CRITERIA))
        self.base = one_of("MTKDLoss", "base", base, ("mean", "color"))
        sizes = (num_heads, window_size, *depths) if isinstance(depths, (list, tuple)) and depths else (0,)
        if min(sizes) < 1 or num_feat < 1 or num_feat % num_heads:
            raise UserError(
                "MTKDLoss: depths must be a list such as [4, 4], window_size 1 or more, and num_feat a multiple of "
                f"num_heads; got {depths}, {window_size}, {num_feat} and {num_heads}"
            )
        self.distance = WaveletLoss(levels) if distance == "wavelet" else CRITERIA[distance]
        self.size = {"num_feat": num_feat, "depths": depths, "num_heads": num_heads, "window_size": window_size}
        self.images, self.channels = 0, 0
        self.joiner: DCTSwin | None = None
        self.color: Tensor

    def setup(self, student_shapes: Sequence[Any], teacher_shapes: Sequence[Any]) -> None:
        """Note how many images the teachers make."""
        if len(teacher_shapes) < 2 or len(set(teacher_shapes)) > 1 or len(teacher_shapes[0]) != 4:
            raise UserError(
                "MTKDLoss joins the images of several teachers: give network_t2, and student: output, teacher: [t, t2]"
            )
        self.images, self.channels = len(teacher_shapes), teacher_shapes[0][1]

    def begin(self, context: Context) -> None:
        """Build the network that joins them."""
        if context.lq.dim() != 4:
            raise UserError("MTKDLoss is for networks of images")
        color = torch.tensor(_MEAN if self.channels == 3 else [0.5])[:, None, None]
        self.register_buffer("color", color.to(context.lq), persistent=False)
        self.joiner = DCTSwin(self.images, self.channels, context.scale, **self.size)  # type: ignore[arg-type]

    def join(self, teachers: Sequence[Tensor]) -> Tensor:
        """Join images (B, C, H, W) in [0, 1] to one."""
        assert self.joiner is not None
        base = torch.stack([*teachers]).mean(0) if self.base == "mean" else self.color
        return base + self.joiner(teachers) / 255

    def forward(self, students: list[Any], teachers: list[Any], context: Context) -> Tensor:  # type: ignore[override]
        """Return the sum of both parts.

        Args:
            students: the student's output, once for each teacher.
            teachers: their outputs, (B, C, H, W).
            context: the ground truth.
        """
        joined = self.join([require_map("MTKDLoss", image) for image in teachers])
        distance = self.distance(*matched_colors(students[0], joined.detach()))
        return distance + F.l1_loss(*matched_colors(joined, context.gt)) if joined.requires_grad else distance
