"""DCKD without its codebook: label consistency of the teacher, and a contrast with an older copy of the student."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import CRITERIA, Context, DistillLoss
from kdsr_arch.losses.dukd_loss import LUMA_SUM, changed, draw, require_images, undone
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.ops.copying import copy_network
from kdsr_arch.registry import LOSS_REGISTRY

_EPS = 1e-7


@LOSS_REGISTRY.register()
class LabelConsistencyLoss(DistillLoss):
    """d(S(x), f^-1 T(f(x))), with f random for each image: inverted colors, flips, transposition.

    Source: DCKD (AAAI 2025), weight 1 beside the distance of the outputs. Runs the live teacher.

    Args:
        probability: of each of f's four parts.
        criterion: d, 'l1' (published) or 'l2'.
    """

    about = About(
        "DCKD: the teacher under flips, transposition, inversion",
        "Zhou et al., AAAI 2025",
        "mean |S(x) - f⁻¹(T(f(x)))|, f at random",
        "none, 1 beside 1 x output",
        ratio="0.8 to 2.9",
        options="train_dckd.yml",
    )

    sides = "student"
    context = True
    live_teacher = True

    def __init__(self, probability: float = 0.5, criterion: str = "l1") -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise UserError(f"LabelConsistencyLoss: probability must lie from 0 to 1, not at {probability}")
        self.probability = probability
        self.criterion = CRITERIA[one_of("LabelConsistencyLoss", "criterion", criterion, CRITERIA)]

    def forward(self, students: list[Any], context: Context) -> Tensor:  # type: ignore[override]
        require_images("LabelConsistencyLoss", context)
        change = draw(context.lq, self.probability)
        taught = context.teacher(changed(context.lq, change))
        taught = undone(taught, change, 1.0 if taught.shape[1] == context.lq.shape[1] else LUMA_SUM)
        return self.criterion(*matched_colors(students[0], taught))


@LOSS_REGISTRY.register()
class HistoryContrastLoss(DistillLoss):
    """|S - T| / (sum over negatives of |S - N|): nearer to the teacher than to what the student made a while ago.

    The negatives are images that an older copy of the student makes of the LR image and of noisy versions of it:
    Gaussian noise of a strength drawn for each image, gray for some of them, clipped to [0, 1]. Every ``every``
    iterations the copy becomes ``keep`` of itself and the rest the student; after each ``stretch`` iterations the
    period grows by ``every``, up to three times it. The copy is part of the training state, not of the student's file.

    DCKD (AAAI 2025) measures the distances in five layers of a VQGAN, compares the codes as well, and feeds the copy
    from the averaged student. Without that network's weights this is its contrast on images: not the published method.

    Args:
        negatives: noisy versions beside the clean one.
        noise: weakest and strongest standard deviation, of 255.
        gray: share of images whose noise is gray.
        every: iterations between two updates of the copy.
        keep: share of itself that the copy keeps.
        stretch: iterations after which the period grows.
    """

    about = About(
        "DCKD's contrast with an older copy of the student, on images",
        "Zhou et al., AAAI 2025",
        "mean |S(x) - T(x)| / Σ_n mean |S(x) - H(x_n)|, H an older S, x_n noisy",
        "none, 0.1",
        ratio="0.6 to 3.2",
        options="train_dckd.yml",
    )

    context = True
    moved: Tensor

    def __init__(
        self,
        negatives: int = 4,
        noise: tuple[float, float] = (1.0, 30.0),
        gray: float = 0.5,
        every: int = 1000,
        keep: float = 0.1,
        stretch: int = 100_000,
    ) -> None:
        super().__init__()
        a_range = isinstance(noise, (list, tuple)) and len(noise) == 2 and 0 <= noise[0] <= noise[1]
        if negatives < 0 or every < 1 or stretch < 1 or not 0 <= keep <= 1 or not a_range:
            raise UserError(
                "HistoryContrastLoss: negatives must be 0 or more, every and stretch 1 or more, keep from 0 to 1, and "
                f"noise [weakest, strongest]; got {negatives}, {every}, {stretch}, {keep}, {noise}"
            )
        self.negatives, self.noise, self.gray = negatives, noise, gray
        self.every, self.keep, self.stretch = every, keep, stretch
        self.history: nn.Module | None = None
        self.register_buffer("moved", torch.tensor(0.0))  # the last iteration that the copy was updated after

    def begin(self, context: Context) -> None:
        """Copy the student."""
        self.history = copy_network(context.network).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> HistoryContrastLoss:
        """Switch to training, all but the older copy: its statistics are its student's, and it drops nothing."""
        super().train(mode)
        if self.history is not None:
            self.history.eval()
        return self

    def forward(self, students: list[Any], teachers: list[Any], context: Context) -> Tensor:  # type: ignore[override]
        """Return the distance of two outputs over the summed distances to what the older copy makes of noisy inputs."""
        assert self.history is not None
        if context.lq.dim() != 4 or len(students) != 1:
            raise UserError("HistoryContrastLoss is for networks of images, and compares one pair: the outputs")
        self._update(self.history, context)
        given = torch.cat([context.lq, *(self._noisy(context.lq) for _ in range(self.negatives))])
        negatives = context.run(self.history, given).chunk(self.negatives + 1)
        far = [(ours - theirs).abs().mean() for ours, theirs in (matched_colors(students[0], n) for n in negatives)]
        return (students[0] - teachers[0]).abs().mean() / (torch.stack(far).sum() + _EPS)

    @torch.no_grad()
    def _update(self, history: nn.Module, context: Context) -> None:
        """Move the copy where the step before this iteration was one after which it is due, once."""
        done = context.iteration - 1
        period = self.every * (1 + torch.floor((done - 1) / self.stretch)).clamp(1, 3)
        due = (done > 0) & (done % period == 0) & (done != self.moved)
        share = torch.where(due, 1 - self.keep, 0.0)
        for mine, theirs in zip(history.parameters(), context.network.parameters(), strict=True):
            mine.lerp_(theirs, share.to(mine.dtype))
        for kept, now in zip(history.buffers(), context.network.buffers(), strict=True):
            kept.copy_(torch.where(due, now, kept))
        self.moved.copy_(torch.where(due, done, self.moved))

    def _noisy(self, lq: Tensor) -> Tensor:
        shape, (low, high) = (lq.shape[0], 1, 1, 1), self.noise
        sigma = (low + (high - low) * torch.rand(shape, device=lq.device)) / 255
        gray = torch.rand(shape, device=lq.device) < self.gray
        noise = torch.where(gray, torch.randn_like(lq[:, :1]), torch.randn_like(lq))
        return (lq + sigma * noise).clamp(0, 1)
