"""Parameters, multiply-adds and run time, by hand where they can be."""

import pytest
import torch
from torch import nn

from kdsr_arch.infer.cost import STD_PAPER_SIZE, measure_cost, speed_input
from kdsr_arch.infer.traits import Traits

CPU = torch.device("cpu")


class Plain(nn.Module):
    """One 3x3 convolution and a pixel shuffle."""

    def __init__(self, mode="image", num_frame=1, scale=2, **more):
        super().__init__()
        self.traits = Traits(mode, scale, num_frame=num_frame, **more)
        self.conv = nn.Conv2d(3 * num_frame, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x):
        if self.traits.mode == "recurrent":
            return self.shuffle(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        return self.shuffle(self.conv(x.flatten(1, -3) if x.dim() == 5 else x))


@pytest.mark.parametrize("mode,num_frame", [("image", 1), ("window", 5), ("recurrent", 1)])
def test_by_hand(mode, num_frame):
    net = Plain(mode, num_frame).train()
    cost = measure_cost(net, CPU, size=(20, 12), runs=3, warm_up=1)
    assert cost.parameters == 3 * num_frame * 12 * 9 + 12
    assert cost.multiply_adds == 20 * 12 * 12 * 9 * 3 * num_frame
    assert (cost.width, cost.height, cost.scale, cost.device, cost.runs) == (20, 12, 2, "cpu", 3)
    assert 0 < cost.milliseconds < 1000 and net.training
    assert "20x12 at x2" in str(cost)


def test_interpolation_before_the_network_is_not_counted():
    class Enlarged(nn.Module):
        def __init__(self):
            super().__init__()
            self.traits = Traits("image", 2, color="y", upsampled_input=True)
            self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)

        def forward(self, x):
            return self.conv(x)

    assert measure_cost(Enlarged(), CPU, size=(20, 12), runs=2, warm_up=0).multiply_adds == 40 * 24 * 9


def test_sizes_fit_the_network():
    lq, frames = speed_input(Traits("window", 4, num_frame=5, multiple=4), 18, 10, CPU)
    assert lq.shape == (1, 5, 3, 12, 20) and frames == 1
    lq, frames = speed_input(Traits("recurrent", 4), *STD_PAPER_SIZE, CPU)
    assert lq.shape[-2:] == (120, 180) and frames == lq.shape[1] > 1


def test_a_slow_network_is_not_run_long():
    cost = measure_cost(Plain(), CPU, size=(8, 8), runs=1000, warm_up=1, budget=0.0)
    assert cost.runs == 2
