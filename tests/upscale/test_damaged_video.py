"""Truncated and damaged videos: what can be taken is, and what is lost is told."""

import numpy as np
import pytest

from kdsr_arch.data.prepare.decode_video import decode_video
from kdsr_arch.upscale.video import VideoOptions, upscale_video
from tests.helpers.messages import refuses
from tests.helpers.videos import times

av = pytest.importorskip("av", reason="needs the extra: pip install av")


def test_truncated_files_are_told_and_partly_taken(restorer, make_video, tmp_path, capsys):
    for name in ("a.mkv", "a.mp4"):
        make_video(tmp_path / name, n=100, options={"movflags": "+faststart"} if name == "a.mp4" else None)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(0.6 * len(data))])
    with refuses(tmp_path / "a.mkv", "truncated", "4.0 s", "2.2 s", "--partial"):
        upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv")
    with refuses(tmp_path / "a.mp4", "truncated"):  # the index lies at the end
        upscale_video(restorer("bicubic"), tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert not (tmp_path / "b.mkv").exists()
    progress = upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv", VideoOptions(partial=True))
    assert 30 < progress.n == len(times(tmp_path / "b.mkv")) < 100
    said = capsys.readouterr().out
    assert "frames were upscaled" in said and "--partial" not in said  # which was said already


def damage(path, numbers, skip=8):
    """Overwrite video packets with noise, behind their first bytes."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        place, size = places[number]
        data[place + skip : place + size] = np.random.default_rng(0).bytes(size - skip)
    path.write_bytes(data)


@pytest.mark.parametrize(("name", "codec", "number"), [
    ("a.mp4", "libx264", 60), ("a.mp4", "libx264", 117), ("a.mkv", "libvpx-vp9", 60), ("a.avi", "mpeg4", 60),
])  # fmt: skip
def test_a_damaged_packet_costs_its_frame_and_is_told(restorer, make_video, tmp_path, name, codec, number, capsys):
    shown = make_video(tmp_path / name, n=120, codec=codec)
    damage(tmp_path / name, [number])
    progress = upscale_video(restorer("bicubic"), tmp_path / name, tmp_path / "b.mkv")
    made = times(tmp_path / "b.mkv")
    assert progress.n == len(made) == 119 and made[-1] - made[0] == pytest.approx(shown[-1] - shown[0], abs=0.05)
    assert "1 of its packets are damaged, the first at" in capsys.readouterr().out


def test_what_a_transport_stream_calls_corrupt_is_told(restorer, make_video, tmp_path, capsys):
    make_video(tmp_path / "a.ts", n=60)
    data = bytearray((tmp_path / "a.ts").read_bytes())
    place = 188 * (len(data) // 376)
    data[place : place + 188] = np.random.default_rng(0).bytes(188)  # one of its packets of 188 bytes
    (tmp_path / "a.ts").write_bytes(data)
    assert upscale_video(restorer("bicubic"), tmp_path / "a.ts", tmp_path / "b.mkv").n >= 55
    assert "of its packets are damaged, the first at" in capsys.readouterr().out


def test_frames_that_the_decoder_mended_are_told(restorer, make_video, tmp_path, capsys, caplog):
    make_video(tmp_path / "a.mp4", n=30, codec="mpeg4")
    damage(tmp_path / "a.mp4", [0], skip=250)
    assert upscale_video(restorer("bicubic"), tmp_path / "a.mp4", tmp_path / "b.mp4").n == 30
    assert "of its frames are damaged, the first at 0." in capsys.readouterr().out
    list(decode_video(tmp_path / "a.mp4"))
    assert "a.mp4: has damaged frames, the first at 0." in caplog.text


def test_too_many_damaged_packets_are_refused(restorer, make_video, tmp_path, capsys):
    make_video(tmp_path / "a.mkv", n=60, codec="mjpeg", pix="yuvj420p", options={})
    damage(tmp_path / "a.mkv", range(10, 40))
    with refuses(tmp_path / "a.mkv", "packets are damaged", "0.40 s", "--partial"):
        upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv")
    assert (
        upscale_video(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv", VideoOptions(partial=True)).n == 30
    )
    assert "30 of its packets are damaged" in capsys.readouterr().out


def test_a_cut_avi_is_told(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.avi", n=120, codec="mjpeg", pix="yuvj420p", options={})
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(data[: int(0.6 * len(data))])
    with refuses(tmp_path / "a.avi", "truncated", "4.8 s"):
        upscale_video(restorer("bicubic"), tmp_path / "a.avi", tmp_path / "b.mkv")
    with refuses(tmp_path / "a.avi"):
        list(decode_video(tmp_path / "a.avi"))
