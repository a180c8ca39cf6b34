"""Crops drawn where a map is bright."""

from __future__ import annotations

import cv2
import numpy as np

from kdsr_arch.data.image_dataset import CropWeights, ImagePairDataset
from tests.helpers.images import write_textures
from tests.helpers.messages import refuses


def make_map(folder, bright, size=(12, 16)):
    folder.mkdir(exist_ok=True)
    image = np.zeros((*size, 3), np.uint8)
    image[bright] = 255
    cv2.imwrite(str(folder / "0.png"), image)
    return folder


def test_half_of_the_crops_see_the_bright_place_and_the_others_lie_anywhere(tmp_path):
    weights = CropWeights(make_map(tmp_path / "maps", np.s_[2:4, 12:14]), 4)
    rng = np.random.default_rng(0)
    crops = [weights.draw(rng, "0") for _ in range(4000)]
    seen = [crop.top < 4 and crop.top + 4 > 2 and crop.left < 14 and crop.left + 4 > 12 for crop in crops]
    places = {(crop.top, crop.left) for crop in crops}
    anywhere = 4 * 4 / (9 * 13)  # places that see it; the crop cannot begin left of 0 or end behind 16
    assert abs(np.mean(seen) - (0.5 + 0.5 * anywhere)) < 0.04
    assert len(places) == 9 * 13 and all(crop[2:] == (4, 4) for crop in crops)


def test_a_black_map_is_no_map(tmp_path):
    weights = CropWeights(make_map(tmp_path / "maps", np.s_[:0]), 4)
    crops = [weights.draw(np.random.default_rng(n), "0") for n in range(500)]
    assert len({(crop.top, crop.left) for crop in crops}) > 100


def test_the_data_set_draws_by_them(tmp_path):
    images = write_textures(tmp_path / "hr", 1, 48, 64)
    maps = make_map(tmp_path / "maps", np.s_[:1, :1])
    data = ImagePairDataset(dataroot_gt=images, scale=4, gt_size=16, crop_weights=maps)
    places = [data.place(0, np.random.default_rng(n))[0] for n in range(300)]
    assert 100 < sum(place[:2] == (0, 0) for place in places) < 200
    assert ImagePairDataset(dataroot_gt=images, scale=4, crop_weights=maps, phase="val")[0]["lq"].shape == (3, 12, 16)


def test_maps_of_other_names_and_sizes_are_refused(tmp_path):
    images = write_textures(tmp_path / "hr", 1, 48, 64)
    maps = make_map(tmp_path / "maps", np.s_[:1, :1], (11, 16))
    with refuses("11x16", "12x16"):
        ImagePairDataset(dataroot_gt=images, scale=4, gt_size=16, crop_weights=maps)
    write_textures(images, 2, 48, 64)
    with refuses("1", "crop_weights"):
        ImagePairDataset(dataroot_gt=images, scale=4, gt_size=16, crop_weights=make_map(maps, np.s_[:1, :1]))
