"""The runner gives every kind of network the frames it wants and returns the right ones."""

import pytest
import torch
from torch import nn

from kdsr_arch.infer.runner import Runner, window_indices
from kdsr_arch.infer.traits import Traits
from kdsr_arch.ops.bicubic import upsample_bicubic
from kdsr_arch.ops.color import rgb_to_y, rgb_to_ycbcr
from tests.helpers.messages import refuses


class Mark(nn.Module):
    """Repeats its (center) frame over a scale x scale block, or returns it at its own size; records its input."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        self.scale = scale
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        if x.dim() == 5 and self.training is False:
            x = x[:, x.shape[1] // 2]
        return x.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


def numbered_clip(total, channels=3, size=(4, 6), batch=2):
    frames = torch.arange(total).float().view(1, total, 1, 1, 1) + 100 * torch.arange(batch).view(batch, 1, 1, 1, 1)
    return (frames / 1000).expand(batch, total, channels, *size).clone()


def numbers(frames):
    return (frames[:, :, 0, 0, 0] * 1000).round().int().tolist()


def test_image_network_on_images_and_middle_frames_of_clips():
    runner = Runner(Mark(2), Traits("image", 2))
    assert runner.forward(torch.rand(2, 3, 4, 5)).shape == (2, 3, 8, 10)
    out = runner.forward(numbered_clip(7), clip=3)
    assert out.shape == (2, 3, 3, 8, 12)
    assert numbers(out) == [[2, 3, 4], [102, 103, 104]]


@pytest.mark.parametrize(
    ("num_frame", "clip", "expected"), [(3, None, [1, 2, 3, 4, 5]), (5, 3, [2, 3, 4]), (3, 3, [2, 3, 4]), (7, 1, [3])]
)
def test_window_network_restores_the_middle_frames(num_frame, clip, expected):
    net = Mark(2).eval()
    out = Runner(net, Traits("window", 2, num_frame=num_frame)).forward(numbered_clip(7), clip)
    assert numbers(out) == [expected, [100 + i for i in expected]]
    window = net.seen[0]
    assert window.shape[:2] == (2 * len(expected), num_frame)
    reach = num_frame // 2
    assert numbers(window)[0] == list(range(expected[0] - reach, expected[0] + reach + 1))


def test_recurrent_network_gets_the_middle_frames_of_training_clips_and_whole_clips_in_tests():
    runner = Runner(Mark().train(), Traits("recurrent", 1, min_clip=2))
    assert numbers(runner.forward(numbered_clip(9), clip=5))[0] == [2, 3, 4, 5, 6]
    assert numbers(runner.restore(numbered_clip(9)))[0] == list(range(9))


def test_a_clip_restored_frame_by_frame_equals_one_batch():
    net = nn.Conv3d(3, 3, 3, padding=(0, 1, 1))

    class Net(nn.Module):
        def forward(self, x):
            return net(x.transpose(1, 2)).squeeze(2)

    runner, clip = Runner(Net(), Traits("window", 1, num_frame=3)), torch.rand(2, 5, 3, 6, 7)
    one = runner.restore(clip)
    assert one.shape == clip.shape
    windows = [window_indices(i, 5, 3) for i in range(5)]
    torch.testing.assert_close(one, runner.restore(clip, windows=windows))
    torch.testing.assert_close(one[:, 1:-1], runner.forward(clip).detach())


@pytest.mark.parametrize("padding", ["replicate", "reflection", "reflection_circle", "circle"])
def test_window_indices_are_those_of_basicsr(padding):
    from basicsr.data.data_util import generate_frame_indices

    for num_frame in (3, 5, 7):
        for total in (num_frame, num_frame + 4):
            for center in range(total):
                ours = window_indices(center, total, num_frame, padding)
                assert ours == generate_frame_indices(center, total, num_frame, padding)


def test_one_frame_clip_replicates_and_refuses_reflection():
    assert window_indices(0, 1, 5) == [0] * 5
    with refuses(1, 5, "'reflection'", "'replicate'"):
        window_indices(0, 1, 5, "reflection")


def test_luma_network_restores_color_with_bicubic_chroma():
    net = Mark(2).eval()
    runner, lq = Runner(net, Traits("image", 2, color="y")), torch.rand(1, 3, 6, 8)
    out = runner.restore(lq)
    torch.testing.assert_close(net.seen[0], rgb_to_y(lq))
    assert runner.forward(lq).shape == (1, 1, 12, 16)
    ycbcr = rgb_to_ycbcr(out)
    torch.testing.assert_close(ycbcr[:, :1], net(rgb_to_y(lq)), atol=2e-5, rtol=0)
    torch.testing.assert_close(ycbcr[:, 1:], upsample_bicubic(rgb_to_ycbcr(lq)[:, 1:], 2), atol=2e-5, rtol=0)


def test_luma_network_on_luma_frames_stays_luma():
    runner, clip = Runner(Mark(2).eval(), Traits("window", 2, num_frame=3, color="y")), numbered_clip(4, channels=1)
    assert runner.restore(clip).shape == (2, 4, 1, 8, 12)
    assert runner.restore(numbered_clip(4)).shape == (2, 4, 3, 8, 12)


def test_upsampled_input_is_matlab_bicubic_of_each_frame():
    net, lq = Mark().eval(), torch.rand(1, 3, 3, 5, 6)
    out = Runner(net, Traits("window", 3, num_frame=3, upsampled_input=True)).forward(lq)
    torch.testing.assert_close(out[:, 0], upsample_bicubic(lq[:, 1], 3))


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 8), (2, 3), (9, 4)])
def test_restore_pads_to_the_multiple_and_crops_back(height, width):
    net, lq = Mark(2).eval(), torch.rand(1, 3, height, width)
    out = Runner(net, Traits("image", 2, multiple=4, min_size=8)).restore(lq)
    side = net.seen[0].shape[-2:]
    assert side[0] % 4 == 0 and side[1] % 4 == 0 and min(side) >= 8
    torch.testing.assert_close(out, lq.repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_padding_reflects_without_repeating_the_edge():
    net, lq = Mark().eval(), torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 4, 5)
    Runner(net, Traits("image", 1, color="y", multiple=4)).restore(lq)
    assert net.seen[0][0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("traits", "shape", "clip", "names"),
    [
        (Traits("window", 2, num_frame=5), (1, 3, 8, 8), None, ["Mark", 5, "(1, 3, 8, 8)"]),
        (Traits("window", 2, num_frame=5), (1, 3, 3, 8, 8), None, ["Mark", 5, 3, "clip_length", "num_frame"]),
        (Traits("window", 2, num_frame=5), (1, 6, 3, 8, 8), 1, ["Mark", 5, 6, "clip_length", "num_frame"]),
        (Traits("recurrent", 2, min_clip=2), (1, 5, 3, 8, 8), 1, ["Mark", 2, 1, "clip_length"]),
        (Traits("image", 2, multiple=4), (1, 3, 8, 10), None, ["Mark", 4, "8x10", "gt_size"]),
        (Traits("image", 2, min_size=16), (1, 3, 8, 10), None, ["Mark", 16, "8x10", "gt_size"]),
        (Traits("image", 2), (1, 1, 8, 8), None, ["Mark", "RGB", 1]),
        (Traits("image", 2), (3, 8, 8), None, ["Mark", "(3, 8, 8)"]),
        (Traits("image", 2), (1, 4, 8, 8), None, ["Mark", 4]),
    ],
)
def test_unfit_inputs_are_refused_in_one_sentence(traits, shape, clip, names):
    with refuses(*names):
        Runner(Mark(), traits).forward(torch.rand(shape), clip)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize("mode", ["image", "window"])
def test_a_network_that_returns_more_than_the_image_is_refused(mode):
    frames = torch.zeros(1, 3, 3, 8, 8)
    with refuses("Pair", "tuple"):
        Runner(Pair(), Traits(mode, 1, num_frame=3 if mode == "window" else 1)).forward(frames, 1)
