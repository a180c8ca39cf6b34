"""Cached frames equal the source's, and are shared with forked workers."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.pairs import CachedSource
from kdsr_arch.data.sources import FolderSource, FrameSource


class Counting(FrameSource):
    """Counts reads."""

    def __init__(self, source: FrameSource) -> None:
        self.source, self.name, self.reads = source, source.name, 0

    def keys(self):
        return self.source.keys()

    def size(self, key):
        return self.source.size(key)

    def get(self, key, crop=None):
        self.reads += 1
        return self.source.get(key, crop)


@pytest.fixture
def counting(clip_root):
    return Counting(FolderSource(clip_root))


def test_each_frame_is_read_once(counting):
    cached = CachedSource(counting, counting.keys(), 1 << 30)
    crop = Crop(2, 3, 10, 12)
    for _ in range(3):
        for key in cached:
            np.testing.assert_array_equal(cached.get(key, crop), crop.of(counting.source.get(key)))
            np.testing.assert_array_equal(cached.get(key), counting.source.get(key))
    assert counting.reads == len(counting.keys())
    with pytest.raises(ValueError, match="read-only"):
        cached.get(cached.keys()[0])[0, 0, 0] = 1


def test_a_frame_that_changes_is_told_as_by_the_source(counting, clip_root):
    cached = CachedSource(FolderSource(clip_root), counting.keys(), 1 << 30)
    key = cached.keys()[0]
    assert cached.stamp(key) == FolderSource(clip_root).stamp(key) != key


def test_the_limit_holds(counting):
    size = 64 * 80 * 3
    cached = CachedSource(counting, counting.keys(), 3 * size + 10)
    assert cached.bytes == 3 * size
    for _ in range(2):
        for key in counting.keys()[:5]:
            cached.get(key)
    assert counting.reads == 3 + 2 * 2


def test_forked_workers_fill_it_for_all(counting):
    cached = CachedSource(counting, counting.keys(), 1 << 30)
    key = cached.keys()[0]
    child = multiprocessing.get_context("fork").Process(target=cached.get, args=(key,))
    child.start()
    child.join()
    assert child.exitcode == 0
    np.testing.assert_array_equal(cached.get(key), counting.source.get(key))
    assert counting.reads == 0  # in this process


def test_a_copy_sent_to_another_process_starts_empty(counting):
    cached = CachedSource(counting, counting.keys(), 1 << 30)
    cached.get(cached.keys()[0])
    other = pickle.loads(pickle.dumps(cached))
    np.testing.assert_array_equal(other.get(cached.keys()[0]), cached.get(cached.keys()[0]))
    assert other.source.reads == 2


def test_lr_made_of_frames_that_do_not_fit_is_one_decoding_each(counting):
    from kdsr_arch.data.pairs import DegradedSource, FramePairs, PairOptions

    pairs = FramePairs(PairOptions(dataroot_gt=counting.source.name, scale=4))
    keys = counting.keys()[:4]
    pairs.gt, pairs.lq = counting, DegradedSource(counting, 4)
    expected = pairs.read(keys, keys[1:2], Crop(1, 2, 8, 8))
    assert counting.reads == 4
    half = (64 * 80 * 3 * 2 + 16 * 20 * 3 * 2) / 2**30
    pairs.cache(True, half, keys, keys)
    for _ in range(2):
        counting.reads = 0
        crops = pairs.read(keys, keys[1:2], Crop(1, 2, 8, 8))
        for left, right in zip(crops, expected, strict=True):
            np.testing.assert_array_equal(left, right)
    assert counting.reads == 2  # the two that are not in memory
