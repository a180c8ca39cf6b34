"""Conversions of standard data sets, folders and videos: which frames are written, under which keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.clip_dataset import listed_clips, numbering_fault
from kdsr_arch.data.image_file import is_shown
from kdsr_arch.data.keys import clip_of, natural, read_lines
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.prepare.decode_video import (
    VIDEO_SUFFIXES,
    StreamSource,
    crop_to_multiple,
    decode_video,
    halve,
    take,
)
from kdsr_arch.data.prepare.frame_writer import (
    SKIPPED_FILE,
    ClipShapes,
    Entry,
    Making,
    write_clip_list,
    write_clips,
    write_frames,
)
from kdsr_arch.data.sources import FolderSource, FrameSource, LmdbSource, open_source
from kdsr_arch.data.store.lmdb_store import recipe_of
from kdsr_arch.errors import Shortage, UserError, notice, printable

HELD_OUT_EVERY = 5
REDS4 = ("000", "011", "015", "020")
_REDS_TRAIN_CLIPS = 240  # the 30 validation clips follow as 240 to 269
_REDS_SIDES = {"sharp": "train_sharp_with_val", "sharp_bicubic": "train_sharp_bicubic_with_val"}


def low_resolution(source: FrameSource, degrade: Mapping | None) -> FrameSource:
    """Return ``source``, or its LR when ``degrade`` is ``{scale, kind, border}``."""
    return DegradedSource(source, **degrade) if degrade else source


def check_numbering(source: FrameSource, making: Making | None) -> None:
    """Raise UserError for a clip whose frame numbers are missing or double; with ``skip_bad`` warn and take it."""
    for clip, keys in source.clips().items():
        fault = numbering_fault(keys)
        if fault is None:
            continue
        where = f"{source.name}: clip '{clip}' has {fault[0]}"
        if making is None or not making.skip_bad:
            raise UserError(f"{where}; {fault[1]}, or use --skip-bad to take the clip as it is")
        notice(f"gap {source.name} {clip}", f"{where}; taken as it is")


def sub_images(size: tuple[int, int], patch: int, step: int) -> list[Crop]:
    """Cover an image of ``size`` with square crops; the last of a row or column is moved inside.

    Of an image that is smaller it is one crop, which whoever reads it refuses, with the name of the file.
    """
    if patch > min(size):
        return [Crop(0, 0, patch, patch)]
    tops, lefts = (sorted({*range(0, n - patch + 1, step), n - patch}) for n in size)
    return [Crop(top, left, patch, patch) for top in tops for left in lefts]


def equal_parts(size: tuple[int, int], side: int) -> list[Crop]:
    """Cut an image of ``size`` into equal parts, row by row, of at most about ``side`` pixels a side.

    Parts do not overlap, and their sides are multiples of 8: up to 7 pixels a part are lost at the right and bottom. A
    side is only cut where it is more than 64 pixels too long.
    """
    rows, columns = (max(1, -(-(n - n % 8) // (side + 64))) for n in size)
    height, width = (n // count // 8 * 8 or n for n, count in zip(size, (rows, columns), strict=True))
    return [Crop(row * height, column * width, height, width) for row in range(rows) for column in range(columns)]


@dataclass(frozen=True)
class ImageParts:
    """Which parts of an image become entries of a store, and under which names.

    Attributes:
        patch, step: side and distance of square sub-images; 0 for none.
        max_side: cut larger images by :func:`equal_parts`; 0 for never.
        min_side: leave out images with a smaller side.
        strip: ending taken off the names, ``x4`` for the LR of DIV2K, so that LR and HR have the same keys.
    """

    patch: int = 0
    step: int = 0
    max_side: int = 0
    min_side: int = 0
    strip: str = ""

    def entries(self, source: FrameSource, keys: Iterable[str], prefix: str = "") -> Iterator[Entry]:
        """Yield the parts of each image: ``0001``, or ``0001_s001`` and so on where images are cut."""
        for key in keys:
            stripped = key.removesuffix(self.strip)
            if stripped[-1:] in ("", "/"):
                raise UserError(
                    f"{source.where(key)}: --strip {self.strip} leaves nothing of its name; rename the file"
                )
            new_key = prefix + stripped
            size = _size_of(source, key) if self.patch or self.max_side or self.min_side else None
            if size is None:
                yield Entry(source, key, new_key)
                continue
            if min(size) < self.min_side:
                continue
            if not (self.patch or self.max_side):
                yield Entry(source, key, new_key)
                continue
            cuts = sub_images(size, self.patch, self.step or self.patch) if self.patch else None
            for number, crop in enumerate(cuts or equal_parts(size, self.max_side), 1):
                yield Entry(source, key, f"{new_key}_s{number:03d}", crop)


def _size_of(source: FrameSource, key: str) -> tuple[int, int] | None:
    """Return None for an image that cannot be read: it becomes an entry, so that the worker tells its fault."""
    try:
        return source.size(key)
    except Shortage:
        raise
    except UserError:
        return None


def convert_images(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    parts: ImageParts | None = None,
    hold_out: tuple[str | Path, str | Path] | None = None,
    degrade: Mapping | None = None,
    making: Making | None = None,
) -> ClipShapes:
    """Convert folders of images to an LMDB, with the file names as keys, after the folder's where there are several.

    Args:
        parts: what becomes of each image; all of it when absent.
        hold_out: (one of the folders, a store): every fifth of its images, by name, goes into that store instead, in
            parts of about twice ``max_side``. It is written first; one that is there already must hold the same images.
        degrade: ``{scale, kind, border}`` to write the LR of the images instead; sides are then in LR pixels.
    """
    parts, held = parts or ImageParts(), dict[Path, set[str]]()
    sources = {Path(folder): low_resolution(FolderSource(folder), degrade) for folder in folders}
    prefixes = {folder: f"{folder.resolve().name}_" if len(sources) > 1 else "" for folder in sources}
    if hold_out:
        folder, store = map(Path, hold_out)
        if folder not in sources:
            raise UserError(f"{folder}: is to be held out of, but is none of the folders that are converted")
        if store.resolve() == Path(out).resolve():
            raise UserError(f"{store}: is to hold both what is held out and the other images; give two names")
        held[folder] = set(sorted(sources[folder])[::HELD_OUT_EVERY])
        large = replace(parts, max_side=2 * parts.max_side)
        if not Path(out).exists():  # else nothing is written
            _write_once(list(large.entries(sources[folder], sorted(held[folder]), prefixes[folder])), store, making)

    def entries() -> Iterator[Entry]:
        for folder, source in sources.items():
            kept = (key for key in source if key not in held.get(folder, ()))
            yield from parts.entries(source, kept, prefixes[folder])

    uncut = not (parts.patch or parts.max_side or parts.min_side or held)
    return write_frames(entries(), out, making, sum(len(s.keys()) for s in sources.values()) if uncut else None)


def _write_once(entries: Sequence[Entry], out: Path, making: Making | None) -> None:
    """Write a store that a stopped run may have left whole; raise UserError where it holds something else."""
    if not out.exists():
        write_frames(entries, out, making, len(entries))
    elif not _is_made_of(out, entries):
        raise UserError(f"{out}: exists already and does not hold what is held out now; remove it")


def convert_clips(
    folder: str | Path,
    out: str | Path,
    *,
    only: Iterable[str] | None = None,
    degrade: Mapping | None = None,
    making: Making | None = None,
) -> ClipShapes:
    """Convert a folder of clip folders (Vid4, UDM10, SPMCS, your own) to an LMDB with the same keys, and a clip list.

    Args:
        only: clips to take.
        degrade: ``{scale, kind, border}`` to write the LR instead.
    """
    source = low_resolution(FolderSource(folder, only), degrade)
    if loose := source.clips().get(""):
        raise UserError(
            f"{source.where(loose[0])}: is a frame of no clip; put the frames of each clip into a folder of its own "
            f"below {folder}, or take the folder for images (--kind images)"
        )
    check_numbering(source, making)
    entries = (Entry(source, key, key) for key in source)
    return _with_list(entries, Path(out), Path(out).with_suffix(".txt"), making, len(source.keys()))


def _with_list(entries: Iterable[Entry], out: Path, listing: Path, making: Making | None, total: int) -> ClipShapes:
    """Write a store and its clip list; the list alone if a run was stopped between the two."""
    if not out.exists() and listing.exists():
        raise UserError(f"{listing}: exists, and would be replaced by the clip list of {out.name}; move it away")
    entries, recipe = list(entries), (making or Making()).recipe()
    has_stopped = out.is_dir() and not listing.exists() and recipe_of(out) == recipe and _is_made_of(out, entries)
    shapes = stored_shapes(out) if has_stopped else write_frames(entries, out, making, total)
    write_clip_list(shapes, listing)
    return shapes


def _is_made_of(store: Path, entries: Sequence[Entry]) -> bool:
    """Return whether a finished store was made of these entries: by all of its keys, and the pixels of its first frame.

    Clips of other content often have the same keys.
    """
    source, wanted = LmdbSource(store), {entry.new_key: entry for entry in entries}
    keys, skipped = source.keys(), store / SKIPPED_FILE
    left_out = {line.partition("\t")[0] for line in read_lines(skipped)} if skipped.is_file() else set()
    lacking = {printable(key, kept="\t") for key in wanted.keys() - set(keys)}
    if not (set(keys) <= wanted.keys() and lacking <= left_out):
        return False
    first = wanted[keys[0]]
    return np.array_equal(source.get(keys[0]), first.source.get(first.key, first.crop))


def stored_shapes(store: Path) -> ClipShapes:
    """Return (frames, H, W) by clip of a store that is there already."""
    source = LmdbSource(store)
    return {clip: (len(keys), *source.size(keys[0])) for clip, keys in source.clips().items()}


def _reds_part(root: Path, split: str, side: str) -> FolderSource | None:
    """Find one part of REDS as its archives unpack: ``train_sharp/000``, ``train/train_sharp/000``, ``.../X4/000``."""
    name = f"{split}_{side}"
    for folder in (root / name, root / split / name):
        if folder.is_dir():
            return FolderSource(folder / "X4" if (folder / "X4").is_dir() else folder)
    return None


def prepare_reds(root: str | Path, out: str | Path, making: Making | None = None) -> dict[str, ClipShapes]:
    """Convert REDS to LMDB stores with list files; its validation clips join the training clips as 240 to 269.

    Writes ``train_sharp_with_val.lmdb`` (HR), ``train_sharp_bicubic_with_val.lmdb`` (LR, when it is there), those of
    them that are not there yet, ``meta_info_REDS_train.txt`` (all clips but REDS4) and ``meta_info_REDS4.txt``.

    Args:
        root: folder with train_sharp, val_sharp, train_sharp_bicubic, val_sharp_bicubic as unpacked.
        out: folder for the results.
    """
    root, out, written = Path(root), Path(out), {}
    for side, name in _REDS_SIDES.items():
        train, val = _reds_part(root, "train", side), _reds_part(root, "val", side)
        if train is None and side == "sharp":
            raise UserError(f"{root}: no folder train_sharp; unpack REDS's train_sharp.zip (and val_sharp.zip) here")
        if train is None:
            continue
        for part in (train, val):
            if part is not None:
                check_numbering(part, making)
        if (out / f"{name}.lmdb").exists():
            written[name] = stored_shapes(out / f"{name}.lmdb")
        else:
            entries = [Entry(train, key, key) for key in train]
            if val is not None:
                entries += [Entry(val, key, _joined_key(key, val)) for key in val]
            written[name] = write_frames(entries, out / f"{name}.lmdb", making, len(entries))
    shapes = written.get(_REDS_SIDES["sharp"])
    if shapes:
        write_clip_list({c: s for c, s in shapes.items() if c not in REDS4}, out / "meta_info_REDS_train.txt")
        write_clip_list({c: s for c, s in shapes.items() if c in REDS4}, out / "meta_info_REDS4.txt")
    return written


def _joined_key(key: str, val: FrameSource) -> str:
    """Return the key of a validation clip's frame among the training clips: ``003/00000000`` becomes ``243/...``."""
    clip, _, frame = key.partition("/")
    if not (clip.isascii() and clip.isdecimal()):
        raise UserError(f"{val.name}: the clip '{clip}' is none of REDS, whose clips are numbers; move it away")
    return f"{int(clip) + _REDS_TRAIN_CLIPS:03d}/{frame}"


