"""Optical flow that was estimated once, on whole frames, and is read by the crops of training windows.

A store is an LMDB folder ``{data.mdb, flow.json}``. The value of ``CENTRE>NEIGHBOUR`` (frame keys; of the neighbour
without the clip) is the flow that warps the neighbour onto the centre: float16 (2, H, W), (dx, dy) in HR pixels. Where
the method estimates at a quarter of the size and enlarges (:func:`packed_flow`), the value holds that quarter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kdsr_arch.data.augment import Flip
from kdsr_arch.data.store.lmdb_env import reading, unfinished
from kdsr_arch.data.store.store_info import FlowInfo, read_info
from kdsr_arch.data.window import Window
from kdsr_arch.errors import UserError

__all__ = ["INFO", "FlowStore", "flow_key", "packed_flow", "turned_flow", "window_pairs"]

INFO = "flow.json"
_GRID = 4  # OpenCV's DIS flow, preset fast, works at a quarter of the size
_TOLERANCE = 2**-7  # pixels: what float16 keeps of flows up to 16 pixels
_MEND = "make it again with kdsr cache-flow"


def flow_key(centre: str, neighbour: str) -> bytes:
    """What the flow between two frames of one clip is stored under."""
    return f"{centre}>{neighbour.rpartition('/')[2]}".encode()


def window_pairs(frames: Sequence[Any], centre: int, num_frame: int) -> list[tuple[Any, Any]]:
    """(centre, neighbour) of the window of ``num_frame`` frames around position ``centre``, neighbours in order."""
    half = num_frame // 2
    return [(frames[centre], frames[centre + offset]) for offset in range(-half, half + 1) if offset]


def packed_flow(flow: np.ndarray) -> np.ndarray:
    """A flow (2, H, W) as float16: at a quarter of the size where enlarging that gives the flow back, else whole."""
    height, width = flow.shape[1:]
    if height % _GRID == 0 and width % _GRID == 0:
        coarse = _unlarged(_unlarged(flow, 1), 2).astype(np.float16)
        if np.abs(_enlarged(coarse) - flow).max() < _TOLERANCE:
            return coarse
    return flow.astype(np.float16)


def _unlarged(flow: np.ndarray, axis: int) -> np.ndarray:
    """What a bilinear enlargement by 4 along an axis came from: it is linear over pixels 4i and 4i + 1."""
    first, second = (flow.take(range(start, flow.shape[axis], _GRID), axis) for start in (0, 1))
    return 1.5 * second - 0.5 * first


def _enlarged(coarse: np.ndarray) -> np.ndarray:
    size = coarse.shape[2] * _GRID, coarse.shape[1] * _GRID
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in coarse.astype(np.float32)])


def turned_flow(flow: np.ndarray, flip: Flip) -> np.ndarray:
    """The flow (..., 2, H, W) of frames that are flipped and transposed: a mirrored axis changes its sign as well."""
    horizontal, vertical, transposed = flip
    axes = tuple(axis for axis, on in ((-1, horizontal), (-2, vertical)) if on)
    turned = np.flip(flow, axes) * np.array([-1 if on else 1 for on in flip[:2]], flow.dtype)[:, None, None]
    return turned[..., ::-1, :, :].swapaxes(-1, -2) if transposed else turned


class FlowStore:
    """Reads crops of stored flows.

    Args:
        path: the store.

    Attributes:
        info: what ``flow.json`` says: method, scale, num_frame, degradation.

    Raises:
        UserError: it is none, or not whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        told = f"{self.path}: no store of optical flow; make it with kdsr cache-flow"
        if not (self.path / INFO).exists() and unfinished(self.path).is_dir():
            told = f"{self.path}: is not finished; run the same command again and it goes on"
        self.info: dict[str, Any] = read_info(self.path / INFO, FlowInfo, told)
        self.num_frame: int = self.info["num_frame"]

    def check(self, scale: int, degradation: str, num_frame: int) -> None:
        """Raises UserError unless the store was made of such LR frames, for windows that ``num_frame`` cover."""
        for name, wanted in (("scale", scale), ("degradation", degradation)):
            if self.info[name] != wanted:
                raise UserError(f"{self.path}: made for {name} {self.info[name]}, but the data set's is {wanted}")
        if self.num_frame > num_frame:
            raise UserError(
                f"{self.path}: made for windows of {self.num_frame}, but the data set's num_frame is {num_frame}"
            )

    def check_pairs(self, pairs: Iterator[tuple[str, str]], size: tuple[int, int]) -> None:
        """Raises UserError unless the flow between every pair of frames of ``size`` (H, W) is there."""
        with reading(self.path) as transaction:
            for pair in pairs:
                self._held(transaction.get(flow_key(*pair)), pair, size)

    def read(self, pairs: Sequence[tuple[str, str]], size: tuple[int, int], window: Window, flip: Flip) -> np.ndarray:
        """Flows under an HR window of frames of ``size`` (H, W), turned as the frames are: float32 (pairs, 2, h, w)."""
        crops: dict[tuple[str, str], np.ndarray] = {}
        with reading(self.path) as transaction:
            for pair in pairs:
                if pair not in crops:
                    held = self._held(transaction.get(flow_key(*pair)), pair, size)
                    crops[pair] = _crop(held, size, window)
        return np.ascontiguousarray(turned_flow(np.stack([crops[pair] for pair in pairs]), flip))

    def _held(self, value: Any, pair: tuple[str, str], size: tuple[int, int]) -> np.ndarray:
        """The stored array: of the frames' size, or of a quarter."""
        if value is None:
            raise UserError(f"{self.path}: holds no flow from '{pair[1]}' to '{pair[0]}'; {_MEND}")
        height, width = size
        for shape in ((2, height // _GRID, width // _GRID), (2, height, width)):
            if len(value) == 2 * shape[0] * shape[1] * shape[2]:
                return np.frombuffer(value, np.float16).reshape(shape)
        raise UserError(f"{self.path}: the flow of '{pair[0]}' is of other frames than {height}x{width}; {_MEND}")


def _crop(held: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    """Float32 (2, h, w): the part under an HR window of a flow that is held whole or at a quarter."""
    top, left, height, width = window
    if held.shape[1:] == size:
        return held[:, top : top + height, left : left + width].astype(np.float32)
    first = [max(start // _GRID - 1, 0) for start in (top, left)]  # one coarse pixel more: interpolation reads it
    last = [(start + side - 1) // _GRID + 2 for start, side in ((top, height), (left, width))]
    part = _enlarged(held[:, first[0] : last[0], first[1] : last[1]])
    top, left = top - first[0] * _GRID, left - first[1] * _GRID
    return part[:, top : top + height, left : left + width]
