"""Image pairs, and mixtures of data sets."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from kdsr_arch.data.augment import eight_bits, to_tensor
from kdsr_arch.data.image_dataset import ImagePairDataset
from kdsr_arch.data.mix_dataset import MixDataset
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.prepare.frame_writer import Entry, write_frames
from kdsr_arch.data.sources import FolderSource
from kdsr_arch.ops.bicubic import imresize
from tests.helpers.messages import refuses


@pytest.fixture(scope="module")
def images(frames, tmp_path_factory, save) -> Path:
    root = tmp_path_factory.mktemp("images")
    for index, (height, width) in enumerate([(64, 80), (48, 65), (50, 50)]):
        save(root / f"{index:04d}.png", frames[index][:height, :width])
    return root


@pytest.fixture(scope="module")
def low(images, tmp_path_factory, save) -> Path:
    """LR named as DIV2K names it."""
    root = tmp_path_factory.mktemp("low")
    source = DegradedSource(FolderSource(images), 4)
    for key in source:
        save(root / f"{key}x4.png", source.get(key))
    return root


def options(images, **changes):
    opt = {"name": "images", "phase": "train", "dataroot_gt": str(images), "scale": 4, "gt_size": 32}
    return {**opt, "use_hflip": True, "use_rot": True, **changes}


def samples(dataset, count=30):
    return [dataset.sample(i % len(dataset), np.random.default_rng(i)) for i in range(count)]


def test_images_can_be_left_out(images, low):
    for changes in ({}, {"dataroot_lq": str(low), "filename_tmpl": "{}x4"}):
        dataset = ImagePairDataset(**options(images, exclude=["0001"], **changes))
        assert [gt_key for _, gt_key in dataset.entries] == ["0000", "0002"]
    with refuses(images, "'001'", near="0001"):
        ImagePairDataset(**options(images, exclude=["001"]))
    with refuses(images, "exclude"):
        ImagePairDataset(**options(images, exclude=["0000", "0001", "0002"]))


def test_a_listed_image_that_is_missing_is_no_other_image(tmp_path, save, frames):
    for name in ("a", "a.b", "img", "img (64,72,3)"):
        save(tmp_path / "in" / f"{name}.png", frames[0])
    lines = ["a.b", "a.PNG", "img (64,72,3)", "img (144,176,3)", f"{tmp_path}/in/img (64,72,3)"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    opt = options(tmp_path / "in", meta_info_file=tmp_path / "list.txt")
    assert [key for _, key in ImagePairDataset(**opt).entries] == ["a.b", "a", "img (64,72,3)", "img", "img (64,72,3)"]
    for name in ("a.c", "a.gif"):
        (tmp_path / "list.txt").write_text(f"a.b\n{name}\n")
        with refuses("list.txt, line 2", f"'{name}'"):
            ImagePairDataset(**opt)


def test_folder_lmdb_cache_and_stored_lr_give_identical_tensors(images, low, tmp_path):
    source = FolderSource(images)
    write_frames((Entry(source, key, key) for key in source), tmp_path / "gt.lmdb")
    expected = samples(ImagePairDataset(**options(images, cache=False)))
    assert all(item["lq"].shape == (3, 8, 8) and item["gt"].shape == (3, 32, 32) for item in expected)
    for changes in (
        {"cache": True},
        {"dataroot_gt": str(tmp_path / "gt.lmdb")},
        {"dataroot_lq": str(low), "filename_tmpl": "{}x4"},
    ):
        for other, item in zip(samples(ImagePairDataset(**options(images, **changes))), expected, strict=True):
            assert torch.equal(other["lq"], item["lq"]) and torch.equal(other["gt"], item["gt"])
            assert other["key"] == item["key"]


def test_luma(images):
    dataset = ImagePairDataset(**options(images, color="y"))
    assert len(dataset) == 3
    item = dataset.sample(2, np.random.default_rng(0))
    assert item["key"] == "0002" and item["lq"].shape == (1, 8, 8) and item["gt"].shape == (1, 32, 32)


def test_whole_images_for_testing(images, low):
    dataset = ImagePairDataset(**options(images, phase="test", gt_size=None))
    item = dataset[1]
    assert item["name"] == "0001" and item["lq"].shape == (3, 12, 16) and item["gt"].shape == (3, 48, 64)
    blind = ImagePairDataset(phase="test", dataroot_lq=str(low), scale=4)[1]
    assert "gt" not in blind and torch.equal(blind["lq"], item["lq"])


def test_what_does_not_pair_is_named(images, low, tmp_path, save, frames):
    with refuses("'0000'", "0000.png", near="0000x4"):
        ImagePairDataset(**options(images, dataroot_lq=str(low)))
    paired = options(images, dataroot_lq=str(low), filename_tmpl="{}x4")
    with refuses("0000x4.png", "0000.png", "16x20", "64x80", "scale 2"):
        ImagePairDataset(**{**paired, "scale": 2})
    stray = save(low / "0009x4.png", frames[0][:16, :20])
    with refuses("0009x4.png", "HR"):
        ImagePairDataset(**paired)
    stray.unlink()
    with refuses("0001.png", "48x64", "gt_size 52"):
        ImagePairDataset(**options(images, gt_size=52))
    with refuses("filename_tmpl '{x}'", "{}"):
        ImagePairDataset(**{**paired, "filename_tmpl": "{x}"})
    with refuses("gt_size 30", "scale 4"):
        ImagePairDataset(**options(images, gt_size=30))


def test_mixtures_keep_their_proportions(images, low):
    part = {"type": "ImagePairDataset", "dataroot_gt": str(images)}
    stored = {**part, "dataroot_lq": str(low), "filename_tmpl": "{}x4"}
    mixed = MixDataset(**options(images), datasets=[part, stored], weights=[2, 1])
    assert len(mixed) == 6
    drawn = []
    for part_index, dataset in enumerate(mixed.parts):
        dataset.sample = lambda index, rng, p=part_index: drawn.append((p, index))
    for index in range(len(mixed)):
        mixed.sample(index, np.random.default_rng(index))
    assert [p for p, _ in drawn].count(0) == 4 and [p for p, _ in drawn].count(1) == 2
    assert {i for p, i in drawn if p == 0} == {0, 1, 2} and {i for p, i in drawn if p == 1} <= {0, 1, 2}
    with refuses("weights [3, 1]", 1):
        MixDataset(**options(images), datasets=[part], weights=[3, 1])
    with refuses("datasets"):
        MixDataset(**options(images))


def test_registered_and_run_by_the_loader(images):
    from kdsr_arch.data.loader import Batches, PlannedSampler
    from kdsr_arch.registry import DATASET_REGISTRY

    dataset = DATASET_REGISTRY.get("ImagePairDataset")(**options(images))
    sampler = PlannedSampler(len(dataset), 4, seed=1, total_iter=3)
    runs = [list(Batches(dataset, sampler, workers)) for workers in (0, 2)]
    for left, right in zip(*runs, strict=True):
        assert left["lq"].shape == (4, 3, 8, 8) and left["key"] == right["key"]
        assert torch.equal(left["lq"], right["lq"]) and torch.equal(left["gt"], right["gt"])


def test_basicsrs_own_data_set_is_as_repeatable(images, low, tmp_path, save):
    from kdsr_arch.data.loader import Batches, PlannedSampler
    from kdsr_arch.registry import DATASET_REGISTRY

    even, source = tmp_path / "even", FolderSource(images)
    for key in source:
        frame = source.get(key)
        save(even / f"{key}.png", frame[: frame.shape[0] // 4 * 4, : frame.shape[1] // 4 * 4])
    runs = []
    for workers, start in ((0, 0), (2, 0), (1, 1)):
        opt = options(even, dataroot_lq=str(low), filename_tmpl="{}x4", io_backend={"type": "disk"}, use_rot=True)
        dataset = DATASET_REGISTRY.get("PairedImageDataset")(opt)
        sampler = PlannedSampler(len(dataset), 4, seed=5, start_iter=start, total_iter=3)
        runs.append([b["lq"] for b in Batches(dataset, sampler, workers)])
    assert torch.equal(torch.stack(runs[0]), torch.stack(runs[1]))
    assert torch.equal(torch.stack(runs[0][1:]), torch.stack(runs[2]))


@pytest.mark.parametrize(("suffix", "scaled"), [(".png", 65535), (".tiff", 65535), (".tiff", 1.0)])
@pytest.mark.parametrize("cache", [False, True])
def test_deep_images_train_with_all_their_bits(tmp_path, suffix, scaled, cache):
    """Values are v / 65535 (float TIFF: v); LR made of them is rounded to 16 bits, not to 8."""
    rng = np.random.default_rng(0)
    values = cv2.resize(rng.random((8, 10, 3)), (80, 64), interpolation=cv2.INTER_LINEAR)
    stored = (values * 65535).round().astype(np.uint16) if scaled == 65535 else values.astype(np.float32)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), stored[..., ::-1])
    whole = ImagePairDataset(dataroot_gt=tmp_path, scale=2, phase="val", cache=cache)[0]
    expected = torch.from_numpy(values).permute(2, 0, 1).float()
    torch.testing.assert_close(whole["gt"], expected, atol=0.51 / 65535, rtol=0)
    low = imresize(expected[None].double(), 0.5)[0].float()
    torch.testing.assert_close(whole["lq"], low.clamp(0, 1), atol=2.1 / 65535, rtol=0)
    crops = ImagePairDataset(dataroot_gt=tmp_path, scale=2, phase="train", gt_size=32, cache=cache)
    sample = crops.sample(0, np.random.default_rng(1))
    places = [
        (t, s) for t in range(33) for s in range(49) if sample["gt"].equal(whole["gt"][:, t : t + 32, s : s + 32])
    ]
    assert len(places) == 1 and sample["lq"].equal(
        whole["lq"][:, places[0][0] // 2 : places[0][0] // 2 + 16, places[0][1] // 2 : places[0][1] // 2 + 16]
    )
    blurred = ImagePairDataset(dataroot_gt=tmp_path, scale=2, phase="val", degradation="BD")[0]["lq"]
    close = gaussian_filter(expected.double().numpy(), 1.6, mode="mirror", axes=(-2, -1))[:, ::2, ::2]
    torch.testing.assert_close(blurred, torch.from_numpy(close).float(), atol=1.01 / 65535, rtol=0)


def test_a_clip_of_deep_and_shallow_frames_has_one_white():
    shallow, deep = np.full((2, 2, 3), 128, np.uint8), np.full((2, 2, 3), 128 * 257, np.uint16)
    assert to_tensor([shallow, deep]).unique().tolist() == pytest.approx([128 / 255])
    assert np.array_equal(eight_bits(deep), shallow) and eight_bits(shallow) is shallow
    steps = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(eight_bits(steps), np.round(steps / 257))
