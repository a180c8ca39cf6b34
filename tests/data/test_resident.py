"""Images on the device are cut to what the loader would have brought, bit for bit."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.data import resident
from kdsr_arch.data.loader import open_dataset, train_batches
from tests.helpers.messages import refuses
from tests.helpers.options import make_options


@pytest.fixture(scope="module")
def images(frames, tmp_path_factory, save):
    root = tmp_path_factory.mktemp("resident")
    for index, (height, width) in enumerate([(64, 80), (48, 65), (50, 50)]):
        save(root / f"{index:04d}.png", frames[index][:height, :width])
    return root


def batches(images, device="cpu", iterations=6, **changes):
    """The batches of a training, as a step takes them."""
    section = {"type": "ImagePairDataset", "dataroot_gt": str(images), "scale": 4, "gt_size": 32, "use_hflip": True,
               "use_rot": True, "batch_size_per_gpu": 8, "num_worker_per_gpu": 0, **changes}  # fmt: skip
    train = {"total_iter": iterations, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}}
    opt = make_options({"scale": 4, "network_g": {"type": "VDSR"}, "datasets": {"train": section}, "train": train})
    source = train_batches(opt, open_dataset(opt.datasets["train"], "datasets.train"), 0, device)
    try:
        return [source.expand(batch) for batch in source]
    finally:
        source.close()


def assert_same(cut, loaded):
    assert len(cut) == len(loaded) > 0
    for ours, theirs in zip(cut, loaded, strict=True):
        for key in ("lq", "gt"):
            assert ours[key].dtype == torch.float32 and torch.equal(ours[key].cpu(), theirs[key])


@pytest.mark.parametrize("color", ["rgb", "y"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("way", ["slices", "gather"])
def test_the_same_batches_as_the_loader(images, color, workers, way, monkeypatch):
    if way == "gather":  # as on a GPU
        init = resident._Maps.__init__
        monkeypatch.setattr(resident._Maps, "__init__", lambda maps, *args: init(maps, *args) or maps._views.clear())
    loaded = batches(images, color=color)
    assert_same(batches(images, color=color, resident="device", num_worker_per_gpu=workers), loaded)


@pytest.mark.parametrize("color", ["rgb", "y"])
def test_images_of_sixteen_bits_among_others(images, tmp_path, color):
    shutil.copytree(images, tmp_path / "mixed")
    deep = np.random.default_rng(0).integers(0, 65536, (56, 72, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "mixed" / "deep.png"), deep)
    assert_same(batches(tmp_path / "mixed", color=color, resident="device"), batches(tmp_path / "mixed", color=color))


@pytest.mark.parametrize("color", ["rgb", "y"])
def test_the_same_batches_on_cuda(cuda, images, color):
    assert_same(batches(images, "cuda", color=color, resident="device"), batches(images, color=color))


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"gt_size": None, "batch_size_per_gpu": 1}, "resident needs a gt_size"),
        ({"type": "ClipDataset"}, "ImagePairDataset"),
    ],
)
def test_what_cannot_be_cut_is_refused(images, tmp_path, save, changes, part):
    if changes.get("type"):
        for number in range(9):
            save(tmp_path / "clip" / f"{number}.png", np.zeros((64, 64, 3), np.uint8))
        changes = {**changes, "clip_length": 1, "num_frame": 3}
        images = tmp_path
    with refuses(part):
        batches(images, resident="device", **changes)
