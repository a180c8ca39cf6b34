"""CSD: a network teaches a part of its own channels, by a contrast with enlarged images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError
from kdsr_arch.io import load_tensors
from kdsr_arch.log import get_logger
from kdsr_arch.losses.about import About
from kdsr_arch.losses.base import Context, DistillLoss
from kdsr_arch.ops.color import matched_colors
from kdsr_arch.registry import LOSS_REGISTRY

_CUTS = (2, 7, 12, 21, 30)  # of VGG-19's layers: behind the first ReLU of each of its five blocks
_EPS = 1e-7


@LOSS_REGISTRY.register()
class CSDLoss(DistillLoss):
    """contrast * sum_i w_i |T_i - S_i| / (sum over negatives of |N_i - S_i|) + teach * |T - HR|.

    S is the student, a ChannelSplit network; T the whole network of which it is a part, and which learns along: it
    needs no `network_t`. N are the first LR images of the batch, enlarged by bicubic interpolation, and compared with
    each image of it. S_i, T_i, N_i are features of VGG-19 behind the first ReLU of its blocks, of images in 0..255.
    Its weights do not come with this package: without ``vgg`` the contrast is on the images, which is not the published
    method, and a warning says so.

    Source: Wang et al., "Towards Compact Single Image Super-Resolution via Contrastive Self-distillation", IJCAI 2021,
    as the authors' code computes it; its defaults are a contrast of 1 beside a pixel loss in 0..255, 1/255 here, whose
    gradient is small, and no `teach`: the whole network then follows its part.

    Args:
        vgg: torchvision's weights of VGG-19, vgg19-dcbb9e9d.pth.
        contrast, teach: weights of both parts.
        negatives: how many images; not more than the batch has.
        weights: w of the five features; of images their sum counts.
        detach: whether the contrast moves S alone; the authors' moves T as well.
    """

    about = About(
        "CSD: a network and a part of its channels learn together, with a contrast",
        "Wang et al., IJCAI 2021",
        "contrast Σ_i w_i |T_i - S_i| / Σ_n |N_i - S_i| + teach |T - y|, S a part of T, N enlarged LR images",
        "none, 1; `contrast: 0.1`",
        options="train_csd.yml",
    )

    sides = "student"
    context = True

    def __init__(
        self,
        vgg: str | None = None,
        contrast: float = 1 / 255,
        teach: float = 1.0,
        negatives: int = 8,
        weights: Sequence[float] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0),
        detach: bool = False,
    ) -> None:
        super().__init__()
        a_list = isinstance(weights, (list, tuple)) and len(weights) == len(_CUTS) and sum(weights) > 0
        if negatives < 1 or contrast <= 0 or teach < 0 or not a_list:
            raise UserError(
                "CSDLoss: negatives must be 1 or more, contrast above 0, teach 0 or more, weights five numbers; got "
                f"{negatives}, {contrast}, {teach} and {weights}"
            )
        self.vgg, self.contrast, self.teach, self.negatives = vgg, contrast, teach, negatives
        self.weights, self.detach = weights, detach
        self._vgg: tuple[nn.Module, ...] = ()  # no module of the loss: checkpoints need not hold it

    def begin(self, context: Context) -> None:
        """Read the weights of VGG."""
        if not hasattr(context.network, "whole"):
            raise UserError(
                "CSDLoss trains a network and a part of its channels together: give network_g: {type: ChannelSplit, "
                "network: {...}, narrow: {...}}"
            )
        if self.vgg:
            self._vgg = (read_vgg(self.vgg).to(context.lq.device),)
        else:
            get_logger().warning(
                "CSDLoss contrasts images, not features of VGG as published: give them by vgg: vgg19-dcbb9e9d.pth"
            )

    def features(self, image: Tensor) -> list[Tensor]:
        """Return what is contrasted of images (B, C, H, W): five features, or the images as they are."""
        if not self._vgg:
            return [image]
        x, found = 255 * image.expand(-1, 3, -1, -1), []
        for number, layer in enumerate(self._vgg[0].to(image.device).children(), start=1):
            x = layer(x)
            found += [x] if number in _CUTS else []
        return found

    def forward(self, students: list[Any], context: Context) -> Tensor:  # type: ignore[override]
        """Return the sum of both parts.

        Args:
            students: the output of the part of the network.
            context: the network and the batch.
        """
        if context.lq.dim() != 4 or len(students) != 1:
            raise UserError("CSDLoss is for networks of images, and one tap: the student's output")
        with context.network.whole():  # type: ignore[operator]
            taught = context.student(context.lq)
        size = students[0].shape[-2:]
        negatives = F.interpolate(context.lq[: self.negatives], size=size, mode="bicubic", align_corners=False)
        negatives = matched_colors(students[0], negatives)[1]
        value = self.contrast * self._contrast(taught.detach() if self.detach else taught, students[0], negatives)
        return value + self.teach * F.l1_loss(*matched_colors(taught, context.gt)) if self.teach else value

    def _contrast(self, taught: Tensor, student: Tensor, negatives: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = self.features(negatives)
        weights = self.weights if self._vgg else [sum(self.weights)]
        parts = []
        for w, t, s, n in zip(weights, self.features(taught), self.features(student), theirs, strict=True):
            far = torch.stack([(negative - s).abs().mean() for negative in n]).sum()
            parts.append(w * (t - s).abs().mean() / (far + _EPS))
        return torch.stack(parts).sum()


def read_vgg(path: str) -> nn.Sequential:
    """Build VGG-19's convolutions, up to the first of its last block, from torchvision's file of weights.

    Raises:
        UserError: the file is missing, or holds something else.
    """
    from torchvision.models.vgg import cfgs, make_layers

    net = make_layers(cfgs["E"])[: _CUTS[-1]]
    saved = load_tensors(Path(path), "file of VGG-19")
    state = {str(k).removeprefix("features."): v for k, v in saved.items()} if isinstance(saved, dict) else {}
    try:
        net.load_state_dict({name: state[name] for name in net.state_dict()})
    except (KeyError, RuntimeError, TypeError, AttributeError):
        raise UserError(f"CSDLoss: vgg: {path} does not hold torchvision's weights of VGG-19") from None
    for module in net:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return net.eval().requires_grad_(False)
