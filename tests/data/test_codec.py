"""What is an image, and what is refused."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from kdsr_arch import errors
from kdsr_arch.data.augment import Crop
from kdsr_arch.data.store.codec import ImageFileCodec, codec_named, codec_of
from tests.helpers.messages import refuses

CODEC = ImageFileCodec()


def pillow_bytes(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_png_is_lossless_and_rgb(frames):
    value = CODEC.encode(frames[0])
    assert codec_of(value).size(value, "a") == frames[0].shape[:2]
    np.testing.assert_array_equal(CODEC.decode(value, "a"), frames[0])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(value))), frames[0])


def test_window_is_the_part_of_the_whole(frames):
    value = CODEC.encode(frames[0])
    part = CODEC.decode(value, "a", Crop(5, 9, 20, 30))
    np.testing.assert_array_equal(part, frames[0][5:25, 9:39])
    assert part.flags.c_contiguous and part.flags.owndata
    with refuses("a", "20x30", "(130, 0)", "144x176"):
        CODEC.decode(value, "a", Crop(130, 0, 20, 30))


def test_gray_palette_and_bilevel_become_rgb(frames):
    color = Image.fromarray(frames[0])
    for mode in ("L", "P", "1"):
        image = color.convert(mode)
        decoded = CODEC.decode(pillow_bytes(image, "PNG"), mode)
        np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")), err_msg=mode)


def test_alpha_is_dropped_with_one_notice(frames, caplog, monkeypatch):
    monkeypatch.setattr(errors, "_said", set())
    alpha = np.full(frames[0].shape[:2], 7, np.uint8)
    value = pillow_bytes(Image.fromarray(np.dstack([frames[0], alpha])), "PNG")
    for _ in range(2):
        np.testing.assert_array_equal(CODEC.decode(value, "with_alpha.png"), frames[0])
    assert [r.message for r in caplog.records] == ["with_alpha.png: alpha channels are dropped (said once)"]


def deep_frame(dtype=np.uint16):
    """An RGB frame with values between those of 8 bits, and how OpenCV wants it."""
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (40, 56, 3)).astype(np.uint16)
    deep[0, 0], deep[0, 1] = 0, 65535
    return deep if dtype == np.uint16 else (deep / 65535).astype(dtype)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("gray", [False, True])
def test_sixteen_bits_stay_sixteen_bits(suffix, gray):
    deep = deep_frame()
    stored = deep[..., 0] if gray else deep[..., ::-1]
    decoded = CODEC.decode(cv2.imencode(suffix, stored)[1].tobytes(), "deep")
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, deep[..., :1].repeat(3, 2) if gray else deep)


def test_float_tiffs_are_sixteen_bits_of_zero_to_one():
    values = deep_frame(np.float32)
    data = cv2.imencode(".tiff", values[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(CODEC.decode(data, "f.tiff"), deep_frame())
    for wrong in (values * 255, values - 0.5, np.where(values > 0.5, np.nan, values).astype(np.float32)):
        with refuses("f.tiff", 0, 1):
            CODEC.decode(cv2.imencode(".tiff", wrong)[1].tobytes(), "f.tiff")


def test_twelve_bits_of_a_pgm_are_scaled_by_its_own_white():
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    data = b"P5\n# a microscope's\n64 64\n4095\n" + values.astype(">u2").tobytes()
    expected = np.round(values * (65535 / 4095)).astype(np.uint16)
    np.testing.assert_array_equal(CODEC.decode(data, "m.pgm")[..., 0], expected)


def test_whole_numbers_without_a_white_are_refused():
    data = pillow_bytes(Image.fromarray(np.arange(4096, dtype=np.int32).reshape(64, 64)), "TIFF")
    with refuses("i.tif"):
        CODEC.decode(data, "i.tif")


def test_a_deep_frame_in_stores():
    deep = deep_frame()
    np.testing.assert_array_equal(CODEC.decode(CODEC.encode(deep), "a"), deep)
    for name in ("webp", "raw"):
        with refuses("16 bits", "--codec png"):
            codec_named(name).encode(deep)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_truncated_files_are_refused(frames, form):
    value = pillow_bytes(Image.fromarray(frames[0]), form)
    CODEC.decode(value, "whole")
    for kept in (0, 10, len(value) // 2, len(value) - 13):
        with refuses("torn", "decode"):
            CODEC.decode(value[:kept], "torn")


def test_what_is_no_image_is_refused():
    with refuses("note.png", "decode"):
        CODEC.decode(b"just some text, long enough to be looked at", "note.png")
    with refuses("note.png"):
        CODEC.size(b"just some text", "note.png")
