"""Runs the teacher over the training images or clips once and stores what it makes of them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdsr_arch.archs.runner import Runner
from kdsr_arch.archs.traits import traits_of
from kdsr_arch.data.augment import to_tensor
from kdsr_arch.data.teacher_store import INFO, OUTPUT, TeacherStoreWriter, drawn, flip_of, undo_flip
from kdsr_arch.data.teacher_views import View
from kdsr_arch.device import autocast, pick_device
from kdsr_arch.distill.taps import Recorder, resolve
from kdsr_arch.engine.datasets import open_dataset
from kdsr_arch.engine.logging import get_logger
from kdsr_arch.errors import UserError
from kdsr_arch.files import write_whole
from kdsr_arch.models.teachers import build_teacher, teacher_keys
from kdsr_arch.ops.color import rgb_to_y


@dataclass(frozen=True)
class Plan:
    """What is stored.

    Attributes:
        taps: module paths or aliases of the teacher, beside its output.
        windows: per image, so many seeded crops of gt_size, each restored alone; 0: whole images, any crop of which can
            be trained on.
        orientations: numbers of flips and rotations that the teacher is run on; one: the stored maps are turned.
        backwards: teachers of windows are run on reversed windows too, where the data set plays samples backwards.
    """

    taps: tuple[str, ...] = ()
    windows: int = 0
    orientations: tuple[int, ...] = (0,)
    backwards: bool = True


def plan_of(opt: Mapping[str, Any], taps: Sequence[str] | None, windows: int, one_orientation: bool) -> Plan:
    """The plan for an option file: the taps that its terms name, and the orientations that its data set draws."""
    train = opt["datasets"]["train"]
    flips = drawn(bool(train.get("use_hflip")), bool(train.get("use_rot")))
    if taps is None:
        taps = [tap for term in (opt["train"].get("distill_opt") or {}).values() for tap in _teacher_taps(term)]
    return Plan(tuple(dict.fromkeys(taps)), windows, (0,) if one_orientation else tuple(flips), not one_orientation)


def _teacher_taps(term: Mapping[str, Any]) -> list[str]:
    named = term.get("teacher", term.get("at")) or []
    names = [named] if isinstance(named, str) else list(named)
    return [name for name in names if name not in (OUTPUT, "lq", "gt")]


class LiveTeacher:
    """The teacher on whole images or windows of them: its output in its own colour, and its taps, each (C, H, W).

    Args:
        net: the teacher.
        opt: options; read are `scale`, `num_gpu` and `teacher.amp`.
        taps: names of taps.

    Attributes:
        zoom: size of what it is given, relative to the LR image: 1, or the scale where it is given the ground truth.
    """

    def __init__(self, net: nn.Module, opt: Mapping[str, Any], taps: Sequence[str]) -> None:
        self.device = pick_device(opt.get("num_gpu", 0))
        self.traits = traits_of(net, opt.get("scale"))
        if self.traits.mode == "recurrent":
            raise UserError(
                "cache-teacher: what a recurrent teacher makes of a frame depends on the whole clip of the "
                "sample it is in; only teachers of images or of windows of frames can be stored"
            )
        self.zoom = self.traits.scale if self.traits.input == "gt" else 1
        self.net = net.eval().requires_grad_(False).to(self.device)
        self.aliases = {name: resolve(net, self.traits, name) for name in taps}
        self.runner, self.amp = Runner(net, self.traits), (opt.get("teacher") or {}).get("amp", "no")
        self.ratios: dict[str, int] = {}

    @torch.no_grad()
    def __call__(self, given: Tensor) -> dict[str, Tensor]:
        """What it makes of the middle one of (n, C, h, w) frames, n = 1 for a teacher of images; of an HR image where
        it is privileged.
        """
        given = given.to(self.device)
        height, width = (side // self.zoom for side in given.shape[-2:])
        given = rgb_to_y(given) if self.traits.color == "y" and given.shape[1] == 3 else given
        recorder = Recorder(self.net, list(self.aliases.values()))
        with autocast(self.device, self.amp), recorder as taps:
            made = {OUTPUT: self.runner.restore(given) if len(given) == 1 else self.runner.restore(given[None], 1)[0]}
        unit, least = self.traits.lr_multiple, self.traits.lr_minimum
        padded = tuple(-(-max(side, least) // unit) * unit // self.zoom for side in given.shape[-2:])
        for path in taps:
            made[path] = self._cut(path, taps[path], (height, width), padded)
        self.ratios[OUTPUT] = self.traits.scale
        return {name: value[0].float().cpu() for name, value in made.items()}

    def _cut(self, path: str, value: Any, size: tuple[int, int], padded: tuple[int, ...]) -> Tensor:
        """A tap without what padding added; only maps of a whole multiple of the LR size can be cropped."""
        if not isinstance(value, Tensor) or value.dim() != 4:
            raise UserError(f"cache-teacher: tap '{path}' gives no single feature map (C, H, W): store another")
        ratio = value.shape[-1] // padded[1]
        if ratio < 1 or tuple(value.shape[-2:]) != (padded[0] * ratio, padded[1] * ratio):
            raise UserError(
                f"cache-teacher: tap '{path}' is {value.shape[-2]}x{value.shape[-1]} for an input of "
                f"{padded[0]}x{padded[1]}: only maps of a whole multiple of the LR size can be cropped "
                "with the images"
            )
        self.ratios[path] = ratio
        return value[..., : size[0] * ratio, : size[1] * ratio]


_STORED_FOR = ("ImagePairDataset", "ClipDataset")


def open_training_data(opt: Mapping[str, Any]) -> Any:
    """The training set, without a store."""
    held = {key: value for key, value in opt["datasets"]["train"].items() if key != "teacher_cache"}
    if held["type"] not in _STORED_FOR:
        raise UserError(
            f"cache-teacher: datasets.train is a {held['type']}; outputs are stored for {' and '.join(_STORED_FOR)}"
        )
    return open_dataset(held, "datasets.train")


def fill_store(opt: Mapping[str, Any], path: Path, plan: Plan) -> Probe | None:
    """Run the teacher and write the store, whole or not at all.

    Returns:
        How far a crop restored alone is from the crop of the whole, on the first image; None with windows.

    Raises:
        UserError: no teacher, a tap that cannot be stored, too little disk, or a path that exists.
    """
    dataset = open_training_data(opt)
    net = build_teacher(opt)
    if net is None:
        raise UserError("cache-teacher: the options name no network_t")
    teacher = LiveTeacher(net, opt, plan.taps)
    views = dataset.teacher_views(teacher.traits.num_frame, plan.backwards)
    if plan.windows and not dataset.patch:
        raise UserError("cache-teacher: --windows needs datasets.train.gt_size")
    began = time.monotonic()
    with TeacherStoreWriter(path) as writer:
        probe = _run(teacher, dataset, views, plan, writer, int(opt.get("manual_seed") or 0))
        writer.info |= {
            "scale": dataset.scale, "color": teacher.traits.color, "orientations": list(plan.orientations),
            "num_frame": teacher.traits.num_frame, "backwards": plan.backwards,
            "aliases": {k: v for k, v in teacher.aliases.items() if k != v}, "dtype": "float16",
            "teacher": {key: dict(opt[key]) for key in teacher_keys(opt)}, "seconds": time.monotonic() - began,
            "bytes": writer.bytes, "border": None if probe is None else vars(probe),
        }  # fmt: skip
    return probe


def _run(
    teacher: LiveTeacher, dataset: Any, views: Sequence[View], plan: Plan, writer: TeacherStoreWriter, seed: int
) -> Probe | None:
    """Store every view; the first one tells how far a crop is from the whole, and how much disk is needed."""
    began, probe, patch = time.monotonic(), None, dataset.patch // dataset.scale
    groups = {group: number for number, group in enumerate(dict.fromkeys(view.group for view in views))}
    names = writer.info.setdefault("names", {})
    windows: dict[str, list[list[int]]] = writer.info.setdefault("windows", {})
    for number, view in enumerate(views):
        low, high = dataset.pairs.read(list(view.frames), [view.key] if teacher.zoom > 1 else [], None)
        frames, size = high or low, low[0].shape[:2]
        places = _places(size, plan.windows, patch, seed, groups[view.group])
        if plan.windows:
            windows[view.group] = [list(place) for place in places]
        for name, orientation, maps, place in _made(teacher, frames, dataset.color, places, plan):
            if (number, name, orientation) == (0, OUTPUT, 0) and not plan.windows:
                probe = measure_border(teacher, to_tensor(frames, color=dataset.color), maps, patch)
                _warn(probe)
            writer.put(view.key, orientation, name, maps, place if plan.windows else None)
            names.setdefault(name, {"ratio": teacher.ratios[name], "channels": maps.shape[0]})
        writer.info.setdefault("images", {})[view.group] = list(size)
        if number == 0:
            _check_disk(writer, len(views), plan)
        _tell(number + 1, len(views), began)
    return probe


def _places(size: tuple[int, ...], count: int, patch: int, seed: int, number: int) -> list[tuple[int, int, int, int]]:
    """LR rectangles to restore: the whole image, or seeded windows."""
    if not count:
        return [(0, 0, size[0], size[1])]
    rng = np.random.default_rng([seed, number, 0x7E])
    return [
        (int(rng.integers(size[0] - patch + 1)), int(rng.integers(size[1] - patch + 1)), patch, patch)
        for _ in range(count)
    ]


def _made(
    teacher: LiveTeacher,
    frames: Sequence[np.ndarray],
    color: str,
    places: Sequence[tuple[int, int, int, int]],
    plan: Plan,
) -> Iterator[tuple[str, int, np.ndarray, tuple[int, int, int, int]]]:
    for place in dict.fromkeys(places):
        top, left, height, width = (teacher.zoom * number for number in place)
        parts = [frame[top : top + height, left : left + width] for frame in frames]
        for orientation in plan.orientations:
            flip = flip_of(orientation)
            for name, maps in teacher(to_tensor(parts, flip, color)).items():
                yield name, orientation, undo_flip(maps.numpy(), flip), place


def _check_disk(writer: TeacherStoreWriter, views: int, plan: Plan) -> None:
    """After the first one, tell when the others cannot fit, and why."""
    folder = writer.path.absolute().parent
    needed, free = writer.bytes * (views - 1), shutil.disk_usage(folder if folder.exists() else ".").free
    if needed <= free:
        return
    height, width = next(iter(writer.info["images"].values()))
    if plan.windows:
        height, width = next(iter(writer.info["windows"].values()))[0][2:]
    maps = " + ".join(
        f"{name} {held['channels']}x{height * held['ratio']}x{width * held['ratio']}"
        for name, held in writer.info["names"].items()
    )
    windows = f" x {plan.windows} windows" if plan.windows else ""
    what = f"{views} images or windows of frames{windows} x {len(plan.orientations)} orientations x ({maps}) x 2 bytes"
    raise UserError(
        f"{writer.path}: about {needed / 2**30:.1f} GiB more are needed ({what}), {free / 2**30:.1f} GiB are free; "
        "store fewer taps (--taps NAMES; --taps alone: the output only), --windows N, --one-orientation, or sub-images"
    )


def _tell(done: int, total: int, began: float) -> None:
    if done == total or done == 1 or done % max(1, total // 20) == 0:
        spent = time.monotonic() - began
        get_logger().info(f"{done} of {total}, {spent:.0f} s, {spent / done * (total - done):.0f} s to go")


@dataclass(frozen=True)
class Probe:
    """What a crop's own border does: the teacher on a crop against the crop of the teacher on the whole image.

    Attributes:
        patch: LR side of the crop.
        all_db, inner_db: PSNR between the two over the crop, and over its inner half (a quarter of each side cut off).
    """

    patch: int
    all_db: float
    inner_db: float

    @property
    def looks_further(self) -> bool:
        """Whether crops of stored whole images are not what live training would see, even far from their border."""
        return self.inner_db < _LOCAL_DB

    def __str__(self) -> str:
        said = (
            f"crops of {self.patch} LR pixels: the teacher on a crop alone is {self.all_db:.1f} dB from the stored "
            f"crop of the whole image, {self.inner_db:.1f} dB in its inner half. The stored one has seen what lies "
            "beyond the crop's border"
        )
        return f"{said}. {_ADVICE}" if self.looks_further else said


_LOCAL_DB = 60.0  # fp16 alone gives about 80 dB
_ADVICE = (
    "Its output depends on the image beyond the crop and its border: stored whole images do not give the loss of live "
    "training. Store crops restored alone instead, exact everywhere: kdsr cache-teacher ... --windows 32"
)


def _warn(probe: Probe | None) -> None:
    """At the first image, before hours are spent on the others."""
    if probe is not None and probe.looks_further:
        get_logger().warning(str(probe))


def measure_border(teacher: LiveTeacher, given: Tensor, whole: np.ndarray, patch: int) -> Probe | None:
    """Compare the two on the middle of an image; None where the crop is the whole image.

    Args:
        given: (n, C, h, w); of HR size where the teacher is privileged.
        whole: the teacher's output on it, (C, H, W).
        patch: LR side of the crop, 0 for half the image.
    """
    zoom = teacher.zoom
    height, width = (side // zoom for side in given.shape[-2:])
    side = min(patch or min(height, width) // 2, height, width)
    if side == height == width:
        return None
    top, left, scale = (height - side) // 2, (width - side) // 2, teacher.traits.scale
    crop = given[..., top * zoom : (top + side) * zoom, left * zoom : (left + side) * zoom]
    alone = teacher(crop)[OUTPUT]
    held = torch.from_numpy(whole.astype(np.float16).astype(np.float32))
    held = held[:, top * scale : (top + side) * scale, left * scale : (left + side) * scale]
    error = (alone - held).double().square()
    margin = side * scale // 4
    inner = error[:, margin:-margin, margin:-margin]
    return Probe(side, *(float(-10 * torch.log10(part.mean().clamp(min=1e-12))) for part in (error, inner)))


@dataclass(frozen=True)
class Gain:
    """Training steps per second with the live teacher and with the store, and the loss of one batch with both."""

    live: float
    stored: float
    live_loss: float
    stored_loss: float

    def __str__(self) -> str:
        return (
            f"steps per second: {self.live:.3g} with the live teacher, {self.stored:.3g} with the store: "
            f"{self.stored / self.live:.1f} x; loss of the first batch {self.live_loss:.6g} and {self.stored_loss:.6g}"
        )


def measure_gain(opt: Mapping[str, Any], store: Path, live_steps: int = 2, stored_steps: int = 8) -> Gain:
    """Train a few steps both ways, on the same batches; nothing is kept."""
    from kdsr_arch.engine.checkpoint import random_states_kept

    train = {**opt["datasets"]["train"], "teacher_cache": str(store), "num_worker_per_gpu": 0}
    short = {**opt["train"], "total_iter": max(stored_steps, live_steps)}
    small = {**opt, "datasets": {"train": train}, "train": short}
    with random_states_kept():
        stored, stored_loss = _steps(small, small, stored_steps)
        live, live_loss = _steps({**small, "datasets": {}}, small, live_steps)
    return Gain(live, stored, live_loss, stored_loss)


def _steps(opt: Mapping[str, Any], data: Mapping[str, Any], count: int) -> tuple[float, float]:
    """Steps per second, the first left out, and the total loss of the first."""
    from kdsr_arch.engine.datasets import train_batches
    from kdsr_arch.engine.train import build_model, seed_everything

    seed_everything(0)
    batches = train_batches(data, open_dataset(data["datasets"]["train"], "datasets.train"), 0)
    model = build_model(opt)
    first = batches.peek()
    assert first is not None
    model.prepare(first)
    spent, loss = 0.0, 0.0
    for iteration in range(1, count + 1):
        began = time.perf_counter()
        model.update_learning_rate(iteration)
        model.feed_data(next(batches))
        model.optimize_parameters(iteration)
        log = model.get_current_log()  # waits for the device
        if iteration == 1:
            loss = sum(value for name, value in log.items() if name.startswith("l_"))
        if iteration > 1 or count == 1:
            spent += time.perf_counter() - began
    batches.close()
    return max(count - 1, 1) / spent, loss


def record_gain(store: Path, gain: Gain) -> None:
    """Write the gain into the store's ``teacher.json``."""
    file = store / INFO
    info = json.loads(file.read_text(encoding="utf-8")) | {"gain": vars(gain)}
    write_whole(file, lambda handle: handle.write(json.dumps(info).encode()))
