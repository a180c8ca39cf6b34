"""Networks that the package spandrel recognizes from their weights alone, as teachers (or anything else that runs)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_buffer_registration_hook

from kdsr_arch.errors import UserError, notice
from kdsr_arch.infer.open import read_weights
from kdsr_arch.infer.traits import Traits
from kdsr_arch.io import locate
from kdsr_arch.registry import ARCH_REGISTRY

_ENDINGS = (".pth", ".pt", ".ckpt", ".safetensors")
_OF_WINDOWS = ("relative_position_index", "rpe_biases")  # buffers by which spandrel knows networks with attention
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
        weights = canonicalize_state_dict(weights)
        with _own_buffers():
            if (near := _nearly(weights, library)) is None:
                descriptor = library.ModelLoader(device="cpu").load_from_state_dict(weights)
            else:
                architecture, lacks = near
                descriptor = architecture.load(_with_windows(weights, architecture.name, lacks, place))
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


# ------------------------------------------------------------------- files that hold parameters, but not all buffers


@contextmanager
def _own_buffers() -> Iterator[None]:
    """Let networks that are built here keep the buffers that a file lacks: masks and indices of windows.

    Statistics of a batch normalization are learned, and as before an error where they are missing.
    """
    handles: list[Any] = []

    def registered(module: nn.Module, name: str, buffer: Tensor | None) -> None:
        def fill(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
            own = module._buffers.get(name)
            if own is not None and name not in module._non_persistent_buffers_set:
                state.setdefault(prefix + name, own)

        if buffer is not None and not name.startswith("running_"):
            handles.append(module.register_load_state_dict_pre_hook(fill))

    handles.append(register_module_buffer_registration_hook(registered))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _missing(condition: Any, weights: Mapping[str, Any]) -> list[str]:
    """The keys that weights lack of those by which spandrel knows an architecture."""
    if isinstance(condition, str):
        return [] if condition in weights else [condition]
    parts = [_missing(part, weights) for part in condition._keys]
    return [key for part in parts for key in part] if condition._kind == "all" else min(parts, key=len)


def _nearly(weights: Mapping[str, Any], library: Any) -> tuple[Any, list[str]] | None:
    """Find the architecture that weights would be of if they had the buffers of its windows; None if they are whole."""
    known = [support.architecture for support in library.MAIN_REGISTRY.architectures("detection")]
    if any(architecture.detect(weights) for architecture in known):
        return None
    for architecture in known:
        lacks = _missing(architecture._detect, weights) if hasattr(architecture._detect, "_keys") else []
        if lacks and all(key.rpartition(".")[2].startswith(_OF_WINDOWS) for key in lacks):
            return architecture, lacks
    return None


def _with_windows(weights: Mapping[str, Any], name: str, lacks: Sequence[str], place: Path) -> dict[str, Any]:
    """Add the buffer from which spandrel reads the windows of a DAT.

    Raises:
        UserError: they cannot be told from the parameters.
    """
    width, hidden = weights["conv_first.weight"].shape[0], weights.get("layers.0.blocks.0.ffn.fc1.weight")
    # of the published DATs light (60 channels) and DAT (fourfold hidden) have 8x32; DAT-S and DAT-2 differ in this only
    if name != "DAT" or not (width == 60 or (hidden is not None and len(hidden) == 4 * width)):
        raise UserError(
            f"{place}: lacks {', '.join(lacks)}, from which spandrel reads the windows of a {name}; save the network's "
            "whole state_dict"
        )
    notice(f"windows {place}", f"{place}: lacks the buffers of its windows; they are taken to be 8x32, as published")
    windows = torch.cartesian_prod(torch.arange(-7, 8), torch.arange(-31, 32)).float()
    return {**weights, "layers.0.blocks.0.attn.attns.0.rpe_biases": windows}