def prepare_vimeo(
    root: str | Path,
    out: str | Path,
    *,
    split: str = "train",
    degrade: Mapping | None = None,
    making: Making | None = None,
) -> ClipShapes:
    """Convert Vimeo-90K septuplets to an LMDB with keys ``00001/0001/im4``, and a clip list.

    Args:
        root: folder with ``sequences`` and ``sep_trainlist.txt``, ``sep_testlist.txt`` as unpacked.
        out: folder for ``vimeo90k_SPLIT_GT.lmdb`` or, with ``degrade``, ``vimeo90k_SPLIT_LR.lmdb``.
        split: 'train', 'test', or the name of another list file ``sep_SPLITlist.txt``.
    """
    root, out = Path(root), Path(out)
    if not (root / "sequences").is_dir():
        raise UserError(f"{root}: no folder 'sequences'; unpack vimeo_septuplet.zip here")
    clips = listed_clips(root / f"sep_{split}list.txt")
    source = FolderSource(root / "sequences", clips)
    septuplets = {key for key in source if re.fullmatch(r"im[1-7]", key.rpartition("/")[2])}
    for clip in clips:
        for number in range(1, 8):
            if f"{clip}/im{number}" not in septuplets:
                raise UserError(f"{root / 'sequences' / clip}: im{number} is missing; a septuplet has im1 to im7")
    side = "LR" if degrade else "GT"
    frames = low_resolution(source, degrade)
    kept = (Entry(frames, key, key) for key in source if clip_of(key) in clips and key in septuplets)
    listing = out / f"meta_info_Vimeo90K_{split}_{side}.txt"
    return _with_list(kept, out / f"vimeo90k_{split}_{side}.lmdb", listing, making, 7 * len(clips))


