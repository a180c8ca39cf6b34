"""Tiled values: lossless, a crop of them is that crop of the frame, and damage is never silent."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsr_arch.data.augment import Crop
from kdsr_arch.data.store.codec import CODEC_NAMES, ImageFileCodec, codec_named, codec_of
from kdsr_arch.data.store.tiled_codec import TiledCodec
from tests.helpers.messages import refuses

TILED = ("webp", "raw")


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_lossless_in_noise_and_in_pictures(frames, name):
    noise = np.random.default_rng(0).integers(0, 256, (70, 133, 3), dtype=np.uint8)
    for frame in (frames[0], noise, noise[:1, :1], noise[:, :7], noise[:5, ::2], np.zeros((64, 64, 3), np.uint8)):
        value = codec_named(name).encode(frame)
        reader = codec_of(value)
        assert reader.size(value, "a") == reader.verify(value, "a") == frame.shape[:2]
        for data in (value, memoryview(value)):
            decoded = reader.decode(data, "a")
            np.testing.assert_array_equal(decoded, frame)
            assert decoded.flags.c_contiguous and decoded.flags.owndata
        assert codec_named(name).encode(frame) == value  # the same bytes whenever it is made


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(TILED), edge=st.sampled_from([8, 16, 50]))
def test_a_window_is_that_part_of_the_frame(data, name, edge):
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    frame = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    value = codec_named(name, edge).encode(frame)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    crop = Crop(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    np.testing.assert_array_equal(TiledCodec().decode(value, "a", crop), crop.of(frame))


def test_a_window_reads_its_own_tiles_only(frames):
    value = bytearray(codec_named("webp", 16).encode(frames[0]))
    value[-5] ^= 1  # in the last tile
    np.testing.assert_array_equal(TiledCodec().decode(value, "a", Crop(0, 0, 40, 40)), frames[0][:40, :40])
    with refuses("a", "damaged"):
        TiledCodec().decode(value, "a", Crop(140, 170, 4, 6))
    with refuses("a", "20x30", "(130, 0)", "144x176"):
        TiledCodec().decode(value, "a", Crop(130, 0, 20, 30))


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_every_flipped_byte_and_every_cut_is_found(frames, name):
    value = codec_named(name, 16).encode(frames[0][:40, :40])
    codec_of(value).verify(value, "a")
    for place in range(0, len(value), max(1, len(value) // 150)):
        damaged = bytearray(value)
        damaged[place] ^= 0x10
        with refuses("a"):
            codec_of(damaged).verify(damaged, "a")
    for kept in (0, 7, 8, 20, 30, 100, len(value) // 2, len(value) - 1):
        with refuses("a"):
            codec_of(value[:kept]).verify(value[:kept], "a")


def test_bytes_that_lie_about_themselves(frames):
    """Right checksums around the wrong tile: the decoder is not trusted either."""
    good = codec_named("webp", 64).encode(frames[0][:64, :64])
    other = codec_named("webp", 64).encode(frames[0][:32, :32])
    tile, head = other[32:], bytearray(good[:24])
    index = len(tile).to_bytes(4, "little") + zlib.crc32(tile).to_bytes(4, "little")
    head[20:24] = zlib.crc32(bytes(head[:20]) + index).to_bytes(4, "little")
    with refuses("a", "damaged"):
        TiledCodec().decode(bytes(head) + index + tile, "a")
    newer = bytearray(good)
    newer[8] = 9
    with refuses("a", 9):
        TiledCodec().decode(newer, "a")


def test_edges_and_names():
    for shape, edge in (((720, 1280, 3), 128), ((180, 320, 3), 64)):
        value = codec_named("raw").encode(np.zeros(shape, np.uint8))
        assert codec_of(value).described(value) == f"raw tiles of {edge}"
    assert isinstance(codec_named("png"), ImageFileCodec)
    with refuses("'webpp'", near="webp"):
        codec_named("webpp", 0)
    for edge in (7, 5000):
        with refuses(f"tiles of {edge}", 8, 4096):
            codec_named("raw", edge)
