"""Which frames are chosen: over scenes and lengths, by farthest-first, sharp ones, never flat ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdsr_arch.specialize.choose import WINDOW_PIXELS, candidates, choose, farthest_first
from kdsr_arch.specialize.frames import Frame
from tests.helpers.images import texture

RNG = np.random.default_rng(0)
SCENES = [texture(48, 96, RNG) for _ in range(3)]


def clip(*lengths):
    """One scene after the other, each moving by a pixel a frame, to and fro."""
    moves = [(image, abs(i % 64 - 32)) for image, n in zip(SCENES, lengths, strict=False) for i in range(n)]
    images = [image[:, place : place + 64] for image, place in moves]
    return [Frame(number, str(number), "", np.ascontiguousarray(image)) for number, image in enumerate(images)]


def test_cuts_are_found_and_every_scene_is_kept():
    kept, count, scenes = candidates(clip(7, 5, 9), limit=100, radius=0, scale=2)
    assert (count, scenes) == (21, 3)
    assert [one.scene for one in kept] == [0] * 7 + [1] * 5 + [2] * 9


@pytest.mark.parametrize("length", [1, 5, 40, 400])
def test_candidates_stay_few_and_spread_however_long_the_input_is(length):
    kept, count, _ = candidates(clip(length), limit=10, radius=0, scale=2)
    assert count == length and min(length, 5) <= len(kept) <= 10
    gaps = np.diff([-1, *(one.number for one in kept), length])
    assert gaps.max() <= max(1, 6 * length / len(kept))


def test_the_sharpest_of_a_stretch_is_kept():
    frames = clip(400)
    for frame in frames:
        if frame.number % 8:
            frame.image[:] = cv2.blur(frame.image, (5, 5))
    kept, _, _ = candidates(frames, limit=20, radius=0, scale=2)
    assert len(kept) > 5 and all(one.number % 8 == 0 for one in kept)


def test_flat_frames_are_passed_over():
    black = [frame._replace(image=np.zeros_like(frame.image)) for frame in clip(6)]
    assert candidates(black, limit=10, radius=0, scale=2)[0] == []


def test_neighbors_come_from_the_same_scene_and_are_repeated_at_its_ends():
    frames = clip(4, 4)
    kept, _, _ = candidates(frames, limit=100, radius=2, scale=2)
    images = [frame.image for frame in frames]
    for one, wanted in zip(kept, [(0, 0, 0, 1, 2), (0, 0, 1, 2, 3), (0, 1, 2, 3, 3), (1, 2, 3, 3, 3)], strict=False):
        assert all(np.array_equal(image, images[place]) for image, place in zip(one.clip, wanted, strict=True))
    last = [4, 5, 6, 7, 7]
    assert all(np.array_equal(image, images[place]) for image, place in zip(kept[6].clip, last, strict=True))


def test_large_frames_are_cut_to_a_window_where_it_says():
    image = np.ascontiguousarray(np.tile(texture(64, 96, RNG), (8, 8, 1)))
    kept, _, _ = candidates([Frame(3, "", "", image)], limit=10, radius=0, scale=4)
    (top, left), cut = kept[0].box, kept[0].clip[0]
    height, width = cut.shape[:2]
    assert height * width <= WINDOW_PIXELS and height % 4 == width % 4 == 0 and height >= 200
    assert np.array_equal(cut, image[top : top + height, left : left + width])


def test_farthest_first_on_a_line():
    points = np.array([[0.0], [1.0], [2.0], [3.0], [10.0]])
    assert farthest_first(points, np.ones(5), 3) == [3, 4, 0]
    assert sorted(farthest_first(points, np.ones(5), 9)) == [0, 1, 2, 3, 4]


def test_of_two_as_far_the_sharper_is_chosen():
    points = np.array([[-1.0], [0.0], [1.0]])
    assert farthest_first(points, np.array([1.0, 2.0, 3.0]), 2) == [1, 2]
    assert farthest_first(points, np.array([3.0, 2.0, 1.0]), 2) == [1, 0]


def test_a_fifth_is_held_out_and_nothing_is_in_both():
    kept, _, _ = candidates(clip(20, 20, 20), limit=100, radius=0, scale=2)
    taught, held_out = choose(kept, 20)
    numbers = [{one.number for one in part} for part in (taught, held_out)]
    assert len(taught) == 16 and len(held_out) == 4 and not numbers[0] & numbers[1]
    assert {one.scene for one in taught} == {0, 1, 2}
