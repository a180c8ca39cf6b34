"""Which clips a data set takes, and which of their frames belong to one sample."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdsr_arch.data.pairs import FramePairs
from kdsr_arch.data.sources import read_lines, safe_key
from kdsr_arch.data.store.teacher_store import View, view_key
from kdsr_arch.errors import UserError, nearest

PADDINGS = ("replicate", "reflection", "reflection_circle", "circle")


@dataclass(frozen=True)
class Clip:
    """A clip: all its frames, and the position among them of each frame that has a ground truth.

    Attributes:
        lq: keys of the LR frames in order.
        gt: keys of the HR frames, by position in ``lq``; normally as many as ``lq``, but Vimeo-90K's HR store may hold
            the center frames only.
    """

    name: str
    lq: tuple[str, ...]
    gt: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.lq)

    def frame_name(self, position: int) -> str:
        """Return the LR frame's key at a position, without the folder of its clip."""
        return self.lq[position].rpartition("/")[2]


def listed_clips(path: str | Path) -> dict[str, int | None]:
    """Read the clips named in a list file, with their frame counts where the file gives them.

    Lines are ``000 100 (720,1280,3)``, ``00001/0001 7 (256,448,3)`` or a name alone.
    """
    clips: dict[str, int | None] = {}
    for number, line in enumerate(read_lines(Path(path).expanduser()), 1):
        name, *rest = line.split() or [""]
        if not name:
            continue
        if rest and not rest[0].isdecimal():
            raise UserError(f"{path}, line {number}: expected 'clip frames (h,w,c)' or a clip's name, got '{line}'")
        if rest and len(rest[0]) > 9:
            raise UserError(f"{path}, line {number}: a clip of more than 999,999,999 frames")
        clips[safe_key(name.strip("/"), f"{path}, line {number}")] = int(rest[0]) if rest else None
    if not clips:
        raise UserError(f"{path}: lists no clips")
    return clips


Listed = Mapping[str, int | None]  # clips of a list file, with their frame counts where it gives them


def select_clips(
    pairs: FramePairs,
    names: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    frames: Sequence[int | None] = (None, None),
    listed: Listed | None = None,
) -> list[Clip]:
    """Choose the clips of a data set.

    Args:
        pairs: the frames.
        names, exclude: clips to take (all by default) and to leave out.
        frames: ``[start, stop]``, the part of each clip to use, as a Python slice (None and negative bounds allowed).
        listed: what ``meta_info_file`` says.
    """
    lq_clips = pairs.lq.clips()
    gt_clips = pairs.gt.clips() if pairs.stored and pairs.gt is not None else lq_clips
    if not (names or listed):
        _refuse_strays(pairs, gt_clips, lq_clips)
    clips = []
    for name in _chosen(list(lq_clips), list(names or listed or lq_clips), exclude, listed, pairs.lq.name):
        count = (listed or {}).get(name)
        if count is not None and len(lq_clips[name]) < count:
            raise UserError(f"{pairs.lq.name}: clip '{name}' has {len(lq_clips[name])} of the {count} frames listed")
        if count is None and name in gt_clips:
            _refuse_strays(pairs, gt_clips[name], frozenset(lq_clips[name]))
        lq = lq_clips[name][:count][slice(*frames)]
        if not lq:
            raise UserError(f"{pairs.lq.name}: clip '{name}' has no frames in the range {list(frames)}")
        clips.append(Clip(name or Path(pairs.lq.name).stem, tuple(lq), _ground_truth(pairs, name, lq, gt_clips)))
    return clips


def _chosen(
    known: Sequence[str], wanted: Sequence[str], exclude: Sequence[str], listed: Listed | None, origin: str
) -> list[str]:
    """The wanted clips that ``exclude`` and the list file leave, in order."""
    for name in (*wanted, *exclude):
        if name not in known:
            raise UserError(f"{origin}: no clip '{name}'{nearest(name, known)}")
    chosen = [name for name in wanted if name not in exclude and (listed is None or name in listed)]
    if not chosen:
        raise UserError(f"{origin}: no clip is left after 'clips', 'exclude' and 'meta_info_file'")
    return chosen


def _refuse_strays(pairs: FramePairs, gt_names: Collection[str], lq_names: Collection[str]) -> None:
    """Raise UserError for an HR clip or frame without its LR: a mistake, not something to leave out in silence."""
    strays = [name for name in gt_names if name not in lq_names]
    if strays:
        assert pairs.gt is not None
        raise UserError(f"{pairs.lq.name}: nothing that pairs with {pairs.gt.where(strays[0])}")


def _ground_truth(
    pairs: FramePairs, name: str, lq: Sequence[str], gt_clips: Mapping[str, Sequence[str]]
) -> dict[int, str]:
    """Positions in ``lq`` that have an HR frame: all of them, or the center alone, or the data does not pair."""
    if pairs.gt is None:
        return {}
    if name not in gt_clips:
        raise UserError(f"{pairs.gt.name}: no clip '{name}', which {pairs.lq.name} has{nearest(name, list(gt_clips))}")
    known = set(gt_clips[name])
    present = {position: key for position, key in enumerate(lq) if key in known}
    if len(present) == len(lq) or set(present) == {len(lq) // 2}:
        return present
    missing = next(key for key in lq if key not in known)
    raise UserError(f"{pairs.gt.name}: no HR frame '{missing}' for {pairs.lq.where(missing)}")


def first_gap(keys: Sequence[str]) -> tuple[str, str] | None:
    """Find the first missing number in a clip and return the frames on both sides of it; None where none is missing.

    Args:
        keys: of one clip, in order. Numbers may go up in steps of any one size; names that do not end in a number, or
            differ in what is before it, are not judged.
    """
    numbered = [re.fullmatch(r"(.*?)(\d+)", key) for key in keys]
    if len(keys) < 3 or None in numbered or len({match[1] for match in numbered if match}) > 1:
        return None
    numbers = [int(match[2]) for match in numbered if match]
    steps = [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    usual = min(steps)
    place = next((index for index, step in enumerate(steps) if step != usual), None)
    return None if place is None else (keys[place], keys[place + 1])


def clip_views(clip: Clip, num_frame: int, clip_length: int, intervals: Sequence[int], reverse: bool) -> Iterator[View]:
    """Yield every window of ``num_frame`` frames around a ground-truth frame that training samples of a clip can hold.

    Args:
        num_frame: the teacher's; 1: of images.
        clip_length, intervals: the data set's.
        reverse: samples are played backwards too.
    """
    last, half, seen = len(clip) - 1, num_frame // 2, set()
    for center, interval in _centers(clip, clip_length, intervals):
        places = [min(max(center + interval * j, 0), last) for j in range(-half, half + 1)]
        for order in (places, places[::-1]) if reverse else (places,):
            key = view_key(clip.gt[center], order)
            if key not in seen:
                seen.add(key)
                yield View(key, tuple(clip.lq[place] for place in order), clip.name)


def _centers(clip: Clip, clip_length: int, intervals: Sequence[int]) -> list[tuple[int, int]]:
    """Return (position, interval) of the ground-truth frames of all samples."""
    centers = set()
    for start in clip.gt:
        for interval in intervals:
            sample = [start + interval * j for j in range(clip_length)]
            if all(place in clip.gt for place in sample):
                centers |= {(place, interval) for place in sample}
    return sorted(centers)
