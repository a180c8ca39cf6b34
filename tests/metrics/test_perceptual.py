"""pyiqa's metrics: the sentence where it is absent; its own values where it is installed."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

from kdsr_arch.metrics import perceptual_metric
from kdsr_arch.metrics.perceptual_metric import calculate_pyiqa
from tests.helpers.messages import refuses

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def fresh():
    perceptual_metric.create.cache_clear()
    yield
    perceptual_metric.create.cache_clear()


@pytest.fixture
def stand_in(monkeypatch):
    """A package of pyiqa's interface, so that what is handed to it is seen without it."""
    calls = []

    class Network:
        def __init__(self, mode):
            self.metric_mode = mode

        def __call__(self, *images):
            calls.append(images)
            return sum(image.mean() for image in images)

    def create_metric(name, device, pretrained_model_path=None, **keywords):
        if name == "dists":
            raise OSError("no route to host")
        if keywords:
            raise TypeError("unexpected keyword")
        return Network("NR" if name == "niqe" else "FR")

    module = types.ModuleType("pyiqa")
    module.list_models, module.create_metric = lambda: ["lpips", "dists", "niqe"], create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return calls


def test_images_arrive_as_rgb_in_0_1(stand_in):
    truth = 255 - IMAGE
    value = calculate_pyiqa(IMAGE, truth, metric="lpips", crop_border=2)
    first, second = stand_in[0]
    expected = torch.from_numpy(IMAGE[2:-2, 2:-2, ::-1].transpose(2, 0, 1).copy()).float()[None] / 255
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, 1 - expected)
    assert value == pytest.approx(1.0, abs=1e-6)
    calculate_pyiqa(IMAGE[..., :1], metric="niqe")
    assert len(stand_in[1]) == 1 and stand_in[1][0].shape == (1, 3, 24, 20)


@pytest.mark.parametrize(
    ("keywords", "names"),
    [
        ({"metric": "lpip"}, ["'lpip'", "'lpips'"]),
        ({"metric": "dists"}, ["dists", "no route to host", "weights: FILE"]),
        ({"metric": "dists", "weights": "w.pth"}, ["dists", "w.pth"]),
        ({"metric": "lpips", "net": "vgg"}, ["lpips", "{'net': 'vgg'}"]),
    ],
)
def test_refusals(stand_in, keywords, names):
    with refuses(*names):
        calculate_pyiqa(IMAGE, IMAGE, **keywords)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with refuses("lpips", "pyiqa", "pip install 'kdsr[metrics]'"):
        calculate_pyiqa(IMAGE, IMAGE)
    with refuses("psrn", near="psnr"):
        calculate_pyiqa(IMAGE, IMAGE, "psrn")


@pytest.mark.skipif(importlib.util.find_spec("pyiqa") is None, reason="the extra 'metrics' (pyiqa) is not installed")
def test_psnr_of_pyiqa_is_ours():
    from kdsr_arch.metrics.psnr_metric import psnr

    noisy = np.clip(IMAGE.astype(int) + 3, 0, 255).astype(np.uint8)
    assert calculate_pyiqa(noisy, IMAGE, metric="psnr", device="cpu") == pytest.approx(psnr(noisy, IMAGE), abs=1e-3)
