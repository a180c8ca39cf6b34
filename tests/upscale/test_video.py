"""Videos: what is kept, what is refused, what an interruption leaves."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from kdsr_arch.cli import main
from kdsr_arch.errors import UserError
from kdsr_arch.infer.pixels import to_float, to_pixels
from kdsr_arch.upscale import video as video_module
from kdsr_arch.upscale.video import VideoOptions, upscale_video
from kdsr_arch.upscale.video_input import Decoder, probe
from kdsr_arch.upscale.video_output import decode_times
from tests.helpers.messages import missing, refuses

av = pytest.importorskip("av", reason="needs the extra: pip install av")
LOSSLESS = VideoOptions(codec="ffv1")


def upscale(restorer, source, target, options=None):
    return upscale_video(restorer, source, target, options)


def times(path):
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def rgb(path):
    """What a player shows: FFmpeg's own reading of the tags."""
    return np.stack([frame.image for frame in Decoder(probe(path)).frames()])


def packets(path, kind):
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]


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


@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (6, 6, 6, 1), (1, 1, 1, 2), None])
def test_colors_and_their_tags_are_kept(restorer, make_video, tmp_path, tags):
    make_video(tmp_path / "a.mp4", n=3, tags=tags, color=(200, 60, 30))
    upscale(restorer("bicubic"), tmp_path / "a.mp4", tmp_path / "b.mp4")
    info = probe(tmp_path / "b.mp4")
    assert info.tags == (tags or (6, 6, 6, 1))  # what was not told is told as it was read
    assert np.abs(rgb(tmp_path / "b.mp4").astype(int) - (200, 60, 30)).max() <= 4


def test_ten_bits_stay_ten_bits(restorer, make_video, tmp_path):
    make_video(tmp_path / "a.mkv", n=4, codec="ffv1", pix="yuv420p10le")
    upscale(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv", LOSSLESS)
    assert probe(tmp_path / "b.mkv").pix_fmt == "yuv420p10le"
    with av.open(str(tmp_path / "b.mkv")) as container:
        luma = next(container.decode(video=0)).to_ndarray(format="gray16le") >> 6
    assert len(np.unique(luma)) > 256


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


def test_truncated_files_are_told_and_partly_taken(restorer, make_video, tmp_path, capsys):
    for name in ("a.mkv", "a.mp4"):
        make_video(tmp_path / name, n=100, options={"movflags": "+faststart"} if name == "a.mp4" else None)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(0.6 * len(data))])
    with refuses(tmp_path / "a.mkv", "truncated", "4.0 s", "2.2 s", "--partial"):
        upscale(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv")
    with refuses(tmp_path / "a.mp4", "truncated"):  # the index lies at the end
        upscale(restorer("bicubic"), tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert not (tmp_path / "b.mkv").exists()
    progress = upscale(restorer("bicubic"), tmp_path / "a.mkv", tmp_path / "b.mkv", VideoOptions(partial=True))
    assert 30 < progress.n == len(times(tmp_path / "b.mkv")) < 100
    assert "frames were upscaled" in capsys.readouterr().out


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


def with_subtitles(path, target):
    """The video of ``path`` with two lines of text and two chapters."""
    lines = target.with_suffix(".srt")
    lines.write_text("1\n00:00:00,000 --> 00:00:00,150\nfirst\n\n2\n00:00:00,200 --> 00:00:00,350\nsecond\n")
    with av.open(str(path)) as source, av.open(str(lines)) as text, av.open(str(target), "w") as out:
        copies = {
            source: out.add_stream_from_template(source.streams.video[0]),
            text: out.add_stream_from_template(text.streams.subtitles[0]),
        }
        copies[text].metadata["language"] = "deu"
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


def test_interlaced_and_hlg_are_refused_with_what_to_do(restorer, make_video, tmp_path):
    make_video(tmp_path / "fields.mkv", n=4, options={"x264-params": "interlaced=1:tff=1"})
    make_video(tmp_path / "hlg.mkv", n=2, pix="yuv420p10le", tags=(9, 18, 9, 1))
    for name, names in {"fields.mkv": ["interlaced", "bwdif"], "hlg.mkv": ["HLG", "SDR"]}.items():
        with refuses(tmp_path / name, *names):
            upscale(restorer("bicubic"), tmp_path / name, tmp_path / "b.mkv")


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
