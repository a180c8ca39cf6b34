"""How large the gradients of losses on the student are, before anything is trained by them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdsr_arch.parallel import distributed

# In a backward pass with parts in float16 the first keeps small gradients from vanishing, the others large ones from
# overflowing. Powers of two are exact elsewhere.
_SCALES = (2.0**10, 1.0, 2.0**-10, 2.0**-20, 2.0**-30)


def gradient_norms(losses: Mapping[str, Tensor], net: nn.Module, half: bool = False) -> dict[str, float]:
    """Return the L2 norm of each loss's gradient on a network, over the batches of all processes.

    The graph is kept, ``.grad`` is not touched.

    Args:
        losses: scalars; one without a graph to the network has norm 0.
        net: the network; its frozen parameters do not count.
        half: the backward pass has parts in float16.
    """
    params = [p for p in net.parameters() if p.requires_grad]
    norms = [_norm(loss, params, half) for loss in losses.values()]
    values = torch.stack(norms).double().tolist()  # one wait for the device, not one for each
    return dict(zip(losses, values, strict=True))


def _norm(loss: Tensor, params: list[nn.Parameter], half: bool) -> Tensor:
    norm = loss.detach().new_zeros(())
    if not params or not loss.requires_grad:
        return norm
    for scale in _SCALES if half else _SCALES[:1]:
        scaled = torch.autograd.grad(loss * scale, params, retain_graph=True, allow_unused=True)
        gradients = [g for g in scaled if g is not None]
        distributed.average(gradients)  # before the norm: the mean of norms would depend on the number of processes
        if gradients:
            norm = torch.stack([g.float().square().sum() for g in gradients]).sum().sqrt() / scale
        if half and torch.isfinite(norm):
            break
    return norm
