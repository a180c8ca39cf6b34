"""The students that ship: which one a command line means, and what they are worth on Set5."""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr

import kdsr
from kdsr_arch.cli import main
from kdsr_arch.data.pairs import DegradedSource
from kdsr_arch.data.sources import FolderSource
from kdsr_arch.infer.open import open_network
from kdsr_arch.infer.runner import Runner
from kdsr_arch.ops.bicubic import imresize_uint8
from kdsr_arch.upscale.dispatch import SHIPPED, _weights
from tests.helpers.images import write_textures
from tests.helpers.messages import refuses

SET5 = {"PlainSR_x4_20k": 31.00, "PlainSR_x4_50k": 31.385, "PlainSR_x2_14k": 37.277}  # docs/students.md
VIDEO = 24.878  # of ten frames; of all it is 25.006


def words(**given):
    return argparse.Namespace(**{"weights": None, "network": None, "quality": None, "scale": None, **given})


def test_quality_and_scale_choose_the_student():
    assert _weights(words()) == "PlainSR_x4_50k"
    assert _weights(words(quality="fast")) == "PlainSR_x4_20k"
    assert _weights(words(quality="video")) == "RLSP_x4_182k"
    assert _weights(words(scale=2)) == "PlainSR_x2_14k"
    assert _weights(words(weights="mine.pth", scale=3)) == "mine.pth"
    assert _weights(words(network="{type: FSRCNN}")) is None


def test_what_does_not_ship_is_refused():
    with refuses("--scale 3", "2, 4", "--weights"):
        _weights(words(scale=3))
    with refuses("--scale 2", "video", "4", "--weights"):
        _weights(words(quality="video", scale=2))
    with refuses("--quality best", "fast, balanced and video"):
        _weights(words(quality="best"))
    with refuses("--quality", "--weights"):
        _weights(words(quality="fast", weights="mine.pth"))


@pytest.mark.parametrize("more", [[], ["--precision", "bf16"], ["--outscale", "3"]])
def test_a_student_in_int8_says_so(more, tmp_path, capsys):
    source = write_textures(tmp_path / "images", 1, 16, 20) / "0.png"
    command = ["upscale", str(source), "-o", str(tmp_path / "big.png"), "--device", "cpu", *more]
    assert main([*command, "--weights", "PlainSR_x2_14k_int8"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("on cpu, int8")


@pytest.mark.parametrize("name", sorted(SET5))
def test_shipped_students_reach_their_figures(name, shared_data):
    """Y, crop = scale, 8 bits, MATLAB's bicubic."""
    opened = open_network(name)
    scale, runner = opened.traits.scale, Runner(opened.net, opened.traits)
    source = DegradedSource(FolderSource(shared_data / "sisr_test" / "Set5" / "HR"), scale)
    values = []
    for key in source:
        low, high = source.get_pair(key)
        sr = runner.restore(torch.from_numpy(low.copy()).permute(2, 0, 1)[None].float() / 255)[0]
        shown = sr.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        pair = (cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in (shown, high))
        values.append(calculate_psnr(*pair, crop_border=scale, test_y_channel=True))
    assert sum(values) / len(values) == pytest.approx(SET5[name], abs=0.005)


@pytest.mark.slow
def test_the_shipped_video_student_reaches_its_figure(shared_data):
    """Y, no crop, 8 bits, MATLAB's bicubic: the first ten frames of Vid4's walk and calendar."""
    assert set(SHIPPED.values()) == {*SET5, "RLSP_x4_182k"}
    values = dict.fromkeys(("RLSP_x4_182k", "PlainSR_x4_50k"), 0.0)
    for name in values:
        upscaler = kdsr.load(name, device="cpu")
        for clip in ("walk", "calendar"):
            files = sorted((shared_data / "video" / "Vid4" / "GT" / clip).iterdir())[:10]
            frames = [cv2.imread(str(file))[..., ::-1] for file in files]
            lq = np.stack([imresize_uint8(np.ascontiguousarray(frame), 0.25) for frame in frames])
            pairs = zip(upscaler(lq), frames, strict=True)
            scores = [
                calculate_psnr(sr[..., ::-1], hr[..., ::-1], crop_border=0, test_y_channel=True) for sr, hr in pairs
            ]
            values[name] += sum(scores) / len(scores) / 2
    assert values["RLSP_x4_182k"] == pytest.approx(VIDEO, abs=0.005)
    assert values["RLSP_x4_182k"] > values["PlainSR_x4_50k"]
