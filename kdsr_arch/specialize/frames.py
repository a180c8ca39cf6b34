"""The frames of a video, of a folder of frames or of a folder of images, read once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdsr_arch.data.augment import eight_bits
from kdsr_arch.errors import UserError
from kdsr_arch.upscale.images import list_images
from kdsr_arch.upscale.picture import read_picture
from kdsr_arch.upscale.video_input import Decoder, Share, VideoInfo, probe


class Frame(NamedTuple):
    """A frame: its number in the input, the file or time it is from, its part (frames of parts are no neighbors).

    Frames whose numbers do not follow each other are no neighbors, either.
    """

    number: int
    where: str
    part: str
    image: NDArray[np.uint8]  # (h, w, 3) RGB


@dataclass(frozen=True)
class Source:
    """What is to be upscaled.

    Attributes:
        path: the video or the folder.
        kind: 'video', 'sequence' (images that are the frames of clips) or 'images'.
        count: frames; of a video as its file tells, 0 where it does not.
        size: LR height and width of the first frame.
        video: how the video is stored.
        images: the files of a folder.
        progressive: take frames that the file says to be interlaced as they are.
        partial: take what can be decoded of a damaged video.
    """

    path: Path
    kind: str
    count: int
    size: tuple[int, int]
    video: VideoInfo | None = None
    images: tuple[Path, ...] = ()
    progressive: bool = False
    partial: bool = False

    def frames(self, share: Share = "all") -> Iterator[Frame]:
        """Read every frame, or a share of a video's.

        Raises:
            UserError: a file that cannot be read.
        """
        if self.video is None:
            for number, path in enumerate(self.images):
                part = str(path.parent) if self.kind == "sequence" else str(path)
                yield Frame(number, path.name, part, _rgb(read_picture(path).color))
            return
        info, number = self.video, -1
        decoder = Decoder(info, self.partial, progressive=self.progressive, share=share)
        for frame in decoder.frames():
            seconds = Fraction(frame.pts - info.start) * info.time_base
            number = number + 1 if share == "all" else max(number + 1, round(seconds * info.rate))
            yield Frame(number, f"{float(seconds):.2f} s", "", _rgb(frame.image))

    def stamp(self) -> list[str | int]:
        """Return what tells this input from another: its path, size and time of change; of a folder its files'."""
        files = self.images or (self.path,)
        stats = [path.stat() for path in files]
        return [
            str(self.path.resolve()),
            len(files),
            sum(stat.st_size for stat in stats),
            max(stat.st_mtime_ns for stat in stats),
        ]


def open_source(
    path: Path, kind: str, sequence: bool = False, progressive: bool = False, partial: bool = False
) -> Source:
    """Look at an input.

    Args:
        path: the input.
        kind: 'video' or 'folder'; one picture is refused.
        sequence: the images of a folder are frames of clips.
        progressive, partial: see `Source`.

    Raises:
        UserError: one picture, no images, or a video that cannot be upscaled well.
    """
    if kind == "image":
        raise UserError(f"{path}: is one picture; a student is taught on many, so upscale this one with the teacher")
    if kind == "video":
        info = probe(path, partial)
        size = info.height, info.width
        return Source(path, "video", info.frames, size, info, progressive=progressive, partial=partial)
    images = tuple(list_images(path))
    height, width = read_picture(images[0]).color.shape[:2]
    return Source(path, "sequence" if sequence else "images", len(images), (height, width), images=images)


def _rgb(image: NDArray) -> NDArray[np.uint8]:
    image = eight_bits(image)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
