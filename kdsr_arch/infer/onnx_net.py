"""ONNX files as networks that the runner can call: ONNX Runtime behind ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import Traits

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_SIDE = 64  # LR pixels of the picture that is tried, and the largest multiple of sides that is thought of
_LEAST_DB = 20.0  # of an enlarged smooth picture, reduced again, against itself


def open_session(model: bytes | Path, name: str, device: torch.device | str = "cpu") -> Any:
    """Open an ``onnxruntime.InferenceSession`` with as many threads as torch.

    Args:
        model: the model itself, or its file.
        name: what it is called in messages.
        device: a CUDA device asks for ONNX Runtime's CUDA provider, where it has one.

    Raises:
        UserError: ONNX Runtime is missing, or refuses the model.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f'{name}: running ONNX needs onnxruntime: pip install "kdsr[export]"') from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] if torch.device(device).type == "cuda" else []
    providers = [p for p in wanted if p in onnxruntime.get_available_providers()] + ["CPUExecutionProvider"]
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # its errors have no common base
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: no usable ONNX network ({reason})") from None


class OnnxNet(nn.Module):
    """Runs an exported network on ONNX Runtime.

    Args:
        path: the .onnx file; its metadata tell scale, color, mode and window. One of images without them is tried out.
        device: a CUDA device asks for ONNX Runtime's CUDA provider, where it has one.

    Raises:
        UserError: ONNX Runtime is missing, the file is no ONNX network, or neither says nor shows what it wants.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        super().__init__()
        self.session = open_session(path, str(path), device)
        metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        form = Form(_traits(path, metadata)) if "mode" in metadata else examine(path, self.session)
        self.traits, self._white, self._sides = form.traits, form.white, form.sides
        entry = self.session.get_inputs()[0]
        self._alone = entry.shape[0] == 1  # exported for one image at a time
        self._input, self._type = entry.name, np.float16 if "float16" in entry.type else np.float32
        fixed = entry.shape[1] if self.traits.mode == "recurrent" and len(entry.shape) == 5 else None
        self._length = fixed if isinstance(fixed, int) else 0
        if "mode" in metadata:  # by `kdsr export --size`
            high, wide = (side if isinstance(side, int) else 0 for side in entry.shape[-2:])
            self._sides = high, wide

    def forward(self, x: Tensor) -> Tensor:
        """Run the network as it was exported: on (B, C, h, w), (B, n, C, h, w) or (B, T, C, h, w).

        A recurrent network exported for clips of one length is given overlapping clips of that length, a network
        exported for one size overlapping pieces of that size.
        """
        return self._in_pieces(x) if any(self._sides) else self._whole(x)

    def _whole(self, x: Tensor) -> Tensor:
        if not self._length or x.shape[1] == self._length:
            return self._run(x)
        frames: dict[int, Tensor] = {}
        edge = self._length // 4  # frames at the ends of a clip, which its middle frames are better than
        last = x.shape[1] - self._length
        for start in [*range(0, last, max(self._length - 2 * edge, 1)), last]:
            out = self._run(x[:, start : start + self._length])
            frames |= {start + i: out[:, i] for i in range(self._length) if start + i not in frames or i >= edge}
        return torch.stack([frames[i] for i in range(x.shape[1])], 1)

    def _in_pieces(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tall, wide = self._sides[0] or height, self._sides[1] or width
        x = F.pad(x, (0, max(wide - width, 0), 0, max(tall - height, 0)), mode="replicate")
        scale = self.traits.scale
        out = x.new_empty(*x.shape[:-2], x.shape[-2] * scale, x.shape[-1] * scale)
        for top, above in _starts(x.shape[-2], tall):
            for left, beside in _starts(x.shape[-1], wide):
                part = self._whole(x[..., top : top + tall, left : left + wide])
                place = out[..., (top + above) * scale : (top + tall) * scale, :]
                place[..., (left + beside) * scale : (left + wide) * scale] = part[
                    ..., above * scale :, beside * scale :
                ]
        return out[..., : height * scale, : width * scale]

    def _run(self, x: Tensor) -> Tensor:
        if self._alone and len(x) > 1:
            return torch.cat([self._run(each) for each in x.split(1)])
        array = np.ascontiguousarray(x.detach().cpu().numpy() * self._white, dtype=self._type)
        out = self.session.run(None, {self._input: array})[0]
        return torch.from_numpy(out).to(x.device, torch.float32) / self._white


def _starts(length: int, side: int) -> list[tuple[int, int]]:
    """Where pieces of a side start, and what of each is left to the piece before: both see beyond where they meet."""
    edge, last = min(side // 8, 16), length - side
    return [(start, edge if start else 0) for start in (*range(0, last, max(side - 2 * edge, 1)), last)]


def _traits(path: Path, metadata: dict[str, str]) -> Traits:
    upsampled = metadata.get("upsampled_input", "false").lower() in ("true", "1")
    try:
        num_frame, multiple, min_size, min_clip = (
            int(metadata.get(name, 1)) for name in ("num_frame", "multiple", "min_size", "min_clip")
        )
        mode, scale, color = metadata["mode"], int(metadata["scale"]), metadata.get("color", "rgb")
        return Traits(mode, scale, num_frame, color, upsampled, multiple, min_size=min_size, min_clip=min_clip)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path}: its metadata do not tell what the network wants ({error}); write the file with kdsr export"
        ) from None


# -------------------------------------------- files that say nothing of themselves: what they want, found out by trying


@dataclass(frozen=True)
class Form:
    """What a network of images turned out to want.

    Attributes:
        traits: scale, color, and the multiple of its sides.
        white: the value of white.
        sides: the height and width that alone it takes; 0 where any will do.
    """

    traits: Traits
    white: float = 1.0
    sides: tuple[int, int] = (0, 0)


def examine(path: Path, session: Any) -> Form:
    """Find out what a network of images wants.

    Args:
        path: its file, for messages.
        session: an ``onnxruntime.InferenceSession`` of it.

    Raises:
        UserError: it is none with one image (N, C, H, W) in and one out, or its output is no enlarged image.
    """
    channels, sides, run = _entry(path, session)
    for unit in (1, 2, 4, 8, 16, 32, _SIDE):
        height, width = sides[0] or _SIDE + unit, sides[1] or 2 * _SIDE + unit  # odd numbers of units
        if (made := run(_smooth(channels, height, width))) is not None:
            break
    else:
        raise UserError(f"{path}: does not run on single images of {width}x{height}, nor on smaller ones")
    scale = made.shape[-1] // width if made.ndim == 4 else 0
    if scale < 1 or made.shape != (1, channels, height * scale, width * scale):
        raise UserError(f"{path}: makes {tuple(made.shape)} of (1, {channels}, {height}, {width}): no enlarged image")
    lq = _smooth(channels, height, width)
    for white in (1.0, 255.0):
        back = run(lq * white).reshape(1, channels, height, scale, width, scale).mean((3, 5)) / white
        if 10 * np.log10(1 / max(np.square(back - lq).mean(), 1e-12)) >= _LEAST_DB:
            return Form(Traits("image", scale, color="y" if channels == 1 else "rgb", multiple=unit), white, sides)
    raise UserError(f"{path}: what it makes of an image in [0, 1] or [0, 255] is not that image, enlarged")


def _entry(path: Path, session: Any) -> tuple[int, tuple[int, int], Callable[[NDArray], Any]]:
    """The number of channels, the sides that are fixed, and what runs it, with None where it does not run."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; only one image in, one out runs")
    shape, kind = list(inputs[0].shape), _TYPES.get(inputs[0].type)
    channels = shape[1] if len(shape) == 4 else 0
    if channels not in (1, 3) or kind is None:
        raise UserError(
            f"{path}: takes {inputs[0].type} of shape {shape}, but only floats (N, 3 or 1, H, W) can be given"
        )
    height, width = (side if isinstance(side, int) else 0 for side in shape[2:])

    def run(image: NDArray) -> Any:
        try:
            return session.run(None, {inputs[0].name: image.astype(kind)})[0].astype(np.float64)
        except Exception:  # its errors have no common base
            return None

    return channels, (height, width), run


def _smooth(channels: int, height: int, width: int) -> NDArray:
    """Waves as a picture (1, C, H, W) in [0, 1], another in each channel."""
    y, x = np.mgrid[:height, :width] / 16.0
    return np.stack([0.5 + 0.2 * np.sin(x + c) + 0.2 * np.cos(y - c) for c in range(channels)])[None]
