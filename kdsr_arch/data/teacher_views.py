"""What a teacher is run on, and what it makes of that is stored under: images, windows and runs of a clip's frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """One thing that a teacher is run on.

    Attributes:
        frames: keys of its LR frames in order; one for a teacher of images.
        group: the image or clip whose size and stored crops it shares.
        gt: keys of the HR frames that it restores: one, or all frames for a recurrent teacher.
        keys: what each of these is stored under.
    """

    frames: tuple[str, ...]
    group: str
    gt: tuple[str, ...]
    keys: tuple[str, ...]


def window_key(center: str, places: Sequence[int]) -> str:
    """Name a window of frames by its center frame, and where the others are from there.

    A window at a clip's end, of another interval or played backwards has other places, and so a name of its own.

    Args:
        center: HR key of the frame in the middle.
        places: positions of the window's frames in the clip.
    """
    middle = places[len(places) // 2]
    return center if len(places) == 1 else f"{center}~{','.join(str(place - middle) for place in places)}"


def window_keys(
    gt: Mapping[int, str], gt_places: Sequence[int], lq_places: Sequence[int], num_frame: int, backwards: bool
) -> list[str]:
    """Name the windows around a sample's frames, in the sample's order.

    Args:
        gt: HR keys of the clip's frames, by position.
        gt_places, lq_places: positions of the sample's N HR frames and of the LR frames around them.
        num_frame: length of the teacher's windows.
        backwards: reversed windows have been stored; else a reversed sample gets those of the forward one.
    """
    margin = (len(lq_places) - len(gt_places)) // 2 - num_frame // 2
    keys = []
    for number, place in enumerate(gt_places, margin):
        frames = lq_places[number : number + num_frame]
        keys.append(window_key(gt[place], frames if backwards or frames[-1] >= frames[0] else frames[::-1]))
    return keys


def run_around(start: int, count: int, interval: int, total: int, length: int) -> range | None:
    """Find the run of frames that a recurrent teacher restores a sample in.

    The frames of a clip at one interval are cut into runs of ``length``, from the first frame on; a shorter clip is one
    run. The frames that are left at its end are in none.

    Args:
        start, count, interval: the sample's first frame, its number of frames, and their distance.
        total: frames of the clip.
        length: of a run.

    Returns:
        Positions of the run's frames; None where the sample does not lie within one run.
    """
    every = range(start % interval, total, interval)
    length = min(length, len(every))
    first = start // interval
    begin = first - first % length
    run = every[begin : begin + length]
    return run if len(run) == length and first + count <= begin + length else None


def run_key(frame: str, place: int, run: Sequence[int]) -> str:
    """Name what a recurrent teacher makes of a frame: its own HR key, and where the run's ends are from there."""
    return f"{frame}~{run[0] - place}:{run[-1] - place}/{len(run)}"


def run_keys(gt: Mapping[int, str], gt_places: Sequence[int], run: Sequence[int], backwards: bool) -> list[str]:
    """Name a sample's frames as a recurrent teacher restores them, in the sample's order.

    Args:
        gt, gt_places, backwards: as for :func:`window_keys`.
        run: positions of the frames of the run around the sample, in the sample's direction.
    """
    order = run if backwards or run[-1] >= run[0] else run[::-1]
    return [run_key(gt[place], place, order) for place in gt_places]


def run_view(lq: Sequence[str], gt: Mapping[int, str], run: Sequence[int], group: str) -> View:
    """Make the view of a run of frames.

    Args:
        lq, gt: keys of the clip's frames; those of the HR frames by position.
        run: positions of the run's frames, rising or falling.
        group: the clip's name.
    """
    keys = tuple(run_key(gt[place], place, run) for place in run)
    return View(tuple(lq[place] for place in run), group, tuple(gt[place] for place in run), keys)
