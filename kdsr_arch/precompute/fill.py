"""Runs the teacher over the training data once, stores what it makes of them, and measures what training gains."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdsr_arch.data.augment import allowed_flips, flip_of, to_tensor, undo_flip
from kdsr_arch.data.loader import open_dataset
from kdsr_arch.data.store.lmdb_store import TEACHER_INFO, LmdbWriter
from kdsr_arch.data.store.teacher_store import OUTPUT, check_key, pixel_sample, stored_maps
from kdsr_arch.data.teacher_views import View
from kdsr_arch.distill.taps import Batch
from kdsr_arch.distill.teachers import build_teacher, weights_digests
from kdsr_arch.errors import UserError
from kdsr_arch.log import get_logger, progress_bar
from kdsr_arch.options.schema import Options
from kdsr_arch.precompute.live import LiveTeacher, Probe, measure_border
from kdsr_arch.registry import lookup
from kdsr_arch.train.checkpoint import random_states_kept
from kdsr_arch.train.distill_model import DistillModel
from kdsr_arch.train.trainer import Trainer


@dataclass(frozen=True)
class Plan:
    """What is stored.

    Attributes:
        taps: module paths or aliases of the teacher, beside its output.
        crops: per image, so many seeded crops of gt_size, each restored alone; 0: whole images, any crop of which can
            be trained on.
        orientations: numbers of flips and rotations that the teacher is run on; one: the stored maps are turned.
        backwards: teachers of clips are run on reversed frames too, where the data set plays samples backwards.
        frames: that a recurrent teacher restores at once; 0: as many as a sample has.
        pool: taps of so many times the LR size are stored as means over so many pixels a side.
    """

    taps: tuple[str, ...] = ()
    crops: int = 0
    orientations: tuple[int, ...] = (0,)
    backwards: bool = True
    frames: int = 0
    pool: int = 1


def plan_of(
    opt: Options, taps: Sequence[str] | None, crops: int, one_orientation: bool, frames: int = 0, pool: int = 1
) -> Plan:
    """Make the plan for an option file: the taps that its terms name, the orientations that its data set draws.

    Raises:
        UserError: a term that needs the live teacher, or crops where the data set reads whole images.
    """
    train = opt.datasets["train"]
    if crops and train.resident:
        raise UserError("cache-teacher: datasets.train.resident reads whole images: leave --crops out, or take it out")
    for name, term in (opt.train.distill_opt if opt.train else {}).items():
        if getattr(lookup("loss", term.type), "live_teacher", False):
            raise UserError(
                f"cache-teacher: train.distill_opt.{name}: {term.type} runs the teacher on images of its own, of which "
                "no store can know; take the term out, or train with the live teacher"
            )
    flips = allowed_flips(bool(train.use_hflip), bool(train.use_rot))
    if taps is None:
        terms = opt.train.distill_opt.values() if opt.train else ()
        named = [term.teacher or term.at or [] for term in terms]
        taps = [tap for names in named for tap in ([names] if isinstance(names, str) else names)]
        taps = [tap for tap in taps if tap not in (OUTPUT, "lq", "gt")]
    one = one_orientation or opt.teacher.self_ensemble  # which turns with its input, exactly
    orientations = (0,) if one else tuple(flips)
    return Plan(tuple(dict.fromkeys(taps)), crops, orientations, not one_orientation, frames, pool)


_STORED_FOR = ("ImagePairDataset", "ClipDataset")


def fill_store(opt: Options, path: Path, plan: Plan) -> Probe | None:
    """Run the teacher and write the store; broken off, it goes on when it is called again.

    Returns:
        How far a crop restored alone is from the crop of the whole, on the first image; None with stored crops.

    Raises:
        UserError: no teacher, a tap that cannot be stored, too little disk, or a path that exists.
    """
    section = opt.datasets["train"].model_copy(update={"teacher_cache": None})
    if section.type not in _STORED_FOR:
        raise UserError(
            f"cache-teacher: datasets.train is a {section.type}; outputs are stored for {' and '.join(_STORED_FOR)}"
        )
    dataset = open_dataset(section, "datasets.train")
    net = build_teacher(opt)
    if net is None:
        raise UserError("cache-teacher: the options name no network_t")
    teacher = LiveTeacher(net, opt, plan.taps, plan.pool)
    if plan.frames and not teacher.recurrent:
        raise UserError(f"cache-teacher: --frames is for recurrent teachers, and {type(net).__name__} is none")
    run = (plan.frames or getattr(dataset, "clip_length", 1)) if teacher.recurrent else 0
    views = dataset.teacher_views(teacher.traits.num_frame, plan.backwards, run)
    if not views:
        raise UserError(f"{dataset.name}: no clip has {run} frames with a ground truth; lower --frames or clip_length")
    if plan.crops and not dataset.patch:
        raise UserError("cache-teacher: --crops needs datasets.train.gt_size")
    names = (OUTPUT, *teacher.aliases, *teacher.aliases.values())
    for view in views:  # before anything is run: it may be the last one
        place = [*dataset.pairs.lq.size(view.frames[0]), dataset.patch, dataset.patch] if plan.crops else None
        for key in view.keys:
            check_key(key, names, place, dataset.pairs.lq.where(view.frames[0]))
    recipe = _recipe(opt, plan, dataset)
    with LmdbWriter(path, recipe) as writer:
        filling = _Filling(writer, teacher, dataset, plan, recipe["seed"], run)
        filling.run(views)
        info = {
            "scale": dataset.scale, "color": teacher.traits.color, "orientations": list(plan.orientations),
            "num_frame": teacher.traits.num_frame, "run": run, "backwards": plan.backwards,
            "aliases": {k: v for k, v in teacher.aliases.items() if k != v}, "teacher": recipe["teacher"],
            "weights": recipe["weights"], "self_ensemble": recipe["self_ensemble"], "images": filling.images,
            "crops": filling.crops,
            **{key: filling.state[key] for key in ("names", "border", "pixels")},
        }  # fmt: skip
        writer.finish({TEACHER_INFO: json.dumps(info)})
    return None if info["border"] is None else Probe(**info["border"])


def _recipe(opt: Options, plan: Plan, dataset: Any) -> dict[str, Any]:
    """What the content depends on beside the frames: a store that was broken off goes on with the same only."""
    train = opt.datasets["train"]
    return {
        "teacher": {key: network.plain() for key, network in opt.teachers.items()}, "weights": weights_digests(opt),
        "amp": opt.teacher.amp, "self_ensemble": opt.teacher.self_ensemble, **asdict(plan), "seed": opt.manual_seed,
        "scale": dataset.scale, "gt_size": dataset.patch, "color": dataset.color,
        "clip_length": getattr(dataset, "clip_length", 1),
        "degradation": None if dataset.pairs.stored else [train.degradation, train.border],
    }  # fmt: skip


_Place = tuple[int, int, int, int]  # top, left, height, width in LR pixels


class _Filling:
    """A store under way."""

    def __init__(self, writer: LmdbWriter, teacher: LiveTeacher, dataset: Any, plan: Plan, seed: int, run: int) -> None:
        self.writer, self.teacher, self.dataset, self.plan, self.seed = writer, teacher, dataset, plan, seed
        self.images: dict[str, list[int]] = {}  # LR size of each image or clip
        self.crops: dict[str, list[list[int]]] = {}  # where the teacher is run on each, if not on wholes
        fresh = {"views": 0, "frames": "", "names": {}, "border": None, "pixels": {}}
        self.state: dict[str, Any] = fresh | writer.state  # the writer's after each view
        self.patch = dataset.patch // dataset.scale  # side of a crop in LR pixels
        units = {"image": "images", "window": "windows of frames", "recurrent": f"clips of {run} frames"}
        self.unit = units[teacher.traits.mode]
        self._numbers: dict[str, int] = {}
        self._frames = hashlib.sha256()

    def run(self, views: Sequence[View]) -> None:
        """Store every view that is not done yet; after the first, check that the others fit on the disk."""
        done, stamps = self.state["views"], ""
        probes = {0, len(views) // 2, len(views) - 1}
        for view in views[:done]:  # an earlier run has stored these
            stamps = self._stamped(view)
            self._places(view, self.dataset.pairs.lq.size(view.frames[0]))
        if stamps != self.state["frames"]:
            raise UserError(f"{self.writer.work}: left unfinished, and the images have changed since; remove it")
        with progress_bar(self.writer.path.name, len(views), self.unit, done) as bar:
            for number, view in enumerate(views[done:], done):
                if number in probes:
                    key = view.frames[0]
                    self.state["pixels"][key] = pixel_sample(self.dataset.pairs.read([key], [], None)[0][0])
                written = self._store(view, probe=number == 0)
                if number == done:
                    self._check_disk(written, len(views) - number - 1)
                self.state |= {"views": number + 1, "frames": self._stamped(view)}
                self.writer.state = dict(self.state)
                bar.update()

    def _stamped(self, view: View) -> str:
        """A digest of the frames of all views up to this one."""
        stamps = "".join(self.dataset.pairs.lq.stamp(key) for key in view.frames)
        self._frames.update(f"{view.keys[0]} {stamps}\n".encode("utf-8", "surrogateescape"))
        return self._frames.hexdigest()

    def _store(self, view: View, probe: bool) -> int:
        """Store what the teacher makes of a view, and return its bytes; a probe looks at the border of its crops."""
        low, high = self.dataset.pairs.read(list(view.frames), list(view.gt) if self.teacher.zoom > 1 else [], None)
        frames, written = high or low, 0
        places = self._places(view, low[0].shape[:2])
        for name, number, maps, place in self._made(frames, places):
            if probe and (name, number) == (OUTPUT, 0) and not self.plan.crops:
                border = measure_border(self.teacher, to_tensor(frames, color=self.dataset.color), maps, self.patch)
                if border is not None and border.looks_further:  # said before hours are spent on the other images
                    get_logger().warning(str(border))
                self.state["border"] = None if border is None else vars(border)
            for key, frame in zip(view.keys, maps, strict=True):
                entry, value = stored_maps(key, number, name, frame, place if self.plan.crops else None)
                self.writer.put(entry, value)
                written += len(value)
            self.state["names"].setdefault(name, {**self.teacher.forms[name], "channels": maps.shape[1]})
            if self.writer.is_due:
                self.writer.commit()
        return written

    def _places(self, view: View, size: Sequence[int]) -> list[_Place]:
        """LR rectangles to restore: the whole image, or crops that depend on the seed and the image's number."""
        number = self._numbers.setdefault(view.group, len(self._numbers))
        self.images[view.group] = list(size)
        if not self.plan.crops:
            return [(0, 0, size[0], size[1])]
        patch, rng = self.patch, np.random.default_rng([self.seed, number, 0x7E])
        places = [
            (int(rng.integers(size[0] - patch + 1)), int(rng.integers(size[1] - patch + 1)), patch, patch)
            for _ in range(self.plan.crops)
        ]
        self.crops[view.group] = [list(place) for place in places]
        return places

    def _made(
        self, frames: Sequence[np.ndarray], places: Sequence[_Place]
    ) -> Iterator[tuple[str, int, np.ndarray, _Place]]:
        """(name, orientation, maps (F, C, H, W) turned back, place) of the output and every tap."""
        for place in dict.fromkeys(places):
            top, left, height, width = (self.teacher.zoom * number for number in place)
            parts = [frame[top : top + height, left : left + width] for frame in frames]
            for number in self.plan.orientations:
                flip = flip_of(number)
                for name, maps in self.teacher(to_tensor(parts, flip, self.dataset.color)).items():
                    yield name, number, undo_flip(maps.numpy(), flip), place

    def _check_disk(self, written: int, left: int) -> None:
        """Tell when as many bytes for each view that is left cannot fit, and why."""
        folder = self.writer.path.absolute().parent
        needed, free = written * left, shutil.disk_usage(folder).free
        if needed <= free:
            return
        height, width = (self.patch, self.patch) if self.plan.crops else next(reversed(self.images.values()))
        maps = " + ".join(
            f"{name} {tap['channels']}x{height * tap['ratio']}x{width * tap['ratio']}"
            for name, tap in self.state["names"].items()
        )
        crops = f" x {self.plan.crops} crops" if self.plan.crops else ""
        what = f"{left} {self.unit}{crops} x {len(self.plan.orientations)} orientations x ({maps})"
        raise UserError(
            f"{self.writer.path}: about {needed / 2**30:.1f} GiB more are needed ({what} x 2 bytes), "
            f"{free / 2**30:.1f} GiB are free; store fewer taps (--taps NAMES; --taps alone: the output only), "
            "--crops N, --one-orientation, or sub-images"
        )


