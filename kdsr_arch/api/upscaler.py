"""Networks that upscale arrays and tensors, exactly as ``kdsr upscale`` upscales files."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from numbers import Integral
from os import PathLike
from types import NoneType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdsr_arch.errors import UserError
from kdsr_arch.infer.open import Opened, opened
from kdsr_arch.infer.pixels import beyond_white
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import Traits, unwrap
from kdsr_arch.ops.copying import copy_network
from kdsr_arch.options.yaml_reader import describe as describe_value
from kdsr_arch.options.yaml_reader import in_one_line
from kdsr_arch.upscale.dispatch import describe, open_restorer
from kdsr_arch.upscale.images import finish, memory_for, network_input
from kdsr_arch.upscale.picture import Picture

Frame = TypeVar("Frame", NDArray, Tensor)


def load(
    weights: str | PathLike[str] | nn.Module | None = None,
    *,
    quality: str | None = None,
    network: str | PathLike[str] | Mapping[str, Any] | None = None,
    scale: int | None = None,
    outscale: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    tile: int = 0,
    overlap: int = 32,
    batch: int = 0,
) -> Upscaler:
    """Open a network that upscales images and clips as ``kdsr upscale`` does, bit for bit.

    Args:
        weights: a .pth, .safetensors or .onnx file, the name of shipped or downloaded weights, or a network that is
            there already, of which a copy is taken; None for a shipped student.
        quality: 'fast', 'balanced' or 'video', of the shipped students.
        network: the network of the weights, as in an option file, where no .yml lies beside them.
        scale: takes the shipped student of this scale, or refuses weights of another one.
        outscale: enlarges by this instead: what the network makes is resized by MATLAB's bicubic.
        device: 'auto', 'cpu' or 'cuda'.
        precision: 'auto' (fp16 on CUDA, else fp32), 'fp32', 'fp16' or 'bf16'.
        tile: side of a tile in LR pixels; 0: whole frames, in tiles where memory runs out.
        overlap: LR pixels that a tile sees beyond its edges.
        batch: frames at once; 0 chooses.

    Raises:
        UserError: no such weights, an unknown network, or a value out of range.
    """
    _check_keywords(
        weights,
        {"device": device, "precision": precision},
        {"scale": scale, "outscale": outscale, "overlap": overlap, "batch": batch},
    )
    if not isinstance(network, (str, PathLike, Mapping, NoneType)):
        raise UserError(
            f"network: expected a mapping such as {{'type': 'FSRCNN', 'scale': 4}}, that as a text, or an option file, "
            f"not {type(network).__name__}"
        )
    if isinstance(network, Mapping):
        network = in_one_line(dict(network))
    elif isinstance(network, PathLike):
        network = str(network)
    source: Any = None if weights is None else weights if isinstance(weights, nn.Module) else str(weights)
    with _python_words():
        if isinstance(source, nn.Module):
            net = copy_network(unwrap(source))
            source = opened(net, {"type": type(net).__name__}, None, scale)
        args = Namespace(
            weights=source, quality=quality, network=network, scale=scale, outscale=outscale, device=device,
            precision=precision, tile=str(tile), overlap=overlap, batch=batch, root=None,
        )  # fmt: skip
        restorer, found = open_restorer(args)
    return Upscaler(restorer, found)


def _check_keywords(weights: Any, choices: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    known = {"device": ("auto", "cpu", "cuda"), "precision": ("auto", "fp32", "fp16", "bf16")}
    for key, value in choices.items():
        if value not in known[key]:
            raise UserError(f"{key} {value!r}: expected one of {', '.join(known[key])}")
    if not isinstance(weights, (str, PathLike, nn.Module, NoneType)):
        raise UserError(
            f"weights: expected a file, a name or a network, not {type(weights).__name__}; give the network itself "
            "with its state dict loaded"
        )
    for key, number in numbers.items():
        if number is None and "scale" in key:
            continue
        if not isinstance(number, Integral) or (key == "scale" and number < 1):
            least = " above 0" if key == "scale" else ""
            raise UserError(f"{key}: expected a whole number{least}, not {describe_value(number)}")


@contextmanager
def _python_words() -> Iterator[None]:
    """Call keywords what the command line calls flags."""
    try:
        yield
    except UserError as error:
        error.args = (re.sub(r"--([a-z])", r"\1", str(error)),)
        raise


def _check_kind(images: Any) -> None:
    if not isinstance(images, (Tensor, np.ndarray)):
        raise UserError(
            f"expected NumPy arrays or torch tensors, not {type(images).__name__}; numpy.asarray makes one of a PIL "
            "image"
        )


class _Taken(NamedTuple):
    """One frame as the network takes it, and what makes the result be like the frame."""

    lq: Tensor
    back: Callable[[Tensor], Any]


class Upscaler:
    """A network that upscales images and clips; `load` makes it.

    Attributes:
        network: the network itself, in evaluation mode; parameters without gradients.
        traits: how the network is called.
        scale: what heights and widths are multiplied by.
    """

    def __init__(self, restorer: Restorer, opened: Opened) -> None:
        self._restorer, self._opened = restorer, opened
        self.network: nn.Module = opened.net
        self.traits: Traits = opened.traits
        self.scale: int = opened.traits.scale

    def __repr__(self) -> str:
        return f"<kdsr.Upscaler {describe(self._opened, self._restorer)}>"

    def __call__(self, images: Frame) -> Frame:
        """Upscale one image, or the frames of one clip, or several clips.

        Args:
            images: a NumPy image (H, W, C) or clip (T, H, W, C), or a torch image (C, H, W), clip (T, C, H, W) or clips
                (B, T, C, H, W), on any device. Channels are RGB, with alpha behind it in whole numbers; gray has one,
                or in a NumPy image (H, W) none. uint8 (NumPy also uint16), or floats in [0, 1].

        Returns:
            The same kind and type, ``scale`` times as high and wide. Whole numbers are rounded as the files of
            ``kdsr upscale`` are; floats are what the network makes, which may leave [0, 1] a little.

        Raises:
            UserError: another type, shape or range, or a result that is not finite.
        """
        _check_kind(images)
        if images.ndim == 5 and isinstance(images, Tensor):
            if not len(images):
                raise UserError(f"a batch of shape {tuple(images.shape)} has no clips")
            return torch.stack([self(clip) for clip in images])
        if images.ndim == 4:
            made = list(self.stream(images))
            if not made:
                raise UserError(f"a clip of shape {tuple(images.shape)} has no frames")
            return torch.stack(made) if isinstance(images, Tensor) else np.stack(made)
        with memory_for("the image"):
            taken = self._take(images)
            return taken.back(self._restorer.piece([taken.lq], [0])[0])

    def stream(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Upscale the frames of one clip, in order, a few at once; a video network sees their neighbors.

        Args:
            frames: images of one size, as `__call__` takes them; they are drawn as they are needed.
        """
        waiting: deque[_Taken] = deque()
        rest: Iterator[Any] = iter(frames if isinstance(frames, Iterable) else [frames])  # which _take refuses
        first = [*islice(rest, 1)]
        if not first:
            return
        size = self._take(first[0]).lq.shape

        def taken() -> Iterator[Tensor]:
            for frame in chain(first, rest):
                one: _Taken = self._take(frame)
                if one.lq.shape != size:
                    raise UserError(f"the frames of a clip must be of one size: {tuple(size)}, then {(*one.lq.shape,)}")
                waiting.append(one)
                yield one.lq

        with memory_for("the clip"):
            for sr in self._restorer.stream(taken(), self._restorer.at_once(size[-2], size[-1])):
                yield waiting.popleft().back(sr)

    def _take(self, frame: Any) -> _Taken:
        _check_kind(frame)
        if isinstance(frame, Tensor):
            return self._tensor(frame)
        if frame.ndim not in (2, 3) or (frame.ndim == 3 and not 1 <= frame.shape[2] <= 4) or 0 in frame.shape:
            raise UserError(f"expected an image (H, W, C) of 1 to 4 channels, got an array of shape {frame.shape}")
        if np.issubdtype(frame.dtype, np.floating):
            planar = np.ascontiguousarray(np.atleast_3d(frame).transpose(2, 0, 1), np.float32)
            lq, gray = self._floats(torch.from_numpy(planar), frame.shape)

            def back(sr: Tensor) -> NDArray:
                made = self._finished(sr, gray).cpu().numpy().transpose(1, 2, 0).astype(frame.dtype)
                return made[..., 0] if frame.ndim == 2 else made

            return _Taken(lq, back)
        if frame.dtype not in (np.uint8, np.uint16):
            raise UserError(f"expected uint8, uint16 or floats in [0, 1], got {frame.dtype}: convert the image first")
        return self._picture(frame)

    def _picture(self, frame: NDArray) -> _Taken:
        """Take whole numbers as the command takes an image file."""
        image = np.atleast_3d(frame)
        parts = (image[..., :-1], image[..., -1:]) if image.shape[2] in (2, 4) else (image, None)
        picture = Picture(*parts)

        def back(sr: Tensor) -> NDArray:
            made = finish(self._restorer, picture, sr.cpu())
            whole = made.color if made.alpha is None else np.concatenate([made.color, made.alpha], 2)
            return whole[..., 0] if frame.ndim == 2 else whole

        return _Taken(network_input(self._restorer, picture), back)

    def _tensor(self, frame: Tensor) -> _Taken:
        if frame.dim() != 3 or not 1 <= frame.shape[0] <= 4 or 0 in frame.shape:
            raise UserError(f"expected an image (C, H, W) of 1 to 4 channels, got a tensor of shape {(*frame.shape,)}")
        if frame.dtype == torch.uint8:
            lq, back = self._picture(frame.permute(1, 2, 0).cpu().numpy())
            return _Taken(lq, lambda sr: torch.from_numpy(back(sr)).permute(2, 0, 1).contiguous().to(frame.device))
        if not frame.is_floating_point():
            raise UserError(f"expected uint8 or floats in [0, 1], got {frame.dtype}: convert the image first")
        lq, gray = self._floats(frame.detach().float(), frame.shape)
        return _Taken(lq, lambda sr: self._finished(sr, gray).to(frame.device, frame.dtype).clone())

    def _floats(self, lq: Tensor, shape: Iterable[int]) -> tuple[Tensor, bool]:
        """Check (C, h, w); a gray image becomes three equal channels where the network takes RGB."""
        if lq.shape[0] not in (1, 3):
            raise UserError(f"floats {(*shape,)}: alpha goes with whole numbers only; give 3 channels, or uint8")
        if wrong := beyond_white(lq):
            raise UserError(f"{wrong}, or give uint8")
        gray = lq.shape[0] == 1
        return (lq.expand(3, -1, -1).contiguous() if gray and self.traits.color == "rgb" else lq), gray

    def _finished(self, sr: Tensor, gray: bool) -> Tensor:
        sr = self._restorer.checked(sr, "the image")
        return sr.mean(0, keepdim=True) if gray and len(sr) == 3 else sr
