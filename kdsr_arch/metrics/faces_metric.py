"""PSNR and SSIM inside faces, which viewers of video calls look at. Faces are found by the detectors of facexlib."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdsr_arch.device import pick_device
from kdsr_arch.errors import UserError
from kdsr_arch.io import load_tensors
from kdsr_arch.metrics.psnr_metric import prepare, psnr, ssim
from kdsr_arch.registry import METRIC_REGISTRY

Box = tuple[int, int, int, int]
DETECTORS = {"retinaface_resnet50": "resnet50", "retinaface_mobile0.25": "mobile0.25"}
_LEAST = 11  # pixels a side: SSIM's window
_found: dict[tuple[bytes, str, str | None, float], list[Box]] = {}
_KEPT = 4096


@METRIC_REGISTRY.register()
def calculate_face_psnr(
    img: NDArray,
    img2: NDArray,
    crop_border: int = 0,
    test_y_channel: bool = True,
    detector: str = "retinaface_resnet50",
    weights: str | None = None,
    threshold: float = 0.8,
) -> float:
    """PSNR in dB inside the faces of the ground truth, mean over faces; NaN where there is none.

    Args:
        img: the result, (H, W, 3) uint8 BGR.
        img2: the ground truth, same shape: faces are looked for here, once for each image.
        crop_border: pixels left out at each edge before faces are looked for.
        test_y_channel: compare the luma.
        detector: ``retinaface_resnet50`` or ``retinaface_mobile0.25``.
        weights: a local file of the detector's weights; absent: facexlib's own, downloaded on first use.
        threshold: least confidence of a face.

    Raises:
        UserError: facexlib is not installed, or its weights are not there.
    """
    return _inside(psnr, img, img2, crop_border, test_y_channel, (detector, weights, threshold))


@METRIC_REGISTRY.register()
def calculate_face_ssim(
    img: NDArray,
    img2: NDArray,
    crop_border: int = 0,
    test_y_channel: bool = True,
    detector: str = "retinaface_resnet50",
    weights: str | None = None,
    threshold: float = 0.8,
) -> float:
    """SSIM inside the faces of the ground truth; arguments as of :func:`calculate_face_psnr`."""
    return _inside(ssim, img, img2, crop_border, test_y_channel, (detector, weights, threshold))


def _inside(
    metric: Callable[..., float],
    img: NDArray,
    img2: NDArray,
    crop_border: int,
    test_y_channel: bool,
    finder: tuple[str, str | None, float],
) -> float:
    first, second = prepare(img, img2, crop_border, False)
    boxes = find_faces(second, *finder)
    values = [
        metric(first[top:bottom, left:right], second[top:bottom, left:right], 0, test_y_channel)
        for left, top, right, bottom in boxes
    ]
    return float(np.mean(values)) if values else float("nan")


def find_faces(
    image: NDArray, detector: str = "retinaface_resnet50", weights: str | None = None, threshold: float = 0.8
) -> list[Box]:
    """(left, top, right, bottom) of each face in (H, W, 3) uint8 BGR, in whole pixels inside the image.

    Found once: the same image is not searched again, so that all methods are measured in the same places.
    """
    key = (
        hashlib.sha1(np.ascontiguousarray(image).tobytes(), usedforsecurity=False).digest(),
        detector,
        weights,
        threshold,
    )
    if key not in _found:
        if len(_found) >= _KEPT:
            _found.clear()
        network = load_detector(detector, weights)
        with torch.no_grad():
            _found[key] = _whole(network.detect_faces(np.ascontiguousarray(image), threshold), image.shape)
    return _found[key]


def _whole(found: Any, shape: Sequence[int]) -> list[Box]:
    """Detections (x1, y1, x2, y2, confidence, ...) as boxes large enough to be measured."""
    boxes = []
    for detection in found:
        row = np.asarray(detection, dtype=np.float64)
        left, top = (max(int(np.floor(value)), 0) for value in row[:2])
        right, bottom = (
            min(int(np.ceil(value)), side) for value, side in zip(row[2:4], (shape[1], shape[0]), strict=True)
        )
        if min(right - left, bottom - top) >= _LEAST:
            boxes.append((left, top, right, bottom))
    return boxes


@lru_cache(maxsize=2)
def load_detector(detector: str = "retinaface_resnet50", weights: str | None = None) -> Any:
    """The detector of facexlib, filled and in evaluation mode.

    A local file is read as data, never as code; without one facexlib loads its own.

    Raises:
        UserError: facexlib is not installed, knows no such detector, or the weights are not there or do not fit.
    """
    if detector not in DETECTORS:
        raise UserError(f"face detector '{detector}' is unknown; take one of {', '.join(DETECTORS)}")
    try:
        from facexlib.detection import init_detection_model
        from facexlib.detection.retinaface import RetinaFace
    except ImportError:
        raise UserError("metrics inside faces need the package facexlib: pip install 'kdsr[faces]'") from None
    _ensure_nms()
    device = pick_device()
    if weights is None:
        try:
            return init_detection_model(detector, half=False, device=device)
        except (OSError, RuntimeError, EOFError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
            raise UserError(
                f"face detector {detector}: its weights are not here, and downloading them failed "
                f"({reason}); download them on a machine with a network and name the file: weights: FILE"
            ) from None
    network = RetinaFace(network_name=DETECTORS[detector], half=False, device=device)
    _fill(network, Path(weights))
    return network.eval().to(device)


def _fill(network: torch.nn.Module, path: Path) -> None:
    held = load_tensors(path, "face detector's weights")
    held = held.get("state_dict", held) if isinstance(held, dict) else {}
    try:
        network.load_state_dict({str(key).removeprefix("module."): value for key, value in held.items()})
    except RuntimeError as error:
        raise UserError(
            f"{path}: does not fit this face detector ({str(error).splitlines()[1].strip()[:150]})"
        ) from None


def _ensure_nms() -> None:
    """torchvision's non-maximum suppression is compiled; ours stands in where it does not load."""
    import torchvision

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, NotImplementedError):
        torchvision.ops.nms = suppress


def suppress(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression: of boxes that overlap by more than a threshold, the one of the best score stays.

    Args:
        boxes: (N, 4), (left, top, right, bottom).
        scores: (N,).
        iou_threshold: intersection over union above which the weaker box goes.

    Returns:
        the numbers of the boxes that stay, best first.
    """
    order = scores.argsort(descending=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low, high = torch.maximum(boxes[best, :2], boxes[rest, :2]), torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        order = rest[shared / (areas[best] + areas[rest] - shared) <= iou_threshold]
    return torch.stack(kept) if kept else order
