"""Streams in pieces: every frame once, with its context, and the result is that of the whole clip."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer, pieces
from kdsr_arch.infer.traits import Traits
from tests.helpers.messages import refuses


@given(total=st.integers(0, 23), count=st.integers(1, 6), context=st.integers(0, 5), skipped=st.integers(0, 9))
def test_every_frame_once_with_its_context(total, count, context, skipped):
    skipped = min(skipped, total)
    before = list(range(max(skipped - context, 0), skipped))
    seen = []
    for piece, first, now in pieces(range(skipped, total), count, context, before):
        seen += piece[first : first + now]
        low, high = piece[first], piece[first + now - 1]
        assert piece == list(range(piece[0], piece[-1] + 1))
        assert piece[0] <= max(low - context, before[0] if before else skipped)
        assert piece[-1] >= min(high + context, total - 1)
        assert now <= count and len(piece) <= count + 2 * context + count
    assert seen == list(range(skipped, total))


@pytest.mark.parametrize("kind", ["bicubic", "window", "window_y", "recurrent"])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_stream_is_the_clip(restorer, kind, count, device):
    lq = torch.rand(7, 3, 14, 18)
    upscaler = restorer(kind, device=device)
    runner, placed = upscaler.runner, lq.to(device)
    whole = runner.restore(placed) if kind == "bicubic" else runner.restore(placed[None])[0]
    torch.testing.assert_close(torch.stack(list(upscaler.stream(lq, count))), whole, atol=1e-5, rtol=0)


def test_a_stream_that_goes_on(restorer):
    lq = torch.rand(7, 3, 12, 12)
    upscaler = restorer("window")
    whole = list(upscaler.stream(lq, 2))
    rest = list(upscaler.stream(lq[4:], 2, before=[lq[3]]))
    torch.testing.assert_close(torch.stack(rest), torch.stack(whole[4:]), atol=1e-5, rtol=0)


def test_one_image_through_video_networks(restorer):
    lq = torch.rand(3, 12, 12)
    for kind in ("window", "recurrent"):
        upscaler = restorer(kind)
        whole = upscaler.runner.restore(lq.expand(1, 3, 3, 12, 12))[0, 1]
        torch.testing.assert_close(upscaler.piece([lq], [0])[0], whole, atol=1e-5, rtol=0)


def test_tiles_are_halved_where_memory_runs_out(restorer):
    upscaler = restorer("bicubic", overlap=8)
    inner, sizes = upscaler.runner.net, []

    class Limited(torch.nn.Module):
        traits = Traits("image", 2)

        def forward(self, x):
            sizes.append(tuple(x.shape[-2:]))
            if x.shape[-1] * x.shape[-2] > 50 * 50:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return inner(x)

    lq = torch.rand(3, 100, 120)
    expected = upscaler.piece([lq], [0])
    upscaler.runner.net = Limited()
    torch.testing.assert_close(upscaler.piece([lq], [0]), expected, atol=1e-5, rtol=0)
    assert upscaler.tile_of(100, 120) == 30 and sizes[0] == (100, 120)


class Wide(torch.nn.Sequential):
    """A kilobyte of feature map for each LR pixel."""

    traits = Traits("image", 2)

    def __init__(self):
        convolutions = torch.nn.Conv2d(3, 256, 3, padding=1), torch.nn.Conv2d(256, 12, 3, padding=1)
        super().__init__(convolutions[0], torch.nn.ReLU(), convolutions[1], torch.nn.PixelShuffle(2))


def test_tiles_are_halved_where_a_gpu_has_no_memory_left(cuda):
    net, lq = Wide().eval(), torch.rand(3, 512, 512)
    expected = Restorer(Runner(net, net.traits), torch.device("cpu")).piece([lq], [0])
    upscaler = Restorer(Runner(net.to(cuda), net.traits), cuda, overlap=2)
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + (300 << 20)
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.mem_get_info()[1])
    try:
        restored = upscaler.piece([lq], [0])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 32 <= upscaler.tile_of(512, 512) <= 256
    torch.testing.assert_close(restored.cpu(), expected, atol=1e-4, rtol=0)


def test_too_little_memory_at_last(restorer):
    upscaler = restorer("bicubic")

    class Never(torch.nn.Module):
        traits = Traits("image", 2)

        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    upscaler.runner.net = Never()
    with refuses("memory", "cpu", 16, "--overlap", "--batch"):
        upscaler.piece([torch.rand(3, 64, 64)], [0])
