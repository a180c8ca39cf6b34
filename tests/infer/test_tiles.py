"""Tiles equal the whole where the network is local."""

import pytest
import torch
from torch import nn

from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer, _spans, restore_tiled
from kdsr_arch.infer.traits import Traits


class Local(nn.Module):
    """Three 3x3 convolutions, strided and enlarged again for a multiple of 4: a receptive field of some 20 pixels."""

    def __init__(self, mode="image", num_frame=1, strided=False):
        super().__init__()
        self.traits = Traits(mode, 2, num_frame=num_frame, multiple=4 if strided else 1)
        down = nn.Conv2d(8, 8, 4, 4) if strided else nn.Identity()
        up = nn.ConvTranspose2d(8, 8, 4, 4) if strided else nn.Identity()
        head, tail = nn.Conv2d(3 * num_frame, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        body = nn.Conv2d(8, 8, 3, padding=1)
        self.body = nn.Sequential(head, nn.ReLU(), down, body, up, tail, nn.PixelShuffle(2))

    def forward(self, x):
        if self.traits.mode == "recurrent":
            return self.body(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.body(x.flatten(1, -3) if x.dim() == 5 else x)


@pytest.mark.parametrize("size", [(37, 52), (24, 24), (8, 70)])
@pytest.mark.parametrize("tile", [8, 13, 64])
@pytest.mark.parametrize("strided", [False, True])
def test_images(size, tile, strided, device):
    net, lq = Local(strided=strided).to(device), torch.rand(1, 3, *size, device=device)
    runner = Runner(net, net.traits)
    traits = runner.traits
    whole = runner.restore(lq)
    tiled = restore_tiled(runner.restore, lq, 2, tile, overlap=16, multiple=traits.multiple)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() < 1e-5


def test_too_little_overlap_is_noticed():
    """The law above can fail: without overlap the seams differ."""
    runner, lq = Runner(Local(), Local().traits), torch.rand(1, 3, 40, 40)
    assert (restore_tiled(runner.restore, lq, 2, 16, overlap=0) - runner.restore(lq)).abs().max() > 1e-3


@pytest.mark.parametrize("mode,num_frame", [("window", 3), ("recurrent", 1)])
def test_clips(mode, num_frame, device):
    net = Local(mode, num_frame).to(device)
    runner = Runner(net, net.traits)
    lq = torch.rand(4, 3, 30, 44)
    whole, tiled = (Restorer(runner, device, tile=tile, overlap=8).frames(lq, [0, 1, 2, 3]) for tile in (0, 12))
    assert whole.shape == (4, 3, 60, 88)
    assert (whole - tiled).abs().max() < 1e-5


@pytest.mark.parametrize(
    "length,tile,overlap,multiple", [(37, 8, 3, 1), (100, 33, 10, 4), (5, 8, 2, 4), (64, 64, 0, 1)]
)
def test_spans_cover_every_pixel_once(length, tile, overlap, multiple):
    spans = _spans(length, tile, overlap, multiple)
    covered = [i for start, end, _, _ in spans for i in range(start, end)]
    assert covered == list(range(length))
    for start, end, outer_start, outer_end in spans:
        assert start % multiple == 0 and outer_start % multiple == 0
        assert outer_start == max(start - -(-overlap // multiple) * multiple, 0)
        assert outer_end >= min(end + overlap, length) and end - start < tile + multiple