def convert_store(root: str | Path, out: str | Path, making: Making | None = None) -> ClipShapes:
    """Convert a store, or a folder of images, to a store of another format: the same frames under the same keys.

    Further versions of the frames that the store keeps (LR beside HR) go with it, and how they were made.
    """
    source = open_source(root)
    sources = source.versions() if isinstance(source, LmdbSource) else [source]
    known, making = recipe_of(Path(root)), making or Making()
    making = replace(making, facts={key: known[key] for key in ("low", "rendered") if key in known})

    entries = (Entry(part, key, key, side=getattr(part, "side", "")) for part in sources for key in part)
    return write_frames(entries, out, making, sum(len(part.keys()) for part in sources))


Span = tuple[int | None, int | None]


def find_clips(folder: str | Path) -> dict[str, Path]:
    """Find the clips directly under ``folder``, by name: video files and folders of frames; or the one video itself."""
    root = Path(folder)
    if root.is_file():
        return {root.stem: root}
    if not root.is_dir():
        raise UserError(f"{root}: the folder of clips does not exist")
    shown = [p for p in root.iterdir() if is_shown(p.name)]
    paths = [p for p in shown if p.is_dir() or p.suffix.lower() in VIDEO_SUFFIXES]
    clips: dict[str, Path] = {}
    for path in sorted(paths, key=lambda p: natural(p.name)):
        name = path.name if path.is_dir() else path.stem
        if name in clips:
            raise UserError(f"{path}: another clip is named '{name}' as well; rename one of them")
        clips[name] = path
    if not clips:
        raise UserError(f"{root}: no videos and no folders of frames in it")
    return clips


