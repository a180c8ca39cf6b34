"""TDAN: parameters, golden outputs under both border rules, the border by its definition, options, taps, gradients."""

import pytest
import torch

from kdsr_arch.archs.tdan_arch import TDAN, AlignConv, stop_at_border
from kdsr_arch.infer.cost import count_parameters
from kdsr_arch.losses.motion_loss import MotionCompensationLoss
from kdsr_arch.ops.exporting import export_form
from tests.helpers.messages import refuses

TINY = {"num_feat": 8, "num_extract_block": 1, "num_block": 1, "deformable_groups": 2}


def test_parameter_count():
    assert count_parameters(TDAN()) == 1_970_819


def test_it_starts_as_the_authors():
    assert TDAN().cr.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(("border", "prefix"), [("dcn_v1", ""), ("zeros", "tv_")])
def test_golden_outputs(golden, border, prefix):
    file = golden("tdan")
    frames = file.input("x")
    count = frames.shape[1]
    net = TDAN(count, deformable_groups=file.hp("num_deformable_groups"), border=border).eval()
    net.load_state_dict(file.state())
    seen = []
    net.motion.register_forward_hook(lambda module, given, made: seen.append(made))
    with torch.no_grad():
        assert file.near(net(frames + 0.5) - 0.5, f"{prefix}sr")  # the authors' scripts shift images themselves
    aligned, reference = seen[0]
    pictures = [*aligned.unflatten(1, (-1, 3)).unbind(1)]
    pictures.insert(count // 2, reference)
    assert file.near(torch.stack(pictures, 1), f"{prefix}lrs")


def convolved_by_loops(x, offset, weight):
    """The first deformable convolutions' rule: 0 from the moment a place is outside, the last pixel up to the end."""
    batch, channels, height, width = x.shape
    groups = offset.shape[1] // 18
    out = torch.zeros_like(x)
    for b, i, j, tap, g in torch.cartesian_prod(*map(torch.arange, (batch, height, width, 9, groups))).tolist():
        y = i + tap // 3 - 1 + offset[b, 18 * g + 2 * tap, i, j].item()
        c = j + tap % 3 - 1 + offset[b, 18 * g + 2 * tap + 1, i, j].item()
        if not (0 <= y < height and 0 <= c < width):
            continue
        y, c = min(y, height - 1), min(c, width - 1)
        top, left = int(y), int(c)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        own = slice(g * channels // groups, (g + 1) * channels // groups)
        rows = [x[b, own, k, left] * (1 - c + left) + x[b, own, k, right] * (c - left) for k in (top, bottom)]
        sample = rows[0] * (1 - y + top) + rows[1] * (y - top)
        out[b, :, i, j] += weight[:, own, tap // 3, tap % 3] @ sample
    return out


def test_the_border_is_that_of_the_first_deformable_convolutions():
    conv = AlignConv(4, "dcn_v1").double()
    x, offset = torch.randn(1, 4, 5, 4, dtype=torch.float64), 2 * torch.randn(1, 36, 5, 4, dtype=torch.float64)
    wanted = convolved_by_loops(x, offset, conv.weight.detach())
    torch.testing.assert_close(conv(x, offset).detach(), wanted)
    with export_form():
        torch.testing.assert_close(conv(x, offset).detach(), wanted)


def test_offsets_inside_stay():
    offset = torch.zeros(1, 18, 4, 4)
    moved, mask = stop_at_border(offset)
    assert torch.equal(moved[..., :-1, :-1], offset[..., :-1, :-1])
    assert torch.equal(mask[..., 1:-1, 1:-1], torch.ones(1, 9, 2, 2)) and mask[0, 0, 0, 0] == 0


@pytest.mark.parametrize("options", [{}, {"num_frame": 3, "border": "zeros"}, {"base": "bicubic"}], ids=str)
def test_shapes_taps_and_gradients(options, taps_seen):
    net = TDAN(**TINY, **options)
    seen = taps_seen(net, net.traits)
    recorded = []
    net.motion.register_forward_hook(lambda module, given, made: recorded.append(made))
    out = net(torch.rand(2, net.traits.num_frame, 3, 7, 9))
    assert out.shape == (2, 3, 28, 36)
    assert seen == {"f_sr": (2, 8, 28, 36), "f_lr": (2, 8, 7, 9)}
    (out.square().mean() + MotionCompensationLoss(smoothness=0)(recorded[0])).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_bad_options_are_refused():
    with refuses("TDAN", "border", "'mirror'", "'dcn_v1'"):
        TDAN(border="mirror")
    with refuses("TDAN", "num_frame", 4):
        TDAN(num_frame=4)
