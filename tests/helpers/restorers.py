"""Restorers of small networks, one for each way to be called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.registry import build


class Neighbors(nn.Module):
    """Mixes each frame with those beside it: what lies within reach of the context is exact."""

    traits = Traits("recurrent", 2, min_clip=2)

    def forward(self, x: Tensor) -> Tensor:
        before, after = torch.cat([x[:, :1], x[:, :-1]], 1), torch.cat([x[:, 1:], x[:, -1:]], 1)
        return (0.5 * x + 0.3 * before + 0.2 * after).repeat_interleave(2, -1).repeat_interleave(2, -2)


def small_restorer(kind: str, **keywords: Any) -> Restorer:
    """Make a restorer of a small x2 network: 'bicubic', 'window', 'window_y' or 'recurrent'; `device`: the CPU."""
    if kind == "recurrent":
        net: nn.Module = Neighbors()
    elif kind == "bicubic":
        net = build("network", {"type": "Bicubic", "scale": 2}, "network_g")
    else:
        widths = {"num_feat": 8, "num_hr_feat": 4, "num_block": 1, "num_flow_feat": 4}
        form = {"base": "bicubic", "color": "y" if kind == "window_y" else "rgb"}
        net = build("network", {"type": "VESPCN", "scale": 2, **widths, **form}, "network_g")
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
    given = {"device": torch.device("cpu"), "overlap": 32, **keywords}
    return Restorer(Runner(net.eval().to(given["device"]), traits_of(net)), **given)
