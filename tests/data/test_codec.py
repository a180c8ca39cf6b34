"""What is an image, and what is refused."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from kdsr_arch import errors
from kdsr_arch.data.augment import Crop
from kdsr_arch.data.store.codec import ImageFileCodec, codec_of
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


def test_sixteen_bits_are_refused(frames):
    ok, value = cv2.imencode(".png", frames[0].astype(np.uint16) * 257)
    assert ok
    with refuses("deep.png", "uint16", "8-bit"):
        CODEC.decode(value.tobytes(), "deep.png")


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
