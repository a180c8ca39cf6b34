"""Video files as sources of clips: what is odd about them is mended, told, or refused in one sentence."""

from __future__ import annotations

import fractions
import logging

import cv2
import numpy as np
import pytest

from kdsr_arch import errors
from kdsr_arch.cli import main
from kdsr_arch.data.prepare.decode_video import decode_video
from kdsr_arch.data.prepare.plans import prepare_video_clips
from kdsr_arch.data.sources import open_source
from tests.helpers.messages import refuses

av = pytest.importorskip("av")
STEADY = 40  # ms


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(errors, "_said", set())


def pictures(count, height=32, width=48):
    noise = np.random.default_rng(0).integers(0, 256, (height + count, width, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return [np.ascontiguousarray(smooth[i : i + height]) for i in range(count)]


def write(path, images, codec="ffv1", pix="bgr0", times=None, rotation=None, options=None):
    """A video of RGB images, lossless by default; ``times`` in milliseconds."""
    with av.open(str(path), "w", options=options or {}) as out:
        stream = out.add_stream(codec, rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix
        stream.codec_context.time_base = fractions.Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix)
            frame.pts = times[number] if times else STEADY * number
            frame.time_base = fractions.Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def test_a_steady_upright_8_bit_video_is_taken_without_a_word(tmp_path, caplog):
    images = pictures(5)
    read = list(decode_video(write(tmp_path / "a.mkv", images)))
    assert len(read) == 5 and all(np.array_equal(a, b) for a, b in zip(read, images, strict=True))
    assert not caplog.text


def test_variable_frame_rate_is_told_once(tmp_path, caplog):
    images = pictures(6)
    path = write(tmp_path / "a.mkv", images, times=[0, 40, 80, 200, 240, 400])
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            assert len(list(decode_video(path))) == 6
    assert caplog.text.count("frame rate varies (frames last 40 ms and 120 ms)") == 1


@pytest.mark.parametrize(("rotation", "quarters"), [(90, 1), (-90, 3), (180, 2)])
def test_rotated_videos_become_upright(tmp_path, rotation, quarters):
    images = pictures(3)
    path = write(tmp_path / "a.mp4", images, "libx264rgb", "rgb24", rotation=rotation, options=None)
    read = list(decode_video(path))
    expected = [np.rot90(image, quarters) for image in images]
    assert read[0].shape == expected[0].shape
    assert all(np.abs(a.astype(int) - b).mean() < 8 for a, b in zip(read, expected, strict=True))


def test_ten_bits_are_rounded_and_told(tmp_path, caplog):
    path = write(tmp_path / "a.mkv", pictures(2), pix="yuv420p10le")
    assert [frame.dtype for frame in decode_video(path)] == [np.uint8] * 2
    assert "a.mkv: has 10 bits a color; frames are rounded to 8 bits" in caplog.text


def test_odd_sizes_are_cropped(tmp_path):
    write(tmp_path / "a.mkv", pictures(2, 33, 47), pix="yuv420p")
    assert next(decode_video(tmp_path / "a.mkv")).shape == (33, 47, 3)
    assert prepare_video_clips(tmp_path / "a.mkv", tmp_path / "a.lmdb", halved=False) == {"a": (2, 32, 44)}


@pytest.mark.parametrize(("name", "options", "names"), [
    ("end.mkv", None, ["4.0 s"]),
    ("moov.mp4", None, ["video"]),  # the index is at the end and missing
    ("index.mp4", {"movflags": "+faststart"}, ["truncated", "byte"]),
])  # fmt: skip
def test_truncated_files_are_refused_and_nothing_is_left(tmp_path, capsys, name, options, names):
    codec, pix = ("libx264", "yuv420p") if name.endswith("mp4") else ("ffv1", "bgr0")
    data = write(tmp_path / name, pictures(100), codec, pix, options=options).read_bytes()
    (tmp_path / name).write_bytes(data[: int(0.6 * len(data))])
    with refuses(tmp_path / name, *names):
        list(decode_video(tmp_path / name))
    assert main(["lmdb", "create", str(tmp_path / name), str(tmp_path / "a.lmdb"), "--quiet"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "a.lmdb").exists()


def test_what_there_is_of_a_truncated_file_can_be_taken(tmp_path):
    data = write(tmp_path / "a.mkv", pictures(100)).read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) // 2])
    command = ["lmdb", "create", str(tmp_path / "a.mkv"), str(tmp_path / "a.lmdb"), "--quiet", "--skip-bad"]
    assert main(command) == 0
    assert 30 < len(open_source(tmp_path / "a.lmdb").keys()) < 70


def test_a_pyav_that_is_too_old_is_told(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mkv", pictures(2))
    monkeypatch.setattr(av, "__version__", "16.0.1")
    with refuses("17.1", "16.0.1", "pip install"):
        list(decode_video(path))
