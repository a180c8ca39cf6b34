"""Which clips a data set takes, and which of their frames belong to one sample."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsr_arch.data.keys import read_lines, safe_key
from kdsr_arch.data.pairs import FramePairs
from kdsr_arch.errors import UserError, nearest

__all__ = ["PADDINGS", "Clip", "listed_clips", "select_clips"]

PADDINGS = ("replicate", "reflection", "reflection_circle", "circle")


@dataclass(frozen=True)
class Clip:
    """A clip: all its frames, and the position among them of each frame that has a ground truth.

    Attributes:
        lq: keys of the LR frames in order.
        gt: keys of the HR frames, by position in ``lq``; normally as many as ``lq``, but Vimeo-90K's HR store may hold
            the centre frames only.
    """

    name: str
    lq: tuple[str, ...]
    gt: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.lq)

    def frame_name(self, position: int) -> str:
        """The LR frame's key at a position, without the folder of its clip."""
        return self.lq[position].rpartition("/")[2]


def listed_clips(path: str | Path) -> dict[str, int | None]:
    """Clips named in a list file, with their frame counts where the file gives them.

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


def _chosen(names: Sequence[str], opt: Mapping[str, Any], listed: Listed | None, origin: str) -> list[str]:
    """The clips that the list file, ``clips`` and ``exclude`` leave, in order."""
    wanted = list(opt.get("clips") or listed or names)
    for name in [*wanted, *(opt.get("exclude") or [])]:
        if str(name) not in names:
            raise UserError(f"{origin}: no clip '{name}'{nearest(str(name), names)}")
    excluded = {str(name) for name in opt.get("exclude") or []}
    chosen = [str(name) for name in wanted if str(name) not in excluded and (listed is None or str(name) in listed)]
    if not chosen:
        raise UserError(f"{origin}: no clip is left after 'clips', 'exclude' and 'meta_info_file'")
    return chosen


def select_clips(pairs: FramePairs, opt: Mapping[str, Any], listed: Listed | None) -> list[Clip]:
    """The clips of a data set.

    Args (keys of ``opt``):
        clips, exclude: names; all clips by default.
        frames: ``[start, stop]``, the part of each clip to use, as a Python slice (null and negative bounds allowed).
        listed: what ``meta_info_file`` says.
    """
    lq_clips = pairs.lq.clips()
    gt_clips = pairs.gt.clips() if pairs.stored and pairs.gt is not None else lq_clips
    if not (opt.get("clips") or listed):
        _refuse_strays(pairs, gt_clips, lq_clips)
    start, stop = opt.get("frames") or (None, None)
    clips = []
    for name in _chosen(list(lq_clips), opt, listed, pairs.lq.name):
        count = (listed or {}).get(name)
        if count is not None and len(lq_clips[name]) < count:
            raise UserError(f"{pairs.lq.name}: clip '{name}' has {len(lq_clips[name])} of the {count} frames listed")
        if count is None and name in gt_clips:
            _refuse_strays(pairs, gt_clips[name], frozenset(lq_clips[name]))
        lq = lq_clips[name][:count][start:stop]
        if not lq:
            raise UserError(f"{pairs.lq.name}: clip '{name}' has no frames in the range {opt['frames']}")
        clips.append(Clip(name or Path(pairs.lq.name).stem, tuple(lq), _ground_truth(pairs, name, lq, gt_clips)))
    return clips


def _refuse_strays(pairs: FramePairs, gt_names: Collection[str], lq_names: Collection[str]) -> None:
    """An HR clip or frame without its LR counterpart is a mistake, not something to leave out in silence."""
    strays = [name for name in gt_names if name not in lq_names]
    if strays:
        assert pairs.gt is not None
        raise UserError(f"{pairs.lq.name}: nothing that pairs with {pairs.gt.where(strays[0])}")


def _ground_truth(
    pairs: FramePairs, name: str, lq: Sequence[str], gt_clips: Mapping[str, Sequence[str]]
) -> dict[int, str]:
    """Positions in ``lq`` that have an HR frame: all of them, or the centre alone, or the data does not pair."""
    if pairs.gt is None:
        return {}
    if name not in gt_clips:
        raise UserError(f"{pairs.gt.name}: no clip '{name}', which {pairs.lq.name} has{nearest(name, list(gt_clips))}")
    known = set(gt_clips[name])
    found = {position: key for position, key in enumerate(lq) if key in known}
    if len(found) == len(lq) or set(found) == {len(lq) // 2}:
        return found
    missing = next(key for key in lq if key not in known)
    raise UserError(f"{pairs.gt.name}: no HR frame '{missing}' for {pairs.lq.where(missing)}")
