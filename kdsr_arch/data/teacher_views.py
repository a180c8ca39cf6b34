"""What a stored teacher was run on: single images, or windows of a clip's frames, each under a name of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdsr_arch.data.clips import Clip

__all__ = ["View", "centred", "clip_views", "view_key"]


@dataclass(frozen=True)
class View:
    """One thing that a teacher is run on.

    Attributes:
        key: what its outputs are stored under.
        frames: keys of its LR frames in order; one for a teacher of images.
        group: the image or clip whose size and stored windows it shares.
    """

    key: str
    frames: tuple[str, ...]
    group: str


def view_key(centre: str, places: Sequence[int]) -> str:
    """The name of a window of frames: that of its centre frame, and where the others are from there.

    A window at a clip's end, of another interval or played backwards has other places, and so a name of its own.

    Args:
        centre: HR key of the frame in the middle.
        places: positions of the window's frames in the clip.
    """
    middle = places[len(places) // 2]
    return centre if len(places) == 1 else f"{centre}~{','.join(str(place - middle) for place in places)}"


def centred(places: Sequence[int], middle: int, num_frame: int) -> Sequence[int]:
    """The ``num_frame`` of some places around number ``middle``."""
    half = num_frame // 2
    return places[middle - half : middle + half + 1]


def clip_views(clip: Clip, num_frame: int, clip_length: int, intervals: Sequence[int], reverse: bool) -> Iterator[View]:
    """Every window of ``num_frame`` frames around a ground-truth frame that training samples of a clip can hold.

    Args:
        num_frame: the teacher's; 1: of images.
        clip_length, intervals: the data set's.
        reverse: samples are played backwards too.
    """
    last, half, seen = len(clip) - 1, num_frame // 2, set()
    for centre, interval in _centres(clip, clip_length, intervals):
        places = [min(max(centre + interval * j, 0), last) for j in range(-half, half + 1)]
        for order in (places, places[::-1]) if reverse else (places,):
            key = view_key(clip.gt[centre], order)
            if key not in seen:
                seen.add(key)
                yield View(key, tuple(clip.lq[place] for place in order), clip.name)


def _centres(clip: Clip, clip_length: int, intervals: Sequence[int]) -> list[tuple[int, int]]:
    """(position, interval) of the ground-truth frames of all samples."""
    found = set()
    for start in clip.gt:
        for interval in intervals:
            sample = [start + interval * j for j in range(clip_length)]
            if all(place in clip.gt for place in sample):
                found |= {(place, interval) for place in sample}
    return sorted(found)
