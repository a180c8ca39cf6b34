"""Videos: what is kept, what is refused, what an interruption leaves."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from kdsr_arch.cli import main
from kdsr_arch.data.prepare.decode_video import decode_video
from kdsr_arch.errors import UserError
from kdsr_arch.infer.pixels import to_float, to_pixels
from kdsr_arch.upscale import video as video_module
from kdsr_arch.upscale.picture import Picture
from kdsr_arch.upscale.picture_output import write_picture
from kdsr_arch.upscale.video import VideoOptions, segment_length
from kdsr_arch.upscale.video import upscale_video as upscale
from kdsr_arch.upscale.video_input import Decoder, probe
from kdsr_arch.upscale.video_output import decode_times
from tests.helpers.messages import missing, refuses
from tests.helpers.videos import LOSSLESS, packets, rgb, times

av = pytest.importorskip("av", reason="needs the extra: pip install av")
Disposition = av.stream.Disposition


@pytest.mark.parametrize("kind", ["window", "window_y", "recurrent"])
def test_frames_are_those_of_the_network(restorer, make_video, tmp_path, kind):
    make_video(tmp_path / "a.mkv", n=9, codec="ffv1", pix="yuv444p")
    upscaler = restorer(kind)
    upscale(upscaler, tmp_path / "a.mkv", tmp_path / "b.mkv", LOSSLESS)
    lq = torch.stack([to_float(image) for image in rgb(tmp_path / "a.mkv")])
    expected = np.stack([to_pixels(sr) for sr in upscaler.runner.restore(lq[None])[0]])
    assert np.abs(rgb(tmp_path / "b.mkv").astype(int) - expected).max() <= 3  # rounding to YUV and back


@pytest.mark.parametrize("target", ["b.mp4", "b.mkv"])
def test_variable_frame_rate_sound_and_rotation_are_kept(restorer, make_video, tmp_path, target):
    shown = make_video(tmp_path / "a.mp4", n=12, vfr=True, audio=True, rotation=90, aspect=Fraction(4, 3))
    upscale(restorer("bicubic"), tmp_path / "a.mp4", tmp_path / target)
    made = times(tmp_path / target)
    assert np.diff(made) == pytest.approx(np.diff(shown), abs=1.1e-3)  # Matroska counts milliseconds
    sound, copied = packets(tmp_path / "a.mp4", "audio"), packets(tmp_path / target, "audio")
    assert [data for _, data in copied] == [data for _, data in sound]
    assert copied[5][0] - made[0] == pytest.approx(sound[5][0] - times(tmp_path / "a.mp4")[0], abs=2.1e-3)
    with av.open(str(tmp_path / target)) as container:
        frame = next(container.decode(video=0))
        assert (frame.rotation, frame.width, frame.height) == (90, 96, 64)
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_frames_that_are_not_finite_stop_the_video(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mp4", n=6)
    upscaler = restorer("bicubic")
    inner, calls = upscaler.runner.net, []

    class Failing(torch.nn.Module):
        def forward(self, x):
            calls.append(None)
            return inner(x) if len(calls) <= 3 else inner(x) * torch.nan

    upscaler.runner.net, upscaler.batch, upscaler.runner.name = Failing(), 1, "Failing"
    with refuses(tmp_path / "a.mp4", "0.12 s", "Failing", "NaN"):
        upscale(upscaler, tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()


def test_too_little_memory_for_a_frame_is_told(make_video, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise MemoryError

    make_video(tmp_path / "a.mp4", n=2)
    monkeypatch.setattr(video_module, "to_pixels", full)
    network = ["--network", "{type: Bicubic, scale: 2}"]
    assert main(["upscale", str(tmp_path / "a.mp4"), "-o", str(tmp_path / "b.mp4"), *network]) == 2
    assert not missing(capsys.readouterr().err, tmp_path / "a.mp4", "memory")


def test_odd_sizes(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mkv", n=3, w=47, h=33, codec="ffv1")
    upscale(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mp4")
    info = probe(tmp_path / "b.mp4")
    assert (info.width, info.height) == (94, 66)


@pytest.mark.parametrize("kind", ["window", "recurrent", "bicubic"])
def test_an_interrupted_run_goes_on_and_ends_the_same(restorer, make_video, tmp_path, monkeypatch, kind, capsys):
    make_video(tmp_path / "a.mp4", n=26, vfr=True)
    options = VideoOptions(codec="ffv1", segment_frames=6)  # x264 is not repeatable to the bit on busy cores
    upscaler = restorer(kind, batch=3)
    upscale(upscaler, tmp_path / "a.mp4", tmp_path / "whole.mkv", options)
    count = 0

    def stop(self, update=tqdm.update):
        nonlocal count
        count += 1
        update(self)
        if count == 16:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tqdm, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            upscale(upscaler, tmp_path / "a.mp4", tmp_path / "b.mkv", options)
    assert not (tmp_path / "b.mkv").exists() and (tmp_path / ".b.mkv.work").is_dir()
    progress = upscale(upscaler, tmp_path / "a.mp4", tmp_path / "b.mkv", options)
    assert "going on after frame" in capsys.readouterr().out and progress.n == 26
    assert packets(tmp_path / "b.mkv", "video") == packets(tmp_path / "whole.mkv", "video")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mkv", "whole.mkv"]


def test_segments_are_shorter_where_frames_take_longer(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mkv", n=2)
    info = probe(tmp_path / "a.mkv")
    assert segment_length(restorer("bicubic"), info) == 256  # whole pieces of 16
    upscaler = restorer("window", batch=2)
    upscaler.runner.net.heavy = torch.nn.Parameter(torch.zeros(10**6))
    sizes = [(96, 64), (192, 128), (3840, 2160)]
    lengths = [segment_length(upscaler, replace(info, width=width, height=height)) for width, height in sizes]
    assert lengths[0] > lengths[1] > lengths[2] == 26


def test_segments_of_other_settings_are_not_used(restorer, make_video, tmp_path, monkeypatch):
    make_video(tmp_path / "a.mp4", n=12)
    with monkeypatch.context() as patch:
        patch.setattr(video_module, "assemble", lambda *_: (_ for _ in ()).throw(UserError("stop")))
        with pytest.raises(UserError, match="stop"):
            upscale(restorer("bicubic"), tmp_path / "a.mp4", tmp_path / "b.mp4", VideoOptions(segment_frames=4))
    progress = upscale(
        restorer("bicubic"), tmp_path / "a.mp4", tmp_path / "b.mp4", VideoOptions(segment_frames=4, crf=30)
    )
    assert progress.n == 12 and progress.initial == 0


@given(order=st.permutations(list(range(8))), gaps=st.lists(st.integers(1, 90), min_size=8, max_size=8))
def test_decoding_times_law(order, gaps):
    shown = np.cumsum(gaps).tolist()
    decoded = decode_times(shown, order)
    assert all(a < b for a, b in zip(decoded, decoded[1:], strict=False))
    assert all(dts <= shown[number] for dts, number in zip(decoded, order, strict=True))


def test_refusals(restorer, make_video, tmp_path):
    make_video(tmp_path / "pq.mkv", n=2, pix="yuv420p10le", tags=(9, 16, 9, 1))
    make_video(tmp_path / "good.mp4", n=2)
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    for name, names in {"pq.mkv": ["HDR10", "SDR"], "text.mp4": ["no video"], "sound.mp4": ["audio"]}.items():
        with refuses(tmp_path / name, *names):
            upscale(restorer("bicubic"), tmp_path / name, tmp_path / "b.mp4")
    with refuses("--codec libx265x", near="libx265"):
        upscale(restorer("bicubic"), tmp_path / "good.mp4", tmp_path / "b.mp4", VideoOptions(codec="libx265x"))
    with refuses("libx264", "96x64", "'warp'"):
        upscale(restorer("bicubic"), tmp_path / "good.mp4", tmp_path / "b.mp4", VideoOptions(preset="warp"))
    assert not [p for p in tmp_path.iterdir() if "b.mp4" in p.name]


def test_a_song_with_a_cover_is_no_video(restorer, tmp_path):
    with av.open(str(tmp_path / "song.mp3"), "w") as out:
        sound, cover = out.add_stream("libmp3lame", rate=44100), out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 16, 16, "rgb24", Disposition.attached_pic.value
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, 1)
        out.mux([*cover.encode(picture), *cover.encode()])
        for number in range(50):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1152 * number
            out.mux(sound.encode(frame))
        out.mux(sound.encode())
    with refuses(tmp_path / "song.mp3", "no video stream", "a cover picture, audio"):
        upscale(restorer("bicubic"), tmp_path / "song.mp3", tmp_path / "b.mp4")
    with refuses(tmp_path / "song.mp3", "no video stream"):
        next(decode_video(tmp_path / "song.mp3"))


def test_a_container_that_cannot_hold_the_codec(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mkv", n=3)
    with refuses(tmp_path / "b.mov", "libvpx-vp9", ".mkv"):
        upscale(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mov", VideoOptions(codec="libvpx-vp9"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mkv"]


def test_the_command(make_video, tmp_path, monkeypatch, capsys):
    make_video(tmp_path / "a.mp4", n=3)
    monkeypatch.chdir(tmp_path)
    words = ["upscale", "a.mp4", "-o", "b.mp4", "--network", "type: Bicubic, scale: 2"]
    assert main(words) == 0 and "3 frames" in capsys.readouterr().out
    assert main(words) == 2 and not missing(capsys.readouterr().err, "b.mp4", "--overwrite")


@pytest.mark.parametrize(("codec", "names"), [("qtrle", ["write .mov instead"]), ("huffyuv", ["another --codec"])])
def test_a_container_that_holds_the_streams_is_named(restorer, make_video, tmp_path, codec, names):
    make_video(tmp_path / "a.mkv", n=3)
    with refuses(tmp_path / "b.mkv", codec, *names, without=["write .mkv"]):
        upscale(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv", VideoOptions(codec=codec))


def with_subtitles(path, target, disposition=Disposition.default):
    """The video of ``path`` with two lines of text and two chapters."""
    lines = target.with_suffix(".srt")
    lines.write_text("1\n00:00:00,000 --> 00:00:00,150\nfirst\n\n2\n00:00:00,200 --> 00:00:00,350\nsecond\n")
    with av.open(str(path)) as source, av.open(str(lines)) as text, av.open(str(target), "w") as out:
        copies = {
            source: out.add_stream_from_template(source.streams.video[0]),
            text: out.add_stream_from_template(text.streams.subtitles[0]),
        }
        copies[text].metadata["language"] = "deu"
        copies[text].disposition = disposition.value
        out.set_chapters([{"id": i, "start": 200 * i, "end": 200 * (i + 1), "time_base": Fraction(1, 1000),
                           "metadata": {"title": name}} for i, name in enumerate(("one", "two"))])  # fmt: skip
        for opened, copy in copies.items():
            for packet in opened.demux():
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)


def test_subtitles_and_chapters_are_copied(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mkv", n=12)
    with_subtitles(tmp_path / "a.mkv", tmp_path / "text.mkv")
    given = packets(tmp_path / "text.mkv", "subtitles")
    assert [words for _, words in given] == [b"first", b"second"]
    upscale(restorer("bicubic"), tmp_path / "text.mkv", tmp_path / "b.mkv")
    assert packets(tmp_path / "b.mkv", "subtitles") == given
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert container.streams.subtitles[0].metadata.get("language") in ("deu", "ger")
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["one", "two"]
    with refuses(tmp_path / "b.mp4", "libx264", "srt", ".mkv"):  # mp4 does not hold this kind of text
        upscale(restorer("bicubic"), tmp_path / "text.mkv", tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize("target", ["b.mkv", "b.mp4"])
def test_dispositions_are_kept(restorer, make_video, tmp_path, target):
    """A player takes the same sound and the same subtitles as before."""
    make_video(tmp_path / "a.mkv", n=12, audio=True, sounds=[Disposition.dub, Disposition.default])
    upscale(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / target)
    with av.open(str(tmp_path / target)) as container:
        assert [s.disposition for s in container.streams.audio] == [Disposition.dub, Disposition.default]


def test_forced_subtitles_stay_forced(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mkv", n=12)
    with_subtitles(tmp_path / "a.mkv", tmp_path / "text.mkv", Disposition.forced)
    upscale(restorer("bicubic"), tmp_path / "text.mkv", tmp_path / "b.mkv")
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert container.streams.subtitles[0].disposition == Disposition.forced


def test_names_with_a_colon(make_video, tmp_path, monkeypatch, capsys):
    make_video(tmp_path / "a.mkv", n=3)
    (tmp_path / "a.mkv").rename(tmp_path / "Movie: part 1.mkv")
    monkeypatch.chdir(tmp_path)
    assert main(["upscale", "Movie: part 1.mkv", "-o", "x: 2.mkv", "--network", "{type: Bicubic, scale: 2}"]) == 0
    assert len(list(decode_video("x: 2.mkv"))) == 3


def test_a_clip_that_becomes_interlaced(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.h264", n=4)
    make_video(tmp_path / "fields.h264", n=4, options={"x264-params": "interlaced=1:tff=1"})
    with (tmp_path / "a.h264").open("ab") as file:
        file.write((tmp_path / "fields.h264").read_bytes())
    with refuses(tmp_path / "a.h264", "interlaced at 0.16 s", "bwdif", "--progressive"):
        upscale(restorer("bicubic"), tmp_path / "a.h264", tmp_path / "b.mkv")
    upscale(restorer("bicubic"), tmp_path / "a.h264", tmp_path / "b.mkv", VideoOptions(progressive=True))
    assert len(times(tmp_path / "b.mkv")) == 8


def test_interlaced_and_hlg_are_refused_with_what_to_do(restorer, make_video, tmp_path, caplog):
    make_video(tmp_path / "fields.mkv", n=4, options={"x264-params": "interlaced=1:tff=1"})
    list(decode_video(tmp_path / "fields.mkv"))  # which may be told falsely: training data are only warned of
    assert "fields.mkv: is interlaced" in caplog.text
    make_video(tmp_path / "hlg.mkv", n=2, pix="yuv420p10le", tags=(9, 18, 9, 1))
    for name, names in {"fields.mkv": ["interlaced", "bwdif"], "hlg.mkv": ["HLG", "SDR"]}.items():
        with refuses(tmp_path / name, *names):
            upscale(restorer("bicubic"), tmp_path / name, tmp_path / "b.mkv")


def test_a_folder_of_frames_is_not_written_into_a_folder_called_like_a_video(tmp_path, monkeypatch, capsys):
    write_picture(tmp_path / "in" / "1.png", Picture(np.zeros((8, 8, 3), np.uint8)))
    monkeypatch.chdir(tmp_path)
    assert main(["upscale", "in", "-o", "out.mp4", "--sequence", "--network", "{type: Bicubic, scale: 2}"]) == 2
    assert not missing(capsys.readouterr().err, "out.mp4", "folder") and not (tmp_path / "out.mp4").exists()
    assert main(["upscale", "in/1.png", "-o", "out.png", "--sequence"]) == 2
    assert not missing(capsys.readouterr().err, "1.png", "--sequence", "folder") and not (tmp_path / "out.png").exists()


def test_where_a_video_cannot_go(make_video, tmp_path, monkeypatch, capsys):
    from kdsr_arch.cli import main

    make_video(tmp_path / "a.mp4", n=2)
    before = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.chdir(tmp_path)
    network = ["--network", "{type: Bicubic, scale: 2}"]
    for target, words in (("a.mp4", "output is the input"), ("file/b.mp4", "not writable"), ("b.avi", ".avi")):
        assert main(["upscale", "a.mp4", "-o", target, *network]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "file"]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.h264", "a.mpg"])
def test_decoding_goes_on_from_any_frame_as_from_the_beginning(make_video, tmp_path, name):
    """With B-frames; not every container can seek to a frame, or tells its time before those behind it are read."""
    mpeg = name.endswith("mpg")
    options = {"g": "10", "bf": "2"} if mpeg else {"crf": "8", "g": "10", "x264-params": "open-gop=1:bframes=3"}
    make_video(tmp_path / name, n=32, codec="mpeg2video" if mpeg else "libx264", options=options)
    info = probe(tmp_path / name)
    whole = list(Decoder(info).frames())
    assert len(whole) == 32
    for number in (1, 5, 9, 11, 20, 31):
        rest = list(Decoder(info).frames(whole[number].pts))
        assert [frame.pts for frame in rest] == [frame.pts for frame in whole[number:]]
        assert all(np.array_equal(a.image, b.image) for a, b in zip(rest, whole[number:], strict=True))
