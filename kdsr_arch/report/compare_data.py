"""What a comparison page shows: results folders matched image by image, measured, and clips' lines over time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.augment import eight_bits
from kdsr_arch.data.image_file import READABLE, decode_upright, shown_files, unsigned
from kdsr_arch.data.keys import label_folders, natural
from kdsr_arch.data.sources import FrameSource, open_source
from kdsr_arch.errors import UserError, nearest
from kdsr_arch.io import read_json
from kdsr_arch.log import get_logger
from kdsr_arch.metrics.measure import lower_is_better, measure
from kdsr_arch.metrics.temporal_metric import takes_clip
from kdsr_arch.options.schema import MetricOptions
from kdsr_arch.registry import names

METRICS: dict[str, dict[str, Any]] = {
    "psnr": {"type": "calculate_psnr", "test_y_channel": True},
    "ssim": {"type": "calculate_ssim", "test_y_channel": True},
    "psnr_rgb": {"type": "calculate_psnr"},
    "ssim_rgb": {"type": "calculate_ssim"},
}


class Method(NamedTuple):
    """One results folder: the name shown, and under `root` the file of each image name (relative, without suffix)."""

    name: str
    root: Path
    files: dict[str, Path]


@dataclass
class Item:
    """One image of the page, or one line of pixels over time.

    Attributes:
        name: of the image, or of the clip.
        kind: 'image' or 'profile'.
        size: height and width of an image.
        note: shown beside the name.
        values: metric -> method -> value.
    """

    name: str
    kind: str = "image"
    size: tuple[int, int] = (0, 0)
    note: str = ""
    values: dict[str, dict[str, float]] = field(default_factory=dict)


def options_of(metric: str, crop_border: int = 0) -> MetricOptions:
    """Return the options of a metric by its short name, its registered one, or pyiqa's."""
    keywords = {"type": metric} if metric in names("metric") else {"type": "calculate_pyiqa", "metric": metric}
    return MetricOptions.model_validate({**METRICS.get(metric, keywords), "crop_border": crop_border})


def find_methods(folders: Sequence[Path], names: Sequence[str] | None = None) -> list[Method]:
    """Find the images of results folders: of ``kdsr test`` (results/NAME), or any folder of images and clip folders.

    Raises:
        UserError: not a folder, no images, or as many names as folders are not given.
    """
    methods = []
    for folder, label in zip(folders, label_folders(folders, names), strict=True):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such results folder to compare")
        root = folder / "visualization" if (folder / "visualization").is_dir() else folder
        files: dict[str, Path] = {}
        for path in sorted(shown_files(root)):
            name = path.relative_to(root).with_suffix("").as_posix()
            if path.suffix.lower() in READABLE and files.setdefault(name, path) is not path:
                raise UserError(f"{path}: {files[name].name} beside it has the same name; keep one of them")
        methods.append(Method(label, root, files))
        if not methods[-1].files:
            raise UserError(f"{folder}: holds no images; for a test's results set val.save_img: true")
    return methods