# ------------------------------------------------------------------------------------------------ what a store gains


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


def measure_gain(opt: Options, store: Path, live_steps: int = 2, stored_steps: int = 8) -> Gain:
    """Train a few steps both ways, on the same batches, no more than a training has; nothing is kept."""
    assert opt.train is not None
    live_steps, stored_steps = (min(steps, opt.train.total_iter) for steps in (live_steps, stored_steps))
    data = opt.datasets["train"].model_copy(update={"teacher_cache": str(store), "num_worker_per_gpu": 0})
    few = opt.train.model_copy(update={"total_iter": max(stored_steps, live_steps)})
    short = opt.model_copy(update={"datasets": {"train": data}, "train": few, "val": None, "manual_seed": 0})
    with random_states_kept():
        stored, stored_loss = timed_steps(Trainer(short), stored_steps)
        live, live_loss = timed_steps(LiveTrainer(short), live_steps)
    return Gain(live, stored, live_loss, stored_loss)


class LiveTrainer(Trainer):
    """Draws the crops that the store holds, and runs the teacher on them."""

    def build_model(self, sample: Batch) -> DistillModel:
        """Build what is trained, without the store."""
        live = self.opt.model_copy(update={"datasets": {}})
        return lookup("model", live.model_type)(live, sample)


def timed_steps(trainer: Trainer, count: int) -> tuple[float, float]:
    """Take a few steps; return steps per second, the first left out, and the total loss of the first."""
    spent, loss = 0.0, 0.0
    for iteration in range(1, count + 1):
        began = time.perf_counter()
        trainer.step(iteration)
        figures = trainer.figures()  # waits for the device
        if iteration == 1:
            loss = sum(value for name, value in figures.items() if name.startswith("l_"))
        if iteration > 1 or count == 1:
            spent += time.perf_counter() - began
    trainer.close()
    return max(count - 1, 1) / spent, loss
