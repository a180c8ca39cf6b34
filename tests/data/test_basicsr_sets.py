"""BasicSR's own data sets under this project's loader: a fault in their files ends in a sentence that names these."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.data.basicsr_sets import read_item
from kdsr_arch.data.loader import first_sample, open_dataset
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import convert_images
from kdsr_arch.data.store.codec import codec_named
from kdsr_arch.infer.traits import Traits
from tests.helpers.images import texture
from tests.helpers.messages import refuses
from tests.helpers.options import dataset_options, evaluator

DISK = {"io_backend": {"type": "disk"}}
PLAIN = {"gt_size": 32, "use_hflip": False, "use_rot": False}
PAIRED = {"type": "PairedImageDataset", **DISK, **PLAIN}
VIMEO = {"type": "Vimeo90KDataset", **DISK, **PLAIN, "num_frame": 3, "random_reverse": False}
TEST = {"type": "VideoTestDataset", **DISK, "cache_data": False, "num_frame": 3, "padding": "replicate"}


@pytest.fixture
def data(tmp_path) -> Path:
    """Two clips of seven frames, HR of 64x80 with LR at scale 2, and their list."""
    for clip in ("a/1", "b/2"):
        for number in range(1, 8):
            frame = texture(64, 80, np.random.default_rng(number))
            for side, image in (("gt", frame), ("lq", frame[::2, ::2])):
                (tmp_path / side / clip).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / side / clip / f"im{number}.png"), image)
    (tmp_path / "list.txt").write_text("a/1 7 (64,80,3)\nb/2 7 (64,80,3)\n")
    return tmp_path


def opened(data: Path, spec: dict[str, Any], phase: str = "train", **changes: Any) -> Any:
    roots = {"dataroot_gt": str(data / "gt"), "dataroot_lq": str(data / "lq"), "scale": 2, "name": "reds4"}
    return open_dataset(dataset_options(**{**spec, **roots, **changes}), f"datasets.{phase}")


def drawn(data: Path, spec: dict[str, Any], **changes: Any) -> None:
    """Draw every sample of a training set."""
    dataset = opened(data, spec, **changes)
    for seed in range(40):
        first_sample(dataset, seed)


def images(data: Path) -> dict[str, str]:
    return {"dataroot_gt": str(data / "gt" / "a" / "1"), "dataroot_lq": str(data / "lq" / "a" / "1")}


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:300])
    return path


@pytest.mark.parametrize("side", ["gt", "lq"])
def test_a_truncated_image_is_named(data, side):
    torn = cut_short(data / side / "a" / "1" / "im4.png")
    with refuses(torn, "decode"):
        drawn(data, PAIRED, **images(data))
    with refuses(torn, "decode"):
        drawn(data, VIMEO, meta_info_file=str(data / "list.txt"))


@pytest.mark.parametrize(("height", "width"), [(12, 80), (60, 80), (64, 82)])
def test_small_images_and_mismatched_pairs_are_named(data, height, width):
    file = data / "gt" / "a" / "1" / "im2.png"
    cv2.imwrite(str(file), texture(64, 96, np.random.default_rng(0))[:height, :width])
    with refuses(file):
        drawn(data, PAIRED, **images(data))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"mean": [0.5, 0.5, 0.5]}, ["mean", "std"]),
        ({"mean": [0.5, 0.5, 0.5], "std": [1.0, 0.0, 1.0]}, ["std", "zero"]),
        ({"dataroot_lq": "gt"}, ["dataroot_gt", "dataroot_lq"]),
        ({"gt_size": 96}, ["patch size"]),
        ({"filename_tmpl": "{x}"}, ["filename_tmpl '{x}'"]),
    ],
)
def test_options_at_fault_ask_nobody_to_remove_images(data, changes, names):
    roots = images(data)
    if "dataroot_lq" in changes:
        changes = {"dataroot_lq": roots["dataroot_gt"]}
    with refuses(*names, without=["replace or remove it"]):
        drawn(data, PAIRED, **{**roots, **changes})


def test_an_unreadable_image_is_told_in_a_sentence(data, monkeypatch):
    file, read = data / "gt" / "a" / "1" / "im3.png", builtins.open

    def refusing(path, *args, **kwargs):
        if str(path) == str(file):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refusing)
    with refuses(file, "cannot be read (Permission denied)"):
        drawn(data, PAIRED, **images(data))


def test_a_missing_key_is_named(data):
    with refuses("datasets.train", "needs the key 'meta_info'"):
        opened(data, {"type": "RealESRGANDataset", **DISK, **PLAIN})


def test_a_blank_line_in_a_list_is_named(data):
    (data / "list.txt").write_text("a/1 7 (64,80,3)\n\nb/2 7 (64,80,3)\n")
    with refuses(data / "list.txt", "line 2"):
        opened(data, VIMEO, meta_info_file=str(data / "list.txt"))
    (data / "list.txt").write_text("a/1 7 (64,80,3)\nb/2 7 (64,80,3)\n")
    drawn(data, VIMEO, meta_info_file=str(data / "list.txt"))


class Copy(torch.nn.Module):
    """Gives the center frame back, enlarged."""

    traits = Traits("window", 2, num_frame=3)

    def forward(self, x):
        return torch.nn.functional.interpolate(x[:, 1], scale_factor=2)


def test_a_test_set_names_its_torn_frame(data):
    torn = cut_short(data / "lq" / "b" / "2" / "im7.png")
    roots = {side: str(data / side[-2:] / "b") for side in ("dataroot_gt", "dataroot_lq")}
    dataset = opened(data, TEST, "val", **roots)
    with refuses(torn, "decode"):
        evaluator().run(Copy(), dataset, torch.device("cpu"), progress=False)
    with refuses(torn, "decode"):  # this one reads all frames when it is made
        opened(data, {**TEST, "type": "VideoRecurrentTestDataset", "cache_data": True}, "val", **roots)


@pytest.mark.parametrize("codec", ["webp", "raw", "png"])
def test_stores_of_tiles_are_refused_before_they_are_read(data, codec):
    for side in ("gt", "lq"):
        folder = data / side / "a" / "1"
        convert_images([folder], data / f"{side}.lmdb", making=Making(codec=codec_named(codec)))
    roots = {"dataroot_gt": str(data / "gt.lmdb"), "dataroot_lq": str(data / "lq.lmdb"), "io_backend": {"type": "lmdb"}}
    if codec == "png":
        drawn(data, PAIRED, **roots)
        return
    with refuses(data / "gt.lmdb", "PairedImageDataset", "ImagePairDataset", "--codec png"):
        opened(data, PAIRED, **roots)


def test_a_users_own_data_set_keeps_its_traceback():
    class Mine(torch.utils.data.Dataset):
        def __getitem__(self, index):
            raise KeyError("a mistake in the class")

    with pytest.raises(KeyError, match="a mistake in the class"):
        read_item(Mine(), 0, [0])