def clip_source(path: Path, halved: bool = False, multiple: int = 1, span: Span = (None, None)) -> FrameSource:
    """Open the frames of a video or of a folder, in order.

    Args:
        halved: halve each frame, which makes compressed video clean.
        multiple: height and width are cropped (center) to multiples of this.
        span: the frames taken, as a Python slice.
    """

    def frames() -> Iterator[np.ndarray]:
        folder = FolderSource(path) if path.is_dir() else None
        for frame in take(map(folder.get, folder) if folder else decode_video(path), span):
            frame = halve(frame) if halved else frame
            if min(frame.shape[:2]) < multiple:
                size = f"{frame.shape[1]}x{frame.shape[0]}"
                raise UserError(f"{path}: frames of {size} cannot be cropped to multiples of {multiple}")
            yield crop_to_multiple(frame, multiple)

    facts = path.stat()
    return StreamSource(frames, str(path), f"{facts.st_size} {facts.st_mtime_ns} {halved} {multiple} {span}")


def prepare_video_clips(
    folder: str | Path,
    out: str | Path,
    *,
    halved: bool = True,
    multiple: int = 4,
    exclude: Sequence[str] = (),
    ranges: Mapping[str, Span] | None = None,
    making: Making | None = None,
) -> ClipShapes:
    """Convert a folder of videos and frame folders, or one video, to a clip LMDB.

    Args:
        out: the store, ``NAME.lmdb``.
        halved, multiple: see :func:`clip_source`.
        exclude: clips left out.
        ranges: ``{clip: (start, stop)}``, as a Python slice: the frames taken of that clip.

    Returns:
        (frames, H, W) by clip.
    """
    if multiple < 1:
        raise UserError(f"--multiple {multiple}: must be 1 or more")
    clips = find_clips(folder)
    for name in [*exclude, *(ranges or {})]:
        if name not in clips:
            raise UserError(f"{folder}: no clip '{name}'; there are {', '.join(clips)}")
    spans = ranges or {}
    wanted = (
        (name, clip_source(path, halved, multiple, spans.get(name, (None, None))))
        for name, path in clips.items()
        if name not in exclude
    )
    return write_clips(wanted, out, making)
