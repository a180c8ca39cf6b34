"""Does the teacher deserve to be followed? Frames reduced once more are restored, and the frames are the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.metrics.psnr_metric import psnr
from kdsr_arch.ops.bicubic import imresize_uint8
from kdsr_arch.specialize.networks import Network

LEAST_GAIN = 0.05
"""A teacher less than so many dB better than the student teaches nothing that could be told from chance."""

LEAST_SIDE = 16
"""LR pixels that a side of a reduced frame must have: on smaller ones the borders decide."""


def reduced(image: NDArray[np.uint8], scale: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Reduce a frame by MATLAB's bicubic; return the small one, and the frame cut to multiples of the scale."""
    height, width = (side // scale * scale for side in image.shape[:2])
    whole = np.ascontiguousarray(image[:height, :width])
    return imresize_uint8(whole, 1 / scale), whole


def score(restored: NDArray[np.uint8], truth: NDArray[np.uint8], border: int) -> float:
    """Return the PSNR on Y of two RGB images, `border` pixels left out at each edge."""
    return psnr(restored[..., ::-1], truth[..., ::-1], border, test_y_channel=True)


@dataclass(frozen=True)
class Verdict:
    """Mean PSNR on Y of teacher and student on the reduced frames, and how many there were; 0 where they are too small.

    Attributes:
        teacher, student: in dB.
        frames: how many.
    """

    teacher: float
    student: float
    frames: int

    @property
    def gain(self) -> float:
        """How much better the teacher is, in dB."""
        return self.teacher - self.student

    @property
    def deserved(self) -> bool:
        """Whether the teacher is clearly better, or nothing can be said."""
        return not self.frames or self.gain >= LEAST_GAIN

    def __str__(self) -> str:
        if not self.frames:
            return "zoom-out test: the frames are too small for it, so nothing is known of the teacher's worth here"
        return (
            f"zoom-out test on {self.frames} frames: teacher {self.teacher:.2f} dB, student {self.student:.2f} dB "
            f"({self.gain:+.2f})"
        )


def zoom_out_test(teacher: Network, student: Network, clips: Sequence[Sequence[NDArray[np.uint8]]]) -> Verdict:
    """Let both restore frames reduced once more.

    Args:
        teacher, student: of one scale.
        clips: held-out frames with their neighbors.
    """
    scale, values = teacher.scale, list[tuple[float, float]]()
    for clip in clips:
        small = [reduced(image, scale)[0] for image in clip]
        truth = reduced(clip[len(clip) // 2], scale)[1]
        if min(small[0].shape[:2]) >= LEAST_SIDE:
            values.append((score(teacher.restore(small), truth, scale), score(student.restore(small), truth, scale)))
    teachers, students = (float(np.mean(side)) for side in zip(*values, strict=True)) if values else (0.0, 0.0)
    return Verdict(teachers, students, len(values))
