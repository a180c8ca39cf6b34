"""Images: 8 and 16 bits, gray, transparent, profiles, folders; and outputs that are refused."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from kdsr_arch.cli import main
from kdsr_arch.infer.pixels import to_float
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.upscale.images import upscale_file, upscale_folder, upscale_picture
from kdsr_arch.upscale.picture import Picture, read_picture
from kdsr_arch.upscale.picture_output import write_picture
from tests.helpers.messages import refuses
from tests.helpers.options import evaluator

RNG = np.random.default_rng(0)
NETWORK = ["--network", "{type: Bicubic, scale: 2}"]


def noise(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_kinds_of_images_are_kept(restorer, tmp_path, dtype, channels, suffix):
    image = noise(9, 11, channels, dtype=dtype)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), image)
    upscale_file(restorer("bicubic"), tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    picture = read_picture(tmp_path / f"b{suffix}")
    made = np.concatenate([picture.color[..., ::-1], *([] if picture.alpha is None else [picture.alpha])], 2)
    assert made.dtype == dtype and made.shape == (18, 22, channels)
    planes = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float64))
    expected = upsample_bicubic(planes, 2).clamp(0, np.iinfo(dtype).max).numpy().transpose(1, 2, 0)
    assert np.abs(made - expected).max() <= (1 if dtype == np.uint8 else 2)


def test_files_round_trip(tmp_path):
    for channels, alpha in ((1, False), (3, False), (3, True), (1, True)):
        for dtype in (np.uint8, np.uint16):
            picture = Picture(noise(4, 5, channels, dtype=dtype), noise(4, 5, 1, dtype=dtype) if alpha else None)
            write_picture(tmp_path / "p.png", picture)
            back = read_picture(tmp_path / "p.png")
            assert np.array_equal(np.broadcast_to(picture.color, back.color.shape), back.color)
            assert (back.alpha is None) == (not alpha) and (not alpha or np.array_equal(back.alpha, picture.alpha))


def test_profile_and_orientation(restorer, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(noise(8, 12, 3)).save(tmp_path / "a.jpg", icc_profile=profile, exif=exif)
    upscale_file(restorer("bicubic"), tmp_path / "a.jpg", tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as made:
        assert made.size == (16, 24) and made.info["icc_profile"] == profile


def test_palettes_with_transparency(tmp_path):
    image = Image.new("P", (6, 4))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((2, 1), 1)
    image.save(tmp_path / "a.png", transparency=0)
    picture = read_picture(tmp_path / "a.png")
    assert picture.color[1, 2].tolist() == [200, 100, 50] and picture.alpha.ravel().tolist().count(255) == 1


@pytest.mark.parametrize("kind", ["bicubic", "window", "window_y"])
def test_gray_images_stay_gray(restorer, kind):
    made = upscale_picture(restorer(kind), Picture(noise(12, 14, 1)))
    assert made.color.shape == (24, 28, 1)


def test_folders_go_on_where_they_were(restorer, tmp_path, capsys):
    for name in ("a/im10.png", "a/im2.png", "b.png"):
        write_picture(tmp_path / "in" / name, Picture(noise(6, 6, 3)))
    calls = [upscale_folder(restorer("bicubic"), tmp_path / "in", tmp_path / "out") for _ in range(2)]
    assert calls == [(3, []), (0, [])] and (tmp_path / "out" / "a" / "im10.png").is_file()
    assert "3 of 3 images are in" in capsys.readouterr().out


def test_a_sequence_sees_its_neighbors(restorer, tmp_path):
    frames = noise(4, 12, 12, 3)
    for i, frame in enumerate(frames):
        write_picture(tmp_path / "in" / f"{i + 8}.png", Picture(frame))  # 8 9 10 11: natural order matters
    upscaler = restorer("window")
    upscale_folder(upscaler, tmp_path / "in", tmp_path / "out", sequence=True)
    lq = torch.from_numpy(frames.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    expected = upscaler.runner.restore(lq[None])[0].mul(255).round().clamp(0, 255).numpy()
    made = np.stack([read_picture(tmp_path / "out" / f"{i + 8}.png").color for i in range(4)])
    assert np.abs(made - expected.transpose(0, 2, 3, 1)).max() <= 1


@pytest.mark.parametrize("kind", ["bicubic", "window", "window_y"])
@pytest.mark.parametrize("tile", [0, 12])
def test_evaluation_restores_the_same_frames_to_the_bit(restorer, tmp_path, kind, tile, device):
    frames = noise(5, 21, 27, 3)
    for i, frame in enumerate(frames):
        write_picture(tmp_path / "in" / f"{i}.png", Picture(frame))
    upscaler = restorer(kind, device=device, tile=tile, overlap=4)
    upscale_folder(upscaler, tmp_path / "in", tmp_path / "out", sequence=True)
    sample = {"lq": torch.stack([to_float(f) for f in frames]), "name": "clip", "frames": list("01234")}
    tested = evaluator(2, tile=tile or None, tile_overlap=4, metrics=None)
    tested.run(upscaler.runner.net, [sample], device, tmp_path / "tested", progress=False)
    for i in range(5):
        same = read_picture(tmp_path / "tested" / "clip" / f"{i}.png").color
        assert np.array_equal(read_picture(tmp_path / "out" / f"{i}.png").color, same)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("in/a.png", "in/a.png", "output is the input"),
        ("in", "in/out", "inside the input"),
        ("in", "in/a.png", "is a file"),
        ("in/a.png", "in", "is a folder"),
        ("in/a.png", "b.xyz", "no image format"),
        ("in/a.png", "in/b.png", "exists; say --overwrite"),
        ("in/text.png", "c.png", "cannot be read as an image"),
        ("in/alpha.png", "c.jpg", "transparent"),
        ("in/deep.png", "c.jpg", "16 bits"),
        ("in/none.png", "c.png", "no such file"),
        ("empty", "out", "holds no images"),
        ("in/a.png", "in/text.png/c.png", "not writable"),
    ],
)
def test_refusals_are_one_sentence(tmp_path, monkeypatch, capsys, source, target, words):
    write_picture(tmp_path / "in" / "a.png", Picture(noise(6, 6, 3)))
    write_picture(tmp_path / "in" / "b.png", Picture(noise(6, 6, 3)))
    write_picture(tmp_path / "in" / "alpha.png", Picture(noise(6, 6, 3), noise(6, 6, 1)))
    write_picture(tmp_path / "in" / "deep.png", Picture(noise(6, 6, 3, dtype=np.uint16)))
    (tmp_path / "in" / "text.png").write_text("nothing")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["upscale", source, "-o", target, *NETWORK]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not any((tmp_path / name).exists() for name in ("c.png", "c.jpg", "out"))


def test_animations_are_refused(tmp_path):
    frames = [Image.fromarray(noise(5, 5, 3)) for _ in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with refuses(tmp_path / "a.png", "animation"):
        read_picture(tmp_path / "a.png")
