"""Networks that the package spandrel recognizes from their weights alone, as teachers (or anything else that runs)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError
from kdsr_arch.infer.open import read_weights
from kdsr_arch.infer.traits import Traits
from kdsr_arch.io import locate
from kdsr_arch.registry import ARCH_REGISTRY

_ENDINGS = (".pth", ".pt", ".ckpt", ".safetensors")
_LR_FEATURE = ("conv_after_body", "conv_body", "body")  # what many architectures call the feature before upsampling


class InnerPaths(Mapping[str, str]):
    """Tap aliases of a network inside another: every path of `inner` stands for `prefix.path`; listed are its parts."""

    def __init__(self, inner: nn.Module, prefix: str, aliases: Mapping[str, str]) -> None:
        self._paths = {name: f"{prefix}.{name}" for name, _ in inner.named_modules() if name}
        self._paths.update({alias: f"{prefix}.{path}" for alias, path in aliases.items()})
        self._listed = [*aliases, *(name for name, _ in inner.named_children())]

    def __getitem__(self, name: str) -> str:
        return self._paths[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)


@ARCH_REGISTRY.register()
class spandrel(nn.Module):  # the name that option files know
    """Any single-image network that the package spandrel recognizes from a file of weights alone.

    (B, C, h, w) in [0, 1] -> (B, C, H, W), not clamped. Its weights come from its file (``pretrained``); tap paths are
    those inside the network itself.

    Args:
        path: .pth, .pt, .ckpt (tensors only: pickled code is refused) or .safetensors;
            'package:NAME/FOLDER/FILE' is a file inside an installed package.

    Raises:
        UserError: the package or the file is missing, the file is no weights, or spandrel does not know them.
    """

    pretrained = True

    def __init__(self, path: str) -> None:
        super().__init__()
        descriptor = _describe(path)
        self.model: nn.Module = descriptor.model
        self.architecture: str = descriptor.architecture.name
        self._call = descriptor._call_fn  # how spandrel calls this architecture; its own __call__ is inference only
        size = descriptor.size_requirements
        self._square: bool = size.square
        names = {name for name, _ in self.model.named_children()}
        feature = next((name for name in _LR_FEATURE if name in names), None)
        aliases = {"f_lr": feature} if feature else {}
        self.traits = Traits(
            "image",
            int(descriptor.scale),
            color="y" if descriptor.input_channels == 1 else "rgb",
            multiple=max(1, size.multiple_of),
            min_size=max(1, size.minimum),
            taps=InnerPaths(self.model, "model", aliases),
            half=descriptor.supports_half,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, h, w) in [0, 1] to (B, C, H, W); made square by repeating the edge if need be."""
        height, width = x.shape[-2:]
        if self._square and height != width:
            side = max(height, width)
            x = F.pad(x, (0, side - width, 0, side - height), mode="replicate")
        y = self._call(self.model, x)
        return y[..., : height * self.traits.scale, : width * self.traits.scale]


def _describe(path: str) -> Any:
    """Return Spandrel's description of the network in a file."""
    try:
        import spandrel as library
        from spandrel.__helpers.canonicalize import canonicalize_state_dict
    except ImportError:
        raise UserError('type spandrel needs the package spandrel: pip install "kdsr[teachers]"') from None
    place = locate(path)
    if place.suffix.lower() not in _ENDINGS:
        raise UserError(f"{place}: weights end in {', '.join(_ENDINGS)}")
    weights = read_weights(place)
    try:
        descriptor = library.ModelLoader(device="cpu").load_from_state_dict(canonicalize_state_dict(weights))
    except library.UnsupportedModelError:
        raise UserError(f"{place}: weights of no architecture that spandrel {version('spandrel')} knows") from None
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: spandrel {version('spandrel')} cannot build this network: {reason}") from None
    name = descriptor.architecture.name
    if not isinstance(descriptor, library.ImageModelDescriptor):
        raise UserError(f"{place}: {name} fills in masked images; a teacher must restore plain images")
    channels = (descriptor.input_channels, descriptor.output_channels)
    if channels not in ((1, 1), (3, 3)):
        raise UserError(f"{place}: {name} takes {channels[0]} and gives {channels[1]} channels; only RGB and Y work")
    return descriptor
