"""The photographs of scikit-image become two folders, once, whole or not at all."""

import cv2
import pytest

from kdsr_arch.data.prepare import demo_images
from kdsr_arch.errors import UserError


def test_two_folders_of_colour_images(tmp_path):
    root = demo_images.prepare(tmp_path / "images")
    for folder, names in (("train_GT", demo_images.TRAIN), ("test_GT", demo_images.TEST)):
        files = sorted((root / folder).iterdir())
        assert [f.stem for f in files] == sorted(n.split(".")[0] for n in names)
        assert all(min(cv2.imread(str(f)).shape[:2]) >= 200 for f in files)
    before = (root / "train_GT" / "astronaut.png").stat().st_mtime_ns
    demo_images.prepare(root)
    assert (root / "train_GT" / "astronaut.png").stat().st_mtime_ns == before


def test_a_missing_image_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_images, "TRAIN", ("astronaut.png", "nobody.png"))
    with pytest.raises(UserError, match="nobody.png: missing"):
        demo_images.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []
