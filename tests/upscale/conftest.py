"""Small videos made on the spot."""

from __future__ import annotations

import fractions
from contextlib import suppress

import cv2
import numpy as np
import pytest

with suppress(ImportError):
    import av


def texture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), np.empty(0), 20, 235, cv2.NORM_MINMAX)


@pytest.fixture
def make_video():
    """Writes a small moving texture; returns the times of its frames in seconds."""
    pytest.importorskip("av", reason="needs the extra: pip install av")

    def make(
        path,
        n=10,
        w=48,
        h=32,
        codec="libx264",
        pix="yuv420p",
        rate=25,
        vfr=False,
        audio=False,
        sounds=(None,),
        subs=False,
        rotation=None,
        tags=None,
        color=None,
        aspect=None,
        options=None,
    ):
        big = texture(h + n, w + n)
        with av.open(str(path), "w") as out:
            video = out.add_stream(codec, rate=rate, options=options or ({"crf": "8"} if codec == "libx264" else {}))
            video.width, video.height, video.pix_fmt = w, h, pix
            context = video.codec_context
            context.time_base = fractions.Fraction(1, 1000) if vfr else fractions.Fraction(1, rate)
            if tags:
                context.color_primaries, context.color_trc, context.colorspace, context.color_range = tags
            if aspect:
                context.sample_aspect_ratio = aspect
            if rotation:
                video.set_display_rotation(rotation)
            streams = [add_audio(out, disposition) for disposition in sounds] if audio else []
            pts = [int(t) for t in np.cumsum(np.random.default_rng(1).integers(20, 80, n))] if vfr else list(range(n))
            for i in range(n):
                image = np.full((h, w, 3), color, np.uint8) if color else big[i : i + h, i : i + w]
                out.mux(video.encode(frame_of(image, pix, pts[i], context)))
            out.mux(video.encode())
            for stream in streams:
                sound(out, stream, n / rate)
        return [t * float(context.time_base) for t in pts]

    return make


def frame_of(image, pix, pts, context):
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    matrix = context.colorspace if context.colorspace in (1, 5, 9) else 5
    frame = frame.reformat(
        format=pix,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=2,
        dst_color_range=context.color_range or 1,
    )
    frame.pts, frame.time_base = pts, context.time_base
    return frame


def add_audio(out, disposition):
    stream = out.add_stream("aac", rate=44100)
    if disposition is not None:
        stream.disposition = disposition.value
    return stream


def sound(out, stream, seconds):
    rng = np.random.default_rng(2)
    for i in range(int(seconds * 44100 / 1024)):
        samples = (0.1 * rng.standard_normal((1, 1024))).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 1024 * i
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