def common_images(methods: Sequence[Method]) -> list[str]:
    """List the images that every folder has, in natural order.

    Raises:
        UserError: there is none.
    """
    shared = set.intersection(*(set(method.files) for method in methods))
    if not shared:
        examples = "; ".join(f"{method.name} has '{next(iter(method.files))}'" for method in methods)
        raise UserError(f"the folders have no image in common ({examples}); compare results of one data set")
    for method in methods:
        if more := len(method.files) - len(shared):
            get_logger().warning(
                f"{method.name}: {more} of its {len(method.files)} images are left out, since not every folder has them"
            )
    return sorted(shared, key=natural)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 BGR; 16 bits are rounded."""
    data = path.read_bytes() if path.is_file() else b""
    image = decode_upright(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data else None
    if image is None:
        raise UserError(f"{path}: cannot be read as an image")
    try:
        return eight_bits(unsigned(image, data))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


class Truth:
    """The ground truth by image name.

    Args:
        roots: test set -> folders of images and clip folders, or LMDB stores; '' for images of any set.
    """

    def __init__(self, roots: Mapping[str, Sequence[Path]]) -> None:
        self._sources = {name: [open_source(path) for path in paths] for name, paths in roots.items()}
        self._keys = {source.name: set(source.keys()) for sources in self._sources.values() for source in sources}

    def where(self, name: str) -> tuple[FrameSource, str] | None:
        """Find an image's source and key: its name, or the end of it (results lie in a folder per data set).

        Raises:
            UserError: two sources have it.
        """
        test_set, _, inside = name.partition("/")
        sources, parts = self._sources.get(test_set), inside.split("/")
        if sources is None:
            sources, parts = self._sources.get("", []), name.split("/")
        for first in range(len(parts)):
            key = "/".join(parts[first:])
            places = [source for source in sources if key in self._keys[source.name]]
            if len(places) > 1:
                raise UserError(f"--gt: both {places[0].name} and {places[1].name} have '{key}'; {_NAME_SETS}")
            if places:
                return places[0], key
        return None

    def check(self, names: Iterable[str]) -> None:
        """Raise UserError for images without a ground truth, and for two images with one."""
        taken: dict[tuple[str, str], str] = {}
        for name in names:
            place = self.where(name)
            if place is None:
                some = ", ".join(sorted(key for keys in self._keys.values() for key in keys)[:3])
                raise UserError(f"--gt: has no image for '{name}' (it has {some}, ...); {_NAME_SETS}")
            other = taken.setdefault((place[0].name, place[1]), name)
            if other != name:
                raise UserError(f"--gt: '{other}' and '{name}' would both be compared with '{place[1]}'; {_NAME_SETS}")

    def read(self, name: str, shape: Sequence[int]) -> NDArray[np.uint8]:
        """Read (H, W, 3) uint8 BGR, cut to ``shape``: results of a x4 network may lack up to three rows and columns."""
        place = self.where(name)
        if place is None:
            raise UserError(f"--gt: has no image for '{name}'")
        image = eight_bits(place[0].get(place[1]))[..., ::-1]
        if not all(0 <= have - want < 8 for have, want in zip(image.shape[:2], shape[:2], strict=True)):
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise UserError(f"--gt: '{place[1]}' is {size}, the results {shape[1]}x{shape[0]}")
        return np.ascontiguousarray(image[: shape[0], : shape[1]])


_NAME_SETS = "name the ground truth of each test set: --gt SET=DIR --gt SET=DIR"


def sets_of(methods: Sequence[Method], names: Iterable[str]) -> list[str]:
    """List the test sets in results of ``kdsr test``, whose images lie in a folder for each; none in other folders."""
    results = all(method.root.name == "visualization" for method in methods)
    return list(dict.fromkeys(name.partition("/")[0] for name in names)) if results else []


def find_truth(given: Sequence[str], methods: Sequence[Method], names: Sequence[str]) -> Truth | None:
    """Open the ground truth that is named, or else the one that the tests were measured against.

    Args:
        given: DIR, or SET=DIR for that of one test set; empty to look into the results.json of the results.
        methods: the results.
        names: their images.

    Returns:
        None where nothing is named and no results.json names a ground truth that is still there, for all images.

    Raises:
        UserError: a ground truth that is named and cannot be read, lacks an image, or has two for one.
    """
    sets = sets_of(methods, names)
    roots: dict[str, list[Path]] = {}
    for text in given:
        name, sign, path = text.partition("=")
        named = bool(sign) and not Path(text).exists()
        if named and name not in sets:
            raise UserError(f"--gt {text}: there is no such folder{_or_set(name, sets)}")
        roots.setdefault(name if named else "", []).append(Path(path if named else text))
    try:
        truth = Truth(roots or _recorded(methods, sets))
        truth.check(names)
    except UserError:
        if given:
            raise
        return None
    return truth


def _or_set(name: str, sets: Sequence[str]) -> str:
    return f", and no test set '{name}'{nearest(name, sets)} in the results ({', '.join(sets)})" if sets else ""


def _recorded(methods: Sequence[Method], sets: Sequence[str]) -> dict[str, list[Path]]:
    """The ground truth of each test set as the results name it, where it is still there."""
    roots: dict[str, list[Path]] = {}
    for method in methods if sets else ():
        with suppress(UserError, KeyError, TypeError, AttributeError):
            for result in read_json(method.root.parent / "results.json", dict, "")["results"]:
                paths = [Path(path) for path in result["ground_truth"]]
                if paths and all(path.exists() for path in paths):
                    roots.setdefault(result["dataset"], paths)
    return roots


def read_all(name: str, methods: Sequence[Method], truth: Truth | None) -> dict[str, NDArray[np.uint8]]:
    """Read an image of every method, the ground truth last.

    Raises:
        UserError: images of different sizes.
    """
    images = {method.name: read_image(method.files[name]) for method in methods}
    shape = next(iter(images.values())).shape
    for label, image in images.items():
        if image.shape != shape:
            raise UserError(
                f"'{name}': {label} is {image.shape[1]}x{image.shape[0]}, {methods[0].name} "
                f"{shape[1]}x{shape[0]}; compare results of one scale"
            )
    return images if truth is None else {**images, "ground truth": truth.read(name, shape)}


def measure_images(
    names: Sequence[str], methods: Sequence[Method], truth: Truth | None, metrics: Sequence[str], crop_border: int = 0
) -> list[Item]:
    """Measure every metric of every image and method, against the ground truth, or else against the first folder."""
    options = {}
    for metric in metrics:
        options[metric] = options_of(metric, crop_border)
        if takes_clip(options[metric].type):
            raise UserError(f"--metrics {metric}: is a metric of clips, for kdsr test; this page compares images")
    items = []
    for name in names:
        images = read_all(name, methods, truth)
        reference = images["ground truth" if truth is not None else methods[0].name]
        shown = methods if truth is not None else methods[1:]
        values = {
            metric: {m.name: measure(images[m.name], reference, option) for m in shown}
            for metric, option in options.items()
        }
        items.append(Item(name, size=reference.shape[:2], values=values))
    return items


def spread(item: Item, metric: str) -> float:
    """Return how far apart the methods are on an image."""
    values = [value for value in item.values.get(metric, {}).values() if math.isfinite(value)]
    return max(values) - min(values) if values else 0.0


def choose(items: Sequence[Item], metric: str, count: int) -> list[Item]:
    """Choose the images of the page where there are too many: worst, best, and where the methods differ most.

    By the last method, the one the page is usually about; in the order of ``items``.
    """
    if len(items) <= count:
        return list(items)
    last = next(reversed(items[0].values[metric]))
    sign = 1 if lower_is_better(options_of(metric)) else -1
    by_quality = sorted(items, key=lambda item: sign * item.values[metric][last], reverse=True)
    by_spread = sorted(items, key=lambda item: -spread(item, metric))
    kept: dict[str, Item] = {}
    for trio in zip(by_quality, reversed(by_quality), by_spread, strict=True):
        for item in trio:
            if len(kept) < count:
                kept[item.name] = item
    return [item for item in items if item.name in kept]


def clips(images: Sequence[str], sizes: Mapping[str, Any] | None = None) -> dict[str, list[str]]:
    """Group image names by folder, for folders of several images with even numbers in their names: the clips.

    Photographs have numbers, too (B100), but with gaps between them, or of several sizes.

    Args:
        images: the names, in order.
        sizes: of the images, where they are known.
    """
    groups: dict[str, dict[str, int]] = {}
    for name in images:
        folder, _, frame = name.rpartition("/")
        if folder and (numbers := re.findall(r"\d+", frame)):
            groups.setdefault(folder, {})[name] = int(numbers[-1])
    found = {}
    for folder, group in groups.items():
        steps = {after - before for before, after in pairwise(group.values())}
        if len(group) >= 3 and len(steps) == 1 and len({(sizes or {}).get(name) for name in group}) == 1:
            found[folder] = [*group]
    return found


def temporal_profile(
    frames: Sequence[str], methods: Sequence[Method], truth: Truth | None, line: int | None = None
) -> tuple[int, dict[str, NDArray[np.uint8]]]:
    """Cut one line of pixels over time, (T, W, 3) for each method; flicker shows as ragged stripes.

    Args:
        frames: names of a clip's images, in order.
        line: the row; absent: where the reference changes most from frame to frame.
    """
    if line is None:
        change: Any = 0.0
        previous: NDArray | None = None
        for name in frames:
            image: NDArray = read_image(methods[0].files[name])
            if truth is not None:
                image = truth.read(name, image.shape)
            image = image.astype(np.float32)
            if previous is not None:
                change = change + np.abs(image - previous).mean(axis=(1, 2))
            previous = image
        margin = len(change) // 8  # a line at the very edge tells little
        line = margin + int(np.argmax(change[margin : len(change) - margin]))
    rows: dict[str, list[NDArray]] = {}
    for name in frames:
        for method, image in read_all(name, methods, truth).items():
            if not 0 <= line < image.shape[0]:
                raise UserError(f"--line {line}: '{name}' has {image.shape[0]} rows")
            rows.setdefault(method, []).append(image[line])
    return line, {method: np.stack(lines) for method, lines in rows.items()}


def means(items: Sequence[Item], found: Mapping[str, Sequence[str]]) -> Mapping[str, dict[str, float]]:
    """Average all images, the frames of a clip first, as ``kdsr test`` does: metric -> method -> mean.

    Args:
        items: the images.
        found: the :func:`clips` among them.
    """
    clip_of = {name: clip for clip, frames in found.items() for name in frames}
    groups: dict[tuple[str, bool], list[Item]] = {}
    for item in items:
        groups.setdefault((clip_of.get(item.name, item.name), item.name in clip_of), []).append(item)
    return {
        metric: {
            method: float(np.mean([np.mean([i.values[metric][method] for i in group]) for group in groups.values()]))
            for method in values
        }
        for metric, values in items[0].values.items()
    }
