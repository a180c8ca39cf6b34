"""Image files as cameras and phones write them: turned by EXIF, with films behind the picture, with thumbnails."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin, features

from kdsr_arch import errors
from kdsr_arch.data.augment import Crop
from kdsr_arch.data.image_dataset import ImagePairDataset
from kdsr_arch.data.image_file import READABLE, decode_upright, image_size
from kdsr_arch.data.prepare.plans import convert_images, find_clips
from kdsr_arch.data.sources import FolderSource, LmdbSource
from kdsr_arch.data.store.codec import ImageFileCodec
from kdsr_arch.upscale.images import read_picture
from tests.helpers.images import texture
from tests.helpers.messages import refuses

TURNS = range(1, 9)
FORMS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "JPEG": {"quality": 100, "subsampling": 0}}
if features.check("avif") and ".avif" in READABLE:
    FORMS["AVIF"] = {"quality": 100, "subsampling": "4:4:4"}


def encoded(pixels: np.ndarray, form: str, turn: int = 1, **more) -> bytes:
    """Encode pixels as they lie on the sensor, and say in EXIF how to turn them."""
    exif = Image.Exif()
    exif[0x0112] = turn
    said = {"tiffinfo": {0x0112: turn}} if form == "TIFF" else {"exif": exif.tobytes()}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **FORMS[form], **said, **more)
    return buffer.getvalue()


def viewed(data: bytes) -> np.ndarray:
    """Return the RGB pixels that Pillow's own viewer function shows."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("turn", TURNS)
def test_every_reader_turns_images_as_a_viewer_does(tmp_path, form, turn):
    data = encoded(texture(40, 64, np.random.default_rng(turn)), form, turn)
    (path := tmp_path / f"a.{form.lower()}").write_bytes(data)
    expected, source = viewed(data), FolderSource(tmp_path)
    assert expected.shape == ((64, 40, 3) if turn > 4 else (40, 64, 3))
    assert image_size(path) == image_size(data) == source.size("a") == expected.shape[:2]
    assert ImageFileCodec().size(data, "a") == ImageFileCodec().verify(data, "a") == expected.shape[:2]
    np.testing.assert_allclose(source.get("a"), expected, atol=2)  # two JPEG decoders
    np.testing.assert_allclose(read_picture(path).color, expected, atol=2)
    np.testing.assert_allclose(decode_upright(data, cv2.IMREAD_COLOR)[..., ::-1], expected, atol=2)
    crop = Crop(3, 5, 17, 29)
    np.testing.assert_array_equal(source.get("a", crop), crop.of(source.get("a")))


