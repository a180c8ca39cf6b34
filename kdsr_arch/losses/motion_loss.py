"""The motion term of video networks: what is warped should look like its target, along a smooth flow."""

from __future__ import annotations

import torch
from torch import Tensor

from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import DistillLoss
from kdsr_arch.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class MotionCompensationLoss(DistillLoss):
    """Warping error plus smoothness of the flow, a term of the student alone (``student: motion``).

    The sum over the neighbors i of: mean |I'_i - I_0|^2 + smoothness * H(flow_i), with the Huber-like
    H = sqrt(epsilon + sum over both components of (d/dx)^2 + (d/dy)^2), forward differences in pixels.
    The paper's equation does not say where the sum over pixels goes: here each pixel has its own square root and the
    mean is taken (``over='pixel'``); ``over='field'`` takes one root of the sum over the batch and the whole field, as
    public code does.

    Source: Caballero et al., CVPR 2017, equations 4 to 6 (warping weight 1, smoothness 0.01, epsilon 0.01).

    ``form: drvsr`` is DRVSR's and the rebuild of Liu 2017's: the mean of |I'_i - I_i| over all frames, plus smoothness
    times the sum of absolute forward differences of the flow over the number of its elements. Source: Tao et al.,
    ICCV 2017, equation 2, as PFNL's authors compute it (smoothness 0.01, the term's weight 0.01). TDAN, which has no
    flow, takes ``smoothness: 0``.

    Args:
        smoothness: weight of H.
        epsilon: its constant.
        over: 'pixel' or 'field'.
        form: 'vespcn' or 'drvsr'.
    """

    about = About(
        "VESPCN's own term, of the student alone",
        "Caballero et al., CVPR 2017",
        "Σ_i mean |I_i warped - I_0|² + 0.01 H(flow_i), H a Huber-like smoothness",
        "{student: motion, loss_weight: 0.01}",
        ratio="0.04 to 0.1 (std_vespcn)",
        options="train_std.yml",
    )

    align_channels = False
    align_size = False
    sides = "student"

    def __init__(
        self, smoothness: float = 0.01, epsilon: float = 0.01, over: str = "pixel", form: str = "vespcn"
    ) -> None:
        super().__init__()
        self.smoothness, self.epsilon = smoothness, epsilon
        self.over = one_of("MotionCompensationLoss", "over", over, ("pixel", "field"))
        self.form = one_of("MotionCompensationLoss", "form", form, ("vespcn", "drvsr"))

    def forward(self, student: tuple[Tensor, ...], teacher: None = None) -> Tensor:
        """Return the term's value.

        Args:
            student: (warped (B, k*C, h, w), flow (B, k*2, h, w) in pixels, reference (B, C, h, w)), k neighbors; of
                DRVSR a reference for each, (B, k*C, h, w). Without smoothness the flow may be missing.

        Raises:
            UserError: the tap did not record such a triple.
        """
        if not isinstance(student, tuple) or len(student) not in ((3,) if self.smoothness else (2, 3)):
            raise UserError(
                "MotionCompensationLoss needs (warped, flow, reference): tap the module `motion` of a DRVSR, of a "
                "VESPCN with `motion: true`, or, with `smoothness: 0`, of a TDAN"
            )
        warped, reference = student[0], student[-1]
        difference = warped.unflatten(1, (-1, reference.shape[1])) - reference.unsqueeze(1)
        if self.form == "drvsr":
            return difference.abs().mean() + (self.smoothness * _variation(student[1]) if self.smoothness else 0)
        error = difference.square().mean((0, 2, 3, 4))
        if not self.smoothness:
            return error.sum()
        flow = student[1].unflatten(1, (-1, 2))
        across = (flow[..., :, 1:] - flow[..., :, :-1]).square().sum(2)[..., :-1, :]
        down = (flow[..., 1:, :] - flow[..., :-1, :]).square().sum(2)[..., :, :-1]
        if self.over == "field":
            huber = torch.sqrt(self.epsilon + (across + down).sum((0, 2, 3)))
        else:
            huber = torch.sqrt(self.epsilon + across + down).mean((0, 2, 3))
        return error.sum() + self.smoothness * huber.sum()


def _variation(flow: Tensor) -> Tensor:
    return (flow.diff(dim=-1).abs().sum() + flow.diff(dim=-2).abs().sum()) / flow.numel()
