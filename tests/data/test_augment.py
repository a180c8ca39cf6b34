"""Flips and tensors."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from kdsr_arch.data.augment import (
    allowed_flips,
    apply_flip,
    flip_number,
    flip_of,
    random_crop,
    random_flip,
    to_tensor,
    undo_flip,
)
from kdsr_arch.ops.color import rgb_to_y


def test_the_eight_flips_are_the_symmetries_of_a_square():
    frame = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    seen = {to_tensor([frame], flip).numpy().tobytes() for flip in itertools.product((False, True), repeat=3)}
    rotations = [np.rot90(f, k) for f in (frame, frame[:, ::-1]) for k in range(4)]
    assert seen == {to_tensor([r]).numpy().tobytes() for r in rotations}
    assert len(seen) == 8


def test_flips_have_numbers_and_can_be_undone():
    planes = np.arange(2 * 5 * 7).reshape(2, 5, 7)
    mirrored = [planes, planes[:, :, ::-1], planes[:, ::-1], planes[:, ::-1, ::-1]]
    for number, expected in enumerate([*mirrored, *(m.transpose(0, 2, 1) for m in mirrored)]):
        flip = flip_of(number)
        assert flip_number(flip) == number and np.array_equal(apply_flip(planes, flip), expected)
        assert np.array_equal(undo_flip(expected, flip), planes)
    assert allowed_flips(False, False) == [0] and allowed_flips(True, False) == [0, 1]
    assert allowed_flips(False, True) == [0, 2, 4, 6] and allowed_flips(True, True) == list(range(8))


def test_tensors_are_planar_and_in_unit_range():
    frame = np.zeros((2, 3, 3), np.uint8)
    frame[1, 2] = (255, 51, 0)
    tensor = to_tensor([frame, frame])
    assert tensor.shape == (2, 3, 2, 3) and tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[0, :, 1, 2], torch.tensor([1.0, 0.2, 0.0]))


def test_luma_is_of_studio_range():
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[1] = 255  # a black row and a white one
    y = to_tensor([frame], color="y")
    assert y.shape == (1, 1, 2, 2)
    torch.testing.assert_close(y[0, 0, :, 0], torch.tensor([16 / 255, 235 / 255]), atol=1e-5, rtol=0)


def test_luma_is_that_of_the_metrics_to_the_bit():
    levels = np.arange(256, dtype=np.uint8)
    frame = np.stack([levels.reshape(16, 16), levels[::-1].reshape(16, 16), np.roll(levels, 77).reshape(16, 16)], -1)
    planar = torch.from_numpy(frame.transpose(2, 0, 1).copy())[None]
    assert torch.equal(to_tensor([frame]), planar.float().div(255))
    assert torch.equal(to_tensor([frame], color="y"), rgb_to_y(planar.float().div(255)))
    assert to_tensor([frame, frame], (True, False, True), "y").is_contiguous()


def test_options_limit_the_flips():
    rng = np.random.default_rng(0)
    assert {random_flip(rng, False, False) for _ in range(50)} == {(False, False, False)}
    assert {random_flip(rng, True, False) for _ in range(50)} == {(False, False, False), (True, False, False)}
    assert len({random_flip(rng, True, True) for _ in range(200)}) == 8


def test_crops_reach_every_corner_and_stay_inside():
    rng = np.random.default_rng(0)
    crops = {random_crop(rng, (5, 6), 4) for _ in range(300)}
    assert {(w.top, w.left) for w in crops} == set(itertools.product(range(2), range(3)))
