"""BasicSR's own test data sets go through the evaluator."""

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset

from kdsr_arch.archs.bicubic_arch import Bicubic
from kdsr_arch.infer.traits import Traits
from tests.helpers.options import evaluator

METRICS = {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": True}}


@pytest.fixture
def folders(tmp_path):
    """Two clips of 4 frames: HR of 32x40 and LR of 16x20, noise."""
    rng = np.random.default_rng(0)
    for clip in ("000", "001"):
        for side, size in (("gt", (32, 40)), ("lq", (16, 20))):
            (tmp_path / side / clip).mkdir(parents=True)
            for i in range(4):
                image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                cv2.imwrite(str(tmp_path / side / clip / f"{i:08d}.png"), image)
    return tmp_path


def options(folders, **more):
    return {
        "name": "REDS4",
        "dataroot_gt": str(folders / "gt"),
        "dataroot_lq": str(folders / "lq"),
        "phase": "val",
        "io_backend": {"type": "disk"},
        "cache_data": False,
        "num_frame": 3,
        "padding": "reflection_circle",
        "scale": 2,
        **more,
    }


class Middle(torch.nn.Module):
    """Bicubic of the center frame, as a window network."""

    def __init__(self):
        super().__init__()
        self.inner, self.traits = Bicubic(2), Traits("window", 2, num_frame=3)

    def forward(self, x):
        return self.inner(x[:, 1])


class Each(torch.nn.Module):
    """Bicubic of every frame, as a recurrent network."""

    def __init__(self):
        super().__init__()
        self.inner, self.traits = Bicubic(2), Traits("recurrent", 2)

    def forward(self, x):
        return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def run(net, opt):
    return evaluator(2, opt, metrics=METRICS).run(net, build_dataset(opt), torch.device("cpu"), progress=False)


def test_video_test_sets(folders):
    windows = run(Middle(), options(folders, type="VideoTestDataset"))
    whole = run(Each(), options(folders, type="VideoRecurrentTestDataset", num_frame=-1, cache_data=True))
    assert [(name, count) for name, _, count in windows.per_item] == [("000", 4), ("001", 4)]
    assert windows.per_item == whole.per_item
    assert windows.protocol == "Y channel, no crop, all frames, stored LR x2"


def test_image_sets(folders):
    opt = {
        "name": "images",
        "type": "PairedImageDataset",
        "phase": "val",
        "scale": 2,
        "io_backend": {"type": "disk"},
        "dataroot_gt": str(folders / "gt" / "000"),
        "dataroot_lq": str(folders / "lq" / "000"),
    }
    result = run(Bicubic(2), opt)
    clip = run(Middle(), options(folders, type="VideoTestDataset"))
    assert sorted(name for name, _, _ in result.per_item) == [f"{i:08d}" for i in range(4)]  # BasicSR does not sort
    assert result.mean["psnr"] == pytest.approx(clip.per_item[0][1]["psnr"], abs=1e-9)


def test_images_without_ground_truth(folders, tmp_path):
    opt = {
        "name": "plain",
        "type": "SingleImageDataset",
        "phase": "val",
        "io_backend": {"type": "disk"},
        "scale": 2,
        "dataroot_lq": str(folders / "lq" / "001"),
    }
    evaluator(2, opt, metrics=METRICS).run(
        Bicubic(2), build_dataset(opt), torch.device("cpu"), save_dir=tmp_path / "out", progress=False
    )
    saved = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in saved] == [f"{i:08d}.png" for i in range(4)]
    assert cv2.imread(str(saved[0])).shape == (32, 40, 3)
