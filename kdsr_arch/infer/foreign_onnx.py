"""ONNX networks that say nothing of themselves: what they want, found out by trying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.errors import UserError
from kdsr_arch.infer.traits import Traits

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_SIDE = 64  # LR pixels of the picture that is tried, and the largest multiple of sides that is thought of
_LEAST_DB = 20.0  # of an enlarged smooth picture, reduced again, against itself


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
    shape, kind = list(inputs[0].shape), TYPES.get(inputs[0].type)
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
