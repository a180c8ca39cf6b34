"""The temporal term of space-time distillation: memory cells of one ConvLSTM over the student's and teacher's clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.device import LateFlag
from kdsr_arch.errors import UserError, one_of
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import NORMS, DistillLoss
from kdsr_arch.parallel import distributed
from kdsr_arch.registry import LOSS_REGISTRY

Carry = Callable[[Tensor, int], Tensor]
"""Moves a state (B, C, H, W) of the step before to the places of step t."""


class ConvLSTM(nn.Module):
    """One convolutional LSTM layer without peepholes (Shi et al., NeurIPS 2015), from zero states.

    i, f, o, g = conv([x_t, h_{t-1}]);  c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g);  h_t = sigmoid(o) tanh(c_t).
    The gates lie in that order in ``weight`` (4 * hidden, channels + hidden, k, k) and ``bias`` (4 * hidden):
    4 * hidden * ((channels + hidden) * k^2 + 1) parameters. The forget gate's bias starts at 1.

    Args:
        channels: of the input.
        hidden: of the states.
        kernel_size: odd.
        padding: 'zeros' or 'replicate' around both x_t and h_{t-1}.
    """

    def __init__(self, channels: int, hidden: int, kernel_size: int = 3, padding: str = "zeros") -> None:
        super().__init__()
        self.channels, self.hidden, self.kernel_size, self.padding = channels, hidden, kernel_size, padding
        template = nn.Conv2d(channels + hidden, 4 * hidden, kernel_size)
        self.weight = template.weight
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        with torch.no_grad():
            self.bias[hidden : 2 * hidden] = 1.0

    def input_gates(self, frames: Tensor, detach: bool = False) -> Tensor:
        """Return the input's part of the gates, for all frames at once: (F, C, H, W) to (F, 4 * hidden, H, W)."""
        weight, bias = self._kernel(detach)
        return self._conv(frames, weight[:, : self.channels], bias)

    def run(
        self, gates: Tensor, detach: bool = False, final_hidden: bool = True, carry: Carry | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run through time on the input's gates.

        Args:
            gates: (B, N, 4 * hidden, H, W), from :meth:`input_gates`.
            detach: parameters count as constants.
            final_hidden: False leaves out h_N, which memory cells alone do not need.
            carry: moves states to the places of the next step; None leaves them where they are.

        Returns:
            The cells c_1..c_N and the hidden states h_1..h_N (or ..h_{N-1}), each (B, hidden, H, W).
        """
        weight = self._kernel(detach)[0][:, self.channels :]
        cells: list[Tensor] = []
        hiddens: list[Tensor] = []
        steps = gates.unbind(1)
        for step, gate in enumerate(steps):
            memory = None
            if step:
                hidden, memory = hiddens[-1], cells[-1]
                if carry is not None:
                    hidden, memory = carry(torch.cat([hidden, memory], 1), step).chunk(2, 1)
                gate = gate + self._conv(hidden, weight, None)
            i, f, o, g = gate.chunk(4, dim=1)
            cell = torch.sigmoid(i) * torch.tanh(g)
            if memory is not None:
                cell = torch.addcmul(cell, torch.sigmoid(f), memory)
            cells.append(cell)
            if final_hidden or step + 1 < len(steps):
                hiddens.append(torch.sigmoid(o) * torch.tanh(cell))
        return cells, hiddens

    def forward(self, clip: Tensor, carry: Carry | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Map (B, N, C, H, W) to cells and hidden states, as :meth:`run`."""
        return self.run(self.input_gates(clip.flatten(0, 1)).unflatten(0, clip.shape[:2]), carry=carry)

    def _kernel(self, detach: bool) -> tuple[Tensor, Tensor]:
        return (self.weight.detach(), self.bias.detach()) if detach else (self.weight, self.bias)

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pad = self.kernel_size // 2
        if self.padding == "replicate":
            return F.conv2d(F.pad(x, (pad,) * 4, mode="replicate"), weight, bias)
        return F.conv2d(x, weight, bias, padding=pad)


RMS_MOMENTUM = 0.05
LOOK_PERIOD = 16  # steps from one look at the value to the next; what is seen was asked for at the look before
EPS = 1e-8


@LOSS_REGISTRY.register()
class TemporalMemoryLoss(DistillLoss):
    """L_TD = mean ||C_S - C_T||^2 (Xiao et al., CVPR 2021, temporal distillation).

    The clip's features F_1..F_N of the student and of the teacher each go through one ConvLSTM whose weights they
    share; C is its last memory cell, and ||.||^2 the mean over all elements. Student and teacher (B, N, C, H, W) of
    equal channels (a train-only 1x1 convolution makes them so). The gradient never reaches the teacher.

    The published form trains the ConvLSTM with the student and fixes it once L_TD < 1e-8, against the collapse of its
    weights to zero. What happens is that it learns to ignore its input long before: the other modes keep it alive.
    UNCERTAIN in the paper, hence options: kernel, hidden size, borders.

    Args:
        lstm: 'trained' (published); 'frozen': as it was drawn at random; 'pretrained': during the first
            ``pretrain_iters`` steps it learns to predict the teacher's next frame from the hidden state through a
            train-only convolution, the student's term waiting (``reaches_student`` is False), and is frozen then.
        pretrain_iters: steps of that; needs clips of two frames or more.
        hidden: channels of the cell; None for the teacher's C (295,168 parameters at 64 channels, kernel 3).
        kernel_size: odd.
        padding: 'zeros' or 'replicate' at the borders.
        normalize: 'none', or 'teacher_rms': both sides divided by the running root mean square of the teacher's
            features, which stands still once a ConvLSTM that learned is fixed.
        cells: 'last' (published), or 'all': the mean over the cells of all frames.
        criterion: 'l2' (published; the mean squared difference), 'norm' (its root, of each clip, as secondary sources
            read the paper) or 'l1'.
        threshold: the value under which a trained ConvLSTM is fixed for good; looked at every 16 steps.
    """

    about = About(
        "STD: time in video",
        "Xiao et al., CVPR 2021",
        "mean (C_S - C_T)², C the last memory cell of one ConvLSTM over the clip's F",
        "{at: f_sr, loss_weight: {balance: 0.1}}",
        ratio="0.09 as balanced, 0.01 to 0.04 as published (std_vespcn)",
        options="train_std.yml",
    )

    clip = True
    native_dtype = True
    rms: Tensor

    def __init__(
        self,
        lstm: str = "trained",
        pretrain_iters: int = 0,
        hidden: int | None = None,
        kernel_size: int = 3,
        padding: str = "zeros",
        normalize: str = "none",
        cells: str = "last",
        criterion: str = "l2",
        threshold: float = 1e-8,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.mode = one_of(name, "lstm", lstm, ("trained", "frozen", "pretrained"))
        self.padding = one_of(name, "padding", padding, ("zeros", "replicate"))
        self.normalize = one_of(name, "normalize", normalize, ("none", "teacher_rms"))
        self.cells = one_of(name, "cells", cells, ("last", "all"))
        self.criterion = NORMS[one_of(name, "criterion", criterion, NORMS)]
        if kernel_size < 1 or kernel_size % 2 == 0 or (hidden is not None and hidden < 1):
            raise UserError(f"{name}: kernel_size must be odd, hidden at least 1; got {kernel_size}, {hidden}")
        if (lstm == "pretrained") != (pretrain_iters > 0):
            raise UserError(
                f"{name}: `lstm: pretrained` and a `pretrain_iters` above 0 belong together; got lstm "
                f"'{lstm}' and pretrain_iters {pretrain_iters}"
            )
        self.pretrain_iters, self.hidden, self.kernel_size = pretrain_iters, hidden, kernel_size
        self.threshold = threshold
        self.lstm: ConvLSTM | None = None
        self.head: nn.Conv2d | None = None
        self.steps, self.fixed = 0, lstm == "frozen"
        self._low = torch.tensor(False)  # whether a value was under the threshold, wherever the values are
        self._seen = LateFlag()
        self.register_buffer("rms", torch.tensor(0.0))

    def setup(self, student_shapes: Sequence[Any], teacher_shapes: Sequence[Any]) -> None:
        """Build the ConvLSTM for the teacher's channels."""
        shape = teacher_shapes[0]
        if len(teacher_shapes) != 1 or len(shape) != 5:
            raise UserError(
                f"{type(self).__name__} needs one tap of feature maps (B, N, C, H, W) on each side, got "
                f"{[tuple(s) for s in teacher_shapes]}"
            )
        if self.mode == "pretrained" and shape[1] < 2:
            raise UserError(
                f"{type(self).__name__}: `lstm: pretrained` predicts the next frame and needs clips of 2 "
                f"frames or more, got {shape[1]}: set clip_length"
            )
        channels = shape[2]
        self.lstm = ConvLSTM(channels, self.hidden or channels, self.kernel_size, self.padding)
        if self.mode == "pretrained":
            self.head = nn.Conv2d(self.lstm.hidden, channels, 3, padding=1)
        if self.mode == "frozen":
            self.lstm.requires_grad_(False)

    @property
    def reaches_student(self) -> bool:  # type: ignore[override]
        """Tell whether pretraining is over."""
        return self.steps >= self.pretrain_iters

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        """Return L_TD, or the prediction error of the teacher's next frames during pretraining."""
        return self.value(student, teacher)

    def value(self, student: Tensor, teacher: Tensor, carry: Carry | None = None) -> Tensor:
        """Return the loss of two clips in the order in which the memory reads them, its states moved by `carry`."""
        if self.lstm is None:
            raise RuntimeError("setup() must be called before forward()")
        theirs = self._scaled(teacher.detach(), learn=True)
        if not self.reaches_student:
            assert self.head is not None
            hiddens = self.lstm(theirs[:, :-1], carry)[1]
            if carry is not None:
                hiddens = [carry(hidden, step) for step, hidden in enumerate(hiddens, start=1)]
            predicted = self.head(torch.stack(hiddens, dim=1).flatten(0, 1))
            return F.mse_loss(predicted, theirs[:, 1:].flatten(0, 1))
        ours = self._scaled(student)
        cells_s, cells_t = self._both_cells(self.lstm, ours, theirs, carry)
        if self.cells == "last":
            return self.criterion(cells_s[-1], cells_t[-1])
        return torch.stack([self.criterion(s, t) for s, t in zip(cells_s, cells_t, strict=True)]).mean()

    def after_step(self, value: Tensor, iteration: int) -> None:
        """Count steps; fix the ConvLSTM when its pretraining ends, or by the 1e-8 rule."""
        self.steps += 1
        if self.mode == "pretrained":
            self.fixed = self.reaches_student
        elif not self.fixed:
            self._low = (value < self.threshold) | self._low.to(value.device)
            if self.steps % LOOK_PERIOD == 0:
                self.fixed = self._seen.read()
                self._seen.ask(self._low)
        if self.fixed:
            for parameter in self.parameters():  # an optimizer leaves alone what has no gradient
                parameter.grad = None

    def get_extra_state(self) -> Tensor:
        """Return steps taken, whether the memory is fixed and whether it is about to be, for the checkpoint."""
        # no buffers: a GPU would be waited for
        return torch.tensor([self.steps, self.fixed, bool(self._low), self._seen.read()])

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the state of a checkpoint."""
        self.steps, self.fixed = int(state[0]), bool(state[1])
        self._low = state[2:3].any().cpu()  # of two numbers in a state of an earlier version
        self._seen.ask(state[3:].any().cpu())

    def _scaled(self, clip: Tensor, learn: bool = False) -> Tensor:
        clip = clip.to(torch.promote_types(clip.dtype, torch.float32))
        if self.normalize == "none":
            return clip
        if learn and self.training and (self.mode == "frozen" or not self.fixed):
            now = distributed.averaged(clip.square().mean()).sqrt().to(self.rms.dtype)
            self.rms.copy_(torch.where(self.rms > 0, self.rms + RMS_MOMENTUM * (now - self.rms), now))
        return clip / (self.rms.clone() + EPS)

    def _both_cells(
        self, lstm: ConvLSTM, ours: Tensor, theirs: Tensor, carry: Carry | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run student and teacher: one batch while the ConvLSTM learns, else the teacher without a graph."""
        lead = ours.shape[:2]
        if self.fixed:
            with torch.no_grad():
                gates = lstm.input_gates(theirs.flatten(0, 1)).unflatten(0, lead)
                cells_t = lstm.run(gates, final_hidden=False, carry=carry)[0]
            gates = lstm.input_gates(ours.flatten(0, 1), detach=True).unflatten(0, lead)
            return lstm.run(gates, detach=True, final_hidden=False, carry=carry)[0], cells_t
        # Two convolutions rather than one: the teacher's half needs no gradient on its input.
        gates = torch.cat([lstm.input_gates(x.flatten(0, 1)).unflatten(0, lead) for x in (ours, theirs)])
        pairs = [cell.chunk(2) for cell in lstm.run(gates, final_hidden=False, carry=carry)[0]]
        return [s for s, _ in pairs], [t for _, t in pairs]
