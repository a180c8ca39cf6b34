"""Multiply-adds against hand-computed ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdsr_arch.archs.arch_util import SubPixelDeconv
from kdsr_arch.archs.idn_arch import ResidualDeconv
from kdsr_arch.archs.inference_form import reparametrize
from kdsr_arch.infer.cost import count_flops, count_parameters
from kdsr_arch.ops.deform_conv import deform_conv2d


def test_convolutions_and_linear():
    x = torch.zeros(2, 8, 10, 12)
    assert count_flops(nn.Conv2d(8, 16, 3, padding=1), x) == 2 * 10 * 12 * 16 * 8 * 9
    assert count_flops(nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4), x) == 2 * 5 * 6 * 16 * 2 * 9
    # A transposed convolution multiplies each input pixel with each weight.
    assert count_flops(nn.ConvTranspose2d(8, 4, 9, 2, 4, 1), x) == 2 * 10 * 12 * 8 * 4 * 81
    assert count_flops(nn.Linear(12, 7), x) == 2 * 8 * 10 * 12 * 7


@pytest.mark.parametrize("shape", [(9, 2, 4, 1), (9, 3, 4, 2), (4, 2, 1), (17, 4, 8)])
def test_a_transposed_convolution_in_another_form_counts_as_itself(shape):
    """Without the zeros that its phases are filled up with."""
    x = torch.zeros(2, 8, 10, 12)
    published = count_flops(nn.ConvTranspose2d(8, 4, *shape), x)
    assert published == 2 * 10 * 12 * 8 * 4 * shape[0] ** 2
    for ours in (SubPixelDeconv(8, 4, *shape), ResidualDeconv(8, 4, *shape)):
        net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), ours)
        assert count_flops(net, x) == count_flops(net[0], x) + published == count_flops(reparametrize(net)[0], x)


def test_matrix_products_attention_and_several_inputs():
    class Product(nn.Module):
        def forward(self, a, b):
            return a @ b

    assert count_flops(Product(), torch.zeros(3, 4, 5), torch.zeros(3, 5, 6)) == 3 * 4 * 5 * 6
    assert count_flops(Product(), torch.zeros(4, 5), torch.zeros(5, 6)) == 4 * 5 * 6


def test_deformable_convolution_counts_as_its_convolution():
    class Deformable(nn.Module):
        def forward(self, x, offset, weight):
            return deform_conv2d(x, offset, weight, padding=1)

    operands = torch.zeros(2, 8, 10, 12), torch.zeros(2, 2 * 18, 10, 12), torch.zeros(16, 4, 3, 3)
    assert count_flops(Deformable(), *operands) == 2 * 10 * 12 * 16 * 4 * 9


def test_training_modes_and_batch_statistics_are_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    net[1].eval()
    count_flops(net, torch.rand(1, 3, 5, 5))
    assert net.training and net[0].training and not net[1].training
    assert net[1].num_batches_tracked == 0 and all(p.grad is None for p in net.parameters())


def test_parameters():
    shared = nn.Linear(3, 2)
    assert count_parameters(nn.Sequential(shared, nn.ReLU(), shared)) == 8


def test_published_size_of_vdsr():
    """20 layers of 3x3, 64 wide, no biases: as many multiply-adds per pixel as weights."""
    layers = [nn.Conv2d(1, 64, 3, padding=1, bias=False)]
    layers += [nn.Conv2d(64, 64, 3, padding=1, bias=False) for _ in range(18)]
    net = nn.Sequential(*layers, nn.Conv2d(64, 1, 3, padding=1, bias=False))
    assert count_parameters(net) == 664_704
    assert count_flops(net, torch.zeros(1, 1, 9, 11)) == 664_704 * 99