def test_a_turned_pair_and_its_store_train_on_what_is_seen(tmp_path):
    """Camera files turned by EXIF and their upright copies are one data set, as folders and as a store."""
    pixels = texture(48, 96, np.random.default_rng(0))
    for name, data in {
        "gt": encoded(pixels, "PNG", 6),
        "seen": encoded(viewed(encoded(pixels, "PNG", 6)), "PNG"),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(data)
    convert_images([tmp_path / "gt"], tmp_path / "gt.lmdb")
    seen = ImagePairDataset(dataroot_gt=tmp_path / "seen", scale=2, phase="val")[0]
    for root in ("gt", "gt.lmdb"):
        item = ImagePairDataset(dataroot_gt=tmp_path / root, scale=2, phase="val")[0]
        assert item["gt"].equal(seen["gt"]) and item["lq"].equal(seen["lq"])
    assert LmdbSource(tmp_path / "gt.lmdb").size("a") == (96, 48)
    stored = LmdbSource(tmp_path / "gt.lmdb").encoded("a")
    assert Image.open(io.BytesIO(stored)).size == (48, 96)  # BasicSR reads stores without EXIF


@pytest.mark.parametrize("behind", [b"\0", b"\0" * 6000, b"ftypmp42" + bytes(range(256)) * 200, b"\xff\xd8\xff\xe0"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
def test_what_stands_behind_an_images_end_does_not_matter(form, progressive, behind):
    data = encoded(
        texture(40, 64, np.random.default_rng(0)), form, **{"progressive": progressive} if form == "JPEG" else {}
    )
    np.testing.assert_array_equal(decode_upright(data + behind), decode_upright(data))
    assert ImageFileCodec().verify(data + behind, "a") == (40, 64)


def test_a_jpeg_cut_short_is_refused_whatever_ends_in_it(tmp_path):
    """A thumbnail in EXIF is a JPEG of its own, with an end that is not the picture's."""
    pixels = texture(200, 200, np.random.default_rng(0))
    exif = Image.Exif()
    thumbnail = encoded(pixels[:40, :40], "JPEG")
    exif[0x010E] = "holds a picture"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif.tobytes() + thumbnail, quality=95, restart_marker_rows=1)
    data = buffer.getvalue()
    assert data.count(b"\xff\xd9") == 2 and decode_upright(data) is not None
    for kept in (len(data) - 1, len(data) - 2, len(data) // 2, 60):
        assert decode_upright(data[:kept]) is None
    with refuses("torn", "decode"):
        ImageFileCodec().decode(data[: len(data) // 2], "torn")


def test_a_checksum_is_compared_up_to_the_pngs_end():
    data = encoded(texture(40, 64, np.random.default_rng(0)), "PNG")
    flipped = bytearray(data + b"behind")
    flipped[60] ^= 1
    with refuses("a"):
        ImageFileCodec().verify(bytes(flipped), "a")


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".jp2", ".avif"])
def test_further_kinds_of_images_are_taken(tmp_path, suffix):
    frame = texture(40, 64, np.random.default_rng(0))
    form = {".jfif": ".jpg", ".jpe": ".jpg", ".JPG": ".jpg"}.get(suffix, suffix)
    if not cv2.haveImageWriter(f"a{form}"):
        pytest.skip(f"this OpenCV knows no {form}")
    (tmp_path / f"a{suffix}").write_bytes(cv2.imencode(form, frame)[1].tobytes())
    source = FolderSource(tmp_path)
    assert source.size("a") == (40, 64) and np.abs(source.get("a").astype(int) - frame[..., ::-1]).mean() < 12


def test_other_kinds_are_counted_and_thumbnails_are_none(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(errors, "_said", set())
    data = encoded(texture(40, 64, np.random.default_rng(0)), "PNG")
    names = ["a.png", "clip/b.png", "c.gif", "d.gif", "clip/e.HEIC", "notes.txt", ".hidden.gif"]
    strays = ["@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "clip/@eaDir/b.png", "#recycle/z.png", "__MACOSX/a.png", "._a.png"]
    for name in names + strays:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    for _ in range(2):
        assert FolderSource(tmp_path).keys() == ["a", "clip/b"]
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and "2 .gif, 1 .heic" in said[0] and str(tmp_path) in said[0]
    assert list(find_clips(tmp_path)) == ["clip"]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.gif").write_bytes(data)
    with refuses(tmp_path / "only", "1 .gif"):
        FolderSource(tmp_path / "only")


@pytest.mark.parametrize("order", [TiffImagePlugin.II, TiffImagePlugin.MM])
def test_straight_alpha_of_a_tiff_is_dropped_like_that_of_a_png(tmp_path, monkeypatch, order):
    mode, _, *rest = TiffImagePlugin.SAVE_INFO["RGBA"]
    monkeypatch.setitem(TiffImagePlugin.SAVE_INFO, "RGBA", (mode, order, *rest))
    pixels = np.full((8, 8, 4), (200, 150, 100, 50), np.uint8)
    for form in ("PNG", "TIFF"):
        (tmp_path / f"{form}.{form.lower()}").write_bytes(encoded(pixels, form))
    source = FolderSource(tmp_path)
    assert source.encoded("TIFF").startswith(order)
    np.testing.assert_array_equal(source.get("TIFF"), pixels[..., :3])
    np.testing.assert_array_equal(source.get("PNG"), pixels[..., :3])


def test_pipes_are_passed_over(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(texture(40, 64, np.random.default_rng(0)), "PNG"))
    os.mkfifo(tmp_path / "p.png")
    (tmp_path / "q.png").symlink_to("p.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")  # of this one its reader tells
    assert FolderSource(tmp_path).keys() == ["a", "gone"]


def test_links_into_each_other_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(encoded(texture(40, 64, np.random.default_rng(0)), "PNG"))
    (tmp_path / "a" / "to_b").symlink_to("../b")
    assert FolderSource(tmp_path).keys() == ["a/0", "a/to_b/0", "b/0"]
    (tmp_path / "b" / "to_a").symlink_to("../a")
    with refuses(tmp_path / "a/to_b/to_a", "link"):
        FolderSource(tmp_path)
