"""`kdsr compare`: one self-contained HTML page from results folders, to look at images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.errors import UserError
from kdsr_arch.records import finite
from kdsr_arch.report.compare_data import (
    LOWER_IS_BETTER,
    Item,
    Method,
    Truth,
    choose,
    clips,
    common_images,
    find_methods,
    means,
    measure_images,
    read_all,
    temporal_profile,
)
from kdsr_arch.report.render import data_uri, write_page

_PROFILE_ASPECT = 3


@dataclass(frozen=True)
class CompareOptions:
    """How a page is made.

    Attributes:
        gt: ground truth: a folder or an LMDB store; None compares with the first folder.
        names: shown in place of the folders' names.
        metrics: short names (psnr, ssim, psnr_rgb, ssim_rgb), registered ones, or pyiqa's; the first one orders.
        crop_border: pixels left out of the metrics at each edge.
        limit: images that the page holds; all are in its table.
        line: row of the temporal profiles; None: where most moves.
        title: the heading.
    """

    gt: Path | None = None
    names: Sequence[str] | None = None
    metrics: Sequence[str] = ("psnr", "ssim")
    crop_border: int = 0
    limit: int = 24
    line: int | None = None
    title: str = "Comparison"


def write_comparison(folders: Sequence[Path], out: Path, options: CompareOptions) -> Path:
    """Compare results folders in one HTML file that needs nothing else.

    Raises:
        UserError: folders that cannot be compared, or an output that cannot be written.
    """
    if options.limit < 1:
        raise UserError(f"--limit {options.limit}: the page must hold at least one image")
    methods = find_methods(folders, options.names)
    if options.gt is None and len(methods) < 2:
        raise UserError("one folder alone has nothing to be compared with; give more folders, or --gt FOLDER")
    truth = Truth(options.gt) if options.gt is not None else None
    names = common_images(methods)
    items = measure_images(names, methods, truth, options.metrics, options.crop_border)
    shown = choose(items, options.metrics[0], options.limit)
    pictures = [_picture(item, read_all(item.name, methods, truth)) for item in shown]
    pictures += _profiles(names, methods, truth, options.line)
    names_shown = {item.name for item in shown}
    rest = [_entry(item) for item in items if item.name not in names_shown]
    content = _content(methods, truth, items, pictures + rest, options)
    return write_page(out, "compare.html", title=options.title, content=content)


def _content(
    methods: Sequence[Method],
    truth: Truth | None,
    items: Sequence[Item],
    entries: list[dict[str, Any]],
    options: CompareOptions,
) -> dict[str, Any]:
    reference = "ground truth" if truth is not None else methods[0].name
    columns = [m.name for m in methods] if truth is not None else [m.name for m in methods[1:]]
    return {
        "methods": [m.name for m in methods] + (["ground truth"] if truth is not None else []), "columns": columns,
        "reference": reference, "metrics": list(options.metrics), "lower": sorted(LOWER_IS_BETTER),
        "means": finite(means(items)), "items": entries, "count": len(items),
        "protocol": _protocol(options, reference),
    }  # fmt: skip


def _protocol(options: CompareOptions, reference: str) -> str:
    channel = {"psnr": "Y channel", "ssim": "Y channel", "psnr_rgb": "RGB", "ssim_rgb": "RGB"}
    metrics = ", ".join(f"{metric}{f' ({channel[metric]})' if metric in channel else ''}" for metric in options.metrics)
    return f"{metrics}; against {reference}; {options.crop_border} pixels left out at the edges"


def _entry(item: Item) -> dict[str, Any]:
    return {"name": item.name, "kind": item.kind, "note": item.note, "values": finite(item.values)}


def _picture(item: Item, images: dict[str, NDArray[np.uint8]]) -> dict[str, Any]:
    height, width = next(iter(images.values())).shape[:2]
    return {
        **_entry(item),
        "width": width,
        "height": height,
        "images": {name: _uri(image) for name, image in images.items()},
    }


def _profiles(
    names: Sequence[str], methods: Sequence[Method], truth: Truth | None, line: int | None
) -> list[dict[str, Any]]:
    entries = []
    for clip, frames in clips(names).items():
        row, images = temporal_profile(frames, methods, truth, line)
        width = next(iter(images.values())).shape[1]
        tall = max(-(-width // (_PROFILE_ASPECT * len(frames))), 1)  # few frames would make a mere ribbon
        item = Item(clip, "profile", f"row {row} over time: {len(frames)} frames downwards, {tall} pixels each")
        entries.append(_picture(item, {name: np.repeat(image, tall, 0) for name, image in images.items()}))
    return entries


def _uri(image: NDArray[np.uint8]) -> str:
    """Lossless: what is seen is what was measured. WebP is a third smaller than PNG; its sides end at 16383."""
    suffix, mime = (".webp", "image/webp") if max(image.shape) < 16384 else (".png", "image/png")
    done, data = cv2.imencode(suffix, image, [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else [])
    if not done:
        raise UserError(f"an image of shape {image.shape} cannot be encoded for the page")
    return data_uri(data.tobytes(), mime)
