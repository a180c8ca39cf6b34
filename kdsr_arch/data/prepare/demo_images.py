"""A handful of photographs that ship inside the package scikit-image, for image option files that run anywhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from kdsr_arch.data.prepare.decode_video import halve
from kdsr_arch.errors import UserError

__all__ = ["TEST", "TRAIN", "prepare"]

TRAIN = ("astronaut.png", "coffee.png", "ihc.png", "motorcycle_left.png", "hubble_deep_field.jpg", "retina.jpg")
TEST = ("chelsea.png", "rocket.jpg")


def prepare(root: str | Path = "datasets/images") -> Path:
    """Makes the folders ``train_GT`` and ``test_GT`` of PNG files under ``root``, unless they are there.

    JPEG files are halved, which takes most of their compression away. A folder is whole or absent.

    Raises:
        UserError: scikit-image or one of its images is missing, or the folder cannot be written.
    """
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for folder, names in (("train_GT", TRAIN), ("test_GT", TEST)):
            if not (root / folder).is_dir():
                _write(root / folder, names)
    except OSError as error:
        raise UserError(f"{root}: the images cannot be written ({error.strerror or error})") from None
    return root


def _write(folder: Path, names: tuple[str, ...]) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name in names:
            file = aside / Path(name).with_suffix(".png").name
            if not cv2.imwrite(str(file), _photograph(name)):
                raise UserError(f"{file.name}: cannot be written in {folder.parent}; the disk may be full")
        aside.chmod(0o755)
        os.rename(aside, folder)
    except FileExistsError:  # another process was first
        pass
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _photograph(name: str) -> np.ndarray:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UserError("these images ship in scikit-image: pip install scikit-image, or name a folder of your own")
    path = Path(spec.origin).parent / "data" / name
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{path}: missing; name a folder of your own images in dataroot_gt, without `prepare`")
    return halve(image) if path.suffix == ".jpg" else image
