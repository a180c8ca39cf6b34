"""The photographs of scikit-image become two folders, once, whole or not at all."""

import cv2

from kdsr_arch.data.prepare import demo_data
from tests.helpers.messages import refuses


def test_two_folders_of_color_images(tmp_path):
    root = demo_data.make_demo_images(tmp_path / "images")
    for folder, names in (("train_GT", demo_data.TRAIN_IMAGES), ("test_GT", demo_data.TEST_IMAGES)):
        files = sorted((root / folder).iterdir())
        assert [f.stem for f in files] == sorted(n.split(".")[0] for n in names)
        assert all(min(cv2.imread(str(f)).shape[:2]) >= 200 for f in files)
    before = (root / "train_GT" / "astronaut.png").stat().st_mtime_ns
    demo_data.make_demo_images(root)
    assert (root / "train_GT" / "astronaut.png").stat().st_mtime_ns == before


def test_a_missing_image_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_data, "TRAIN_IMAGES", ("astronaut.png", "nobody.png"))
    with refuses("nobody.png", "folder of images"):
        demo_data.make_demo_images(tmp_path)
    assert list(tmp_path.iterdir()) == []
