"""The colors of videos: read as players take them, kept, and losses told."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from kdsr_arch.data.prepare.decode_video import decode_video
from kdsr_arch.data.prepare.video_color import guessed_table
from kdsr_arch.infer.pixels import to_pixels
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.upscale.video import VideoOptions, upscale_video
from kdsr_arch.upscale.video_input import Decoder, probe
from tests.helpers.messages import refuses
from tests.helpers.videos import LOSSLESS, rgb

av = pytest.importorskip("av", reason="needs the extra: pip install av")


@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (6, 6, 6, 1), (1, 1, 1, 2), None])
def test_colors_and_their_tags_are_kept(restorer, make_video, tmp_path, tags):
    make_video(tmp_path / "a.mp4", n=3, tags=tags, color=(200, 60, 30))
    upscale_video(restorer("bicubic"), tmp_path / "a.mp4", tmp_path / "b.mp4")
    info = probe(tmp_path / "b.mp4")
    assert info.color.tags == (tags or (6, 6, 6, 1))  # what was not told is told as it was read
    assert np.abs(rgb(tmp_path / "b.mp4").astype(int) - (200, 60, 30)).max() <= 4


@pytest.mark.parametrize(("width", "height", "table"), [
    (1280, 536, 1), (1024, 640, 1), (640, 1136, 1), (1920, 1080, 1), (1024, 576, 5), (720, 480, 5), (576, 576, 5),
])  # fmt: skip
def test_colors_without_a_tag_are_taken_as_players_take_them(width, height, table):
    assert guessed_table(width, height) == table


def test_colors_without_a_tag_are_read_alike_for_training_and_upscaling(restorer, tmp_path):
    frame = av.VideoFrame.from_ndarray(np.full((16, 1280, 3), (200, 60, 30), np.uint8), format="rgb24")
    frame = frame.reformat(format="yuv420p", src_colorspace=1, dst_colorspace=1, src_color_range=2, dst_color_range=1)
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1280, 16, "yuv420p"
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv", LOSSLESS)
    assert probe(tmp_path / "b.mkv").color.tags == (1, 1, 1, 1)
    for image in (next(decode_video(tmp_path / "a.mkv")), rgb(tmp_path / "a.mkv"), rgb(tmp_path / "b.mkv")):
        assert np.abs(image.astype(int) - (200, 60, 30)).max() <= 4


def test_colors_of_a_matrix_that_cannot_be_read_are_refused(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mkv", n=1, tags=(1, 1, 8, 1), options={"crf": "8"})  # YCgCo
    with refuses(tmp_path / "a.mkv", "matrix 8"):
        upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv")
    with refuses(tmp_path / "a.mkv", "matrix 8"):
        next(decode_video(tmp_path / "a.mkv"))


@pytest.mark.parametrize(("codec", "written"), [("libx264", "yuv444p"), ("ffv1", "bgr0"), ("mpeg4", "yuv420p")])
def test_rgb_keeps_its_chroma_where_the_encoder_has_it(restorer, make_video, tmp_path, codec, written, capsys):
    make_video(tmp_path / "a.mkv", n=2, codec="ffv1", pix="bgr0", color=(200, 60, 30))
    upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv", VideoOptions(codec=codec))
    assert probe(tmp_path / "b.mkv").pix_fmt == written
    assert np.abs(rgb(tmp_path / "b.mkv").astype(int) - (200, 60, 30)).max() <= 4
    assert ("4:4:4 as 4:2:0" in capsys.readouterr().out) == (codec == "mpeg4")


def test_gray_video_keeps_its_brightness(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mkv", n=2, codec="ffv1", pix="gray", color=(98, 98, 98))
    upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv")
    assert np.abs(rgb(tmp_path / "b.mkv").astype(int) - 98).max() <= 2


@pytest.mark.parametrize(("codec", "pix", "words"), [
    ("ffv1", "yuva420p", "its transparency is lost"), ("libvpx-vp9", "yuva420p", "its transparency is lost"),
    ("ffv1", "yuv420p12le", "libx264 writes 10 of its 12 bits"),
])  # fmt: skip
def test_what_is_lost_is_told_before_the_work(restorer, make_video, tmp_path, codec, pix, words, capsys):
    make_video(tmp_path / "a.mkv", n=2, codec=codec, pix=pix)
    upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv")
    assert f"note: {tmp_path / 'a.mkv'}: {words}" in capsys.readouterr().out


def test_ten_bits_stay_ten_bits(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mkv", n=4, codec="ffv1", pix="yuv420p10le")
    upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv", LOSSLESS)
    assert probe(tmp_path / "b.mkv").pix_fmt == "yuv420p10le"
    with av.open(str(tmp_path / "b.mkv")) as container:
        luma = next(container.decode(video=0)).to_ndarray(format="gray16le") >> 6
    assert len(np.unique(luma)) > 256


@pytest.mark.parametrize(("source", "given", "target", "codec", "written"), [
    ("a.mkv", ("ffv1", "yuva420p"), "b.mkv", "ffv1", "yuva420p"),
    ("a.mov", ("qtrle", "argb"), "b.mov", "qtrle", "argb"),
    ("a.mov", ("qtrle", "argb"), "b.mkv", "ffv1", "bgra"),
    ("a.mov", ("prores_ks", "yuva444p10le"), "b.mov", "prores_ks", "yuva444p12le"),  # the decoder says 12
])  # fmt: skip
def test_transparency_is_kept_by_codecs_that_have_it(restorer, tmp_path, source, given, target, codec, written, capsys):
    rng = np.random.default_rng(0)
    alpha = np.kron(rng.integers(0, 2, (4, 6)), np.ones((16, 16))) * 255
    images = [np.dstack([np.full((64, 96, 3), color), alpha]).astype(np.uint8) for color in (60, 120, 180)]
    with av.open(str(tmp_path / source), "w") as out:
        stream = out.add_stream(given[0], rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, given[1]
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgba").reformat(format=given[1])
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    upscale_video(restorer("bicubic"), tmp_path / source, tmp_path / target, VideoOptions(codec=codec))
    assert "its transparency" not in capsys.readouterr().out and probe(tmp_path / target).pix_fmt == written
    made = [frame.image for frame in Decoder(probe(tmp_path / target), alpha=True).frames()]
    expected = to_pixels(upsample_bicubic(torch.from_numpy(alpha / 255).float()[None, None], 2)[0])[..., 0]
    for image, color in zip(made, (60, 120, 180), strict=True):
        scale = 257 if image.dtype == np.uint16 else 1
        assert np.abs(image[..., 3] / scale - expected).max() <= 4
        assert np.abs(image[..., :3] / scale - color).mean() <= 3


def test_edges_of_transparent_videos_get_no_fringe(restorer, tmp_path):
    alpha = np.kron(np.eye(4, 6), np.ones((16, 16))) * 255
    image = np.dstack([np.where(alpha > 0, value, 0) for value in (200, 120, 60)] + [alpha]).astype(np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bgra"
        frame = av.VideoFrame.from_ndarray(image, format="rgba").reformat(format="bgra")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv", VideoOptions(codec="ffv1"))
    made = next(iter(Decoder(probe(tmp_path / "b.mkv"), alpha=True).frames())).image
    assert np.abs(made[..., :3].astype(int) - (200, 120, 60)).max() <= 1
