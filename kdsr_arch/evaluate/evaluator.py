"""Restores a data set with a network and scores it: the one evaluator of validation, tests, benchmarks and the demo."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from kdsr_arch.errors import UserError, notice, printable
from kdsr_arch.evaluate.items import Item, items_of, read_sample
from kdsr_arch.evaluate.protocol import describe_degradation, describe_protocol, rule_from
from kdsr_arch.infer.pixels import to_bgr, write_png
from kdsr_arch.infer.runner import Runner, evaluating
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.infer.traits import traits_of
from kdsr_arch.log import progress_bar
from kdsr_arch.metrics.measure import check_size, measure, needs_motion, split_metrics
from kdsr_arch.ops.color import y_to_gray
from kdsr_arch.options.schema import ValOptions
from kdsr_arch.options.schema_data import DatasetOptions
from kdsr_arch.parallel import distributed


@dataclass(frozen=True)
class EvalResult:
    """The scores of one data set.

    Attributes:
        mean: metric -> mean over the items (clips or images), each clip being the mean over its frames; this is what
            BasicSR reports.
        per_item: (name, metric -> value, number of frames) of each clip or image, in the data set's order.
        protocol: how it was measured, such as ``Y channel, no crop, all frames, BI x4``.
        frame_mean: metric -> mean over all frames of all clips; without the metrics of whole clips.
        dataset: the data set's name.
        unit: 'clips' or 'images': what ``mean`` averages over.
        ground_truth: the folders or stores of the ground truth, as absolute paths; none where there is no such thing.
    """

    mean: dict[str, float]
    per_item: list[tuple[str, dict[str, float], int]]
    protocol: str
    frame_mean: dict[str, float] = field(default_factory=dict)
    dataset: str = ""
    unit: str = "images"
    ground_truth: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:.4f}" for name, value in self.mean.items()) or "nothing scored"
        return f"{self.dataset}: {values} ({self.protocol}; mean over {len(self.per_item)} {self.unit})"


@dataclass(frozen=True)
class _Record:
    """What one item contributed: values of each of its frames, and of the clip as a whole."""

    group: str
    kind: str
    frames: list[dict[str, float]]
    whole: dict[str, float]
    channels: int


class Evaluator:
    """Scores networks on one data set.

    Args:
        dataset: the data set's options; ``skip_first``, ``skip_last`` and ``center_frame_only`` override those of
            ``val``.
        val: the options of validation and tests.
        scale: H / h.

    Raises:
        UserError: a metric that is not registered.
    """

    def __init__(self, dataset: DatasetOptions, val: ValOptions, scale: int) -> None:
        self.name = dataset.name or "test"
        self.scale = scale
        self.metrics = val.metrics or {}
        self.image_metrics, self.clip_metrics = split_metrics(self.metrics)
        self.rule = rule_from(dataset, val)
        self.degradation = describe_degradation(dataset, scale)
        self.padding = dataset.padding or "replicate"
        self.tile, self.overlap = val.tile or 0, val.tile_overlap
        self._saved = Counter[Path]()  # results written by this run
        self.is_luma = dataset.color == "y"
        truths, inputs = (_listed(root) for root in (dataset.dataroot_gt, dataset.dataroot_lq))
        self.ground_truth = [os.path.abspath(root) for root in truths]
        self.roots = [*inputs, *truths, *map(os.path.abspath, inputs), *self.ground_truth]
        self.tail, self.bar = f"_{val.suffix}" if val.suffix else "", val.pbar

    def run(
        self,
        net: nn.Module,
        loader_or_dataset: Any,
        device: torch.device,
        save_dir: str | Path | None = None,
        progress: bool = True,
    ) -> EvalResult:
        """Restore and score every item.

        Under torch.distributed the items are dealt out to the ranks and the values gathered: every rank returns the
        same result, and it does not depend on the number of ranks.

        Args:
            net: any network the traits describe; runs in eval mode under ``torch.inference_mode``, and gets each of
                its modules' training flags back.
            loader_or_dataset: a data set, a data loader (whose data set is read item by item), or samples in a list.
            device: where ``net`` is.
            save_dir: folder for the restored frames as PNG (``image.png``, ``clip/frame.png``); none are saved without.
            progress: show a bar (on rank 0, on standard error).

        Raises:
            UserError: frames that do not pair, clips that are too short, an empty data set.
        """
        samples = getattr(loader_or_dataset, "dataset", loader_or_dataset)
        total, rank = len(samples), distributed.rank()
        if total == 0:
            raise UserError(f"data set '{self.name}' is empty")
        restorer = Restorer(Runner(net, traits_of(net, self.scale)), device, tile=self.tile, overlap=self.overlap)
        mine = range(rank, total, distributed.world_size())
        folder = Path(save_dir) if save_dir is not None else None
        self._saved.clear()
        bar = progress_bar(
            f"Test {self.name}", len(mine), leave=False, disable=not (progress and self.bar and rank == 0),
            bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]",
        )  # fmt: skip
        with evaluating(net), torch.inference_mode(), bar:
            return self._summarize(
                _gathered((i, self._sample(restorer, read_sample(samples, i), folder, bar)) for i in mine)
            )

    def check(self, dataset: Any) -> None:
        """Raise UserError where an image or clip of our data sets is too small for a metric, before any is run."""
        for clip in getattr(dataset, "selected", ()):
            frames = self.rule.select(len(clip), clip.name, [*clip.gt])
            if clip.gt and len(frames) < 2 and self.clip_metrics:
                needs = f"val.metrics.{next(iter(self.clip_metrics))} needs two frames or more"
                raise UserError(
                    f"{needs}, but of '{clip.name}' in data set '{self.name}' only one counts: list it in exclude, or "
                    "take the metric out"
                )
        sizes = getattr(dataset, "sizes", {})
        if sizes and self.ground_truth:
            smallest = min(sizes, key=min)
            for name, metric in self.image_metrics.items():
                try:
                    check_size(smallest[0] * self.scale, smallest[1] * self.scale, metric)
                except UserError as error:
                    raise UserError(f"{sizes[smallest]}: val.metrics.{name}: {error}") from None

    def _sample(self, restorer: Restorer, sample: Mapping[str, Any], folder: Path | None, bar: tqdm) -> list[_Record]:
        items = list(items_of(sample, restorer.traits.mode, self.roots))
        return [self._item(restorer, item, folder, bar, 1 / len(items)) for item in items]

    def _item(self, restorer: Restorer, item: Item, folder: Path | None, bar: tqdm, share: float) -> _Record:
        wanted = self.rule.select(len(item.lq), item.name, item.truths) if item.kind == "clip" else [0]
        values: list[dict[str, float]] = []
        results: list[NDArray] = []
        truths: list[NDArray] = []
        for done, frame in enumerate(restored_frames(restorer, item, wanted, self.padding)):
            name = item.name if item.kind == "image" else f"{item.name}, frame {item.frames[wanted[done]]}"
            result = to_bgr(self._checked(restorer, frame, item, name))
            if folder is not None:
                self._save(folder, item, item.frames[wanted[done]], frame, result)
            truth = _truth(item, wanted[done], result, self.scale)
            if truth is not None:
                values.append({name: measure(result, truth, option) for name, option in self.image_metrics.items()})
                if self.clip_metrics:
                    results.append(result)
                    truths.append(truth)
            bar.set_postfix_str(f"{item.name} {done + 1}/{len(wanted)}", refresh=False)
            bar.update(min(share / len(wanted), (bar.total or share) - bar.n))  # the parts' sum is rounded
        channels = 1 if item.gt is not None and item.gt.shape[-3] == 1 else 3
        return _Record(item.name, item.kind, values, self._whole(item, wanted, results, truths), channels)

    @staticmethod
    def _checked(restorer: Restorer, frame: Tensor, item: Item, name: str) -> Tensor:
        """Return a restored frame; raise UserError where it is not finite, of an image that is not as well."""
        try:
            return restorer.checked(frame, name)
        except UserError:
            if not bool(item.lq.isfinite().all()):
                raise UserError(f"{name}: its LR image holds NaN or infinity; mend the file or the data set") from None
            raise

    def _save(self, folder: Path, item: Item, name: str, frame: Tensor, result: NDArray) -> None:
        """Write a restored frame as it is seen: luma in full range; never over another result of this run."""
        parts = [*PurePosixPath("" if item.kind == "image" else item.name).parts, *PurePosixPath(name).parts]
        place = folder.joinpath(*(part for part in parts if part not in ("/", "..")))
        self._saved[place] += 1
        if (number := self._saved[place]) > 1:
            notice(f"saved {place}", f"{self.name}: several results are named '{name}'; they are numbered from _2 on")
        ending = f"_{number}" if number > 1 else ""
        picture = to_bgr(y_to_gray(frame)) if self.is_luma and len(frame) == 1 else result
        write_png(place.with_name(f"{place.name}{ending}{self.tail}.png"), picture)

    def _whole(self, item: Item, wanted: list[int], results: list[NDArray], truths: list[NDArray]) -> dict[str, float]:
        if not self.clip_metrics or not truths:
            return {}
        if item.kind != "clip":
            raise UserError(
                f"val.metrics.{next(iter(self.clip_metrics))} needs whole clips, but data set "
                f"'{self.name}' gives single frames: use a data set of clips, such as ClipDataset"
            )
        clip, truth = np.stack(results), np.stack(truths)
        pairs = slice(wanted[0], wanted[-1])  # of neighbors: the frames that count are consecutive
        motion = (item.motion[0][pairs].numpy(), item.motion[1][pairs].numpy()) if item.motion else None
        values = {}
        for name, option in self.clip_metrics.items():
            if motion is None and needs_motion(option):
                notice(f"motion {self.name} {name}", f"{self.name}: '{name}' is left out: no exact flow comes with it")
            else:
                values[name] = measure(clip, truth, option, motion)
        return values

    def _summarize(self, records: Sequence[_Record]) -> EvalResult:
        groups: dict[str, list[_Record]] = {}
        for number, record in enumerate(records):
            key = f"{number}/{record.group}" if record.kind == "image" else record.group  # images may share a name
            groups.setdefault(key, []).append(record)
        per_item, frames = [], []
        for group in groups.values():
            inner = [frame for record in group for frame in record.frames]
            frames += inner
            values = {**_mean(inner), **_mean([record.whole for record in group])}
            per_item.append((printable(group[0].group, kept=""), values, len(inner)))
        mean = _mean([values for _, values, count in per_item if count])
        clips = records[0].kind != "image"
        protocol = f"no ground truth, {self.degradation}"
        if frames:
            protocol = describe_protocol(self.metrics, self.rule, self.degradation, clips, records[0].channels)
        ordered = {name: mean[name] for name in self.metrics if name in mean}
        unit = "clips" if clips else "images"
        return EvalResult(ordered, per_item, protocol, _mean(frames), self.name, unit, self.ground_truth)


def _listed(root: str | list[str] | None) -> list[str]:
    return [root] if isinstance(root, str) else root or []


def restored_frames(restorer: Restorer, item: Item, wanted: list[int], padding: str) -> Iterator[Tensor]:
    """Restore the wanted frames of an item, a few at a time, so that memory does not grow with the clip.

    Args:
        restorer: the network.
        item: an image (``wanted`` is [0]), a clip, or a window (``wanted`` is [0]: its center frame).
        wanted: frame numbers.
        padding: what stands for the frames beyond a clip's ends: replicate, reflection, reflection_circle, circle.

    Yields:
        each frame, (C, H, W) float, in order.
    """
    if restorer.traits.input != "lq":
        for number, truth in zip(wanted, map(item.truth, wanted), strict=True):
            if truth is None:
                raise UserError(f"'{item.name}' has no ground truth, which {restorer.runner.name} is given")
            frame = len(item.lq) // 2 if item.kind == "window" else number
            lq = item.lq if item.kind == "image" else item.lq[frame]
            yield restorer.image(restorer.traits.given(lq, truth))
        return
    if item.kind == "image":
        yield restorer.image(item.lq)
        return
    recurrent, length = restorer.traits.mode == "recurrent", restorer.traits.num_frame
    if item.kind == "window" and len(item.lq) < length:
        raise UserError(
            f"'{item.name}' has {len(item.lq)} frame(s), fewer than the window of {length} that network "
            f"{restorer.runner.name} needs: set num_frame: {length} in the data set, or use another network"
        )
    wanted = [len(item.lq) // 2] if item.kind == "window" else wanted
    count = len(wanted) if recurrent else restorer.at_once(*item.lq.shape[-2:])
    lq = item.lq.to(restorer.device)
    for first in range(0, len(wanted), count):
        yield from restorer.frames(lq, wanted[first : first + count], padding)


def _mean(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    rows = [row for row in rows if row]
    names = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def _truth(item: Item, index: int, result: NDArray, scale: int) -> NDArray | None:
    """The ground truth of one frame as uint8, cut to a multiple of the scale where the LR was made from that."""
    gt = item.truth(index)
    if gt is None:
        return None
    height, width, channels = result.shape
    surplus = gt.shape[-2] - height, gt.shape[-1] - width
    if gt.shape[0] != channels or not all(0 <= extra < scale for extra in surplus):
        raise UserError(
            f"'{item.name}': LR and HR do not pair at x{scale}: the result is {height}x{width} with "
            f"{channels} channel(s), the ground truth {gt.shape[-2]}x{gt.shape[-1]} with {gt.shape[0]}"
        )
    return to_bgr(gt[:, :height, :width])


def _gathered(work: Iterable[tuple[int, list[_Record]]]) -> list[_Record]:
    """Gather the records of all processes by sample; raise an error of one in all, so that none waits for it."""
    mine: list[tuple[int, list[_Record]]] = []
    fault: UserError | None = None
    try:
        mine.extend(work)
    except UserError as error:
        fault = error
    parts = distributed.gather((mine, str(fault) if fault else None))
    if fault is not None:
        raise fault
    for _, text in parts:
        if text:
            raise UserError(text)
    samples = sorted((pair for part, _ in parts for pair in part), key=lambda pair: pair[0])
    return [record for _, records in samples for record in records]
