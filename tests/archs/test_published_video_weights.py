"""Published x2 weights, trained by others, load and reach the PSNR they were measured at on real video."""

import cv2
import numpy as np
import pytest
import torch

from kdsr_arch.archs.vespcn_arch import VESPCN
from kdsr_arch.archs.vsrnet_arch import VSRNet
from kdsr_arch.convert.published import convert_file
from kdsr_arch.convert.variables import vespcn_from_hwio, vsrnet_from_hwio
from kdsr_arch.data.augment import to_tensor
from kdsr_arch.infer.pixels import to_bgr
from kdsr_arch.infer.runner import Runner
from kdsr_arch.infer.stream import Restorer
from kdsr_arch.io import load_tensors
from kdsr_arch.metrics.psnr_metric import psnr
from kdsr_arch.ops.bicubic import imresize_uint8, upsample_bicubic
from kdsr_arch.ops.color import rgb_to_y
from kdsr_arch.registry import build
from tests.helpers.messages import refuses

FRAMES, BORDER = slice(1, 11), 8  # with these the bicubic reference values are met


def vespcn():
    return VESPCN(2, num_feat=24, num_hr_feat=0, block="plain", color="y", motion=False)


def vsrnet():
    return VSRNet(2, num_frame=3, fusion="early", flow="none")


def read_clip(folder):
    """The first frames (T, 3, H, W) in [0, 1] and their x2 bicubic LR frames."""
    if not folder.is_dir():
        pytest.skip(f"no clip {folder}")
    gt = [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())[: FRAMES.stop + 1]]
    lq = [imresize_uint8(np.ascontiguousarray(frame), 0.5) for frame in gt]
    return tuple(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255 for frames in (gt, lq))


def luma_psnr(sr, gt):
    """Mean over FRAMES of the PSNR of 8-bit luma, without BORDER pixels."""
    sr, gt = (y[FRAMES, 0, BORDER:-BORDER, BORDER:-BORDER].double() for y in (sr, rgb_to_y(gt)))
    error = ((sr.clamp(0, 1) * 255).round() / 255 - gt).square().mean((1, 2))
    return (-10 * error.log10()).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clip", "bicubic", "reached"),
    [("walk", 32.05, {"vespcn": 35.28, "vsrnet": 33.87}), ("calendar", 23.80, {"vespcn": 25.91, "vsrnet": 25.04})],
)
def test_psnr_on_vid4(shared_data, clip, bicubic, reached):
    gt, lq = read_clip(shared_data / "video" / "Vid4" / "GT" / clip)
    assert luma_psnr(upsample_bicubic(rgb_to_y(lq), 2), gt) == pytest.approx(bicubic, abs=0.03)
    weights = shared_data / "weights"
    nets = {
        "vespcn": (vespcn(), vespcn_from_hwio, weights / "VESPCN_no_motion_x2" / "vespcn_x2_hwio.npz"),
        "vsrnet": (vsrnet(), vsrnet_from_hwio, weights / "VSRNet_x2" / "vsrnet_x2_hwio.npz"),
    }
    for name, (net, convert, path) in nets.items():
        net.load_state_dict(convert(load_tensors(path)))
        sr = Runner(net.eval(), net.traits).restore(rgb_to_y(lq).unsqueeze(0))[0]
        assert luma_psnr(sr, gt) == pytest.approx(reached[name], abs=0.03), name


@pytest.mark.slow
@pytest.mark.parametrize(("clip", "reached"), [("walk", 27.993), ("calendar", 21.538)])
def test_psnr_of_egvsrs_vespcn(shared_data, clip, reached):
    """x4, all frames of the clip, Y, no crop."""
    done = convert_file("vespcn-egvsr", shared_data / "weights" / "VESPCN_EGVSR" / "vespcn_ep0500.pth")
    net = build("network", done.network, "network")
    net.load_state_dict(done.params)
    assert sum(p.numel() for p in net.parameters()) == 878_787
    restorer, values = Restorer(Runner(net.eval(), net.traits), torch.device("cpu")), []
    gt = [cv2.imread(str(path)) for path in sorted((shared_data / "video" / "Vid4" / "GT" / clip).iterdir())]
    lq = to_tensor([imresize_uint8(np.ascontiguousarray(frame[..., ::-1]), 0.25) for frame in gt])
    for sr, frame in zip(restorer.stream(lq, 8), gt, strict=True):
        values.append(psnr(to_bgr(sr), frame, 0, test_y_channel=True))
    assert np.mean(values) == pytest.approx(reached, abs=0.01)


def test_hwio_kernels_become_pytorch_convolutions():
    arrays = {}
    for i, (num_in, num_out) in enumerate([(3, 24), (24, 24), (24, 24), (24, 24), (24, 4)], 1):
        arrays[f"vespcn.conv{i}.kernel"] = torch.rand(3, 3, num_in, num_out)
        arrays[f"vespcn.conv{i}.bias"] = torch.zeros(num_out)
    net = vespcn()
    net.load_state_dict(vespcn_from_hwio(arrays))
    assert net.conv_up.weight[3, 5, 0, 2].item() == arrays["vespcn.conv5.kernel"][0, 2, 5, 3]
    del arrays["vespcn.conv5.bias"]
    with refuses("vespcn.conv5.bias"):
        vespcn_from_hwio(arrays)
