"""A convolutional LSTM over sequences of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PADDINGS = ("zeros", "replicate")


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
        """The part of the gates that the input gives, for all frames at once: (F, C, H, W) -> (F, 4 * hidden, H, W)."""
        weight, bias = self._kernel(detach)
        return self._conv(frames, weight[:, : self.channels], bias)

    def run(self, gates: Tensor, detach: bool = False, final_hidden: bool = True) -> tuple[list[Tensor], list[Tensor]]:
        """Runs through time on the input's gates.

        Args:
            gates: (B, N, 4 * hidden, H, W), from :meth:`input_gates`.
            detach: parameters count as constants.
            final_hidden: False leaves out h_N, which memory cells alone do not need.

        Returns:
            The cells c_1..c_N and the hidden states h_1..h_N (or ..h_{N-1}), each (B, hidden, H, W).
        """
        weight = self._kernel(detach)[0][:, self.channels :]
        cells: list[Tensor] = []
        hiddens: list[Tensor] = []
        steps = gates.unbind(1)
        for step, gate in enumerate(steps):
            if hiddens:
                gate = gate + self._conv(hiddens[-1], weight, None)
            i, f, o, g = gate.chunk(4, dim=1)
            cell = torch.sigmoid(i) * torch.tanh(g)
            if cells:
                cell = torch.addcmul(cell, torch.sigmoid(f), cells[-1])
            cells.append(cell)
            if final_hidden or step + 1 < len(steps):
                hiddens.append(torch.sigmoid(o) * torch.tanh(cell))
        return cells, hiddens

    def forward(self, clip: Tensor, detach: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """(B, N, C, H, W) -> cells and hidden states, as :meth:`run`."""
        gates = self.input_gates(clip.flatten(0, 1), detach)
        return self.run(gates.unflatten(0, clip.shape[:2]), detach)

    def _kernel(self, detach: bool) -> tuple[Tensor, Tensor]:
        return (self.weight.detach(), self.bias.detach()) if detach else (self.weight, self.bias)

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pad = self.kernel_size // 2
        if self.padding == "replicate":
            return F.conv2d(F.pad(x, (pad,) * 4, mode="replicate"), weight, bias)
        return F.conv2d(x, weight, bias, padding=pad)
