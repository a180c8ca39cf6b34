"""Small videos and networks made on the spot."""

from __future__ import annotations

import fractions

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from kdsr_arch.infer.networks import build_network
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.traits import Traits, traits_of
from kdsr_arch.upscale.chunks import Restorer
from kdsr_arch.upscale.model import Model

av = pytest.importorskip("av")


class Recurrent(nn.Module):
    """Mixes each frame with its neighbours: what lies within reach of the context is exact."""

    traits = Traits("recurrent", 2, min_clip=2)

    def forward(self, x):
        before, after = torch.cat([x[:, :1], x[:, :-1]], 1), torch.cat([x[:, 1:], x[:, -1:]], 1)
        return (0.5 * x + 0.3 * before + 0.2 * after).repeat_interleave(2, -1).repeat_interleave(2, -2)


def as_restorer(net, **keywords):
    return Restorer(Model(Runner(net.eval(), traits_of(net)), torch.device("cpu"), "no", "toy", "0"), **keywords)


@pytest.fixture
def restorer():
    """``restorer('bicubic' | 'window' | 'window_y' | 'recurrent', **keywords of Restorer)``."""

    def make(kind, **keywords):
        if kind == "recurrent":
            return as_restorer(Recurrent(), **keywords)
        if kind == "bicubic":
            return as_restorer(build_network({"type": "Bicubic", "scale": 2}), **keywords)
        net = build_network(
            {
                "type": "VESPCN",
                "scale": 2,
                "num_feat": 8,
                "num_hr_feat": 4,
                "num_block": 1,
                "num_flow_feat": 4,
                "base": "bicubic",
                "color": "y" if kind == "window_y" else "rgb",
            }
        )
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
        return as_restorer(net, **keywords)

    return make


def texture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), np.empty(0), 20, 235, cv2.NORM_MINMAX)


@pytest.fixture
def make_video():
    """Writes a small moving texture; returns the times of its frames in seconds."""

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
            streams = [add_audio(out)] if audio else []
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


def add_audio(out):
    return out.add_stream("aac", rate=44100)


def sound(out, stream, seconds):
    rng = np.random.default_rng(2)
    for i in range(int(seconds * 44100 / 1024)):
        samples = (0.1 * rng.standard_normal((1, 1024))).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 1024 * i
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
