"""The watch over deformable offsets, on BasicSR's own alignment modules."""

from __future__ import annotations

import logging
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from kdsr_arch.ops.offset_monitor import OffsetMonitor


class _TwoAlignments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from basicsr.archs.arch_util import DCNv2Pack

        self.calm = DCNv2Pack(8, 8, 3, padding=1, deformable_groups=2)
        self.wild = DCNv2Pack(8, 8, 3, padding=1, deformable_groups=2)

    def forward(self, x):
        return self.calm(x, x) + self.wild(x, x)

    def push(self, offset: float) -> None:
        """Every offset of one module; its mask, the last third, keeps a value that would mislead."""
        with torch.no_grad():
            self.wild.conv_offset.bias[: 2 * 2 * 9].fill_(-offset)
            self.wild.conv_offset.bias[2 * 2 * 9 :].fill_(-1e4)


@contextmanager
def closing_monitor(net, **keywords):
    monitor = OffsetMonitor(net, **keywords)
    try:
        yield monitor
    finally:
        monitor.remove()


@pytest.fixture
def messages():
    """What reaches the handlers of basicsr's logger, whatever others set up."""
    logger, records = logging.getLogger("basicsr"), []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    handler = Handler()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def test_reports_the_module_once_per_interval_without_a_flood(messages):
    net, x = _TwoAlignments(), torch.rand(1, 8, 6, 6)
    with closing_monitor(net, limit=50, every=10) as monitor:
        assert len(monitor) == 2
        net(x)
        assert monitor.means() == {"calm": 0.0, "wild": 0.0} and monitor.report(1) == ""
        net.push(60.0)
        reports = []
        for iteration in range(2, 32):
            net(x)
            reports.append(monitor.report(iteration))
        spoken = [iteration for iteration, text in enumerate(reports, 2) if text]
        assert spoken == [2, 12, 22]
        assert "1 of 2 modules" in reports[0] and "60 pixels in wild" in reports[0]
        assert messages == []
    net(x)
    assert messages == []  # basicsr's own look, for which a GPU would be waited for, is gone everywhere
    assert len(net.wild.conv_offset._forward_hooks) == 0


def test_keeps_the_largest_between_reports_and_names_nan(messages):
    net, x = _TwoAlignments(), torch.rand(1, 8, 6, 6)
    with closing_monitor(net, every=1) as monitor:
        net.push(70.0)
        net(x)
        net.push(0.0)
        net(x)
        assert "70 pixels" in monitor.report(5)
        net(x)
        assert monitor.report(6) == ""
        net.push(float("nan"))
        net(x)
        net.push(0.0)
        net(x)
        assert "nan pixels in wild" in monitor.report(7)


def test_bounded_offsets_of_basicvsrpp():
    from basicsr.archs.basicvsrpp_arch import SecondOrderDeformableAlignment

    align = SecondOrderDeformableAlignment(8, 8, 3, padding=1, deformable_groups=2, max_residue_magnitude=10)
    with torch.no_grad():
        align.conv_offset[-1].bias.fill_(1e6)
    with closing_monitor(align) as monitor:
        flow = torch.zeros(1, 2, 5, 5)
        align(torch.rand(1, 8, 5, 5), torch.rand(1, 24, 5, 5), flow, flow)
        assert monitor.means()[""] == pytest.approx(10)
        assert monitor.report(1) == ""


def test_gradient_and_output_are_not_touched():
    net, x = _TwoAlignments(), torch.rand(1, 8, 6, 6)
    net.push(1.5)
    plain = net(x)
    with closing_monitor(net):
        watched = net(x)
        watched.sum().backward()
    assert torch.equal(plain, watched) and net.calm.conv_offset.bias.grad.any()


def test_network_without_alignment_has_nothing_to_report():
    net = nn.Conv2d(3, 3, 1)
    with closing_monitor(net) as monitor:
        net(torch.rand(1, 3, 4, 4))
        assert len(monitor) == 0 and monitor.report(1000) == ""
