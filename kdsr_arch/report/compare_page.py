"""`kdsr compare`: one self-contained HTML page from results folders, to look at images side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.errors import UserError
from kdsr_arch.metrics.measure import lower_is_better
from kdsr_arch.records import finite
from kdsr_arch.report.compare_data import (
    Item,
    choose,
    clips,
    common_images,
    find_methods,
    find_truth,
    means,
    measure_images,
    options_of,
    read_all,
    sets_of,
    temporal_profile,
)
from kdsr_arch.report.render import data_uri, write_page

_PROFILE_ASPECT = 3
_CHANNEL = {
    "psnr": " (Y channel)", "ssim": " (Y channel)", "psnr_rgb": " (RGB)", "ssim_rgb": " (RGB)",
    "calculate_psnr": " (RGB)", "calculate_ssim": " (RGB)", "calculate_psnr_edsr": " (RGB)",
}  # fmt: skip


def write_comparison(
    folders: Sequence[Path], out: Path, *, gt: Sequence[str] = (), names: Sequence[str] | None = None,
    metrics: Sequence[str] = ("psnr", "ssim"), crop_border: int = 0, limit: int = 24, line: int | None = None,
    title: str = "Comparison",
) -> Path:  # fmt: skip
    """Compare results folders in one HTML file that needs nothing else.

    Args:
        folders: results of ``kdsr test``, or folders of images and clips.
        out: the page to write.
        gt: ground truth: folders or LMDB stores, SET=DIR for that of one test set. Without any it is the one that the
            results' own tests were measured against; where those name none, the first folder is the reference, which
            the page says.
        names: shown in place of the folders' names.
        metrics: short names (psnr, ssim, psnr_rgb, ssim_rgb), registered ones, or pyiqa's; the first one orders.
        crop_border: pixels left out of the metrics at each edge.
        limit: images that the page holds; all are in its table.
        line: row of the temporal profiles; None: where most moves.
        title: the heading.

    Raises:
        UserError: folders that cannot be compared, or an output that cannot be written.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{out}: the page is written as .html")
    if limit < 1:
        raise UserError(f"--limit {limit}: the page must hold at least one image")
    methods = find_methods(folders, names)
    images = common_images(methods)
    truth, labels = find_truth(gt, methods, images), [method.name for method in methods]
    if truth is None and len(methods) < 2:
        raise UserError("one folder alone has nothing to be compared with; give more folders, or --gt FOLDER")
    if truth is None:
        note = "no ground truth: the numbers tell how like %s the others are, not how good; name it with --gt DIR"
        logging.getLogger("kdsr").warning(note, labels[0])
    reference = "ground truth" if truth is not None else labels[0]
    items = measure_images(images, methods, truth, metrics, crop_border)
    shown = choose(items, metrics[0], limit)
    pictures = [_picture(item, read_all(item.name, methods, truth)) for item in shown]
    names_shown = {item.name for item in shown}
    found = clips(images, {item.name: item.size for item in items})
    profiles = [_profile(clip, *temporal_profile(frames, methods, truth, line)) for clip, frames in found.items()]
    rest = [_entry(item) for item in items if item.name not in names_shown]
    sets = sets_of(methods, images)
    groups = {name: [i for i in items if i.name.startswith(f"{name}/")] for name in sets if len(sets) > 1}
    groups["all images" if groups else ""] = items
    measured = ", ".join(f"{metric}{_CHANNEL.get(metric, '')}" for metric in metrics)
    content = {
        "methods": labels + (["ground truth"] if truth is not None else []),
        "columns": labels if truth is not None else labels[1:],
        "reference": reference, "truth": truth is not None, "metrics": list(metrics),
        "lower": [metric for metric in metrics if lower_is_better(options_of(metric))],
        "means": [{"name": name, "values": finite(means(group, found))} for name, group in groups.items()],
        "count": len(items),
        "items": [*pictures, *profiles, *rest],
        "protocol": f"{measured}; against {reference}; {crop_border} pixels left out at the edges"
        f"{'; means of clips, over the frames of each' if found else ''}",
    }  # fmt: skip
    return write_page(out, "compare.html", title=title, content=content)


def _profile(clip: str, row: int, lines: dict[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """Make a picture of one row of a clip over time, (T, W, 3) of each method."""
    count, width = next(iter(lines.values())).shape[:2]
    tall = max(-(-width // (_PROFILE_ASPECT * count)), 1)  # else a mere ribbon
    item = Item(clip, "profile", note=f"row {row} over time: {count} frames downwards, {tall} pixels each")
    return _picture(item, {name: np.repeat(image, tall, 0) for name, image in lines.items()})


def _entry(item: Item) -> dict[str, Any]:
    return {"name": item.name, "kind": item.kind, "note": item.note, "values": finite(item.values)}


def _picture(item: Item, images: dict[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """Encode losslessly, to show what was measured. WebP is a third smaller than PNG; its sides end at 16383."""
    height, width = next(iter(images.values())).shape[:2]
    kind = "webp" if max(height, width) < 16384 else "png"
    uris = {}
    for name, image in images.items():
        done, data = cv2.imencode(f".{kind}", image, [cv2.IMWRITE_WEBP_QUALITY, 101] if kind == "webp" else [])
        if not done:
            raise UserError(f"an image of shape {image.shape} cannot be encoded for the page")
        uris[name] = data_uri(data.tobytes(), f"image/{kind}")
    return {**_entry(item), "width": width, "height": height, "images": uris}
