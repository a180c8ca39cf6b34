"""MiPKD: features of both networks mixed at random in one latent space, and images that both networks make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import Context, DistillLoss, as_maps
from kdsr_arch.losses.vid_loss import pointwise_net
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class MiPKDLoss(DistillLoss):
    """sum_k (|D(Z_k) - T_k| + auto |D(E_T(T_k)) - T_k|) + block |I - target| with Z = M E_T(T) + (1 - M) E_S(S).

    S_k, T_k are the features of the k-th pair of taps, E and D small train-only networks, M a random 0 or 1 for each
    element: the feature mixer. The block mixer draws for each image one k and one of the networks, and I is what the
    blocks of that network behind tap k make of the mixed feature. Gradients reach the student by E_S(S_k), and in I by
    its own blocks as well.

    Source: Li et al., "Knowledge Distillation with Multi-granularity Mixture of Priors for Image Super-Resolution",
    ICLR 2025. There is no public code; this is built after descriptions of the paper. UNCERTAIN, some of it options:
    the sizes of E and D, the share of the teacher in M, the weights, and the target of I; that an image stays in the
    network that it has entered; D towards the student's width, which the block mixer alone trains.

    Runs the live teacher, unless ``block: 0``. For networks of images. Taps must be of one size on both sides.

    Args:
        share: of the latent's elements that come from the teacher.
        auto: weight of the autoencoder's loss of the teacher's feature.
        block: weight of the block mixer's loss; 0: none.
        target: of I, 'teacher', what the whole teacher makes, or 'gt', the ground truth.
        latent: channels of the latent space; the teacher's by default.
    """

    about = About(
        "MiPKD: features mixed at random, images routed through either network's blocks",
        "Li et al., ICLR 2025",
        "Σ_k (|D(Z_k) - T_k| + auto |D(E_T(T_k)) - T_k|) + block |I - T|, Z = M E_T(T) + (1 - M) E_S(S)",
        "{at: [block1, f_lr], loss_weight: {balance: 0.5}}",
        ratio="as balanced",
        options="train_mipkd.yml",
    )

    align_channels = False
    align_size = False
    context = True
    live_teacher = True

    def __init__(
        self,
        share: float = 0.5,
        auto: float = 1.0,
        block: float = 1.0,
        target: str = "teacher",
        latent: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 < share < 1 or auto < 0 or block < 0 or (latent is not None and latent < 1):
            raise UserError(
                "MiPKDLoss: share must lie between 0 and 1, auto and block be 0 or more, latent 1 or more; got "
                f"{share}, {auto}, {block} and {latent}"
            )
        self.share, self.auto, self.block, self.latent = share, auto, block, latent
        self.target = one_of("MiPKDLoss", "target", target, ("teacher", "gt"))
        self.live_teacher = block > 0
        self.mixers = nn.ModuleList()

    def setup(self, student_shapes: Sequence[Any], teacher_shapes: Sequence[Any]) -> None:
        """Build the encoders and decoders of each pair of taps."""
        for s, t in zip(student_shapes, teacher_shapes, strict=True):
            if len(s) != 4 or len(t) != 4 or not isinstance(s[0], int) or s[2:] != t[2:]:
                raise UserError(f"MiPKDLoss needs maps of one size from both taps, got {tuple(s)} and {tuple(t)}")
            self.mixers.append(_Mixer(s[1], t[1], self.latent or t[1], bool(self.block)))

    def forward(self, students: list[Any], teachers: list[Any], context: Context) -> Tensor:  # type: ignore[override]
        """Return the sum of the parts.

        Args:
            students, teachers: the features, (B, C, h, w).
            context: both networks and the batch.
        """
        if context.lq.dim() != 4 or {"output", "lq", "gt"} & {*context.taps, *context.student_taps}:
            raise UserError("MiPKDLoss is for networks of images, and taps layers inside them (f_lr, say)")
        parts, mixed = [], []
        features = (as_maps("MiPKDLoss", side) for side in (students, teachers))
        for mixer, ours, theirs in zip(self._mixers(), *features, strict=True):
            of_student, of_teacher = mixer.of_student(ours), mixer.of_teacher(theirs)
            mixed.append(torch.where(draw_mask(of_teacher, self.share), of_teacher, of_student))
            parts.append((mixer.to_teacher(mixed[-1]) - theirs).abs().mean())
            if self.auto:
                parts.append(self.auto * (mixer.to_teacher(of_teacher) - theirs).abs().mean())
        if self.block:
            parts.append(self.block * self._routed(mixed, context))
        return torch.stack(parts).sum()

    def _mixers(self) -> list[_Mixer]:
        return list(self.mixers)  # type: ignore[arg-type]

    def _routed(self, mixed: Sequence[Tensor], context: Context) -> Tensor:
        """Send each image's mixed feature, of one tap, through the later blocks of one network."""
        entry, by_teacher = draw_route(context.lq, len(mixed))
        edits: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        for k, (mixer, latent) in enumerate(zip(self._mixers(), mixed, strict=True)):
            taps, decoders = (context.taps[k], context.student_taps[k]), (mixer.to_teacher, mixer.to_student)
            for edit, tap, decode in zip(edits, taps, decoders, strict=True):
                before = edit.get(tap)  # a tap may be in several pairs
                edit[tap] = partial(_entering, entry == k, decode(latent), before)
        images = matched_colors(context.resume(edits[0]), context.resume_student(edits[1]))
        image = torch.where(by_teacher, *images)
        target = context.gt if self.target == "gt" else context.teacher(context.lq)
        image, target = matched_colors(image, target)
        return (image - target).abs().mean()


class _Mixer(nn.Module):
    """The encoders and decoders of one pair of taps: each two 1x1 convolutions and a ReLU between them."""

    def __init__(self, student: int, teacher: int, latent: int, routes: bool) -> None:
        super().__init__()
        self.of_student, self.of_teacher = (
            pointwise_net([c, latent, latent], "relu", True) for c in (student, teacher)
        )
        self.to_teacher = pointwise_net([latent, latent, teacher], "relu", True)
        if routes:
            self.to_student = pointwise_net([latent, latent, student], "relu", True)


def _entering(here: Tensor, feature: Tensor, before: Callable[[Tensor], Tensor] | None, made: Tensor) -> Tensor:
    made = made if before is None else before(made)
    return torch.where(here, feature.to(made.dtype), made)


def draw_mask(latent: Tensor, share: float) -> Tensor:
    """Draw which elements of a latent (B, C, h, w) come from the teacher."""
    return torch.rand_like(latent) < share


def draw_route(images: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Draw at which tap each image enters, and whether the teacher, else the student, goes on: both (B, 1, 1, 1)."""
    shape = (images.shape[0], 1, 1, 1)
    entry = (torch.rand(shape, device=images.device) * taps).long()
    return entry, torch.rand(shape, device=images.device) < 0.5
