"""Clips rendered from photographs, written to a store with the exact flow beside the frames."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from kdsr_arch.data.augment import Crop, cut
from kdsr_arch.data.camera import Camera
from kdsr_arch.data.flow_image import FLOW_SIDE, flow_image
from kdsr_arch.data.pairs import FramePairs, PairOptions
from kdsr_arch.data.prepare.frame_writer import ClipShapes, Entry, Making, write_frames
from kdsr_arch.data.sources import FrameSource
from kdsr_arch.data.still_clip import Scene, draw_scene, exact_flow, render, shares_in_front
from kdsr_arch.errors import UserError


@dataclass(frozen=True)
class Rendering:
    """Which clips are rendered.

    Attributes:
        clips: how many; each photograph gives one before any gives a second. None: one for each.
        length: frames of each.
        size: (H, W) of the frames.
        seed: of the motions.
        camera: their bounds.
    """

    clips: int | None = None
    length: int = 16
    size: tuple[int, int] = (270, 480)
    seed: int = 0
    camera: Camera = Camera()

    def __post_init__(self) -> None:
        least = {"clips": 1, "length": 2, "size": 16, "seed": 0}
        given = {"clips": self.clips, "length": self.length, "size": min(self.size), "seed": self.seed}
        for name, value in given.items():
            if value is not None and value < least[name]:
                raise UserError(f"clips of photographs: {name} must be at least {least[name]}, got {value}")


class RenderedClip(FrameSource):
    """The frames of one clip, or the flow from each of its frames to the next, rendered when they are asked for.

    Args:
        name: of the clip.
        scene: what is rendered.
        photos: the photographs in it by number: where they come from, and their keys.
        stamp: changes when the clip does.
        side: '' for the frames, or ``FLOW_SIDE``.
    """

    def __init__(
        self, name: str, scene: Scene, photos: Mapping[int, tuple[FrameSource, str]], stamp: str, side: str = ""
    ) -> None:
        self.name, self.scene, self.side = name, scene, side
        self._photos, self._stamp = photos, stamp

    def keys(self) -> list[str]:
        return [f"{number:08d}" for number in range(len(self.scene) - bool(self.side))]

    def size(self, key: str) -> tuple[int, int]:
        return self.scene.size

    def get(self, key: str, crop: Crop | None = None) -> np.ndarray:
        number = int(key)
        if self.side:
            scene = self.scene.part(slice(number, number + 2))
            flow = exact_flow(scene, shares_in_front(scene))
            return cut(flow_image(flow.vectors[0], flow.visible[0]), crop, self.where(key))
        scene = self.scene.part(slice(number, number + 1))
        return cut(render(scene, self._read, shares_in_front(scene))[0], crop, self.where(key))

    def _read(self, number: int, area: Crop) -> np.ndarray:
        source, key = self._photos[number]
        return source.get(key, area)

    def stamp(self, key: str) -> str:
        return f"{self._stamp} {key}"

    def detached(self, key: str) -> RenderedClip:
        return self


def rendered_clips(photos: FrameSource, rendering: Rendering) -> Iterator[RenderedClip]:
    """Draw the clips, named ``0000`` and so on.

    Raises:
        UserError: no photograph is large enough.
    """
    least = rendering.camera.needed(rendering.size)
    sizes = {key: photos.size(key) for key in photos}
    keys = [key for key, size in sizes.items() if size[0] >= least[0] and size[1] >= least[1]]
    if not keys:
        raise UserError(
            f"{photos.name}: no photograph is of {least[0]}x{least[1]} or more, which frames of {rendering.size[0]}x"
            f"{rendering.size[1]} need; take a smaller --size, or a lower density"
        )
    for clip in range(rendering.clips or len(keys)):
        rng = np.random.default_rng([rendering.seed, clip])
        scene = draw_scene(
            rng,
            clip % len(keys),
            len(keys),
            lambda n: sizes[keys[n]],
            rendering.size,
            rendering.length,
            rendering.camera,
        )
        shown = [path.photo for path in (scene.back, scene.front) if path]
        parts = {number: (photos.detached(keys[number]), keys[number]) for number in shown}
        stamp = " ".join([str(rendering), *(photos.stamp(keys[number]) for number in shown)])
        yield RenderedClip(f"{clip:04d}", scene, parts, stamp)


def convert_stills(
    folders: Sequence[str | Path], out: str | Path, rendering: Rendering, making: Making | None = None
) -> ClipShapes:
    """Render clips from folders or stores of photographs into an LMDB, the exact flow of each frame beside it.

    Photographs that are too small for the frames are left out. Frames have keys such as ``0003/00000012``; the last of
    a clip has no flow.
    """
    photos = FramePairs(PairOptions(name="photographs", dataroot_gt=list(folders))).gt
    assert photos is not None

    def entries() -> Iterator[Entry]:
        for clip in rendered_clips(photos, rendering):
            moving = RenderedClip(clip.name, clip.scene, {}, clip.stamp("flow"), FLOW_SIDE)
            for source in (clip, moving):
                yield from (Entry(source, key, f"{clip.name}/{key}", side=source.side) for key in source)

    total = rendering.clips * (2 * rendering.length - 1) if rendering.clips else None
    making = replace(making or Making(), facts={"rendered": json.loads(json.dumps(asdict(rendering)))})
    return write_frames(entries(), out, making, total)
