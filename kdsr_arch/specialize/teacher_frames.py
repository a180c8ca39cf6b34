"""What the teacher makes of the chosen frames, stored once; and how far the student is from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kdsr_arch.infer.pixels import write_png
from kdsr_arch.log import progress_bar
from kdsr_arch.specialize.networks import Network
from kdsr_arch.specialize.work_folder import WorkFolder, read_rgb
from kdsr_arch.specialize.zoom_out import reduced


def store_labels(work: WorkFolder, teacher: Network, frames: Sequence[Mapping[str, Any]]) -> None:
    """Run the teacher on each frame that it has not been run on, and remember its seconds for an LR pixel.

    Args:
        work: where they go.
        teacher: restores them.
        frames: of the plan.
    """
    left = [frame for frame in frames if not work.teachers(frame["number"], frame["held_out"]).is_file()]
    with progress_bar(f"teacher {teacher.label}", len(frames), done=len(frames) - len(left)) as bar:
        for frame in left:
            clip, began = work.clip(frame), time.perf_counter()
            restored = teacher.restore(clip)
            spent = time.perf_counter() - began
            write_png(work.teachers(frame["number"], frame["held_out"]), restored[..., ::-1])
            seconds, pixels = work.state.get("teacher", [0.0, 0])
            work.keep(teacher=[seconds + spent, pixels + restored.shape[0] * restored.shape[1] // teacher.scale**2])
            bar.update()


def store_differences(work: WorkFolder, student: Network, frames: Sequence[Mapping[str, Any]]) -> None:
    """Write, for each frame to teach on, how far student and teacher differ at each LR pixel, brightest where most.

    Args:
        work: holds the teacher's frames.
        student: as it is at the start.
        frames: of the plan; those held out are passed over.
    """
    for frame in frames:
        number = frame["number"]
        if frame["held_out"] or work.difference(number).is_file():
            continue
        theirs, ours = read_rgb(work.teachers(number, False)), student.restore([read_rgb(work.lq(number, False))])
        write_png(work.difference(number), difference_map(theirs, ours, student.scale))


def difference_map(first: NDArray[np.uint8], second: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Return the mean absolute difference of two (H, W, 3) images, by LR pixel: (h, w, 1), 255 where it is largest."""
    error = cv2.absdiff(first, second).astype(np.float32).mean(axis=2)
    small = error.reshape(error.shape[0] // scale, scale, error.shape[1] // scale, scale).mean(axis=(1, 3))
    return np.rint(255 * small / max(float(small.max()), 1e-6)).astype(np.uint8)[..., None]


def store_zoom_pairs(work: WorkFolder, scale: int, frames: Sequence[Mapping[str, Any]]) -> None:
    """Write each held-out frame reduced once more, and itself as the truth, for the validations."""
    for frame in frames:
        if frame["held_out"]:
            paths, images = work.zoom(frame["number"]), reduced(read_rgb(work.lq(frame["number"], True)), scale)
            for path, image in zip(paths, images, strict=True):
                if not path.is_file():
                    write_png(path, image[..., ::-1])
