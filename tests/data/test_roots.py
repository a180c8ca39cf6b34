"""Several data roots as one data set, and lists of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdsr_arch.data.clip_dataset import ClipDataset
from kdsr_arch.data.image_dataset import ImagePairDataset
from kdsr_arch.data.keys import distinct_names
from kdsr_arch.data.loader import open_dataset
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.prepare.frame_writer import Making
from kdsr_arch.data.prepare.plans import convert_clips, convert_images
from kdsr_arch.data.sources import FolderSource
from tests.helpers.images import write_textures
from tests.helpers.messages import refuses
from tests.helpers.options import dataset_options

IMAGES = {"scale": 2, "name": "set"}


@pytest.fixture
def roots(tmp_path):
    """Two folders of images with the same names, one as a store with LR as well; their LR."""
    for name, count, height in (("A", 3, 64), ("B", 2, 48)):
        write_textures(tmp_path / name, count, height, 64)
        low = DegradedSource(FolderSource(tmp_path / name), 2)
        convert_images([tmp_path / name], tmp_path / f"{name}_LR.lmdb", degrade={"scale": 2})
        assert len(low.keys()) == count
    convert_images([tmp_path / "B"], tmp_path / "store" / "B.lmdb", making=Making(low={"scale": 2, "kind": "BI"}))
    return tmp_path


def alone(root, phase="val", **more):
    return ImagePairDataset(dataroot_gt=root, phase=phase, **IMAGES, **more)


@pytest.mark.parametrize("second", ["B", "store/B.lmdb"])
@pytest.mark.parametrize("stored", [False, True])
def test_two_roots_are_their_images_one_after_the_other(roots, second, stored):
    lq = {"dataroot_lq": [roots / "A_LR.lmdb", roots / "B_LR.lmdb"]} if stored else {}
    both = ImagePairDataset(dataroot_gt=[roots / "A", roots / second], phase="val", **lq, **IMAGES)
    parts = [alone(roots / "A"), alone(roots / "B")]
    assert [both[i]["name"] for i in range(len(both))] == ["A/0", "A/1", "A/2", "B/0", "B/1"]
    expected = [part[i] for part in parts for i in range(len(part))]
    for index, item in enumerate(expected):
        assert both[index]["gt"].equal(item["gt"]) and both[index]["lq"].equal(item["lq"])
    train = ImagePairDataset(
        dataroot_gt=[roots / "A", roots / second], phase="train", gt_size=32, cache=True, **lq, **IMAGES
    )
    for index in range(5):
        sample = train.sample(index, np.random.default_rng(index))
        part = parts[index // 3]
        again = alone(part.pairs.gt.root, "train", gt_size=32).sample(index % 3, np.random.default_rng(index))
        assert sample["gt"].equal(again["gt"]) and sample["lq"].equal(again["lq"])


def test_a_list_of_roots_comes_out_of_an_option_file(roots):
    spec = {"type": "ImagePairDataset", "scale": 2, "dataroot_gt": [str(roots / "A"), str(roots / "B")]}
    assert len(open_dataset(dataset_options(**spec), "datasets.val")) == 5


def test_clips_of_two_roots(tmp_path):
    for root, clips in (("x/REDS", ("000", "001")), ("y/REDS", ("000",))):
        for number, clip in enumerate(clips):
            write_textures(tmp_path / root / clip, 3 + number, 32, 32)
    convert_clips(tmp_path / "y" / "REDS", tmp_path / "y" / "REDS.lmdb")
    (tmp_path / "list.txt").write_text(f"y/REDS/000 2 (32,32,3)\n{tmp_path}/x/REDS/001\n")
    given = {"dataroot_gt": [tmp_path / "x" / "REDS", tmp_path / "y" / "REDS.lmdb"], "phase": "val", **IMAGES}
    names = lambda **more: [(c.name, len(c)) for c in ClipDataset(**given, **more).selected]  # noqa: E731
    assert names() == [("x/REDS/000", 3), ("x/REDS/001", 4), ("y/REDS/000", 3)]
    assert names(meta_info_file=tmp_path / "list.txt") == [("y/REDS/000", 2), ("x/REDS/001", 4)]
    assert names(clips=["y/REDS/000"]) == [("y/REDS/000", 3)]
    with refuses("x/REDS", "y/REDS"):
        names(clips=["000"])


def test_roots_that_do_not_go_together(roots):
    with refuses("dataroot_gt", 2, "dataroot_lq", 1):
        ImagePairDataset(dataroot_gt=[roots / "A", roots / "B"], dataroot_lq=[roots / "A_LR.lmdb"], **IMAGES)
    with refuses(roots / "A", "twice"):
        ImagePairDataset(dataroot_gt=[roots / "A", roots / "A"], **IMAGES)
    assert distinct_names([roots / "A", roots / "B"]) == ["A", "B"]


def test_a_list_of_images(roots):
    write_textures(roots / "A" / "more", 1, 64, 64)
    (roots / "list.txt").write_text(f"# chosen\n2.png (64,64,3)\n\n0\n{roots}/A/more/0.png\n")
    chosen = alone(roots / "A", meta_info_file=roots / "list.txt")
    assert [gt for _, gt in chosen.entries] == ["2", "0", "more/0"]
    left = alone(roots / "A", meta_info_file=roots / "list.txt", exclude=["0.png"])
    assert [gt for _, gt in left.entries] == ["2", "more/0"]
    # what the list does not name need not pair
    stored = alone(roots / "A", dataroot_lq=roots / "A_LR.lmdb", exclude=["more/0"])
    assert torch.equal(stored[0]["lq"], alone(roots / "A")[0]["lq"])
    (roots / "list.txt").write_text("22.png\n")
    with refuses("list.txt, line 1", "'22.png'"):
        alone(roots / "A", meta_info_file=roots / "list.txt")
    with refuses("exclude", "'9'"):
        alone(roots / "A", exclude=["9"])
    with refuses("exclude"):
        alone(roots / "B", exclude=["0", "1"])
