"""A network that runs with a part of its channels: CSD's student, whose weights are a slice of its teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from kdsr_arch import registry
from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class ChannelSplit(nn.Module):
    """The first channels of every layer of a network, as a network (CSD, Wang et al., IJCAI 2021).

    Runs ``narrow``; inside :meth:`whole` the network itself. There are no weights but the network's: the part's are
    the first entries of each of them, so that both learn at once. Files of weights are those of the whole network, and
    may come from it; testing, upscaling and export run the part alone. The parameters
    told are the whole network's. Only its output can be tapped.

    Args:
        network: options of the whole network ('type' and keywords); its scale is filled in.
        narrow: keywords that differ for the part; ``{num_feat: 16}`` of 64 is a quarter, the published width.
        scale: of both.
    """

    def __init__(self, network: Mapping[str, Any], narrow: Mapping[str, Any], scale: int = 4) -> None:
        super().__init__()
        if not isinstance(network, Mapping) or "type" not in network or not isinstance(narrow, Mapping) or not narrow:
            raise UserError(
                "ChannelSplit: network must name a network and narrow its smaller widths: network: {type: EDSR, "
                "num_feat: 64, ...}, narrow: {num_feat: 16}"
            )
        by_either_name = {"scale": scale, "upscale": scale}
        keys = {"ChannelSplit: network": {**network}, "ChannelSplit: narrow": {**network, **narrow}}
        whole, part = (registry.build("network", spec, key, offer=by_either_name) for key, spec in keys.items())
        self.traits = replace(traits_of(part, scale), taps={})
        for name, module in whole.named_children():
            self.add_module(name, module)
        for name, parameter in whole.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in whole.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self._networks = (whole, part.requires_grad_(False))  # a tuple, so that the names of its parts are their own
        self._is_whole = False
        own = self.state_dict()
        for name, small in part.state_dict().items():
            large = own.get(name)
            if large is None or large.dim() != small.dim() or any(map(int.__gt__, small.shape, large.shape)):
                raise UserError(f"ChannelSplit: narrow: its {name} {tuple(small.shape)} is no part of the network's")

    def train(self, mode: bool = True) -> ChannelSplit:
        """Set the training mode of both."""
        for net in self._networks:
            net.train(mode)
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True) -> ChannelSplit:
        super()._apply(fn, recurse)
        for name, tensor in (*self.named_buffers(recurse=False), *self.named_parameters(recurse=False)):
            setattr(self._networks[0], name, tensor)  # those of its submodules are the same objects
        return self

    def _slices(self) -> dict[str, Tensor]:
        """Return the part's weights, views of the network's."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        part = self._networks[1]
        shapes = {name: t.shape for name, t in (*part.named_parameters(), *part.named_buffers())}
        return {name: own[name][tuple(slice(0, side) for side in shape)] for name, shape in shapes.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Run the part, or inside :meth:`whole` the network."""
        whole, part = self._networks
        return whole(x) if self._is_whole else functional_call(part, self._slices(), (x,))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Run the whole network inside."""
        self._is_whole = True
        try:
            yield
        finally:
            self._is_whole = False

    def for_inference(self) -> nn.Module:
        """Return the part, with weights of its own."""
        part = deepcopy(self._networks[1])
        slices = self._slices()
        part.to(next(iter(slices.values())).device).load_state_dict(slices, strict=False)
        part.traits = self.traits
        return part.eval()
