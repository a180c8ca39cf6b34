"""Side-by-side crops with labels: the sheet of pictures that a comparison of super-resolution methods is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.ImageFont import load_default

from kdsr_arch.data.augment import Crop, window_sums
from kdsr_arch.errors import UserError
from kdsr_arch.infer.pixels import write_png
from kdsr_arch.metrics.psnr_metric import psnr

_GAP = 10
_TILE = 330  # width of a crop on a sheet of one frame, in pixels
_CAPTION = 2.7  # height of a caption's two lines over that of its letters
_PAPER, _INK, _FAINT, _MARK = (255, 255, 255), (34, 38, 43), (110, 116, 124), (213, 94, 0)


def find_box(truth: NDArray[np.uint8], baseline: NDArray[np.uint8], width: int, height: int) -> Crop:
    """Find where the baseline fails most, by mean absolute difference: without looking at any method compared.

    Args:
        truth: (H, W, C) uint8.
        baseline: same shape; usually the bicubic enlargement.
        width, height: of the box; cut to the image where they are larger.
    """
    rows, columns = truth.shape[:2]
    width, height = min(width, columns), min(height, rows)
    difference = np.abs(truth.astype(np.float64) - baseline).mean(axis=2)
    inside = window_sums(difference, height, width)
    top, left = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return Crop(int(top), int(left), height, width)


def frame_sheet(
    truth: NDArray[np.uint8], small: NDArray[np.uint8], restored: Mapping[str, NDArray[np.uint8]], out: Path, title: str
) -> Path:
    """Write the :func:`crop_sheet` of one frame: the LR frame as given, each restored one with its PSNR (Y), the truth.

    Args:
        truth: (H, W, 3) uint8 BGR.
        small: the LR frame, likewise.
        restored: label -> frame; the crop is where the first one fails most.
        out: the PNG to write.
        title: stands above the frame.
    """
    height, width = truth.shape[:2]
    box = find_box(truth, next(iter(restored.values())), max(width // 6, 40), max(width // 8, 30))
    nearest = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
    columns = [
        ("LR, as given", nearest, f"{small.shape[1]}x{small.shape[0]} pixels"),
        *((label, image, f"{psnr(image, truth, 0, True):.2f} dB") for label, image in restored.items()),
        ("ground truth", truth, ""),
    ]
    return crop_sheet(truth, columns, box, out, zoom=max(_TILE // box.width, 2), title=title)


def crop_sheet(
    truth: NDArray[np.uint8],
    columns: Sequence[tuple[str, NDArray[np.uint8], str]],
    box: Crop,
    out: Path,
    *,
    zoom: int = 3,
    title: str = "",
) -> Path:
    """Write one sheet: the whole frame with the box marked, and the enlarged crop of each method under its name.

    Args:
        truth: the ground-truth frame, (H, W, 3) uint8 BGR.
        columns: (label, frame, note) per method; the note (a PSNR, say) stands under the label.
        box: what is shown.
        out: the PNG to write.
        zoom: pixels per pixel, without interpolation, so that what is seen is what was computed.
        title: stands above the frame.

    Raises:
        UserError: frames of different sizes, or no column.
    """
    if not columns:
        raise UserError("a crop sheet needs at least one image")
    for label, image, _ in columns:
        if image.shape != truth.shape:
            raise UserError(f"crop sheet: '{label}' is {image.shape}, the ground truth {truth.shape}")
    font = max(box.width * zoom // 16, 12)
    per_row = len(columns) if len(columns) <= 3 else -(-len(columns) // 2)
    width, height = box.width * zoom, box.height * zoom + round(_CAPTION * font)
    size = (per_row * (width + _GAP) - _GAP, -(-len(columns) // per_row) * (height + _GAP) - _GAP)
    grid = Image.new("RGB", size, _PAPER)
    for number, (label, image, note) in enumerate(columns):
        crop = Image.fromarray(np.ascontiguousarray(box.of(image)[..., ::-1]))
        crop = crop.resize((crop.width * zoom, crop.height * zoom), Image.Resampling.NEAREST)
        corner = number % per_row * (width + _GAP), number // per_row * (height + _GAP)
        grid.paste(_with_caption(crop, label, note, font), corner)
    picture = _overview(truth, box, grid.width, grid.height - round(_CAPTION * font))
    overview = _with_caption(picture, title or "Ground truth, whole frame", "", font)
    size = (overview.width + grid.width + 3 * _GAP, max(overview.height, grid.height) + 2 * _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    sheet.paste(overview, (_GAP, _GAP))
    sheet.paste(grid, (overview.width + 2 * _GAP, _GAP))
    write_png(out, np.asarray(sheet)[..., ::-1])
    return out


def _overview(truth: NDArray[np.uint8], box: Crop, width: int, height: int) -> Image.Image:
    """Return the whole frame with the box drawn, as large as fits."""
    picture = Image.fromarray(np.ascontiguousarray(truth[..., ::-1]))
    ratio = min(width / picture.width, height / picture.height)
    size = max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    corners = (box.left, box.top, box.left + box.width, box.top + box.height)
    left, top, right, bottom = (round(c * ratio) for c in corners)
    pen = ImageDraw.Draw(picture)
    pen.rectangle([left - 2, top - 2, right + 2, bottom + 2], outline=_PAPER, width=2)
    pen.rectangle([left, top, right, bottom], outline=_MARK, width=3)
    return picture


def _with_caption(picture: Image.Image, label: str, note: str, font: int) -> Image.Image:
    sheet = Image.new("RGB", (picture.width, picture.height + round(_CAPTION * font)), _PAPER)
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    small = round(0.87 * font)
    pen.text((1, picture.height + 0.2 * font), _fit(pen, label, font, picture.width), _INK, load_default(font))
    pen.text((1, picture.height + 1.4 * font), _fit(pen, note, small, picture.width), _FAINT, load_default(small))
    return sheet


def _fit(pen: ImageDraw.ImageDraw, text: str, size: int, width: int) -> str:
    """Return the text, cut where it would run into the next column."""
    shown, font = text, load_default(size)
    while text and pen.textlength(shown, font) > width:
        text = text[:-1]
        shown = f"{text}..."
    return shown
