"""Published figures of bicubic enlargement through data set, network and evaluator."""

import pytest
import torch

from kdsr_arch.archs.bicubic_arch import Bicubic
from kdsr_arch.data.image_dataset import ImagePairDataset
from tests.helpers.options import evaluator


@pytest.mark.parametrize("scale,psnr,ssim", [(2, 33.66, 0.9299), (3, 30.39, 0.8682), (4, 28.42, 0.8104)])
def test_bicubic_on_set5(shared_data, scale, psnr, ssim):
    """The figures of VDSR's and IDN's tables (Y, crop = scale). Theirs is enlarged on uint8, ours on floats."""
    folder = shared_data / "sisr_test" / "Set5" / "HR"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    opt = {"name": "Set5", "phase": "test", "scale": scale, "dataroot_gt": str(folder), "degradation": "BI"}
    measured = {"crop_border": scale, "test_y_channel": True}
    metrics = {name: {"type": f"calculate_{name}", **measured} for name in ("psnr", "ssim")}
    result = evaluator(scale, opt, metrics=metrics).run(
        Bicubic(scale), ImagePairDataset(**opt), torch.device("cpu"), progress=False
    )
    assert result.mean["psnr"] == pytest.approx(psnr, abs=0.02)
    assert result.mean["ssim"] == pytest.approx(ssim, abs=0.0015)
    assert result.protocol == f"Y channel, crop {scale}, BI x{scale}" and len(result.per_item) == 5
